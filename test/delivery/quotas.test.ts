/** What an SAE meets at its quota, over HTTPS. Windows of an hour stand still for a test; those of a second show that they end. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { draw, fetchKeys, K, startJudgedNetwork, verdict, type JudgedNetwork } from '../catalogue/judged-network.ts'
import { eventually, keysOf, type Answer, type SaeClient } from '../network/network.ts'

const HOUR_S = 3600
/** So many, and then nothing for an hour. */
const anHour = (name: 'requests' | 'keys', count: number) => ({
  [`${name}PerS`]: count / HOUR_S,
  [`${name}Burst`]: count,
})

const RATE = { status: 503, message: 'rate limit of this SAE reached' }

describe('quotas of SAEs', () => {
  let test: JudgedNetwork

  beforeAll(async () => {
    test = await startJudgedNetwork({
      quotas: {
        defaults: { requestsPerS: 500 },
        saes: [
          { sae: 'anna', ...anHour('requests', 5), ...anHour('keys', 30) },
          { sae: 'bert', requestsPerS: 4 },
          { sae: 'mallory', ...anHour('requests', 3) },
        ],
        pairs: [
          { master: 'alice', slave: 'bert', ...anHour('keys', 6), keysPerDay: 100 },
          { master: 'alice', slave: 'anna', keysPerDay: 7 },
        ],
      },
    })
  })
  afterAll(async () => {
    await test?.[Symbol.asyncDispose]()
  })

  const metric = async (kind: string): Promise<number> => {
    const { text } = await (await test.network.admin('kme-a')).get('/metrics')
    return Number(new RegExp(`^kme_quota_refused_total\\{kind="${kind}"\\} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
  }
  /** What the KME wrote down of requests of SAEs; links go on by themselves meanwhile. */
  const audited = async (): Promise<number> => {
    const [{ count }] = (await test.network.query<{ count: number }>(
      'kme-a',
      `SELECT count(*)::int AS count FROM audit_record WHERE actor LIKE 'sae:%'`,
    )) as [{ count: number }]
    return count
  }

  it('K35 over the rate: 503 with Retry-After, nothing is lost, and each method counts', async () => {
    const { anna, bob } = test
    // Too many keys at once costs nothing; what is malformed is no request.
    await test.costsNothing(async () => {
      expect(verdict(await anna.post(`${K}bob/enc_keys`, { number: 31 }))).toEqual({
        status: 503,
        message: 'more keys than the quota of this SAE ever allows at once',
      })
      for (let i = 0; i < 10; i += 1) expect((await anna.post(`${K}bob/enc_keys`, { size: 7 })).status).toBe(400)
    })
    const keys = await draw(anna, 'bob', { number: 20 }) // 1
    await test.costsNothing(async () => {
      // 6 of two units each are 12: only 10 are left.
      const refused = await anna.post(`${K}bob/enc_keys`, { number: 6, size: 512 })
      expect(verdict(refused)).toEqual(RATE)
      expect(Number(refused.headers['retry-after'])).toBeGreaterThan(HOUR_S - 120)
      expect(Number(refused.headers['retry-after'])).toBeLessThanOrEqual(HOUR_S)
    })
    await draw(anna, 'bob', { number: 5, size: 512 }) // 2
    expect((await anna.get(`${K}bob/status`)).status).toBe(200) // 3
    const [forAnna] = await draw(bob, 'anna')
    expect(keysOf(await fetchKeys(anna, 'bob', [forAnna!]))).toEqual([forAnna]) // 4
    const [another] = await draw(bob, 'anna')
    expect((await anna.get(`${K}nobody/status`)).status).toBe(400) // 5
    const recordsBefore = await audited()
    const refusedBefore = (await metric('requestsPerS')) + (await metric('keysPerS'))
    await test.costsNothing(async () => {
      const refused: Answer[] = await Promise.all([
        anna.get(`${K}bob/status`),
        anna.get(`${K}bob/enc_keys`),
        anna.post(`${K}bob/enc_keys`, {}),
        fetchKeys(anna, 'bob', [another!]),
        anna.get(`${K}bob/dec_keys?key_ID=${another!.key_ID}`),
      ])
      for (const answer of refused) {
        expect(verdict(answer)).toEqual(RATE)
        expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
      }
    })
    expect((await metric('requestsPerS')) + (await metric('keysPerS'))).toBe(refusedBefore + 5)
    expect(await audited()).toBe(recordsBefore)
    // What was held for her is still there, and others are served as before.
    expect(keysOf(await fetchKeys(bob, 'anna', keys))).toEqual(keys)
    await draw(test.alice, 'bob')
  })

  it('lets an SAE go on with the next window', async () => {
    const answers = await Promise.all(Array.from({ length: 12 }, () => test.bert.get(`${K}alice/status`)))
    expect(answers.filter((answer) => answer.status === 503).length).toBeGreaterThan(0)
    expect(answers.filter((answer) => answer.status === 200).length).toBeGreaterThan(0)
    await eventually('the next second', async () => (await test.bert.get(`${K}alice/status`)).status === 200)
  })

  it('counts all connections of an SAE together', async () => {
    const connections: SaeClient[] = await test.connections('mallory', 'kme-a', 6)
    const answers = await Promise.all(connections.map((one) => one.get(`${K}bob/status`)))
    connections.forEach((one) => one.close())
    expect(answers.map((answer) => answer.status).sort()).toEqual([400, 400, 400, 503, 503, 503])
  })

  it('limits a pair of SAEs whatever else its master asks for, also when the slave is an additional one', async () => {
    const { alice, bert } = test
    await draw(alice, 'bert', { number: 4 })
    await draw(alice, 'bob', { number: 50 })
    await test.costsNothing(async () => {
      const refused = await alice.post(`${K}bob/enc_keys`, { number: 3, additional_slave_SAE_IDs: ['bert'] })
      expect(verdict(refused)).toEqual({ status: 503, message: 'rate limit of this pair of SAEs reached' })
    })
    const keys = await draw(alice, 'bob', { number: 2, additional_slave_SAE_IDs: ['bert'] })
    expect(verdict(await alice.post(`${K}bert/enc_keys`, {}))).toEqual({
      status: 503,
      message: 'rate limit of this pair of SAEs reached',
    })
    expect((await alice.get(`${K}bert/status`)).status).toBe(200)
    // The slave has no part in it: it fetches what it was given, and asks for keys of its own.
    await eventually('bert may ask', async () => (await fetchKeys(bert, 'alice', keys)).status === 200)
    await eventually('bert may ask again', async () => (await bert.post(`${K}alice/enc_keys`, { number: 7 })).status === 200)
  })

  it('does not count keys of a request that fails', async () => {
    const { alice } = test
    const before = await metric('keysPerDay')
    // carol is homed at a KME that is no peer of this one; the pair of alice and anna has seven keys a day.
    for (let i = 0; i < 3; i += 1) {
      const failed = await alice.post(`${K}anna/enc_keys`, { number: 7, additional_slave_SAE_IDs: ['carol'] })
      expect(failed.status).toBe(503)
    }
    await draw(alice, 'anna', { number: 7 })
    expect(verdict(await alice.post(`${K}anna/enc_keys`, {}))).toEqual({
      status: 503,
      message: 'daily number of keys of this pair of SAEs reached',
    })
    expect(await metric('keysPerDay')).toBe(before + 1)
  })
})
