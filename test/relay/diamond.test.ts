/** Four KMEs in a diamond, each a process of its own: kme-a and kme-c share keys over kme-b and kme-d. What passes kme-b is not in its memory a
 *  second later, and a key that was split or wrapped never; whatever dies, keys are equal at both ends or there are none. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { findIn, memoryOf } from '../bb84-link/process-memory.ts'
import {
  eventually,
  keysOf,
  startNetwork,
  storedKeys,
  type Answer,
  type KmeName,
  type Network,
  type SaeClient,
  type SentKey,
} from '../network/network.ts'
import { filesBelow, findKeys } from '../secrecy/file-scan.ts'

const NAMES = ['kme-a', 'kme-b', 'kme-c', 'kme-d'] as const
/** As a client of one request insists on it; plain keys take the first of the written routes, over kme-b. */
const WISHES = {
  plain: {},
  split: { extension_mandatory: [{ openkme_paths: 2 }] },
  wrapped: { extension_mandatory: [{ openkme_end_to_end: true }] },
  both: { extension_mandatory: [{ openkme_paths: 2 }, { openkme_end_to_end: true }] },
}
type Wish = keyof typeof WISHES
/** Of each KME. */
const KILLS = 2

let directory: string
/** Of kme-b alone, so that its files are known. */
let serverOfB: EmbeddedPostgres
let others: EmbeddedPostgres
let network: Network
let alice: SaeClient
let carol: SaeClient
const issued: (SentKey & { readonly wish: Wish })[] = []

const ask = (wish: Wish, number = 4): Promise<Answer> => alice.post('/api/v1/keys/carol/enc_keys', { number, ...WISHES[wish] })
const fetchKeys = (keys: readonly SentKey[]): Promise<Answer> =>
  carol.post('/api/v1/keys/alice/dec_keys', { key_IDs: keys.map(({ key_ID }) => ({ key_ID })) })
const bytesOf = ({ key }: SentKey): Buffer => Buffer.from(key, 'base64')

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'openkme-diamond-'))
  serverOfB = await startEmbeddedPostgres({ directory: join(directory, 'b'), durable: true })
  others = await startEmbeddedPostgres({ directory: join(directory, 'others'), durable: false })
  network = await startNetwork({
    diamond: true,
    processes: true,
    logLevel: 'debug',
    rateBlocksPerS: 4,
    settings: (name) => ({
      relay: {
        enabled: true,
        floorKeys: 16,
        blockKeys: 16,
        deadlineMs: 2000,
        routes:
          name === 'kme-a' || name === 'kme-c'
            ? ['kme-b', 'kme-d'].map((via) => ({ to: name === 'kme-a' ? 'kme-c' : 'kme-a', via: [via] }))
            : [],
      },
      pools: { lowWatermark: 40, criticalWatermark: 5 },
    }),
    createDatabase: async (name) => {
      const server = name === 'kme_b' ? serverOfB : others
      await server.createDatabase(name)
      await applyMigrations(server.url(name))
      return { url: server.url(name), drop: () => Promise.resolve() }
    },
  })
  alice = await network.sae('alice')
  carol = await network.sae('carol', 'kme-c')
  await eventually('keys by relay', async () => (await storedKeys(alice, 'carol')) > 0)
}, 180_000)
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
  await serverOfB?.stop()
  await others?.stop()
  rmSync(directory, { recursive: true, force: true })
})

describe('keys by relay', () => {
  it.each(Object.keys(WISHES) as Wish[])('are equal at both ends: %s', async (wish) => {
    await eventually('keys', async () => {
      const answer = await ask(wish)
      if (answer.status !== 200) return false
      const keys = keysOf(answer)
      expect(keysOf(await fetchKeys(keys))).toEqual(keys)
      issued.push(...keys.map((key) => ({ ...key, wish })))
      return issued.filter((key) => key.wish === wish).length >= 20
    })
    const [first] = issued
    expect((await fetchKeys([first!])).status).toBe(400)
  })

  it('that passed kme-b are not in its memory', async () => {
    const [passed] = await network.query<{ count: number }>(
      'kme-b',
      `SELECT count(*)::int AS count FROM relay_pad WHERE side = 'out'`,
    )
    expect(passed!.count).toBeGreaterThan(10)
    for (const devices of [network.devices, network.furtherDevices]) devices.pause()
    // A plain block is on its way through kme-b for milliseconds; a second is what it may take to be gone.
    await eventually('no relay for a second', async () => {
      const [last] = await network.query<{ rests: boolean }>(
        'kme-b',
        `SELECT max(at) < now() - interval '1 second' AS rests FROM relay_pad`,
      )
      return last!.rests
    })
    const pid = network.pid('kme-b')
    process.kill(pid, 'SIGSTOP')
    try {
      const needles = issued.map((key) => ({ name: key.wish, bytes: bytesOf(key), windowBytes: 8 }))
      // The search finds what is there.
      const certificate = readFileSync(join(network.directory, 'kme-b.pem')).subarray(100, 164)
      const found = findIn(memoryOf(pid), [...needles, { name: 'certificate', bytes: certificate, windowBytes: 8 }])
      expect(found).toEqual(['certificate'])
    } finally {
      process.kill(pid, 'SIGCONT')
      for (const devices of [network.devices, network.furtherDevices]) devices.resume()
    }
  })
})

describe('while KMEs are killed again and again', () => {
  it.each(NAMES)('%s: a key is at both ends or was never given out, and none comes twice', async (victim) => {
    let killing = true
    const left: SentKey[][] = []
    const orNone = async (answer: Promise<Answer>): Promise<Answer | undefined> => answer.catch(() => undefined)
    const asking = (async () => {
      const wishes = Object.keys(WISHES) as Wish[]
      for (let i = 0; killing; i += 1) {
        const wish = wishes[i % wishes.length]!
        const answer = await orNone(ask(wish, 2))
        if (answer?.status !== 200) {
          // 400: the network has no two ways without the KME that is away.
          if (answer !== undefined) expect([400, 503]).toContain(answer.status)
          await systemClock.sleep(50)
          continue
        }
        const keys = keysOf(answer)
        issued.push(...keys.map((key) => ({ ...key, wish })))
        const fetched = await orNone(fetchKeys(keys))
        if (fetched?.status === 200) expect(keysOf(fetched)).toEqual(keys)
        else left.push(keys)
      }
    })()
    for (let kills = 0; kills < KILLS; kills += 1) {
      await systemClock.sleep(300 + 150 * (kills % 4))
      await network.kill(victim)
      await network.start(victim)
    }
    killing = false
    await asking
    expect(new Set(issued.map(({ key_ID }) => key_ID)).size).toBe(issued.length)
    expect(new Set(issued.map(({ key }) => key)).size).toBe(issued.length)
    // Whoever could not fetch then can now, or his answer was lost on the way.
    for (const keys of left) {
      const fetched = await eventually('an answer', async () => {
        const answer = await orNone(fetchKeys(keys))
        return answer !== undefined && answer.status !== 503 ? answer : undefined
      })
      if (fetched.status === 200) expect(keysOf(fetched)).toEqual(keys)
      else expect(fetched.status).toBe(400)
    }
    await eventually('keys of every kind again', async () => {
      for (const wish of Object.keys(WISHES) as Wish[]) if ((await orNone(ask(wish, 1)))?.status !== 200) return false
      return true
    })
  })
})

describe('afterwards', () => {
  it('no unit was used for two things at any KME', async () => {
    for (const name of NAMES) {
      const twice = await network.query(
        name,
        `SELECT block, unit, count(*) FROM (
           SELECT run ->> 'blockId' AS block, unit FROM relay_pad, jsonb_array_elements(units) run, jsonb_array_elements(run -> 'units') unit
           UNION ALL
           SELECT run ->> 'blockId', unit FROM assignment, jsonb_array_elements(units) run, jsonb_array_elements(run -> 'units') unit
             WHERE state <> 'VOIDED'
         ) used GROUP BY block, unit HAVING count(*) > 1`,
      )
      expect([name, twice]).toEqual([name, []])
    }
  })

  it('no pad is used up at one end only', async () => {
    for (const devices of [network.devices, network.furtherDevices]) devices.pause()
    const free = async (name: KmeName, linkId: string, column: string): Promise<string> =>
      JSON.stringify(
        await network.query(
          name,
          `SELECT block_id, (${column})::text AS free FROM key_block WHERE link_id = $1 AND state = 'AVAILABLE' ORDER BY block_id`,
          [linkId],
        ),
      )
    for (const [one, other, linkId] of [
      ['kme-a', 'kme-b', 'a-b'],
      ['kme-b', 'kme-c', 'b-c'],
      ['kme-a', 'kme-d', 'a-d'],
      ['kme-c', 'kme-d', 'd-c'],
    ] as const) {
      for (const [issuer, peer] of [
        [one, other],
        [other, one],
      ] as const) {
        await eventually(
          `${issuer} and ${peer} count the same units as used`,
          async () => (await free(issuer, linkId, 'mine & ~taken')) === (await free(peer, linkId, '~mine & ~taken')),
          90_000,
        )
      }
    }
  }, 200_000)

  it('no file of kme-b has any of the keys: database, write-ahead log, log', async () => {
    await network.stop('kme-b')
    await serverOfB.stop()
    const files = [...filesBelow(join(directory, 'b')), join(network.directory, 'kme-b.log')]
    expect(files.some((file) => file.includes('pg_wal'))).toBe(true)
    expect(findKeys(files, issued.map(bytesOf))).toEqual([])
  })
})
