/** The proxy other tests stand on, in front of a real redis-server. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually } from '../setup/eventually.ts'
import { startRedis } from '../setup/redis-servers.ts'
import { startTcpProxy, type TcpProxy } from '../setup/tcp-proxy.ts'

describe('the proxy that fails as networks do', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>
  let proxy: TcpProxy
  let client: Socket
  let received = ''
  let ending: string | undefined

  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis?.stop())
  beforeEach(async () => {
    proxy = await startTcpProxy(redis.port)
    client = connect({ port: proxy.port, host: '127.0.0.1' })
    received = ''
    ending = undefined
    client.on('data', (chunk: Buffer) => (received += chunk.toString('latin1')))
    client.on('error', (error: NodeJS.ErrnoException) => (ending = error.code))
    client.on('end', () => (ending ??= 'end'))
    await once(client, 'connect')
  })
  afterEach(async () => {
    client.destroy()
    await proxy.stop()
  })
  const answered = (text: string): Promise<unknown> => eventually(`the answer ${text}`, () => received === text)
  const ended = (): Promise<unknown> => eventually('the connection has ended', () => ending)
  /** Until the server has carried out what the client sent. */
  const counted = (value: string): Promise<unknown> =>
    eventually('the server has counted', async () => (await redis.cli('GET', 'count')) === value)

  it('passes bytes on, late if told so', async () => {
    client.write('PING\r\n')
    await answered('+PONG\r\n')
    proxy.delay(100)
    const startMs = systemClock.monotonicMs()
    client.write('PING\r\n')
    await answered('+PONG\r\n+PONG\r\n')
    expect(systemClock.monotonicMs() - startMs).toBeGreaterThan(190)
  })

  it('holds back everything, or one direction, until it is healed', async () => {
    await redis.cli('SET', 'count', 0)
    proxy.blackHole(['to-client'])
    client.write('INCR count\r\n')
    await counted('1')
    expect(received).toBe('')
    proxy.blackHole()
    client.write('INCR count\r\n')
    expect(await redis.cli('GET', 'count')).toBe('1')
    proxy.heal()
    await answered(':1\r\n:2\r\n')
  })

  it('loses the reply to a request that was carried out', async () => {
    await redis.cli('SET', 'count', 0)
    const swallowed = proxy.swallowReply('INCR')
    client.write('PING\r\n')
    await answered('+PONG\r\n')
    client.write('INCR count\r\n')
    await swallowed
    expect(await ended()).toBe('ECONNRESET')
    expect(received).toBe('+PONG\r\n')
    expect(await redis.cli('GET', 'count')).toBe('1')
    expect(proxy.connections()).toBe(0)
  })

  it('cuts after so many bytes, cuts at once, refuses', async () => {
    proxy.cutAfter(3)
    client.write('PING\r\n')
    expect(await ended()).toBe('ECONNRESET')
    expect(received).toBe('+PO')
    proxy.cutAfter(undefined)
    proxy.refuse()
    const second = connect({ port: proxy.port, host: '127.0.0.1' })
    const [error] = (await once(second, 'error')) as [NodeJS.ErrnoException]
    expect(error.code).toBe('ECONNRESET')
    expect(proxy.accepted()).toBe(2)
    proxy.heal()
    const third = connect({ port: proxy.port, host: '127.0.0.1' })
    third.write('PING\r\n')
    expect(String((await once(third, 'data'))[0])).toBe('+PONG\r\n')
    proxy.cut()
    expect(((await once(third, 'error'))[0] as NodeJS.ErrnoException).code).toBe('ECONNRESET')
  })
})
