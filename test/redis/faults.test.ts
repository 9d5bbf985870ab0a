/** Faults F31, F32, F33, F35 and F40: whatever Redis holds, a KME gets slower at the worst. PostgreSQL decides; what Redis says is looked at
 *  first, and its hints are rebuilt afterwards without a restart. Those that take their time are in faults.chaos.test.ts. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { ANSWER_LIMIT_MS, expectRedisServes, KMES, startRedisWorld, type KmeName, type RedisWorld } from './redis-world.ts'
import type { SteadyTraffic } from './steady-traffic.ts'

describe('two KMEs under traffic while their Redis', () => {
  let world: RedisWorld
  let { redis, network, pools } = {} as RedisWorld
  let traffic: SteadyTraffic

  beforeAll(async () => {
    world = await startRedisWorld()
    ;({ redis, network, pools } = world)
  })
  afterAll(() => world?.[Symbol.asyncDispose]())
  beforeEach(async () => {
    traffic = await world.startTraffic()
  })
  afterEach(async () => {
    await traffic.stop()
  })

  it('F31 is flushed again and again: every request is served', async () => {
    const watch = traffic.watch()
    for (let round = 0; round < 5; round += 1) {
      await redis.cli(round % 2 === 0 ? 'FLUSHALL' : 'FLUSHDB')
      if (round === 2) await redis.cli('SCRIPT', 'FLUSH')
      await traffic.more(20)
    }
    expect(watch.refused).toEqual([])
    await world.expectRecovery(traffic)
  })

  it('F32 is killed and comes back empty: every request is served', async () => {
    const watch = traffic.watch()
    await redis.kill9()
    await traffic.more(40)
    await redis.restart()
    expect(await redis.cli('DBSIZE')).toBeLessThan(20)
    await world.expectRecovery(traffic)
    expect(watch.refused).toEqual([])
    expect(watch.slowestMs).toBeLessThan(ANSWER_LIMIT_MS)
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
    await world.expectRecovery(traffic)
  })

  it('F35 has no memory left and refuses writes, or throws keys away: every request is served', async () => {
    const watch = traffic.watch()
    await redis.cli('CONFIG', 'SET', 'maxmemory-policy', 'noeviction', 'maxmemory', '1mb')
    await traffic.more(30)
    await redis.cli('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru')
    await traffic.more(30)
    await redis.cli('CONFIG', 'SET', 'maxmemory', '0', 'maxmemory-policy', 'noeviction')
    await world.expectRecovery(traffic)
    expect(watch.refused).toEqual([])
    expect(watch.slowestMs).toBeLessThan(ANSWER_LIMIT_MS)
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
    await world.expectRecovery(traffic)
  })
})
