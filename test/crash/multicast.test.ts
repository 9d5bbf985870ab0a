/** KMEs that are killed while keys for SAEs at three KMEs are asked for: what was answered 200 is at every slave, equal; what was not is
 *  settled at all of them. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { expectBalanced } from '../network/ledger.ts'
import {
  eventually,
  keysOf,
  quieten,
  startNetwork,
  storedKeys,
  type KmeName,
  type Network,
  type SaeClient,
  type SentKey,
} from '../network/network.ts'

const KILLS_EACH = 2
// A client whose request failed asks again after this. No result is waited for with it.
const RETRY_PAUSE_MS = 20
const SLAVES = { alice: 'kme-a', bert: 'kme-b', carol: 'kme-c' } as const

describe('KMEs killed in a loop of multicast', () => {
  let network: Network

  beforeAll(async () => {
    network = await startNetwork({ line: true, processes: true, rateBlocksPerS: 20, logLevel: 'warn' })
    for (const kme of ['kme-a', 'kme-b', 'kme-c'] as const) {
      const admin = await network.admin(kme)
      expect((await admin.post('/api/v1/pairs', { one: 'bob', other: 'carol', allowed: true })).status).toBe(200)
      admin.close()
    }
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
  })

  it(`every key answered is fetched at all three by its slave, none appears twice, and both links balance`, async () => {
    const received: SentKey[] = []
    let stop = false
    const draw = async (slave: keyof typeof SLAVES): Promise<void> => {
      const master: SaeClient = await network.sae('bob')
      const others = Object.keys(SLAVES).filter((name) => name !== slave)
      while (!stop) {
        try {
          const body = { number: 1 + (received.length % 3), size: 320, additional_slave_SAE_IDs: others }
          const answer = await master.post(`/api/v1/keys/${slave}/enc_keys`, body)
          if (answer.status === 200) received.push(...keysOf(answer))
          else {
            expect(answer.status).toBe(503)
            await systemClock.sleep(RETRY_PAUSE_MS)
          }
        } catch (error) {
          // kme-b was killed under this request: what it would have answered counts as unknown.
          if ((error as { matcherResult?: unknown }).matcherResult !== undefined) throw error
          await systemClock.sleep(RETRY_PAUSE_MS)
        }
      }
    }
    const drawers = (['alice', 'bert', 'carol', 'alice'] as const).map(draw)
    const victims: KmeName[] = Array.from({ length: KILLS_EACH }, () => ['kme-c', 'kme-b', 'kme-a'] as const).flat()
    for (const victim of victims) {
      const before = received.length
      await eventually('keys flow before the kill', () => received.length > before + 10)
      await network.kill(victim)
      await network.start(victim)
    }
    const before = received.length
    await eventually('keys flow again', () => received.length > before + 10)
    stop = true
    await Promise.all(drawers)

    expect(new Set(received.map((key) => key.key_ID)).size).toBe(received.length)
    expect(new Set(received.map((key) => key.key)).size).toBe(received.length)
    for (const [name, kme] of Object.entries(SLAVES)) {
      const slave = await network.sae(name, kme)
      const fetched: SentKey[] = []
      for (let at = 0; at < received.length; at += 100) {
        const wanted = received.slice(at, at + 100).map(({ key_ID }) => ({ key_ID }))
        const answer = await slave.post('/api/v1/keys/bob/dec_keys', { key_IDs: wanted })
        expect(answer.status).toBe(200)
        fetched.push(...keysOf(answer))
      }
      expect(fetched).toEqual(received)
    }

    network.furtherDevices.pause()
    await quieten(network)
    const bob = await network.sae('bob')
    await eventually(
      'kme-b trusts both',
      async () => (await storedKeys(bob, 'alice')) > 0 && (await storedKeys(bob, 'carol')) > 0,
    )
    await expectBalanced(network, { id: 'a-b', ends: ['kme-a', 'kme-b'] })
    await expectBalanced(network, { id: 'b-c', ends: ['kme-b', 'kme-c'] })
    // Nothing that could still be fetched was given to no master.
    for (const kme of ['kme-a', 'kme-b', 'kme-c'] as const) {
      const ids = await network.query<{ key_id: string }>(
        kme,
        `SELECT key_id FROM assignment a JOIN assigned_key k USING (aid) WHERE a.state = 'ISSUED' AND a.role <> 'issuer'`,
      )
      const issued = await network.query<{ key_id: string }>('kme-b', `SELECT key_id FROM assigned_key`)
      const atMaster = new Set(issued.map((row) => row.key_id))
      expect(ids.filter((row) => !atMaster.has(row.key_id))).toEqual([])
    }
    const settled = await network.query('kme-b', `SELECT 1 FROM audit_record WHERE event = 'key.burnt'`)
    expect(settled.length).toBeGreaterThan(0)
  })
})
