/** A link whose pool is full is not started: operators see that it rests, not that something is wrong. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually, startNetwork, type Network, type SaeClient } from './network.ts'

let network: Network
let admin: SaeClient

beforeAll(async () => {
  network = await startNetwork({ keys: { maxStored: 100 } })
})
afterAll(() => network?.[Symbol.asyncDispose]())

const link = async () => ((await admin.get('/api/v1/links')).json['links'] as [{ state: string; reason: string | null }])[0]

describe('a KME started with a full pool', () => {
  it('says that its link rests, and has it up once keys are drawn', async () => {
    const alice = await network.sae('alice')
    // The network waited for keys: the first block brought 128.
    await network.stop('kme-a')
    await network.start('kme-a')
    admin = await network.admin('kme-a')
    await eventually('the link rests', async () => {
      const { state, reason } = await link()
      return state === 'starting' && reason?.includes('the pool is full') === true
    })
    await eventually('keys are drawn', async () => (await alice.get('/api/v1/keys/bob/enc_keys?number=50')).status === 200)
    await eventually('the link is up', async () => (await link()).state === 'up')
    expect((await link()).reason).toBeNull()
  })
})
