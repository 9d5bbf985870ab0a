/** Counts points against a limit per window, for one account. The only file that knows rate-limiter-flexible.
 *  With Redis all processes of the KME share the count. Each process also counts by itself what it let through, so that when
 *  Redis is away it goes on with its share of the limit: nothing is let through unlimited, and nothing stops.
 *  Holds: points that do not fit are not counted. */
import { readFileSync } from 'node:fs'
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import { createBatching } from '../kernel/batching.ts'
import type { Clock } from '../kernel/clock.ts'
import type { RedisConnection, RedisScript } from '../redis/redis.ts'
import type { RateLimit } from './quotas.ts'

export interface RateLimiter {
  readonly limit: RateLimit
  /** Counts the points if they fit.
   *  @returns undefined, or the milliseconds until the next window when they do not fit. Never rejects. */
  take(points: number): Promise<number | undefined>
  /** Points that were taken for nothing. They may come late: a new window never counts below zero. */
  giveBack(points: number): void
}

export interface RateLimiterParts {
  readonly redis: Pick<RedisConnection, 'available' | 'run'> | undefined
  /** Of all keys in Redis. */
  readonly keyPrefix: string
  /** Processes of this KME that are alive, this one included. */
  readonly processCount: () => number
  readonly clock: Clock
}

/** Also for a library of functions, where scripts may not be sent. */
export const countPoints: RedisScript = {
  name: 'openkme_count_points',
  lua: readFileSync(new URL('count-points.lua', import.meta.url), 'utf8'),
}
const WAITING_MAX = 1024
/** How long a refusal is remembered; another process may give points back meanwhile. */
const REFUSAL_KNOWN_MS = 1000

/** @param account names the counter; unique among all limiters. */
export const createRateLimiter = (account: string, limit: RateLimit, parts: RateLimiterParts): RateLimiter => {
  const { redis, clock } = parts
  const window = { points: limit.points, duration: limit.windowS, keyPrefix: parts.keyPrefix }
  const own = new RateLimiterMemory(window)
  const shared = redis === undefined ? undefined : new RateLimiterRedis({ ...window, storeClient: storeOf(redis) })
  const isShared = (limiter: typeof shared): limiter is RateLimiterRedis =>
    limiter !== undefined && redis?.available(limiter.getKey(account)) === true
  /** So many points did not fit. Until then nobody asks again. */
  let refused: { readonly points: number; readonly untilMs: number; readonly nextWindowMs: number } | undefined

  const takeShared = async (limiter: RateLimiterRedis, points: number): Promise<number | undefined> => {
    const missingMs = await consume(limiter, points)
    if (missingMs === undefined) await own.penalty(account, points)
    return missingMs
  }
  const takeOwn = async (points: number): Promise<number | undefined> => {
    own.points = Math.max(1, Math.floor(limit.points / Math.max(1, parts.processCount())))
    const missingMs = await consume(own, points)
    if (missingMs !== undefined) await giveBackOwn(points)
    return missingMs
  }
  const giveBackOwn = async (points: number): Promise<void> => {
    const counted = await own.get(account)
    if (counted !== null) await own.reward(account, Math.min(points, counted.consumedPoints))
  }
  const consume = async (limiter: RateLimiterMemory | RateLimiterRedis, points: number): Promise<number | undefined> => {
    try {
      await limiter.consume(account, points)
      return undefined
    } catch (error) {
      if (error instanceof RateLimiterRes) return error.msBeforeNext
      throw error
    }
  }
  const takeNow = async (points: number): Promise<number | undefined> => {
    const nowMs = clock.monotonicMs()
    if (refused !== undefined && refused.untilMs <= nowMs) refused = undefined
    if (refused !== undefined && points >= refused.points) return refused.nextWindowMs - nowMs
    const missingMs = isShared(shared) ? await takeShared(shared, points).catch(() => takeOwn(points)) : await takeOwn(points)
    if (missingMs !== undefined) {
      refused = { points, untilMs: nowMs + Math.min(missingMs, REFUSAL_KNOWN_MS), nextWindowMs: nowMs + missingMs }
    }
    return missingMs
  }

  const take = createBatching<number, number | undefined>({
    // Requests that wait at the same moment cost one call when they all fit.
    work: async (items) => {
      const total = items.reduce((sum, points) => sum + points, 0)
      if (items.length > 1 && (await takeNow(total)) === undefined) return items.map(() => undefined)
      const missing: (number | undefined)[] = []
      for (const points of items) missing.push(await takeNow(points))
      return missing
    },
    separable: () => false,
    itemsMax: WAITING_MAX,
    lanes: 1,
  })

  return {
    limit,
    take,
    giveBack: (points) => {
      refused = undefined
      void giveBackOwn(points)
      // What cannot be given back is counted until the window ends.
      if (isShared(shared)) shared.reward(account, points).catch(() => undefined)
    },
  }
}

/** The part of a Redis client that RateLimiterRedis calls, with our script, time limit and breaker. */
const storeOf = (redis: Pick<RedisConnection, 'run'>) => ({
  rlflxIncr: ([key, ...args]: readonly string[]) => redis.run(countPoints, [key ?? ''], args),
})
