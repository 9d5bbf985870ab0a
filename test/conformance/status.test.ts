/** Get status of ETSI GS QKD 014 (clauses 5.2 and 6.1): lines 31 to 44 of docs/etsi-014-conformance.md. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { draw, expectVerdict, K, startJudgedNetwork, type JudgedNetwork } from '../catalogue/judged-network.ts'
import { storedKeys } from '../network/network.ts'

let test: JudgedNetwork
beforeAll(async () => {
  test = await startJudgedNetwork({ keys: { maxStored: 50_000, lendFloor: 16 } })
})
afterAll(() => test?.[Symbol.asyncDispose]())

const FIELDS = {
  source_KME_ID: 'string',
  target_KME_ID: 'string',
  master_SAE_ID: 'string',
  slave_SAE_ID: 'string',
  key_size: 'number',
  stored_key_count: 'number',
  max_key_count: 'number',
  max_key_per_request: 'number',
  max_key_size: 'number',
  min_key_size: 'number',
  max_SAE_ID_count: 'number',
}

describe('Get status', () => {
  it('has the eleven members of table 9, of their types, and no other', async () => {
    const { json } = await test.alice.get(`${K}bob/status`)
    expect(Object.fromEntries(Object.entries(json).map(([name, value]) => [name, typeof value]))).toEqual(FIELDS)
    for (const value of Object.values(json)) if (typeof value === 'number') expect(Number.isInteger(value)).toBe(true)
  })

  it('names both KMEs, the caller and the slave as they are seen from each side', async () => {
    const seen = async (who: 'alice' | 'anna' | 'bob', other: string) => {
      const { json } = await test[who].get(`${K}${other}/status`)
      return [json['source_KME_ID'], json['target_KME_ID'], json['master_SAE_ID'], json['slave_SAE_ID']]
    }
    expect(await seen('alice', 'bob')).toEqual(['kme-a', 'kme-b', 'alice', 'bob'])
    expect(await seen('bob', 'alice')).toEqual(['kme-b', 'kme-a', 'bob', 'alice'])
    expect(await seen('alice', 'anna')).toEqual(['kme-a', 'kme-a', 'alice', 'anna'])
    expect(await seen('alice', 'carol')).toEqual(['kme-a', 'kme-c', 'alice', 'carol'])
  })

  it('announces limits that fit together, in bits, and 32-bit numbers', async () => {
    const { json } = await test.alice.get(`${K}bob/status`)
    const status = json as Record<string, number>
    expect(status).toMatchObject({
      key_size: 256,
      min_key_size: 64,
      max_key_size: 4096,
      max_key_per_request: 128,
      max_key_count: 50_000,
    })
    expect(status['max_SAE_ID_count']).toBeGreaterThan(0)
    expect(status['stored_key_count']).toBeLessThanOrEqual(status['max_key_count']!)
    const [key] = await draw(test.alice, 'bob')
    expect(Buffer.from(key!.key, 'base64').length * 8).toBe(status['key_size'])
  })

  it('is true at its limits: the most and the largest it announces are served, one more is not', async () => {
    expect(await draw(test.alice, 'bob', { number: 128 })).toHaveLength(128)
    const [large] = await draw(test.alice, 'bob', { size: 4096 })
    expect(Buffer.from(large!.key, 'base64')).toHaveLength(512)
    const [small] = await draw(test.alice, 'bob', { size: 64 })
    expect(Buffer.from(small!.key, 'base64')).toHaveLength(8)
    for (const body of [{ number: 129 }, { size: 4104 }, { size: 56 }]) {
      expectVerdict(await test.alice.post(`${K}bob/enc_keys`, body), { status: 400, message: 'f' })
    }
  })

  it('changes nothing, however often it is called', async () => {
    const before = await storedKeys(test.alice, 'bob')
    await test.costsNothing(async () => {
      for (let i = 0; i < 50; i += 1) expect(await storedKeys(test.alice, 'bob')).toBe(before)
    })
  })

  it('counts exactly: n keys less after n keys of the default size, more for longer keys, none for a refusal', async () => {
    const count = () => storedKeys(test.alice, 'bob')
    const before = await count()
    await draw(test.alice, 'bob', { number: 7 })
    expect(await count()).toBe(before - 7)
    await draw(test.alice, 'bob', { number: 2, size: 512 })
    expect(await count()).toBe(before - 11)
    await draw(test.alice, 'bob', { size: 128 })
    expect(await count()).toBe(before - 12)
    await test.alice.post(`${K}bob/enc_keys`, { number: 0 })
    expect(await count()).toBe(before - 12)
  })

  it('the slave sees the same pair with the roles turned', async () => {
    const { json } = await test.bob.get(`${K}alice/status`)
    expect(json).toMatchObject({ master_SAE_ID: 'bob', slave_SAE_ID: 'alice', source_KME_ID: 'kme-b' })
    expect(json['stored_key_count']).toBeGreaterThan(0)
  })

  it('tells an unknown, an unpermitted and a blank slave apart from nobody', async () => {
    const texts = new Set<string>()
    for (const slave of ['nobody', 'mallory', 'alice', '%20']) {
      const answer = await test.alice.get(`${K}${slave}/status`)
      expectVerdict(answer, { status: 400, message: 'u' })
      texts.add(answer.text)
    }
    expect(texts.size).toBe(1)
  })

  it('takes no parameter and no body', async () => {
    expectVerdict(await test.alice.get(`${K}bob/status?verbose=1`), { status: 400, message: 'f' })
    const headers = { 'content-type': 'application/json', 'content-length': '2' }
    expectVerdict(await test.alice.send('GET', `${K}bob/status`, '{}', headers), { status: 400, message: 'f' })
    expect((await test.alice.get(`${K}bob/status`, { 'content-type': 'application/json' })).status).toBe(200)
  })
})
