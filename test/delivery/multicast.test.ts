/** Multicast over HTTPS: bob at kme-b asks for keys that alice and anna at kme-a, carol at kme-c and bert at kme-b get too. kme-a and
 *  kme-c share nothing with each other. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { K, verdict } from '../catalogue/judged-network.ts'
import { createContract } from '../openapi/contract.ts'
import { expectBalanced, type LedgerLink } from '../network/ledger.ts'
import {
  eventually,
  keysOf,
  quieten,
  startNetwork,
  storedKeys,
  type Answer,
  type KmeName,
  type Network,
  type SaeClient,
  type SentKey,
} from '../network/network.ts'

const LINKS: readonly LedgerLink[] = [
  { id: 'a-b', ends: ['kme-a', 'kme-b'] },
  { id: 'b-c', ends: ['kme-b', 'kme-c'] },
]
const HOMES = { alice: 'kme-a', anna: 'kme-a', bob: 'kme-b', bert: 'kme-b', carol: 'kme-c' } as const
type Name = keyof typeof HOMES

let network: Network
let saes: Record<Name, SaeClient>

beforeAll(async () => {
  // No loans, so that counts stand still while nothing is asked; few and large blocks, so that a busy machine keeps up.
  network = await startNetwork({
    line: true,
    rateBlocksPerS: 5,
    blockBytes: 32 + 1024 * 32,
    keys: { lendFloor: 900_000 },
    pools: { lowWatermark: 1, criticalWatermark: 0 },
  })
  for (const kme of ['kme-a', 'kme-b', 'kme-c'] as const) await setPair(kme, 'carol', true)
  const clients = await Promise.all(
    (Object.keys(HOMES) as Name[]).map(async (name) => [name, await network.sae(name, HOMES[name])] as const),
  )
  saes = Object.fromEntries(clients) as Record<Name, SaeClient>
  await eventually(
    'keys with both neighbours',
    async () => (await storedKeys(saes.bob, 'alice')) > 2500 && (await storedKeys(saes.bob, 'carol')) > 2500,
  )
  network.furtherDevices.pause()
  await quieten(network)
  for (const kme of ['kme-b', 'kme-c'] as const) {
    await eventually(`link b-c is quiet too at ${kme}`, async () => {
      const [agreed] = await network.query<{ blocks: number }>(
        kme,
        `SELECT count(*)::int AS blocks FROM key_block WHERE link_id = 'b-c' AND state <> 'INGESTED'`,
      )
      return agreed!.blocks === network.furtherDevices.produced()
    })
  }
})
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
})

const setPair = async (kme: KmeName, other: string, allowed: boolean): Promise<void> => {
  const admin = await network.admin(kme)
  expect((await admin.post('/api/v1/pairs', { one: 'bob', other, allowed })).status).toBe(200)
  admin.close()
}

const ask = (slave: Name, others: readonly Name[], more: object = {}): Promise<Answer> =>
  saes.bob.post(`${K}${slave}/enc_keys`, { ...more, additional_slave_SAE_IDs: others })
const fetchBy = (name: Name, keys: readonly SentKey[]): Promise<Answer> =>
  saes[name].post(`${K}bob/dec_keys`, { key_IDs: keys.map(({ key_ID }) => ({ key_ID })) })

const stored = async (): Promise<[withA: number, withC: number]> => [
  await storedKeys(saes.bob, 'alice'),
  await storedKeys(saes.bob, 'carol'),
]
/** Every slave gets exactly these keys, once, and the books of both links balance. */
const expectFetched = async (slaves: readonly Name[], keys: readonly SentKey[]): Promise<void> => {
  for (const name of slaves) {
    expect(keysOf(await fetchBy(name, keys))).toEqual(keys)
    expect(verdict(await fetchBy(name, keys))).toEqual({
      status: 400,
      message: 'one or more keys specified are not found on KME',
    })
  }
}

describe('multicast to SAEs at several KMEs', () => {
  it.each([
    ['kme-a and kme-c', 'alice', ['carol']],
    ['kme-c and kme-a, two of them at kme-a', 'carol', ['alice', 'anna']],
    ['kme-a and the KME of the master', 'alice', ['bert']],
    ['the KME of the master and kme-c', 'bert', ['carol']],
    ['three KMEs', 'alice', ['bert', 'carol', 'anna']],
    ['three KMEs, beginning with that of the master', 'bert', ['carol', 'alice']],
  ] as [string, Name, Name[]][])(
    '%s: every slave gets the bytes and IDs the master got, from its own KME, once',
    async (_where, slave, others) => {
      const contract = createContract('openapi/etsi-gs-qkd-014.yaml')
      for (const more of [{}, { number: 20, size: 1000 }, { number: 3, size: 64 }, { number: 2, size: 264 }]) {
        const before = await stored()
        const answer = await ask(slave, others, more)
        expect(verdict(answer)).toEqual({ status: 200 })
        contract.checkResponse('POST', '/api/v1/keys/x/enc_keys', 200, answer.headers['content-type'] as string, answer.text)
        const keys = keysOf(answer)
        const { number = 1, size = 256 } = more
        expect(keys).toHaveLength(number)
        for (const { key } of keys) expect(Buffer.from(key, 'base64')).toHaveLength(size / 8)
        await expectFetched([slave, ...others], keys)
        // Every pool that is drawn from gives as many units.
        const units = number * Math.ceil(size / 256)
        const drawsFrom = (kme: KmeName): number => ([slave, ...others].some((name) => HOMES[name] === kme) ? units : 0)
        expect(await stored()).toEqual([before[0] - drawsFrom('kme-a'), before[1] - drawsFrom('kme-c')])
      }
      for (const link of LINKS) await expectBalanced(network, link)
    },
  )

  it('as much as may be asked at once', async () => {
    const keys = keysOf(await ask('alice', ['carol', 'bert'], { number: 128, size: 4096 }))
    expect(new Set(keys.map(({ key }) => key)).size).toBe(128)
    await expectFetched(['alice', 'carol', 'bert'], keys)
  })

  it('many at once bring different keys to each, and the same to all slaves of each', async () => {
    const clients = await Promise.all(Array.from({ length: 8 }, () => network.sae('bob', 'kme-b')))
    const sets: [Name, ...Name[]][] = [['alice', 'carol'], ['carol', 'bert', 'anna'], ['bert', 'alice', 'carol'], ['alice']]
    const drawn = await Promise.all(
      clients.flatMap((client, at) =>
        [0, 1, 2].map(async (round) => {
          const [slave, ...others] = sets[(at + round) % sets.length]!
          const answer = await client.post(`${K}${slave}/enc_keys`, { number: 3, additional_slave_SAE_IDs: others })
          expect(verdict(answer)).toEqual({ status: 200 })
          return { slaves: [slave, ...others], keys: keysOf(answer) }
        }),
      ),
    )
    const all = drawn.flatMap(({ keys }) => keys)
    expect(new Set(all.map(({ key }) => key)).size).toBe(72)
    expect(new Set(all.map(({ key_ID }) => key_ID)).size).toBe(72)
    for (const { slaves, keys } of drawn) await expectFetched(slaves, keys)
    for (const link of LINKS) await expectBalanced(network, link)
  })

  it('a slave may fetch part, and another all, in any order; whoever was not named gets 401', async () => {
    const keys = keysOf(await ask('carol', ['alice'], { number: 4 }))
    const part = [keys[3]!, keys[1]!]
    expect(keysOf(await fetchBy('carol', part))).toEqual(part)
    expect(keysOf(await fetchBy('alice', [...keys].reverse()))).toEqual([...keys].reverse())
    expect(keysOf(await fetchBy('carol', [keys[0]!, keys[2]!]))).toEqual([keys[0], keys[2]])
    expect((await fetchBy('anna', keys)).status).toBe(401)
    expect((await fetchBy('bert', keys)).status).toBe(401)
  })

  it('the request ID brings the same keys again; keys from QKD may be insisted on, also with a slave at the KME of the master', async () => {
    const more = {
      extension_mandatory: [{ openkme_request_id: '0d7e1f5e-3b6d-4c3c-9a5a-3f6f6f0b7a10' }, { openkme_source: 'qkd' }],
    }
    const first = keysOf(await ask('alice', ['bert', 'carol'], more))
    const before = await stored()
    expect(keysOf(await ask('alice', ['bert', 'carol'], more))).toEqual(first)
    expect(await stored()).toEqual(before)
    expect(verdict(await ask('alice', ['carol', 'bert'], more))).toEqual({ status: 400, message: 'bad request format' })
    await expectFetched(['carol', 'bert', 'alice'], first)
  })

  it('status says how many slaves there may be more, and more are refused and cost nothing', async () => {
    const { json } = await saes.bob.get(`${K}alice/status`)
    expect(json['max_SAE_ID_count']).toBe(8)
    const before = await stored()
    const tooMany = ['carol', 'bert', ...Array.from({ length: 7 }, (_, at) => `sae-${at}`)] as Name[]
    expect(verdict(await ask('alice', tooMany))).toEqual({ status: 400, message: 'bad request format' })
    expect(await stored()).toEqual(before)
  })

  it('one slave that is unknown or not permitted is 400 for all, and costs nothing', async () => {
    const before = await stored()
    for (const other of ['nobody', 'mallory'] as unknown as Name[]) {
      expect(verdict(await ask('alice', ['carol', other]))).toEqual({
        status: 400,
        message: 'unknown or not permitted slave SAE',
      })
    }
    expect(await stored()).toEqual(before)
  })

  it('a pair that the KME of a slave does not allow is 400 for all; the request rests and does not empty the other pools', async () => {
    await setPair('kme-c', 'carol', false)
    const before = await stored()
    expect(verdict(await ask('alice', ['carol', 'bert']))).toEqual({ status: 400, message: 'unknown or not permitted slave SAE' })
    const resting = await ask('alice', ['carol', 'bert'])
    expect(resting.status).toBe(503)
    expect(Number(resting.headers['retry-after'])).toBeGreaterThan(0)
    // What covered carol's copy is spent, and what would have been the key, which kme-c could have made.
    await eventually('settled', async () => {
      const now = await stored()
      return now[0] === before[0] - 1 && now[1] === before[1] - 1
    })
    for (const link of LINKS) await expectBalanced(network, link)
    await setPair('kme-c', 'carol', true)
    await eventually('served again', async () => (await ask('alice', ['carol', 'bert'])).status === 200)
  })

  it('a KME that is away is 503 for all and costs nothing; the others are served without it, and all when it is back', async () => {
    await network.stop('kme-c')
    await eventually('kme-b has noticed', async () => (await storedKeys(saes.bob, 'carol')) === 0)
    const [before] = await stored()
    for (let round = 0; round < 3; round += 1) {
      expect(verdict(await ask('alice', ['bert', 'carol'], { number: 5 }))).toEqual({
        status: 503,
        message: 'the KME of the slave SAE is not available',
      })
    }
    expect((await stored())[0]).toBe(before)
    await expectFetched(['alice', 'bert'], keysOf(await ask('alice', ['bert'])))
    await network.start('kme-c')
    await eventually('kme-b trusts kme-c again', async () => (await storedKeys(saes.bob, 'carol')) > 0)
    await expectFetched(['alice', 'bert', 'carol'], keysOf(await ask('alice', ['bert', 'carol'])))
  })

  it('one pool with too few keys is 503 for all, and no key of the other is gone', async () => {
    let left = await storedKeys(saes.bob, 'carol')
    while (left > 3) {
      const number = Math.min(128, left - 3)
      expect((await saes.bob.post(`${K}carol/enc_keys`, { number })).status).toBe(200)
      left -= number
    }
    const before = await stored()
    for (let round = 0; round < 3; round += 1) {
      const answer = await ask('alice', ['carol', 'bert'], { number: 4 })
      expect(verdict(answer)).toEqual({ status: 503, message: 'no key material available' })
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
    }
    expect(await stored()).toEqual(before)
    await expectFetched(['alice', 'carol', 'bert'], keysOf(await ask('alice', ['carol', 'bert'], { number: 3 })))
    expect(await stored()).toEqual([before[0] - 3, 0])
    for (const link of LINKS) await expectBalanced(network, link)
  })
})
