/** Get key and Get key with key IDs of ETSI GS QKD 014 (clauses 5.3, 5.4, 6.2 to 6.4), and multicast: lines 45 to 119 of
 *  docs/etsi-014-conformance.md that the bad-input catalogue does not prove. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import {
  connectAll,
  draw,
  expectVerdict,
  fetchKeys,
  K,
  OK,
  startJudgedNetwork,
  verdict,
  type JudgedNetwork,
} from '../catalogue/judged-network.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { keysOf, type Answer, type SaeClient, type SentKey } from '../network/network.ts'

const ENC = `${K}bob/enc_keys`
let test: JudgedNetwork
let alice: SaeClient
let bob: SaeClient

beforeAll(async () => {
  test = await startJudgedNetwork({}, 1500)
  ;({ alice, bob } = test)
})
afterAll(() => test?.[Symbol.asyncDispose]())

const bitsOf = (answer: Answer): number[] => keysOf(answer).map((key) => Buffer.from(key.key, 'base64').length * 8)
const times = <T>(count: number, make: (at: number) => T): T[] => Array.from({ length: count }, (_, at) => make(at))

describe('Get key', () => {
  it.each([
    ['GET without query', () => alice.get(ENC), [256]],
    ['POST with {}', () => alice.post(ENC, {}), [256]],
    ['POST without a body', () => alice.post(ENC), [256]],
    ['POST with neither body nor media type nor length', () => alice.send('POST', ENC, undefined, {}), [256]],
    ['GET with number', () => alice.get(`${ENC}?number=3`), [256, 256, 256]],
    ['GET with size', () => alice.get(`${ENC}?size=512`), [512]],
    ['GET with number and size', () => alice.get(`${ENC}?number=2&size=64`), [64, 64]],
    ['GET with size and number', () => alice.get(`${ENC}?size=72&number=2`), [72, 72]],
    ['POST with number', () => alice.post(ENC, { number: 4 }), [256, 256, 256, 256]],
    ['POST with size', () => alice.post(ENC, { size: 1024 }), [1024]],
    ['POST with number and size', () => alice.post(ENC, { number: 2, size: 4096 }), [4096, 4096]],
    ['POST with an odd number of bytes', () => alice.post(ENC, { size: 264 }), [264]],
  ] as [string, () => Promise<Answer>, number[]][])('%s brings keys of exactly these sizes', async (_form, ask, sizes) => {
    const answer = await ask()
    expect(verdict(answer)).toEqual({ status: 200 })
    expect(bitsOf(answer)).toEqual(sizes)
    expectVerdict(await fetchKeys(bob, 'alice', keysOf(answer)), OK)
  })

  it('the container has keys alone, and each key its ID and its material alone', async () => {
    const { json } = await alice.post(ENC, { number: 2 })
    expect(Object.keys(json)).toEqual(['keys'])
    for (const key of json['keys'] as object[]) expect(Object.keys(key).sort()).toEqual(['key', 'key_ID'])
  })

  it('key IDs are canonical version 4 UUIDs, never seen before, and say nothing of the key', async () => {
    const keys = [
      ...(await draw(alice, 'bob', { number: 128 })),
      ...(await draw(bob, 'alice', { number: 128 })),
      ...(await draw(alice, 'anna', { number: 64 })),
    ]
    for (const { key_ID } of keys) expect(key_ID).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    expect(new Set(keys.map((key) => key.key_ID)).size).toBe(keys.length)
    for (const { key, key_ID } of keys)
      expect(Buffer.from(key, 'base64').toString('hex')).not.toContain(key_ID.replaceAll('-', '').slice(0, 8))
  })

  it('material is base64 of the standard alphabet, padded, for every remainder of three', async () => {
    for (const size of [64, 72, 80]) {
      for (const { key } of await draw(alice, 'bob', { number: 16, size })) {
        expect(key).toMatch(/^[A-Za-z0-9+/]+={0,2}$/)
        expect(key.length % 4).toBe(0)
        expect(Buffer.from(key, 'base64').toString('base64')).toBe(key)
      }
    }
  })

  it('never brings a key or its material twice, whatever the sizes', async () => {
    const answers = [
      ...(await Promise.all(times(8, (at) => draw(alice, 'bob', { number: 8, size: [64, 128, 256, 320][at % 4] })))),
    ]
    const keys = answers.flat()
    // Eight bytes are enough to know a key again, alone or inside another.
    const beginnings = keys.map(({ key }) => Buffer.from(key, 'base64').subarray(0, 8).toString('hex'))
    expect(new Set(beginnings).size).toBe(keys.length)
  })

  it('concurrent requests never get the same key', async () => {
    const clients = [...(await test.connections('alice', 'kme-a', 20)), ...(await test.connections('anna', 'kme-a', 20))]
    await connectAll(clients, 'bob')
    const answers = await Promise.all(clients.flatMap((client) => [client.get(ENC), client.post(ENC, { number: 2 })]))
    for (const answer of answers) expect(verdict(answer)).toEqual({ status: 200 })
    const keys = answers.flatMap(keysOf)
    expect(keys).toHaveLength(120)
    expect(new Set(keys.map((key) => key.key_ID)).size).toBe(120)
    expect(new Set(keys.map((key) => key.key)).size).toBe(120)
  })

  it('the master is the SAE of the certificate: nothing in a request makes it another', async () => {
    const body = { master_SAE_ID: 'anna', source_SAE_ID: 'anna', number: 1 }
    const [key] = keysOf(await alice.post(ENC, body, { 'x-sae-id': 'anna' }))
    expectVerdict(await fetchKeys(bob, 'anna', [key!]), { status: 400, message: 'm5' })
    expectVerdict(await fetchKeys(bob, 'alice', [key!]), OK)
    expectVerdict(await alice.get(`${ENC}?master_SAE_ID=anna`), { status: 400, message: 'f' })
  })

  it('both directions at once bring different keys', async () => {
    const [there, back] = await Promise.all([draw(alice, 'bob', { number: 20 }), draw(bob, 'alice', { number: 20 })])
    expect(new Set([...there, ...back].map((key) => key.key)).size).toBe(40)
    expect(keysOf(await fetchKeys(bob, 'alice', there))).toEqual(there)
    expect(keysOf(await fetchKeys(alice, 'bob', back))).toEqual(back)
  })
})

describe('Get key with key IDs', () => {
  it('brings exactly the bytes and IDs the master got, from the KME of the slave', async () => {
    const keys = await draw(alice, 'bob', { number: 5, size: 512 })
    expect(keysOf(await fetchKeys(bob, 'alice', keys))).toEqual(keys)
  })

  it('GET with one key_ID brings one key', async () => {
    const [key] = await draw(alice, 'bob')
    expect(keysOf(await bob.get(`${K}alice/dec_keys?key_ID=${key!.key_ID}`))).toEqual([key])
  })

  it('keeps the order asked, across sizes and requests', async () => {
    const keys = [
      ...(await draw(alice, 'bob', { number: 3 })),
      ...(await draw(alice, 'bob', { number: 3, size: 64 })),
      ...(await draw(alice, 'bob', { number: 3, size: 1024 })),
    ]
    const wanted = [8, 0, 3, 6, 1, 4, 7, 2, 5].map((at) => keys[at]!)
    expect(keysOf(await fetchKeys(bob, 'alice', wanted))).toEqual(wanted)
  })

  it('serves part of what was issued together, then the rest', async () => {
    const keys = await draw(alice, 'bob', { number: 4 })
    expect(keysOf(await fetchKeys(bob, 'alice', [keys[2]!]))).toEqual([keys[2]])
    expectVerdict(await fetchKeys(bob, 'alice', keys), { status: 400, message: 'm5' })
    const rest = [keys[3]!, keys[0]!, keys[1]!]
    expect(keysOf(await fetchKeys(bob, 'alice', rest))).toEqual(rest)
  })

  it('serves as many keys as max_key_per_request at once', async () => {
    const keys = await draw(alice, 'bob', { number: 128 })
    expect(keysOf(await fetchKeys(bob, 'alice', keys))).toEqual(keys)
  })

  it('serves two SAEs of one KME', async () => {
    const keys = await draw(alice, 'anna', { number: 2, size: 320 })
    expect(keysOf(await fetchKeys(test.anna, 'alice', keys))).toEqual(keys)
    expectVerdict(await fetchKeys(test.anna, 'alice', keys), { status: 400, message: 'm5' })
  })

  it('D14 concurrent overlapping lists: each key goes to one of them, whole lists only', async () => {
    const keys = await draw(alice, 'bob', { number: 10 })
    const clients = await test.connections('bob', 'kme-b', 30)
    await connectAll(clients, 'alice')
    const answers = await Promise.all(
      clients.map((client, at) => fetchKeys(client, 'alice', [keys[at % 10]!, keys[(at + 1) % 10]!])),
    )
    const served = answers.filter((answer) => answer.status === 200).flatMap(keysOf)
    expect(served.length).toBeGreaterThan(0)
    expect(new Set(served.map((key) => key.key_ID)).size).toBe(served.length)
    for (const answer of answers) if (answer.status !== 200) expectVerdict(answer, { status: 400, message: 'm5' })
  })

  it('401 and 400 take comparable time for IDs that exist and that do not', async () => {
    const [foreign] = await draw(alice, 'bert')
    const spent: Record<'exists' | 'unknown', number[]> = { exists: [], unknown: [] }
    const timed = async (kind: 'exists' | 'unknown', key: { key_ID: string }, status: number): Promise<void> => {
      const startMs = systemClock.monotonicMs()
      expect((await fetchKeys(bob, 'alice', [key])).status).toBe(status)
      spent[kind].push(systemClock.monotonicMs() - startMs)
    }
    for (let round = 0; round < 80; round += 1) {
      await timed('exists', foreign!, 401)
      await timed('unknown', { key_ID: randomUUID() }, 400)
    }
    const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length / 2]!
    const [exists, unknown] = [median(spent.exists), median(spent.unknown)]
    expect(Math.max(exists, unknown)).toBeLessThan(2 * Math.min(exists, unknown) + 1)
  })
})

describe('multicast', () => {
  const shared = (slave = 'bob', others: string[] = ['bert'], more: object = {}): Promise<Answer> =>
    alice.post(`${K}${slave}/enc_keys`, { ...more, additional_slave_SAE_IDs: others })

  it('slaves at one KME get the same bytes under the same IDs, each once, in any order', async () => {
    const keys = keysOf(await shared('bob', ['bert'], { number: 3, size: 512 }))
    expect(keysOf(await fetchKeys(test.bert, 'alice', keys))).toEqual(keys)
    expectVerdict(await fetchKeys(test.bert, 'alice', keys), { status: 400, message: 'm5' })
    expect(keysOf(await fetchKeys(bob, 'alice', keys))).toEqual(keys)
    expectVerdict(await fetchKeys(bob, 'alice', keys), { status: 400, message: 'm5' })
  })

  it('each slave may fetch part of the keys, without disturbing the other', async () => {
    const keys = keysOf(await shared('bob', ['bert'], { number: 2 }))
    const first: SentKey[] = [keys[0]!]
    expect(keysOf(await fetchKeys(bob, 'alice', first))).toEqual(first)
    expect(keysOf(await fetchKeys(test.bert, 'alice', keys))).toEqual(keys)
    expect(keysOf(await fetchKeys(bob, 'alice', [keys[1]!]))).toEqual([keys[1]])
  })

  it('costs as many keys as without it', async () => {
    const count = async () => (await alice.get(`${K}bob/status`)).json['stored_key_count'] as number
    const before = await count()
    await shared('bob', ['bert'], { number: 5 })
    expect(await count()).toBe(before - 5)
  })

  it('slaves at different KMEs get the same bytes under the same IDs, each once', async () => {
    for (const [slave, others] of [
      ['bob', ['anna']],
      ['anna', ['bob']],
      ['bob', ['bert', 'anna']],
    ] as const) {
      const keys = keysOf(await shared(slave, [...others], { number: 2, size: 320 }))
      for (const name of [slave, ...others]) {
        expect(keysOf(await fetchKeys(test[name], 'alice', keys))).toEqual(keys)
        expectVerdict(await fetchKeys(test[name], 'alice', keys), { status: 400, message: 'm5' })
      }
    }
  })

  it('a slave at a KME that no key is shared with is 503 for all, and costs nothing', async () => {
    const answer = await test.costsNothing(() => shared('bob', ['carol', 'anna']))
    expect(verdict(answer)).toEqual({
      status: 503,
      message: 'no key material available: this KME has no link to the KME of the slave SAE',
    })
  })

  it('a slave that is not named gets 401, also at the same KME', async () => {
    const [key] = await draw(alice, 'bob')
    expectVerdict(await fetchKeys(test.bert, 'alice', [key!]), { status: 401 })
    expectVerdict(await fetchKeys(bob, 'alice', [key!]), OK)
  })
})
