import { expect, it } from '@jest/globals'
import { randomUUID } from 'node:crypto'
import { allScripts } from '../../src/cli/redis-commands.ts'
import { countPoints } from '../../src/delivery/rate-limiter.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createRedisKeyPool } from '../../src/key-pool/redis-key-pool.ts'
import { poolScripts } from '../../src/key-pool/redis-scripts.ts'
import { openRedis, RedisAway, toFunctionLibrary } from '../../src/redis/redis.ts'
import { eventually } from '../setup/eventually.ts'
import { startRedis, startRedisCluster } from '../setup/redis-servers.ts'
import { describeKeyPool, OTHER, PEER, type PoolMaker } from './key-pool.contract.ts'

async function* nothing(): AsyncIterable<never> {
  yield* []
}

const parts = { commandDeadlineMs: 5000, clock: systemClock, log: createLogger('silent') }

/** Pools whose key store is empty: what they give comes from Redis. */
const poolsIn = async (
  url: string,
  stopServer: () => Promise<void>,
  { useFunctions = false }: { useFunctions?: boolean } = {},
): Promise<PoolMaker> => {
  const redis = openRedis({ url, useFunctions, ...parts })
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
        log: parts.log,
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

/** As docs/scaling.md gives it to the KME's user. */
const WITHOUT_SCRIPTS =
  'resetkeys ~openkme:* resetchannels -@all +@hash +@list +@sortedset +@set +type +del +exists +rename +get +set +pttl +fcall +ping +info +client|setname'

describeKeyPool('in Redis by functions, of a user that may send no script', async () => {
  const server = await startRedis({ acl: { user: 'kme', password: 'a-password', rules: WITHOUT_SCRIPTS } })
  await server.cli('FUNCTION', 'LOAD', 'REPLACE', toFunctionLibrary(allScripts()))
  return poolsIn(server.url, () => server.stop(), { useFunctions: true })
})

it('quotas can be counted by that user', async () => {
  const server = await startRedis({ acl: { user: 'kme', password: 'a-password', rules: WITHOUT_SCRIPTS } })
  await server.cli('FUNCTION', 'LOAD', 'REPLACE', toFunctionLibrary(allScripts()))
  const redis = openRedis({ url: server.url, useFunctions: true, ...parts })
  await eventually('Redis is connected', () => redis.available(''))
  const count = (points: number): Promise<unknown> => redis.run(countPoints, ['openkme:kme-a:quota:alice'], [points, 60, 10, 60])
  await count(3)
  expect(await count(2)).toEqual([5, expect.any(Number)])
  await redis[Symbol.asyncDispose]()
  await server.stop()
})

it('no script can be sent by that user', async () => {
  const server = await startRedis({ acl: { user: 'kme', password: 'a-password', rules: WITHOUT_SCRIPTS } })
  const redis = openRedis({ url: server.url, useFunctions: false, ...parts })
  await eventually('Redis is connected', () => redis.available(''))
  await expect(redis.run(poolScripts().join, ['openkme:{a}:line'], [])).rejects.toThrow(RedisAway)
  await redis[Symbol.asyncDispose]()
  await server.stop()
})
