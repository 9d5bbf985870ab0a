/** Faults F31 to F41: whatever happens to Redis, a KME gets slower at the worst. PostgreSQL decides; what Redis says is looked at first.
 *  While it is away every request is served from PostgreSQL, and its hints are rebuilt afterwards without a restart. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { randomUUID } from 'node:crypto'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { expectBalanced } from '../network/ledger.ts'
import { eventually, quieten, startNetwork, type Network } from '../network/network.ts'
import { freePort } from '../setup/free-port.ts'
import { startRedis, startRedisCluster, startSentinel } from '../setup/redis-servers.ts'
import { startTcpProxy, type TcpProxy } from '../setup/tcp-proxy.ts'
import { startSteadyTraffic, type SteadyTraffic } from './steady-traffic.ts'

/** Nobody waits for a Redis that does not answer longer than this, with all that follows on a busy machine. */
const ANSWER_DEADLINE_MS = 3000
/** And once the breaker is open, nobody waits for it at all: so long only a busy machine takes, now and then. */
const BREAKER_DEADLINE_MS = 500
const KMES = ['kme-a', 'kme-b'] as const

type Cli = (...command: (string | number | Buffer)[]) => Promise<unknown>

/** Units of each KME before a fault, so that no request is refused because there is no key: some seconds of the traffic. */
const UNITS_IN_RESERVE = 1000

/** What the keys of each KME's pool for the other one begin with. */
type KmeName = (typeof KMES)[number]
type Pools = Readonly<Record<KmeName, string>>

const findPools = async (cli: Cli): Promise<Pools> => {
  const beginning = (kme: KmeName): Promise<string> =>
    eventually(`${kme} has a pool in Redis`, async () => {
      const found = (await cli('KEYS', `openkme:{${kme}>${kme === 'kme-a' ? 'kme-b' : 'kme-a'}}:*:level`)) as string[]
      return found[0]?.slice(0, -'level'.length)
    })
  return { 'kme-a': await beginning('kme-a'), 'kme-b': await beginning('kme-b') }
}

/** Units each KME took by way of Redis since its pool was made. */
const takenByRedis = (pools: Pools, cli: Cli): Promise<number[]> =>
  Promise.all(KMES.map(async (kme) => Number((await cli('HGET', `${pools[kme]}level`, 'taken').catch(() => 0)) ?? 0)))

/** Waits until both KMEs take their units from Redis again. */
const expectRedisServes = async (pools: Pools, cli: Cli, traffic: SteadyTraffic): Promise<void> => {
  const serves = async (): Promise<boolean> => {
    const before = await takenByRedis(pools, cli)
    await traffic.more(3)
    const after = await takenByRedis(pools, cli)
    return after.every((taken, at) => taken > before[at]!)
  }
  await eventually('both KMEs take units from Redis', serves, 20_000)
}

/** Units of its own a KME could still issue. */
const unitsLeft = async (network: Network, kme: KmeName): Promise<number> => {
  const [row] = await network.query<{ left: number }>(
    kme,
    `SELECT coalesce(sum(length(replace(replace((mine & ~taken)::text, '0', ''), ' ', ''))), 0)::int AS left
     FROM key_block WHERE link_id = 'a-b' AND state = 'AVAILABLE'`,
  )
  return row!.left
}

const expectReserve = (network: Network): Promise<boolean> =>
  eventually('both KMEs have units in reserve', async () => {
    const left = await Promise.all(KMES.map((kme) => unitsLeft(network, kme)))
    return left.every((units) => units >= UNITS_IN_RESERVE)
  })

const expectAllIsWell = async (network: Network, traffic: SteadyTraffic): Promise<void> => {
  await traffic.stop()
  expect(traffic.account.violations).toEqual([])
  expect(traffic.account.figures.keysFetched).toBe(traffic.account.figures.keysIssued)
  await quieten(network)
  await expectBalanced(network)
  network.devices.resume()
}

describe('two KMEs under traffic while their Redis', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>
  let proxy: TcpProxy
  let network: Network
  let pools: Pools
  let traffic: SteadyTraffic

  beforeAll(async () => {
    redis = await startRedis({ acl: { user: 'kme', password: 'secret', rules: '~* &* +@all' } })
    proxy = await startTcpProxy(redis.port)
    network = await startNetwork({ redisUrl: `redis://kme:secret@127.0.0.1:${proxy.port}`, rateBlocksPerS: 8 })
    pools = await findPools(redis.cli)
  }, 60_000)
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
    await proxy?.stop()
    await redis?.stop()
  })
  beforeEach(async () => {
    await expectReserve(network)
    traffic = startSteadyTraffic(network)
    await expectRedisServes(pools, redis.cli, traffic)
  })
  afterEach(async () => {
    proxy.heal()
    await traffic.stop()
  })
  const expectRecovery = async (): Promise<void> => {
    await expectRedisServes(pools, redis.cli, traffic)
    await expectAllIsWell(network, traffic)
  }

  it('F31 is flushed again and again: every request is served', async () => {
    const watch = traffic.watch()
    for (let round = 0; round < 5; round += 1) {
      await redis.cli(round % 2 === 0 ? 'FLUSHALL' : 'FLUSHDB')
      if (round === 2) await redis.cli('SCRIPT', 'FLUSH')
      await traffic.more(20)
    }
    expect(watch.refused).toEqual([])
    await expectRecovery()
  })

  it('F32 is killed and comes back empty: every request is served', async () => {
    const watch = traffic.watch()
    await redis.kill9()
    await traffic.more(40)
    await redis.restart()
    expect(await redis.cli('DBSIZE')).toBeLessThan(20)
    await expectRecovery()
    expect(watch.refused).toEqual([])
    expect(watch.slowestMs).toBeLessThan(ANSWER_DEADLINE_MS)
  })

  it('F33 comes back with what it held a while ago: no key is issued twice, none can be fetched twice', async () => {
    await redis.cli('SAVE')
    await traffic.more(60)
    const bob = await network.sae('bob')
    const delivered = traffic.account.recent.filter(({ batch }) => batch.slave === 'bob').slice(-5)
    await redis.restart()
    await traffic.more(60)
    for (const { keyId } of delivered)
      expect((await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: [{ key_ID: keyId }] })).status).toBe(400)
    await redis.kill9()
    rmSync(join(redis.directory, 'dump.rdb'))
    await redis.restart()
    await expectRecovery()
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
    await expectRecovery()
  })

  it('F35 has no memory left and refuses writes, or throws keys away: every request is served', async () => {
    const watch = traffic.watch()
    await redis.cli('CONFIG', 'SET', 'maxmemory-policy', 'noeviction', 'maxmemory', '1mb')
    await traffic.more(30)
    await redis.cli('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru')
    await traffic.more(30)
    await redis.cli('CONFIG', 'SET', 'maxmemory', '0', 'maxmemory-policy', 'noeviction')
    await expectRecovery()
    expect(watch.refused).toEqual([])
    expect(watch.slowestMs).toBeLessThan(ANSWER_DEADLINE_MS)
  })

  it('F37 is behind a black hole: the breaker opens, and nobody waits any more', async () => {
    for (const directions of [undefined, ['to-client'], ['to-server']] as const) {
      const first = traffic.watch()
      proxy.blackHole(directions)
      await traffic.more(3)
      expect(first.slowestMs).toBeLessThan(ANSWER_DEADLINE_MS)
      const later = traffic.watch()
      await traffic.more(40)
      expect(later.nineTenthsWithinMs()).toBeLessThan(BREAKER_DEADLINE_MS)
      proxy.heal()
      await expectRedisServes(pools, redis.cli, traffic)
      expect(first.refused).toEqual([])
    }
    await expectRecovery()
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
  }, 240_000)

  it('F39 pauses all its clients for five seconds: nobody waits for it', async () => {
    const first = traffic.watch()
    await redis.cli('CLIENT', 'PAUSE', 5000, 'ALL')
    await traffic.more(3)
    expect(first.slowestMs).toBeLessThan(ANSWER_DEADLINE_MS)
    const later = traffic.watch()
    await traffic.more(60)
    expect(later.nineTenthsWithinMs()).toBeLessThan(BREAKER_DEADLINE_MS)
    await expectRecovery()
    expect(first.refused).toEqual([])
  })

  it('F40 holds what others wrote: foreign and doubled units, wrong types, a huge text', async () => {
    const line = (kme: KmeName): string => `${pools[kme]}line`
    /** Runs a script for both pools: KEYS[1] is the line, KEYS[2] the level, KEYS[3] the line of the other KME. */
    const inBoth =
      (script: string, ...args: (string | Buffer)[]) =>
      async (): Promise<void> => {
        for (const kme of KMES) {
          const other = kme === 'kme-a' ? 'kme-b' : 'kme-a'
          await redis.cli('EVAL', script, 3, line(kme), `${pools[kme]}level`, line(other), ...args)
        }
      }
    const vandalize: Record<string, () => Promise<unknown>> = {
      'every entry twice': inBoth(
        `for _, e in ipairs(redis.call('LRANGE', KEYS[1], 0, 50)) do redis.call('LPUSH', KEYS[1], e, e) end`,
      ),
      'the units of the other KME': inBoth(
        `for _, e in ipairs(redis.call('LRANGE', KEYS[3], 0, 50)) do redis.call('LPUSH', KEYS[1], e) end`,
      ),
      'units of a block nobody knows': inBoth(`redis.call('LPUSH', KEYS[1], ARGV[1] .. '\\0\\0\\1\\0\\0\\2')`, randomUUID()),
      'units a block does not have': inBoth(
        `local e = redis.call('LINDEX', KEYS[1], 0); if e then redis.call('LPUSH', KEYS[1], string.sub(e, 1, 36) .. '\\255\\255\\255') end`,
      ),
      'what is no unit at all': inBoth(`redis.call('LPUSH', KEYS[1], 'rubbish', '')`),
      'numbers that are none': inBoth(
        `redis.call('HSET', KEYS[2], 'mine', '1e300', 'theirs', '-5', 'taken', 'x', 'reserved', 'NaN')`,
      ),
      'more units than there are': inBoth(`redis.call('HSET', KEYS[2], 'mine', '999999999999')`),
      'a rebuilding that never ends': inBoth(
        `redis.call('HSET', KEYS[2], 'rebuilding', 'x', 'rebuilding_until', '99999999999999'); redis.call('LPUSH', KEYS[1], 'x')`,
      ),
      'a pool built in the future': inBoth(
        `redis.call('HSET', KEYS[2], 'built', '99999999999999'); redis.call('LPUSH', KEYS[1], 'x')`,
      ),
      'a pool built at no time': inBoth(`redis.call('HSET', KEYS[2], 'built', 'x', 'mine', 'x')`),
      'answers nobody gave': inBoth(
        `local given = string.gsub(KEYS[2], 'level$', 'given'); redis.call('HSET', given, 'x', 'rubbish'); redis.call('DEL', KEYS[1])`,
      ),
      'no level': inBoth(`redis.call('DEL', KEYS[2])`),
      'no line': inBoth(`redis.call('DEL', KEYS[1])`),
      'other types': inBoth(`for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('SET', key, 'a text') end`),
      // A quarter of the most Redis takes: small machines have no room for more, and one read of it would be noticed all the same.
      'a text of 128 MB': inBoth(`redis.call('DEL', KEYS[1]); redis.call('SETRANGE', KEYS[1], 128 * 1024 * 1024, 'x')`),
      'an entry of 128 MB': inBoth(
        `redis.call('DEL', KEYS[1]); redis.call('LPUSH', KEYS[1], string.rep('x', 128 * 1024 * 1024))`,
      ),
    }
    for (const [what, act] of Object.entries(vandalize)) {
      const watch = traffic.watch()
      await act()
      await traffic.more(15).catch((error: unknown) => {
        throw new Error(`${what}: ${(error as Error).message}`)
      })
      expect({ what, violations: traffic.account.violations }).toEqual({ what, violations: [] })
      expect({ what, refused: watch.refused }).toEqual({ what, refused: [] })
      // Mended without help.
      await expectRedisServes(pools, redis.cli, traffic).catch((error: unknown) => {
        throw new Error(`${what}: ${(error as Error).message}`)
      })
    }
    await expectRecovery()
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
    await expectRecovery()
    expect(watch.slowestMs).toBeLessThan(ANSWER_DEADLINE_MS)
  })
})

describe('two KMEs under traffic while a Cluster', () => {
  it('F32 loses its masters, one after the other, and they come back empty: every request is served', async () => {
    const cluster = await startRedisCluster()
    const network = await startNetwork({ redisUrl: cluster.url, rateBlocksPerS: 8 }).catch(async (error: unknown) => {
      await cluster.stop()
      throw error
    })
    // Of the masters one holds the key; the others say where it is.
    const cli: Cli = async (...command) => {
      const replies = await Promise.allSettled(cluster.servers.map((server) => server.cli(...command)))
      const found = replies.filter((reply) => reply.status === 'fulfilled').map(({ value }) => value)
      return command[0] === 'KEYS' ? found.flat() : found[0]
    }
    const traffic = startSteadyTraffic(network)
    try {
      const pools = await findPools(cli)
      await expectRedisServes(pools, cli, traffic)
      await expectReserve(network)
      const watch = traffic.watch()
      for (const index of cluster.servers.keys()) {
        await cluster.kill9(index)
        await traffic.more(20)
        await cluster.restart(index)
      }
      await expectRedisServes(pools, cli, traffic)
      expect(watch.refused).toEqual([])
      expect(watch.slowestMs).toBeLessThan(ANSWER_DEADLINE_MS)
      await expectAllIsWell(network, traffic)
    } finally {
      await traffic.stop()
      await network[Symbol.asyncDispose]()
      await cluster.stop()
    }
  })
})

describe('two KMEs under traffic while Sentinel', () => {
  it('F36 makes a replica the master that lacks what the master had acknowledged: no wrong answer', async () => {
    const group = await startSentinel()
    const network = await startNetwork({ redisUrl: group.url, rateBlocksPerS: 8 }).catch(async (error: unknown) => {
      await group.stop()
      throw error
    })
    const traffic = startSteadyTraffic(network)
    try {
      const [first, second] = group.servers
      const pools = await findPools(group.cli)
      await expectRedisServes(pools, group.cli, traffic)
      await expectReserve(network)
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
      expect(watch.slowestMs).toBeLessThan(ANSWER_DEADLINE_MS)
      await expectAllIsWell(network, traffic)
    } finally {
      await traffic.stop()
      await network[Symbol.asyncDispose]()
      await group.stop()
    }
  })
})
