/** What is let through to a Redis that answers again, before it is known that it works again. */
import { afterAll, beforeAll, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { openRedis, RedisAway, RedisContentError, type RedisConnection, type RedisScript } from '../../src/redis/redis.ts'
import { eventually } from '../setup/eventually.ts'
import { startRedis } from '../setup/redis-servers.ts'

const KEY = 'pool'
const COUNT: RedisScript = { name: 'count', lua: `return redis.call('INCR', KEYS[1])` }
const REFUSE: RedisScript = { name: 'refuse', lua: `redis.call('INCR', KEYS[1]) return redis.error_reply('OOM no memory left')` }
const STUMBLE: RedisScript = { name: 'stumble', lua: `redis.call('INCR', KEYS[1]) return redis.error_reply('ERR not a number')` }

let server: Awaited<ReturnType<typeof startRedis>>
let redis: RedisConnection

beforeAll(async () => {
  server = await startRedis()
  redis = openRedis({
    url: server.url,
    useFunctions: false,
    commandDeadlineMs: 5000,
    clock: systemClock,
    log: createLogger('silent'),
  })
  await eventually('Redis is connected', () => redis.available(KEY))
})
afterAll(async () => {
  await redis?.[Symbol.asyncDispose]()
  await server?.stop()
})

/** Until a probe went well; nothing probes after that. */
const probe = async (): Promise<void> => {
  const stop = new AbortController()
  const watching = redis.watch(stop.signal)
  await eventually('the probe is answered', () => redis.available(KEY))
  stop.abort()
  await watching
}
/** Five at once. @returns what they were rejected with, undefined where one was answered, and how many the server has seen. */
const fiveOf = async (script: RedisScript): Promise<{ errors: unknown[]; seen: number }> => {
  await server.cli('DEL', KEY)
  const settled = await Promise.allSettled(Array.from({ length: 5 }, () => redis.run(script, [KEY], [])))
  return {
    errors: settled.map((one) => (one.status === 'rejected' ? (one.reason as Error).constructor : undefined)),
    seen: Number(await server.cli('GET', KEY)),
  }
}
const four = (error: unknown): unknown[] => Array.from({ length: 4 }, () => error)

it('after a probe exactly one script is let through, and the others when it has run', async () => {
  await expect(redis.run(REFUSE, [KEY], [])).rejects.toThrow(RedisAway)
  expect([redis.available(KEY), redis.answers()]).toEqual([false, false])
  await expect(fiveOf(COUNT)).resolves.toEqual({ errors: [RedisAway, ...four(RedisAway)], seen: 0 })

  await probe()
  expect(redis.answers()).toBe(false)
  await expect(fiveOf(REFUSE)).resolves.toEqual({ errors: [RedisAway, ...four(RedisAway)], seen: 1 })
  expect(redis.available(KEY)).toBe(false)

  await probe()
  // Redis works, but this script met something unusable: the next one is tried.
  await expect(fiveOf(STUMBLE)).resolves.toEqual({ errors: [RedisContentError, ...four(RedisAway)], seen: 1 })
  await expect(fiveOf(COUNT)).resolves.toEqual({ errors: [undefined, ...four(RedisAway)], seen: 1 })
  expect([redis.available(KEY), redis.answers()]).toEqual([true, true])
  await expect(fiveOf(COUNT)).resolves.toEqual({ errors: [undefined, ...four(undefined)], seen: 5 })
})
