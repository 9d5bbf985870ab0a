/** Eve on the quantum channel between two KMEs that hand out keys: what operators and SAEs see of her. The KMEs are not told. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually, type SaeClient } from '../network/network.ts'
import {
  exchange,
  keysBothWays,
  KMES,
  securityAccounts,
  startBb84Network,
  type Bb84Network,
  type KmeName,
} from './bb84-network.ts'

let world: Bb84Network
let alice: SaeClient
let bob: SaeClient

beforeAll(async () => {
  // A pool that is soon empty.
  world = await startBb84Network({ storedMax: 600 })
  alice = await world.network.sae('alice')
  bob = await world.network.sae('bob')
  await keysBothWays(alice, bob)
})
afterAll(() => world?.[Symbol.asyncDispose]())

const activeAlarms = async (name: KmeName): Promise<string[]> => {
  const admin = await world.network.admin(name)
  const { json } = await admin.get('/api/v1/alarms').finally(() => admin.close())
  return (json['alarms'] as { name: string; clearedAt: string | null }[])
    .filter(({ clearedAt }) => clearedAt === null)
    .map((alarm) => alarm.name)
}
const everywhere = async (what: string, holds: (name: KmeName) => Promise<boolean>): Promise<void> => {
  await eventually(what, async () => (await Promise.all(KMES.map(holds))).every(Boolean))
}
/** Takes keys until the pool has none. @returns the answer that says so. */
const drain = async (master: SaeClient, slave: string) => {
  for (;;) {
    const answer = await master.get(`/api/v1/keys/${slave}/enc_keys?number=20`)
    if (answer.status === 200) continue
    const last = await master.get(`/api/v1/keys/${slave}/enc_keys`)
    if (last.status !== 200) return last
  }
}

describe('an eavesdropper who intercepts a quarter of the pulses', () => {
  it('is seen in the error rate, raises an alarm at both ends, and not one key enters a pool', async () => {
    await everywhere('the error rate of honest noise', async (name) => ((await world.link(name)).qber ?? 1) < 0.03)
    await world.tell('eve intercept 0.25')
    // The link rests while the pool is full. Blocks that began before she came may still give key.
    await drain(alice, 'bob')
    await everywhere('an alarm', async (name) => (await activeAlarms(name)).includes('link.no-key:a-b'))
    const rejectedAt = (name: KmeName): Promise<number> => world.link(name).then(({ blocksRejected }) => blocksRejected)
    const first = { 'kme-a': await rejectedAt('kme-a'), 'kme-b': await rejectedAt('kme-b') }
    // Then the last good one is stored.
    await everywhere('another block without key', async (name) => (await rejectedAt(name)) > first[name])
    const blocks = await Promise.all(KMES.map(world.blocksDistilled))
    const rejected = await Promise.all(KMES.map(async (name) => (await world.link(name)).blocksRejected))
    await everywhere('more blocks without key', async (name) => {
      const { qber, blocksRejected } = await world.link(name)
      return (qber ?? 0) > 0.055 && blocksRejected >= rejected[KMES.indexOf(name)]! + 5
    })
    expect(await Promise.all(KMES.map(world.blocksDistilled))).toEqual(blocks)
    const admin = await world.network.admin('kme-a')
    expect((await admin.get('/metrics')).text).toMatch(/^kme_link_qber\{link="a-b",peer="kme-b"\} 0\.0[678]/m)
  })

  it('leaves SAEs without keys once the pools are empty: 503, with the time after which to ask again', async () => {
    for (const [master, slave] of [
      [alice, 'bob'],
      [bob, 'alice'],
    ] as const) {
      const answer = await drain(master, slave)
      expect(answer.status).toBe(503)
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
      expect(answer.json['message']).toMatch(/no key material available/)
    }
    await everywhere('the pool has an alarm too', async (name) =>
      (await activeAlarms(name)).includes(`pool.exhausted:${name === 'kme-a' ? 'kme-b' : 'kme-a'}`),
    )
  })

  it('is over when she is gone: the alarm is cleared, keys flow again, and the sums count none of her blocks', async () => {
    await world.tell('eve off')
    await world.moreBlocks(1)
    await keysBothWays(alice, bob)
    const { issued, fetched } = await exchange(alice, bob, { names: ['alice', 'bob'], count: 10 })
    expect(fetched).toEqual(issued)
    await everywhere(
      'no alarm of the link',
      async (name) => !(await activeAlarms(name)).some((alarm) => alarm.startsWith('link.')),
    )
    await everywhere('the error rate is back', async (name) => ((await world.link(name)).qber ?? 1) < 0.03)
    for (const name of KMES) {
      const { recomputed, kept } = await securityAccounts(world.network, name)
      expect([kept.blocks, kept.keyBits, kept.tagBits]).toEqual([recomputed.blocks, recomputed.keyBits, recomputed.tagBits])
    }
  })
})
