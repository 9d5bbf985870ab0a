import { randomUUID } from 'node:crypto'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createRedisKeyPool } from '../../src/key-pool/redis-key-pool.ts'
import { openRedis } from '../../src/redis/redis.ts'
import { eventually } from '../setup/eventually.ts'
import { startRedis, startRedisCluster } from '../setup/redis-servers.ts'
import { describeKeyPool, OTHER, PEER, type PoolMaker } from './key-pool.contract.ts'

async function* nothing(): AsyncIterable<never> {
  yield* []
}

/** Pools whose key store is empty: what they give comes from Redis. */
const poolsIn = async (url: string, stopServer: () => Promise<void>): Promise<PoolMaker> => {
  const log = createLogger('silent')
  const redis = openRedis({ url, useFunctions: false, commandDeadlineMs: 5000, clock: systemClock, log })
  await eventually('Redis is connected', () => redis.available(''))
  const ending = new AbortController()
  return {
    create: async ({ policy, clock }) => {
      const pool = createRedisKeyPool({
        redis,
        kmeId: `kme-${randomUUID()}` as KmeId,
        databaseName: 'test',
        peers: [PEER, OTHER],
        processId: randomUUID(),
        policy,
        store: { freeUnits: () => Promise.resolve([]), counts: () => Promise.resolve([]) },
        clock: { ...clock, sleep: systemClock.sleep },
        random: systemRandom,
        log,
        signal: ending.signal,
      })
      await pool.rebuild(nothing())
      return pool
    },
    stop: async () => {
      ending.abort()
      await redis[Symbol.asyncDispose]()
      await stopServer()
    },
  }
}

describeKeyPool('in Redis', async () => {
  const server = await startRedis()
  return poolsIn(server.url, () => server.stop())
})

describeKeyPool('in a Redis Cluster', async () => {
  const cluster = await startRedisCluster({ masters: 3 })
  return poolsIn(cluster.url, () => cluster.stop())
})
