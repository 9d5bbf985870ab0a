/** Demo networks of other shapes than three KMEs in a line. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseConfig } from '../../src/config/config.ts'
import {
  allPorts,
  BASE_PORT_MAX,
  DEFAULT_SHAPE,
  layoutOf,
  linkPortsOf,
  SITES_MAX,
  type DemoShape,
} from '../../src/demo/layout.ts'
import { eventually } from '../setup/eventually.ts'
import { finishDemo, getAs, makePlace, startDemo, type Place } from './demo-process.ts'

const LETTERS = ['a', 'b', 'c', 'd', 'e']
const SHAPES = Array.from({ length: SITES_MAX - 1 }, (_, before): DemoShape[] => {
  const sites = before + 2
  return sites < 3 ? [{ sites, ring: false }] : [false, true].map((ring) => ({ sites, ring }))
}).flat()

describe('a demo network', () => {
  it.each(SHAPES)('of $sites sites, in a ring: $ring, has a port of its own for every part', (shape) => {
    const layout = layoutOf(shape)
    expect(layout.links).toHaveLength(shape.ring ? shape.sites : shape.sites - 1)
    const ports = allPorts(BASE_PORT_MAX, layout)
    expect(new Set(ports).size).toBe(ports.length)
    expect(Math.max(...ports)).toBeLessThanOrEqual(65_535)
  })

  it('in a line of three keeps the ports that scripts rely on', () => {
    const { links } = layoutOf(DEFAULT_SHAPE)
    expect(links.map((link) => linkPortsOf(8440, link))).toEqual([
      { photons: [8481, 8482], control: 8485, classical: 8487 },
      { photons: [8483, 8484], control: 8486, classical: 8488 },
    ])
  })
})

describe('kme demo', () => {
  let place: Place
  beforeEach(async () => {
    place = await makePlace({ sites: 5, ring: true })
  })
  afterEach(() => place.remove())

  const linksOf = (letter: string): string[] => {
    const file = join(place.directory, `kme-${letter}.yaml`)
    return parseConfig(readFileSync(file, 'utf8'), file).links.map(({ id }) => id)
  }

  it('--sites 5 --ring makes five KMEs with two links each, and stays with them', async () => {
    expect((await finishDemo(place, '--prepare-only', '--sites', '5', '--ring')).status).toBe(0)
    const ring = ['a-b,a-e', 'a-b,b-c', 'b-c,c-d', 'c-d,d-e', 'd-e,a-e']
    expect(LETTERS.map((letter) => linksOf(letter).join())).toEqual(ring)
    expect((await finishDemo(place, '--prepare-only')).status).toBe(0)
    expect(LETTERS.map((letter) => linksOf(letter).join())).toEqual(ring)

    const refused = await finishDemo(place, '--prepare-only', '--sites', '4')
    expect([refused.status, refused.text]).toEqual([1, expect.stringContaining('holds a demo network of 5 KMEs in a ring')])
    expect((await finishDemo(place, '--prepare-only', '--sites', '4', '--reset')).status).toBe(0)
    expect(linksOf('d')).toEqual(['c-d'])
  })

  it.each([
    [['--sites', '1'], 'Give a whole number from 2 to 9'],
    [['--sites', '2', '--ring'], 'A ring has three sites or more'],
    [['--sites', '5', '--prepare-only', '--containers'], 'docker-compose.yml has three KMEs in a line'],
  ])('refuses %j in words', async (args, reason) => {
    const { status, text } = await finishDemo(place, ...args)
    expect([status, text]).toEqual([1, expect.stringContaining(reason)])
  })

  it('--sites 5 --ring runs: SAEs without a link between their KMEs get the same key', async () => {
    const demo = await startDemo(place, '--sites', '5', '--ring')
    try {
      const issued = await eventually('keys', async () => {
        const answer = await getAs(place, 'alice', 'dave/enc_keys')
        return answer.status === 200 ? answer : undefined
      })
      const [key] = issued.json.keys as [{ key_ID: string; key: string }]
      const fetched = await getAs(place, 'dave', `alice/dec_keys?key_ID=${key.key_ID}`)
      expect(fetched.status).toBe(200)
      expect(fetched.json.keys[0].key === key.key).toBe(true)
    } finally {
      await demo.stop('SIGTERM')
    }
  })
})
