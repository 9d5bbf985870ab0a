/** Nine modest SAEs and a greedy one on one pool, over HTTPS. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually, quieten, startNetwork, storedKeys, type Network, type SaeClient } from '../network/network.ts'

const FLOOR_KEYS = 10
const ENC_KEYS = '/api/v1/keys/bob/enc_keys'
const names = Array.from({ length: 9 }, (_, i) => `modest-${i}`)

describe('nine modest SAEs and a greedy one', () => {
  let network: Network
  let greedy: SaeClient
  let modest: SaeClient[]

  beforeAll(async () => {
    network = await startNetwork({
      sharing: { fairKeys: 400, activeS: 60, saes: names.map((sae) => ({ sae, floorKeys: FLOOR_KEYS })) },
      keys: { lendFloor: 9 * FLOOR_KEYS },
    })
    for (const kme of ['kme-a', 'kme-b'] as const) {
      const admin = await network.admin(kme)
      for (const saeId of names) {
        expect((await admin.post('/api/v1/saes', { saeId, kmeId: 'kme-a' })).status).toBe(201)
        expect((await admin.post('/api/v1/pairs', { one: saeId, other: 'bob', allowed: true })).status).toBe(200)
      }
      admin.close()
    }
    greedy = await network.sae('alice')
    modest = await Promise.all(names.map((name) => network.sae(name, 'kme-a')))
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
  })

  const draws = async (client: SaeClient, number: number): Promise<boolean> => {
    const { status } = await client.post(ENC_KEYS, { number })
    expect([200, 503]).toContain(status)
    return status === 200
  }

  it('the greedy one takes all it can get, and each modest one still has its floor, of which status tells', async () => {
    await quieten(network)
    for (const number of [100, 20, 5, 1]) while (await draws(greedy, number));
    expect(await storedKeys(greedy, 'bob')).toBe(0)
    for (const client of modest) expect(await storedKeys(client, 'bob')).toBe(FLOOR_KEYS)
    // Also when all ask at once, and the greedy one goes on.
    const served = await Promise.all([
      ...modest.map(async (client) => {
        let keys = 0
        while (await draws(client, 1)) keys += 1
        return keys
      }),
      draws(greedy, 1).then((drawn) => (drawn ? FLOOR_KEYS + 1 : FLOOR_KEYS)),
    ])
    expect(served).toEqual(served.map(() => FLOOR_KEYS))
  })

  it('of the key that trickles in each modest one gets what it asks for, although the greedy one would take it all', async () => {
    const stop = new AbortController()
    let greedyKeys = 0
    let refused = 0
    const greed = Promise.all(
      Array.from({ length: 4 }, async () => {
        const client = await network.sae('alice')
        while (!stop.signal.aborted) {
          if (await draws(client, 8)) greedyKeys += 8
          else refused += 1
        }
        client.close()
      }),
    )
    network.devices.setRate(4)
    network.devices.resume()
    await eventually('a first key', () => draws(modest[0]!, 1))
    const patience = modest.map(async (client) => {
      let keys = 0
      for (let asked = 0; asked < 40; asked += 1) {
        if (await draws(client, 1)) keys += 1
        await systemClock.sleep(100)
      }
      return keys
    })
    const served = await Promise.all(patience)
    stop.abort()
    await greed
    network.devices.pause()
    // It did find the pool empty, again and again.
    expect(refused).toBeGreaterThan(20)
    expect(greedyKeys).toBeGreaterThan(0)
    // All but those asked for before the first block came.
    expect(Math.min(...served)).toBeGreaterThanOrEqual(25)
  })
})
