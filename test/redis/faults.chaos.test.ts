/** Faults F34, F36 to F39 and F41, and F32 of a Cluster: while Redis does not answer, or answers others, every request is served from
 *  PostgreSQL, and its hints are rebuilt afterwards without a restart. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { eventually, startNetwork } from '../network/network.ts'
import { freePort } from '../setup/free-port.ts'
import { startRedisCluster, startSentinel } from '../setup/redis-servers.ts'
import { timeLimitMs } from '../setup/time-limit.ts'
import {
  ANSWER_LIMIT_MS,
  expectAllIsWell,
  expectRedisServes,
  expectReserve,
  findPools,
  startRedisWorld,
  takenByRedis,
  unitsLeft,
  type Cli,
  type Pools,
  type RedisWorld,
} from './redis-world.ts'
import { startSteadyTraffic, type SteadyTraffic } from './steady-traffic.ts'

/** Once the breaker is open, nobody waits for Redis at all: so long only a busy machine takes, now and then. */
const BREAKER_LIMIT_MS = timeLimitMs(500)

describe('two KMEs under traffic while their Redis', () => {
  let world: RedisWorld
  let { redis, proxy, network, pools } = {} as RedisWorld
  let traffic: SteadyTraffic

  beforeAll(async () => {
    world = await startRedisWorld()
    ;({ redis, proxy, network, pools } = world)
  })
  afterAll(() => world?.[Symbol.asyncDispose]())
  beforeEach(async () => {
    traffic = await world.startTraffic()
  })
  afterEach(async () => {
    proxy.heal()
    await traffic.stop()
  })

  it('F34 is killed while it runs a script, with others waiting: no key is lost', async () => {
    for (let round = 0; round < 3; round += 1) {
      await Promise.all([proxy.swallowReply('evalsha').then(() => redis.kill9()), traffic.more(5)])
      await traffic.more(10)
      await redis.restart()
      await expectRedisServes(pools, redis.cli, traffic)
    }
    const busy = redis.cli('EVAL', 'while true do end', 0).catch(() => 'killed')
    await traffic.more(5)
    await redis.kill9()
    expect(await busy).toBe('killed')
    await redis.restart()
    await world.expectRecovery(traffic)
  })

  it('F37 is behind a black hole: the breaker opens, and nobody waits any more', async () => {
    for (const directions of [undefined, ['to-client'], ['to-server']] as const) {
      const first = traffic.watch()
      proxy.blackHole(directions)
      await traffic.more(3)
      expect(first.slowestMs).toBeLessThan(ANSWER_LIMIT_MS)
      const later = traffic.watch()
      await traffic.more(40)
      expect(later.nineTenthsWithinMs()).toBeLessThan(BREAKER_LIMIT_MS)
      proxy.heal()
      await expectRedisServes(pools, redis.cli, traffic)
      expect(first.refused).toEqual([])
    }
    await world.expectRecovery(traffic)
  })

  it('F38 carries out what it is told, and the answers are lost: no key is lost, none comes twice', async () => {
    for (let round = 0; round < 5; round += 1) {
      await Promise.all([proxy.swallowReply('evalsha'), traffic.more(3)])
      await expectRedisServes(pools, redis.cli, traffic)
    }
    await expectAllIsWell(network, traffic)
    // To the last unit: what Redis gave to nobody comes back.
    network.devices.pause()
    const alice = await network.sae('alice')
    expect(await unitsLeft(network, 'kme-a')).toBeGreaterThan(0)
    const allIssued = async (): Promise<boolean> => {
      for (const number of [128, 16, 1]) {
        const answers = await alice.post('/api/v1/keys/bob/enc_keys', { number, size: 256 })
        if (answers.status === 200) break
      }
      return (await unitsLeft(network, 'kme-a')) === 0
    }
    await eventually('all units of kme-a are issued', allIssued, 120_000)
    network.devices.resume()
  })

  it('F39 pauses all its clients for five seconds: nobody waits for it', async () => {
    const first = traffic.watch()
    await redis.cli('CLIENT', 'PAUSE', 5000, 'ALL')
    await traffic.more(3)
    expect(first.slowestMs).toBeLessThan(ANSWER_LIMIT_MS)
    const later = traffic.watch()
    await traffic.more(60)
    expect(later.nineTenthsWithinMs()).toBeLessThan(BREAKER_LIMIT_MS)
    await world.expectRecovery(traffic)
    expect(first.refused).toEqual([])
  })

  it('F41 lets the KMEs in no more, cannot save, or became a replica: every request is served', async () => {
    const watch = traffic.watch()
    const dump = join(redis.directory, 'dump.rdb')
    const refusals: Record<string, readonly [() => Promise<unknown>, () => Promise<unknown>]> = {
      NOPERM: [() => redis.cli('ACL', 'SETUSER', 'kme', '-@all'), () => redis.cli('ACL', 'SETUSER', 'kme', '+@all')],
      WRONGPASS: [
        async () => {
          await redis.cli('ACL', 'SETUSER', 'kme', 'off')
          await redis.cli('CLIENT', 'KILL', 'USER', 'kme')
        },
        () => redis.cli('ACL', 'SETUSER', 'kme', 'on'),
      ],
      MISCONF: [
        async () => {
          // A directory where the file should go: saving fails, and Redis then refuses writes.
          rmSync(dump, { force: true })
          mkdirSync(join(dump, 'in-the-way'), { recursive: true })
          await redis.cli('CONFIG', 'SET', 'save', '3600 1')
          await redis.cli('BGSAVE')
          await eventually('saving failed', async () =>
            String(await redis.cli('INFO', 'persistence')).includes('rdb_last_bgsave_status:err'),
          )
        },
        async () => {
          rmSync(dump, { recursive: true })
          await redis.cli('CONFIG', 'SET', 'save', '')
        },
      ],
      READONLY: [async () => redis.cli('REPLICAOF', '127.0.0.1', await freePort()), () => redis.cli('REPLICAOF', 'NO', 'ONE')],
    }
    for (const [name, [begin, end]] of Object.entries(refusals)) {
      await begin()
      await traffic.more(30)
      expect({ name, refused: watch.refused }).toEqual({ name, refused: [] })
      await end()
      await expectRedisServes(pools, redis.cli, traffic)
    }
    await world.expectRecovery(traffic)
    expect(watch.slowestMs).toBeLessThan(ANSWER_LIMIT_MS)
  })
})

/** Traffic between two KMEs while something happens to the servers they share, which end with them. */
const underTraffic = async (
  servers: { readonly url: string; stop(): Promise<void> },
  cli: Cli,
  happen: (world: { pools: Pools; traffic: SteadyTraffic }) => Promise<void>,
): Promise<void> => {
  await using cleanUp = new AsyncDisposableStack()
  cleanUp.defer(() => servers.stop())
  const network = cleanUp.use(await startNetwork({ redisUrl: servers.url, rateBlocksPerS: 8 }))
  const traffic = startSteadyTraffic(network)
  cleanUp.defer(() => traffic.stop())
  const pools = await findPools(cli)
  await expectRedisServes(pools, cli, traffic)
  await expectReserve(network)
  await happen({ pools, traffic })
  await expectAllIsWell(network, traffic)
}

describe('two KMEs under traffic while a Cluster', () => {
  it('F32 loses its masters, one after the other, and they come back empty: every request is served', async () => {
    const cluster = await startRedisCluster()
    // Of the masters one holds the key; the others say where it is.
    const cli: Cli = async (...command) => {
      const replies = await Promise.allSettled(cluster.servers.map((server) => server.cli(...command)))
      const found = replies.filter((reply) => reply.status === 'fulfilled').map(({ value }) => value)
      return command[0] === 'KEYS' ? found.flat() : found[0]
    }
    await underTraffic(cluster, cli, async ({ pools, traffic }) => {
      const watch = traffic.watch()
      for (const index of cluster.servers.keys()) {
        await cluster.kill9(index)
        await traffic.more(20)
        await cluster.restart(index)
      }
      await expectRedisServes(pools, cli, traffic)
      expect(watch.refused).toEqual([])
      expect(watch.slowestMs).toBeLessThan(ANSWER_LIMIT_MS)
    })
  })
})

describe('two KMEs under traffic while Sentinel', () => {
  it('F36 makes a replica the master that lacks what the master had acknowledged: no wrong answer', async () => {
    const group = await startSentinel()
    await underTraffic(group, group.cli, async ({ pools, traffic }) => {
      const [first, second] = group.servers
      await group.cli('SET', 'lost', '1')
      await eventually('the replica has it', async () => (await second!.cli('GET', 'lost')) === '1')
      second!.freeze()
      await first!.cli('CLIENT', 'KILL', 'TYPE', 'replica')
      const before = await takenByRedis(pools, first!.cli)
      await group.cli('SET', 'lost', '2')
      await traffic.more(40)
      expect((await takenByRedis(pools, first!.cli)).every((taken, at) => taken > before[at]!)).toBe(true)
      const watch = traffic.watch()
      await group.kill9()
      second!.thaw()
      await traffic.more(40)
      await eventually('the replica is master', async () => (await group.master()) === second)
      expect(await eventually('it answers', () => group.cli('GET', 'lost').catch(() => ''))).toBe('1')
      await expectRedisServes(pools, group.cli, traffic)
      await group.restart()
      await expectRedisServes(pools, group.cli, traffic)
      expect(watch.refused).toEqual([])
      expect(watch.slowestMs).toBeLessThan(ANSWER_LIMIT_MS)
    })
  })
})
