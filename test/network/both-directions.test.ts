import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { expectBalanced } from './ledger.ts'
import { eventually, keysOf, quieten, startNetwork, storedKeys, type Network, type SaeClient, type SentKey } from './network.ts'

const CLIENTS_PER_END = 100
const REQUESTS_PER_CLIENT = 5

describe('100 clients at each end asking at once for both directions', () => {
  let network: Network

  beforeAll(async () => {
    network = await startNetwork({ rateBlocksPerS: 100, keys: { lendFloor: 16 } })
    const alice = await network.sae('alice')
    await eventually('stock for everybody', async () => (await storedKeys(alice, 'bob')) > 2000)
    network.devices.setRate(5)
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
  })

  it('every key is unique, and every slave fetches equal bytes', async () => {
    // Connected one after the other: so many handshakes at once would take a busy machine longer than a KME waits for one.
    const crowd = async (id: string, other: string): Promise<SaeClient[]> => {
      const clients = await Promise.all(Array.from({ length: CLIENTS_PER_END }, () => network.sae(id)))
      for (const client of clients) await storedKeys(client, other)
      return clients
    }
    const [alices, bobs] = [await crowd('alice', 'bob'), await crowd('bob', 'alice')]
    const exchange = async (master: SaeClient, masterId: string, slave: SaeClient, slaveId: string): Promise<SentKey[]> => {
      const keys: SentKey[] = []
      for (let request = 0; request < REQUESTS_PER_CLIENT; request += 1) {
        const issued = await master.post(`/api/v1/keys/${slaveId}/enc_keys`, { number: 1 + (request % 2), size: 256 })
        if (issued.status === 503) continue
        expect(issued.status).toBe(200)
        const wanted = keysOf(issued)
        const fetched = await slave.post(`/api/v1/keys/${masterId}/dec_keys`, {
          key_IDs: wanted.map(({ key_ID }) => ({ key_ID })),
        })
        expect(fetched.status).toBe(200)
        expect(keysOf(fetched)).toEqual(wanted)
        keys.push(...wanted)
      }
      return keys
    }
    const received = (
      await Promise.all([
        ...alices.map((alice, i) => exchange(alice, 'alice', bobs[i]!, 'bob')),
        ...bobs.map((bob, i) => exchange(bob, 'bob', alices[i]!, 'alice')),
      ])
    ).flat()

    // Every client got something, and nobody got what another one has.
    expect(received.length).toBeGreaterThan(2 * CLIENTS_PER_END * REQUESTS_PER_CLIENT)
    expect(new Set(received.map((key) => key.key_ID)).size).toBe(received.length)
    expect(new Set(received.map((key) => key.key)).size).toBe(received.length)
    await quieten(network)
    await expectBalanced(network)
  })
})
