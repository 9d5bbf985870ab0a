/** A BB84 link of KMEs that run as several processes (`--workers 2`): one of them runs the station, and another takes its place. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually, type SaeClient } from '../network/network.ts'
import { startRedis } from '../setup/redis-servers.ts'
import {
  exchange,
  keysBothWays,
  KMES,
  securityAccounts,
  startBb84Network,
  type Bb84Network,
  type KmeName,
} from './bb84-network.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

let redis: Awaited<ReturnType<typeof startRedis>>
let world: Bb84Network
let alice: SaeClient
let bob: SaeClient

beforeAll(async () => {
  redis = await startRedis()
  world = await startBb84Network({ redisUrl: redis.url, processArgs: ['--workers', '2'] })
  alice = await world.network.sae('alice')
  bob = await world.network.sae('bob')
  await keysBothWays(alice, bob)
})
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
  await redis?.stop()
})

/** Process that runs the link, if any does now. */
const stationPid = async (name: KmeName): Promise<number | undefined> => {
  const [row] = await world.network.query<{ pid: number }>(
    name,
    `SELECT p.pid FROM duty d JOIN kme_process p USING (process_id) WHERE d.name = 'link:a-b' AND d.until > now()`,
  )
  return row?.pid
}

describe('a BB84 link of KMEs with two workers each', () => {
  it.each(KMES)('is taken over when the worker of %s that runs it is killed', async (name) => {
    const victim = await eventually('a worker runs the link', () => stationPid(name))
    expect(victim).not.toBe(world.network.pid(name))
    process.kill(victim, 'SIGKILL')
    await eventually('another worker runs it', async () => ![undefined, victim].includes(await stationPid(name)))
    await world.moreBlocks(2)
    const there = await exchange(alice, bob, { names: ['alice', 'bob'], count: 20 })
    expect(there.fetched).toEqual(there.issued)
    const back = await exchange(bob, alice, { names: ['bob', 'alice'], count: 20 })
    expect(back.fetched).toEqual(back.issued)
  })

  it('shows the same from whichever worker is asked, and keeps its sums', async () => {
    const admin = await world.network.admin('kme-a')
    await eventually('both workers', async () => {
      const { json } = await admin.get('/api/v1/kme')
      return (json['processes'] as object[]).length === 2
    })
    await eventually('the link is up', async () => (await world.link('kme-a')).state === 'up')
    for (let asked = 0; asked < 6; asked += 1) {
      const client = await world.network.admin('kme-a')
      const { json } = await client.get('/api/v1/links').finally(() => client.close())
      expect(json['links']).toEqual([expect.objectContaining({ driver: 'bb84', state: 'up', distillation: expect.any(Object) })])
    }
    for (const name of KMES) {
      const { recomputed, kept } = await securityAccounts(world.network, name)
      expect([kept.blocks, kept.keyBits, kept.tagBits]).toEqual([recomputed.blocks, recomputed.keyBits, recomputed.tagBits])
    }
  })

  it('does not hold up the stop of a KME in the middle of a block', async () => {
    await world.moreBlocks(1)
    const stoppingMs = systemClock.monotonicMs()
    await Promise.all(KMES.map((name) => world.network.stop(name)))
    expect(systemClock.monotonicMs() - stoppingMs).toBeLessThan(timeLimitMs(10_000))
  })
})
