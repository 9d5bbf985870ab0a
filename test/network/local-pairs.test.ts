import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually, keysOf, startNetwork, storedKeys, type Network, type SaeClient } from './network.ts'

describe('two SAEs at one KME, without any link', () => {
  let network: Network
  let alice: SaeClient
  let anna: SaeClient

  beforeAll(async () => {
    network = await startNetwork({ rateBlocksPerS: 0, startEmpty: true })
    alice = await network.sae('alice')
    anna = await network.sae('anna')
    await eventually('a local pool', async () => (await storedKeys(alice, 'anna')) >= 300)
    const admin = await network.admin('kme-a')
    await eventually('a greeting of kme-b', async () => {
      const { peers } = (await admin.get('/api/v1/peers')).json as { peers: { available: boolean }[] }
      return peers[0]?.available === true
    })
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
  })

  it('share keys in the same way, once each', async () => {
    const issued = await alice.post('/api/v1/keys/anna/enc_keys', { number: 4, size: 512 })
    const wanted = { key_IDs: keysOf(issued).map(({ key_ID }) => ({ key_ID })) }
    expect(keysOf(await anna.post('/api/v1/keys/alice/dec_keys', wanted))).toEqual(keysOf(issued))
    expect((await anna.post('/api/v1/keys/alice/dec_keys', wanted)).status).toBe(400)
    expect((await alice.post('/api/v1/keys/anna/dec_keys', wanted)).status).toBe(401)
  })

  it('while a pair over an empty link gets 503 with an Error body and Retry-After', async () => {
    const refused = await alice.post('/api/v1/keys/bob/enc_keys', {})
    expect(refused.status).toBe(503)
    expect(refused.json).toEqual({ message: 'no key material available' })
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0)
  })
})
