/** KMEs that share keys by way of a Redis to which something happens, and what must hold then. */
import { expect } from '@jest/globals'
import { expectBalanced } from '../network/ledger.ts'
import { eventually, quieten, startNetwork, type Network } from '../network/network.ts'
import { startRedis } from '../setup/redis-servers.ts'
import { startTcpProxy } from '../setup/tcp-proxy.ts'
import { timeLimitMs } from '../setup/time-limit.ts'
import { startSteadyTraffic, type SteadyTraffic } from './steady-traffic.ts'

/** Nobody waits for a Redis that does not answer longer than this, with all that follows on a busy machine. */
export const ANSWER_LIMIT_MS = timeLimitMs(3000)
export const KMES = ['kme-a', 'kme-b'] as const

export type Cli = (...command: (string | number | Buffer)[]) => Promise<unknown>

/** Units of each KME before a fault, so that no request is refused because there is no key: some seconds of the traffic. */
const UNITS_IN_RESERVE = 1000

/** What the keys of each KME's pool for the other one begin with. */
export type KmeName = (typeof KMES)[number]
export type Pools = Readonly<Record<KmeName, string>>

export const findPools = async (cli: Cli): Promise<Pools> => {
  const beginning = (kme: KmeName): Promise<string> =>
    eventually(`${kme} has a pool in Redis`, async () => {
      const found = (await cli('KEYS', `openkme:{${kme}>${kme === 'kme-a' ? 'kme-b' : 'kme-a'}}:*:level`)) as string[]
      return found[0]?.slice(0, -'level'.length)
    })
  return { 'kme-a': await beginning('kme-a'), 'kme-b': await beginning('kme-b') }
}

/** Units each KME took by way of Redis since its pool was made. */
export const takenByRedis = (pools: Pools, cli: Cli): Promise<number[]> =>
  Promise.all(KMES.map(async (kme) => Number((await cli('HGET', `${pools[kme]}level`, 'taken').catch(() => 0)) ?? 0)))

/** Waits until both KMEs take their units from Redis again. */
export const expectRedisServes = async (pools: Pools, cli: Cli, traffic: SteadyTraffic): Promise<void> => {
  const serves = async (): Promise<boolean> => {
    const before = await takenByRedis(pools, cli)
    await traffic.more(3)
    const after = await takenByRedis(pools, cli)
    return after.every((taken, at) => taken > before[at]!)
  }
  await eventually('both KMEs take units from Redis', serves)
}

/** Units of its own a KME could still issue. */
export const unitsLeft = async (network: Network, kme: KmeName): Promise<number> => {
  const [row] = await network.query<{ left: number }>(
    kme,
    `SELECT coalesce(sum(length(replace(replace((mine & ~taken)::text, '0', ''), ' ', ''))), 0)::int AS left
     FROM key_block WHERE link_id = 'a-b' AND state = 'AVAILABLE'`,
  )
  return row!.left
}

export const expectReserve = (network: Network): Promise<boolean> =>
  eventually('both KMEs have units in reserve', async () => {
    const left = await Promise.all(KMES.map((kme) => unitsLeft(network, kme)))
    return left.every((units) => units >= UNITS_IN_RESERVE)
  })

export const expectAllIsWell = async (network: Network, traffic: SteadyTraffic): Promise<void> => {
  await traffic.stop()
  expect(traffic.account.violations).toEqual([])
  expect(traffic.account.figures.keysFetched).toBe(traffic.account.figures.keysIssued)
  await quieten(network)
  await expectBalanced(network)
  network.devices.resume()
}

/** Two KMEs under traffic, and a proxy between them and their Redis. */
export const startRedisWorld = async () => {
  await using starting = new AsyncDisposableStack()
  const redis = await startRedis({ acl: { user: 'kme', password: 'secret', rules: '~* &* +@all' } })
  starting.defer(() => redis.stop())
  const proxy = await startTcpProxy(redis.port)
  starting.defer(() => proxy.stop())
  const network = await startNetwork({
    redisUrl: `redis://kme:secret@127.0.0.1:${proxy.port}`,
    rateBlocksPerS: 8,
    // What is refused here shall be refused for Redis alone, on any machine.
    peer: () => ({ deadlineMs: 30_000 }),
  })
  starting.use(network)
  const pools = await findPools(redis.cli)
  const started = starting.move()
  return {
    redis,
    proxy,
    network,
    pools,
    /** Traffic for one fault, once there is enough to draw from. */
    startTraffic: async (): Promise<SteadyTraffic> => {
      await expectReserve(network)
      const traffic = startSteadyTraffic(network)
      await expectRedisServes(pools, redis.cli, traffic)
      return traffic
    },
    expectRecovery: async (traffic: SteadyTraffic): Promise<void> => {
      await expectRedisServes(pools, redis.cli, traffic)
      await expectAllIsWell(network, traffic)
    },
    [Symbol.asyncDispose]: (): Promise<void> => started.disposeAsync(),
  }
}

export type RedisWorld = Awaited<ReturnType<typeof startRedisWorld>>
