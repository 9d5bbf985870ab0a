import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { expectBalanced } from '../network/ledger.ts'
import {
  eventually,
  keysOf,
  quieten,
  startNetwork,
  storedKeys,
  type Network,
  type SaeClient,
  type SentKey,
} from '../network/network.ts'

const KILLS = 20
// A client whose request failed asks again after this. No result is waited for with it.
const RETRY_PAUSE_MS = 20

describe('KME processes that are killed', () => {
  let network: Network
  let alice: SaeClient
  let bob: SaeClient

  beforeAll(async () => {
    network = await startNetwork({ processes: true, rateBlocksPerS: 20, logLevel: 'warn' })
    alice = await network.sae('alice')
    bob = await network.sae('bob')
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
  })

  it('kill -9 of the KME of the slave between enc_keys and dec_keys: the slave still gets its key', async () => {
    const issued = await alice.post('/api/v1/keys/bob/enc_keys', { number: 3 })
    expect(issued.status).toBe(200)
    await network.kill('kme-b')
    await network.start('kme-b')
    const wanted = keysOf(issued).map(({ key_ID }) => ({ key_ID }))
    const fetched = await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: wanted })
    expect(fetched.status).toBe(200)
    expect(keysOf(fetched)).toEqual(keysOf(issued))
    await eventually('kme-a trusts kme-b again', async () => (await storedKeys(alice, 'bob')) > 0)
  })

  it(`kill -9 of the KME of the master ${KILLS} times in a loop of enc_keys: no key ID and no key bytes appear twice, and every key answered is fetched`, async () => {
    const received: SentKey[] = []
    let stop = false
    let answers = 0
    const draw = async (): Promise<void> => {
      const master = await network.sae('alice')
      while (!stop) {
        try {
          const answer = await master.post('/api/v1/keys/bob/enc_keys', { number: 1 + (answers % 3) })
          answers += 1
          if (answer.status === 200) received.push(...keysOf(answer))
          else await systemClock.sleep(RETRY_PAUSE_MS)
        } catch {
          // The KME is dead or was killed under this request: what it would have answered counts as unknown.
          await systemClock.sleep(RETRY_PAUSE_MS)
        }
      }
    }
    const drawers = Array.from({ length: 6 }, draw)
    for (let kills = 0; kills < KILLS; kills += 1) {
      const before = received.length
      await eventually('keys flow before the kill', () => received.length > before + 5)
      await network.kill('kme-a')
      await network.start('kme-a')
    }
    stop = true
    await Promise.all(drawers)

    expect(received.length).toBeGreaterThan(KILLS * 5)
    expect(new Set(received.map((key) => key.key_ID)).size).toBe(received.length)
    expect(new Set(received.map((key) => key.key)).size).toBe(received.length)

    const fetched: SentKey[] = []
    for (let at = 0; at < received.length; at += 100) {
      const wanted = received.slice(at, at + 100).map(({ key_ID }) => ({ key_ID }))
      const answer = await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: wanted })
      expect(answer.status).toBe(200)
      fetched.push(...keysOf(answer))
    }
    expect(fetched).toEqual(received)

    // What was in flight when a process died is settled with the other end; not one unit is lost or taken at one end only.
    await quieten(network)
    await expectBalanced(network)
    const settled = await network.query('kme-a', `SELECT 1 FROM audit_record WHERE event IN ('key.returned', 'key.burnt')`)
    expect(settled.length).toBeGreaterThan(0)
  })

  it('kill -9 of the KME of the slave in a loop of enc_keys: what was answered 200 is fetched, what was not is settled', async () => {
    const received: SentKey[] = []
    let stop = false
    const draw = async (): Promise<void> => {
      const master = await network.sae('alice')
      while (!stop) {
        const answer = await master.post('/api/v1/keys/bob/enc_keys', { number: 2 })
        if (answer.status === 200) received.push(...keysOf(answer))
        else {
          expect(answer.status).toBe(503)
          await systemClock.sleep(RETRY_PAUSE_MS)
        }
      }
    }
    network.devices.resume()
    const drawers = Array.from({ length: 6 }, draw)
    for (let kills = 0; kills < 5; kills += 1) {
      const before = received.length
      await eventually('keys flow before the kill', () => received.length > before + 20)
      await network.kill('kme-b')
      await network.start('kme-b')
    }
    stop = true
    await Promise.all(drawers)
    for (let at = 0; at < received.length; at += 100) {
      const part = received.slice(at, at + 100)
      const answer = await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: part.map(({ key_ID }) => ({ key_ID })) })
      expect(keysOf(answer)).toEqual(part)
    }
    await quieten(network)
    await expectBalanced(network)
  })
})
