/** `kme topology` as a shell runs it, against an admin API that answers what openapi/admin.yaml allows. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createContract } from '../openapi/contract.ts'
import { createPki, json, startAnsweringKme, type AnsweringKme, type Pki } from './answering-kme.ts'
import { runKme } from './run-kme.ts'

const contract = createContract('openapi/admin.yaml')
const known = { sequence: 1_900_000_000, issuedAt: '2030-01-01T00:00:00.000Z', validUntil: '2030-01-01T00:15:00.000Z' }
const TOPOLOGY = {
  kmeId: 'kme-a',
  kmes: [
    { ...known, kmeId: 'kme-a', route: ['kme-a'] },
    { ...known, kmeId: 'kme-b', route: ['kme-a', 'kme-b'] },
    { ...known, kmeId: 'kme-c', route: ['kme-a', 'kme-b', 'kme-c'] },
    { ...known, kmeId: "kme-'d'", route: null },
  ],
  links: [
    { linkId: 'a-b', one: 'kme-a', other: 'kme-b', state: 'up', availableKeys: 32_768, keyRateBps: 2_097_152 },
    { linkId: 'b-c', one: 'kme-b', other: 'kme-c', state: 'up', availableKeys: 512, keyRateBps: 0 },
    { linkId: 'b-c-2', one: 'kme-b', other: 'kme-c', state: 'down', availableKeys: 0, keyRateBps: 0 },
    { linkId: 'c-x', one: 'kme-c', other: 'kme-x', state: 'one-sided', availableKeys: 8, keyRateBps: 8 },
  ],
}

let pki: Pki
let kme: AnsweringKme
let environment: Record<string, string>
beforeAll(async () => {
  pki = await createPki()
  kme = await startAnsweringKme(pki, { clients: 'none' })
  kme.answer(({ path }) => {
    contract.checkResponse('GET', path, 200, 'application/json', JSON.stringify(TOPOLOGY))
    return json(TOPOLOGY, 200)
  })
  const tokenFile = join(pki.dir, 'token')
  await writeFile(tokenFile, 'the.token\n')
  environment = { KME_ADMIN_URL: kme.url, KME_ADMIN_TOKEN_FILE: tokenFile, KME_CA: pki.authorities.files.kme.certificate }
})
afterAll(async () => {
  await kme.stop()
  await pki.remove()
})

describe('kme topology', () => {
  it('lists KMEs with the ways to them, and links', async () => {
    const { status, stdout, stderr } = await runKme(['topology'], environment)
    expect(stderr).toBe('')
    expect(status).toBe(0)
    expect(kme.asked[0]?.path).toBe('/api/v1/topology')
    expect(stdout).toContain('kme-a (asked)  0     kme-a ')
    expect(stdout).toContain('kme-c          2     kme-a > kme-b > kme-c')
    expect(stdout).toContain("kme-'d'        -     none")
    expect(stdout).toContain('a-b    kme-a    kme-b  up         32768  2097152 bit/s')
  })
  it('gives programs the JSON of the API', async () => {
    expect(JSON.parse((await runKme(['topology', '--json'], environment)).stdout)).toEqual(TOPOLOGY)
  })
  it('draws the network, each time the same, with links that do not count as broken lines', async () => {
    const file = join(pki.dir, 'network.svg')
    const { status, stdout } = await runKme(['topology', '--svg', file], environment)
    expect([status, stdout]).toEqual([0, `${file}: 4 KMEs, 4 links\n`])
    const drawing = await readFile(file, 'utf8')
    await runKme(['topology', '--svg', file], environment)
    expect(await readFile(file, 'utf8')).toBe(drawing)
    expect(drawing.match(/<circle/g)).toHaveLength(5)
    expect(drawing.match(/class="link up"/g)).toHaveLength(2)
    expect(drawing.match(/class="link down"/g)).toHaveLength(1)
    expect(drawing.match(/class="link one-sided"/g)).toHaveLength(1)
    expect(drawing).toMatch(/\.down, \.one-sided \{[^}]*stroke-dasharray/)
    expect(drawing).toContain('33 k keys, 2 M bit/s')
    expect(drawing).toContain('>kme-&apos;d&apos;</text>')
    // Links side by side do not lie on each other.
    const paths = [...drawing.matchAll(/ d="([^"]+)"/g)].map(([, path]) => path)
    expect(new Set(paths).size).toBe(4)
  })
})
