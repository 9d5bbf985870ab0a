/** The servers other tests stand on: a fault test proves nothing when its servers are not what they seem. */
import { afterEach, describe, expect, it } from '@jest/globals'
import { existsSync } from 'node:fs'
import { eventually } from '../setup/eventually.ts'
import { startRedis, startRedisCluster, startSentinel } from '../setup/redis-servers.ts'

describe('a real Redis for tests', () => {
  let stop: () => Promise<void> = () => Promise.resolve()
  afterEach(() => stop())

  it('answers at its URL, is empty after kill -9, and leaves nothing behind', async () => {
    const redis = await startRedis()
    stop = redis.stop
    expect(redis.url).toBe(`redis://127.0.0.1:${redis.port}`)
    await redis.cli('SET', 'a', '1')
    await redis.kill9()
    await expect(redis.cli('PING')).rejects.toThrow()
    await redis.restart()
    expect(await redis.cli('GET', 'a')).toBeNull()
    await redis.stop()
    await expect(redis.cli('PING')).rejects.toThrow()
    expect(existsSync(redis.directory)).toBe(false)
  })

  it('comes back with what was saved, not with what came after', async () => {
    const redis = await startRedis()
    stop = redis.stop
    await redis.cli('SET', 'a', 'old')
    await redis.cli('SAVE')
    await redis.cli('SET', 'a', 'new')
    await redis.restart()
    expect(await redis.cli('GET', 'a')).toBe('old')
  })

  it('lets a user in by password and rules, over TLS', async () => {
    const redis = await startRedis({ tls: true, acl: { user: 'kme', password: 'p@ss', rules: '~kme:* +@all -@dangerous' } })
    stop = redis.stop
    expect(redis.url).toBe(`rediss://kme:p%40ss@127.0.0.1:${redis.port}`)
    expect(existsSync(redis.caFile!)).toBe(true)
    expect(await redis.cli('ACL', 'WHOAMI')).toBe('tests')
    expect(await redis.cli('ACL', 'DRYRUN', 'kme', 'GET', 'kme:1')).toBe('OK')
    expect(await redis.cli('ACL', 'DRYRUN', 'kme', 'GET', 'other')).toMatch(/no permissions/)
  })

  it('is a cluster of three masters that serves every slot, also after a master was killed', async () => {
    const cluster = await startRedisCluster()
    stop = cluster.stop
    expect(cluster.url).toMatch(/^redis\+cluster:\/\/127\.0\.0\.1:\d+,127\.0\.0\.1:\d+,127\.0\.0\.1:\d+$/)
    // The slot of "foo" is 12182, of the third master.
    await expect(cluster.servers[0]!.cli('SET', 'foo', '1')).rejects.toThrow(`MOVED 12182 127.0.0.1:${cluster.servers[2]!.port}`)
    await cluster.servers[2]!.cli('SET', 'foo', '1')
    await cluster.kill9(2)
    await cluster.restart(2)
    expect(await cluster.servers[2]!.cli('GET', 'foo')).toBeNull()
  })

  it('is a master whose replica takes over, and loses what the replica never got', async () => {
    const group = await startSentinel()
    stop = group.stop
    const [first, second] = group.servers
    await group.cli('SET', 'kept', '1')
    await group.cli('WAIT', 1, 1000)
    second!.freeze()
    await first!.cli('CLIENT', 'KILL', 'TYPE', 'replica')
    await group.cli('SET', 'lost', '1')
    await group.kill9()
    second!.thaw()
    // While it is promoted the sentinels close the connections of its clients.
    const takenOver = async (): Promise<boolean> => String(await second!.cli('ROLE').catch(() => '')).startsWith('master')
    await eventually('the replica is master', async () => (await group.master()) === second && (await takenOver()))
    expect(await group.cli('GET', 'kept')).toBe('1')
    expect(await group.cli('GET', 'lost')).toBeNull()
    await group.restart()
    // It comes back empty and gets all of it from the new master.
    await eventually('it follows', async () => (await first!.cli('GET', 'kept').catch(() => null)) === '1')
    expect(String(await first!.cli('INFO', 'replication'))).toContain('role:slave')
  })
})
