import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { keysOf, quieten, startNetwork, storedKeys, type Network, type SaeClient } from './network.ts'

describe('two SAEs at two KMEs', () => {
  let network: Network
  let alice: SaeClient
  let bob: SaeClient

  beforeAll(async () => {
    network = await startNetwork({ keys: { lendFloor: 16 } })
    alice = await network.sae('alice')
    bob = await network.sae('bob')
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
  })

  it('get the same key from their own KMEs, once', async () => {
    const issued = await alice.post('/api/v1/keys/bob/enc_keys', {})
    expect(issued.status).toBe(200)
    const [key] = keysOf(issued)
    expect(Buffer.from(key!.key, 'base64')).toHaveLength(32)

    const fetched = await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: [{ key_ID: key!.key_ID }] })
    expect(fetched.status).toBe(200)
    expect(keysOf(fetched)).toEqual([key])

    const again = await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: [{ key_ID: key!.key_ID }] })
    expect(again.status).toBe(400)
    expect(again.json).toEqual({ message: 'one or more keys specified are not found on KME' })
  })

  it('get keys in the other direction, of any size and number, in the order asked', async () => {
    const issued = await bob.post('/api/v1/keys/alice/enc_keys', { number: 5, size: 1000 })
    expect(issued.status).toBe(200)
    const keys = keysOf(issued)
    expect(keys.map((key) => Buffer.from(key.key, 'base64').length)).toEqual([125, 125, 125, 125, 125])
    const wanted = [...keys].reverse()
    const fetched = await alice.post('/api/v1/keys/bob/dec_keys', { key_IDs: wanted.map(({ key_ID }) => ({ key_ID })) })
    expect(keysOf(fetched)).toEqual(wanted)
  })

  it('draw exactly as many keys as status promises, and the next request is 503 and costs nothing', async () => {
    await quieten(network)
    let promised = await storedKeys(alice, 'bob')
    expect(promised).toBeGreaterThan(100)
    while (promised > 0) {
      const number = Math.min(promised, 128)
      const drawn = await alice.post('/api/v1/keys/bob/enc_keys', { number })
      expect(drawn.status).toBe(200)
      promised -= number
      expect(await storedKeys(alice, 'bob')).toBe(promised)
    }
    const refused = await alice.post('/api/v1/keys/bob/enc_keys', {})
    expect(refused.status).toBe(503)
    expect(refused.json).toEqual({ message: 'no key material available' })
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0)

    network.devices.resume()
    await expect(
      (async () => {
        for (;;) {
          const answer = await alice.post('/api/v1/keys/bob/enc_keys', {})
          if (answer.status === 200) return 'served again'
        }
      })(),
    ).resolves.toBe('served again')
  })
})
