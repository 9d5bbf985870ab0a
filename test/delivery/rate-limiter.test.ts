/** What quotas are counted with: in this process alone, and in a real Redis shared by processes. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import type { RateLimit } from '../../src/delivery/quotas.ts'
import { countPoints, createRateLimiter, type RateLimiter, type RateLimiterParts } from '../../src/delivery/rate-limiter.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { openRedis, type RedisConnection } from '../../src/redis/redis.ts'
import { eventually } from '../setup/eventually.ts'
import { startRedis } from '../setup/redis-servers.ts'

const HOUR_S = 3600
const limit = (points: number, windowS = HOUR_S): RateLimit => ({ points, windowS })
const limiterOf = (of: RateLimit, redis?: RateLimiterParts['redis'], processCount = 1): RateLimiter =>
  createRateLimiter('requests:alice', of, { redis, keyPrefix: 'quota', processCount: () => processCount, clock: systemClock })

/** How many single points a limiter lets through at once. */
const admitted = async (limiter: RateLimiter, tries: number): Promise<number> => {
  const missing = await Promise.all(Array.from({ length: tries }, () => limiter.take(1)))
  return missing.filter((ms) => ms === undefined).length
}

describe('a limit counted in this process', () => {
  it('lets through what fits and says when the rest may come', async () => {
    const limiter = limiterOf(limit(10))
    expect(await limiter.take(4)).toBeUndefined()
    const missingMs = await limiter.take(7)
    expect(missingMs).toBeGreaterThan((HOUR_S - 60) * 1000)
    expect(missingMs).toBeLessThanOrEqual(HOUR_S * 1000)
  })

  it('does not count what it refused', async () => {
    const limiter = limiterOf(limit(10))
    expect(await limiter.take(11)).toBeDefined()
    expect(await limiter.take(8)).toBeUndefined()
    expect(await limiter.take(3)).toBeDefined()
    expect(await limiter.take(2)).toBeUndefined()
    expect(await limiter.take(1)).toBeDefined()
  })

  it('counts exactly when many wait at the same moment', async () => {
    expect(await admitted(limiterOf(limit(25)), 100)).toBe(25)
  })

  it('lets go again what was given back, and never more than the limit', async () => {
    const limiter = limiterOf(limit(5))
    expect(await limiter.take(5)).toBeUndefined()
    limiter.giveBack(2)
    expect(await admitted(limiter, 5)).toBe(2)
    limiter.giveBack(50)
    expect(await admitted(limiter, 50)).toBe(5)
  })

  it('begins anew with the next window', async () => {
    const limiter = limiterOf(limit(3, 1))
    expect(await admitted(limiter, 9)).toBe(3)
    await eventually('the next window', async () => (await limiter.take(1)) === undefined)
    expect(await admitted(limiter, 9)).toBe(2)
  })

  it('is divided by the number of processes', async () => {
    expect(await admitted(limiterOf(limit(10), undefined, 4), 20)).toBe(2)
    expect(await admitted(limiterOf(limit(1), undefined, 4), 20)).toBe(1)
  })
})

describe('a limit counted in Redis', () => {
  let server: Awaited<ReturnType<typeof startRedis>>
  let connection: RedisConnection
  let calls = 0
  const stop = new AbortController()
  const redis: RateLimiterParts['redis'] = {
    available: (key) => connection.available(key),
    run: (script, keys, args) => {
      calls += 1
      return connection.run(script, keys, args)
    },
  }
  const isBack = () => eventually('Redis is back', () => connection.available('quota:requests:alice'))
  const open = (useFunctions: boolean): RedisConnection =>
    openRedis({ url: server.url, useFunctions, commandDeadlineMs: 3000, clock: systemClock, log: createLogger('silent') })

  beforeAll(async () => {
    server = await startRedis()
    connection = open(false)
    void connection.watch(stop.signal)
    await isBack()
  })
  beforeEach(async () => {
    await server.cli('FLUSHALL')
    calls = 0
  })
  afterAll(async () => {
    stop.abort()
    await connection?.[Symbol.asyncDispose]()
    await server?.stop()
  })

  it('is one for all processes', async () => {
    const processes = [limiterOf(limit(30), redis, 2), limiterOf(limit(30), redis, 2)]
    const counts = await Promise.all(processes.map((one) => admitted(one, 50)))
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(30)
  })

  it('does not count what it refused', async () => {
    const limiter = limiterOf(limit(10), redis)
    expect(await limiter.take(11)).toBeDefined()
    expect(await limiter.take(8)).toBeUndefined()
    const missingMs = await limiter.take(3)
    expect(missingMs).toBeGreaterThan((HOUR_S - 60) * 1000)
    expect(missingMs).toBeLessThanOrEqual(HOUR_S * 1000)
    expect(await limiter.take(2)).toBeUndefined()
    expect(await limiter.take(1)).toBeDefined()
  })

  it('asks once for all that wait at the same moment, and not again for what was just refused', async () => {
    const limiter = limiterOf(limit(20), redis)
    expect(await admitted(limiter, 20)).toBe(20)
    expect(calls).toBe(1)
    expect(await admitted(limiter, 500)).toBe(0)
    expect(calls).toBeLessThanOrEqual(3)
  })

  it('is counted the same way by a function of Redis', async () => {
    const { name, lua } = countPoints
    await server.cli('FUNCTION', 'LOAD', `#!lua name=test\nredis.register_function('${name}', function(KEYS, ARGV)\n${lua}end)`)
    await using calling = open(true)
    await eventually('Redis is connected', () => calling.available(''))
    expect(await admitted(limiterOf(limit(7), calling), 20)).toBe(7)
    expect(await admitted(limiterOf(limit(9), redis), 20)).toBe(2)
  })

  it('goes on with the share of this process while Redis does not answer', async () => {
    const limiter = limiterOf(limit(10), redis, 2)
    expect(await limiter.take(1)).toBeUndefined()
    server.freeze()
    try {
      expect(await admitted(limiter, 20)).toBe(4)
    } finally {
      server.thaw()
    }
    await isBack()
  })

  it('begins anew with the next window', async () => {
    const limiter = limiterOf(limit(3, 1.2), redis)
    expect(await admitted(limiter, 9)).toBe(3)
    await eventually('the next window', async () => (await limiter.take(1)) === undefined)
    expect(await admitted(limiter, 9)).toBe(2)
  })

  it('lets another process have what one gave back, and never more than the limit', async () => {
    const [one, other] = [limiterOf(limit(5), redis), limiterOf(limit(5), redis)]
    expect(await one.take(5)).toBeUndefined()
    one.giveBack(2)
    expect(await admitted(other, 5)).toBe(2)
    one.giveBack(50)
    expect(await admitted(other, 50)).toBeLessThanOrEqual(5)
  })

  it('goes on while Redis is gone, and is shared again when it is back', async () => {
    const [one, other] = [limiterOf(limit(12), redis, 3), limiterOf(limit(12), redis, 3)]
    expect(await one.take(3)).toBeUndefined()
    await server.kill9()
    // What it let through with Redis counts: one of its four is left.
    expect(await admitted(one, 20)).toBe(1)
    expect(await admitted(other, 20)).toBe(4)
    await server.restart()
    await isBack()
    const fresh = limiterOf(limit(12), redis, 3)
    const another = limiterOf(limit(12), redis, 3)
    expect((await admitted(fresh, 20)) + (await admitted(another, 20))).toBe(12)
  })
})
