/** The key pools on the admin API: history, replenishment, and the stream of their changes over real connections. */
import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { afterEach, describe, expect, it } from '@jest/globals'
import type { PoolLevel } from '../../src/key-pool/key-pool.ts'
import type { RunningPoolWatch } from '../../src/key-pool/watch-pools.ts'
import { settle } from '../key-pool/pool-world.ts'
import { eventually } from '../setup/eventually.ts'
import { contract, createAdminWorld, kmeId, levelOf, type AdminWorld } from './admin-world.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const HOUR_MS = 3_600_000

describe('the history of a pool', () => {
  const asked: object[] = []
  const point = { fromMs: 5, mineMin: 1, mineLast: 2, theirsMin: 3, theirsLast: 4, offered: 5, taken: 6, refused: 7 }
  const createWorld = () =>
    createAdminWorld({
      pools: [levelOf(kmeId('site/b'), 10, 10)],
      poolHistory: {
        read: async (query) => {
          asked.push(query)
          return { bucketS: 10, points: [point] }
        },
      },
    })
  afterEach(() => void asked.splice(0))

  it('is that of the last hour, or of the time asked for', async () => {
    const world = await createWorld()
    const nowMs = world.clock.nowMs()
    const token = await world.token(['pool:read'])
    const { body } = await world.call('get', '/api/v1/pools/site%2Fb/history', { token })
    expect(body).toEqual({ kmeId: 'site/b', bucketS: 10, points: [point] })
    await world.call('get', '/api/v1/pools/site%2Fb/history?fromMs=1000&toMs=2000', { token })
    await world.call('get', '/api/v1/pools/site%2Fb/history?toMs=2000', { token })
    expect(asked).toEqual([
      { peerKmeId: 'site/b', fromMs: nowMs - HOUR_MS, toMs: nowMs, nowMs },
      { peerKmeId: 'site/b', fromMs: 1000, toMs: 2000, nowMs },
      { peerKmeId: 'site/b', fromMs: 0, toMs: 2000, nowMs },
    ])
  })

  it.each([
    'fromMs=2&toMs=2',
    'fromMs=3&toMs=2',
    'fromMs=-1',
    'fromMs=1e3',
    'fromMs=',
    'toMs=99999999999999999',
    'toMs=x',
    'at=1',
  ])('is refused for %s', async (query) => {
    const world = await createWorld()
    const token = await world.token(['pool:read'])
    expect((await world.call('get', `/api/v1/pools/site%2Fb/history?${query}`, { token })).status).toBe(400)
    expect(asked).toEqual([])
  })

  it('is there only for a pool that is', async () => {
    const world = await createWorld()
    const token = await world.token(['pool:read'])
    expect((await world.call('get', '/api/v1/pools/kme-x/history', { token })).status).toBe(404)
  })
})

describe('replenishing a pool', () => {
  const createWorld = async () => {
    const asked: unknown[] = []
    const world = await createAdminWorld({
      pools: [levelOf(kmeId('kme-b'), 10, 10)],
      replenisher: {
        replenishNow: async (...args) => {
          asked.push(args)
          return {
            ceilingKeys: 900,
            sources: [
              { source: 'link a-b', outcome: 'asked' },
              { source: 'loan', outcome: 'filled', keys: 128 },
              { source: 'relay', outcome: 'nothing', reason: 'no route' },
              { source: 'box', outcome: 'failed', reason: 'on fire' },
            ],
          }
        },
      },
    })
    const token = await world.token(['pool:replenish'])
    const send = (body?: object, peer = 'kme-b') => world.call('post', `/api/v1/pools/${peer}/replenish`, { token, body })
    return { asked, send }
  }

  it('says what each source did', async () => {
    const { asked, send } = await createWorld()
    expect((await send()).body).toEqual({
      kmeId: 'kme-b',
      ceilingKeys: 900,
      sources: [
        { source: 'link a-b', outcome: 'asked', keyCount: 0, reason: null },
        { source: 'loan', outcome: 'filled', keyCount: 128, reason: null },
        { source: 'relay', outcome: 'nothing', keyCount: 0, reason: 'no route' },
        { source: 'box', outcome: 'failed', keyCount: 0, reason: 'on fire' },
      ],
    })
    await send({ upToKeys: 1000 })
    expect(asked).toEqual([
      ['kme-b', undefined, 'admin:erika'],
      ['kme-b', 1000, 'admin:erika'],
    ])
  })

  it.each([{ upToKeys: 0 }, { upToKeys: 1001 }, { upToKeys: 1.5 }, { upToKeys: '7' }, { upToKeys: null }, { other: 1 }])(
    'is refused for %j',
    async (body) => {
      const { asked, send } = await createWorld()
      expect((await send(body)).status).toBe(400)
      expect(asked).toEqual([])
    },
  )

  it('is there only for a pool that is', async () => {
    const { send } = await createWorld()
    expect((await send({}, 'kme-x')).status).toBe(404)
  })
})

describe('the stream of pool changes', () => {
  const cleanUp: (() => void)[] = []
  afterEach(() => cleanUp.splice(0).forEach((end) => end()))

  interface Stream {
    readonly response: IncomingMessage
    /** What came so far. */
    text(): string
    pools(): { pools: { mine: number }[] }[]
    ended(): boolean
  }
  interface Streaming {
    readonly world: AdminWorld
    readonly levels: PoolLevel[]
    readonly port: number
    open(token: string): Promise<Stream>
    /** A second passes and the pools are read. */
    pass(seconds: number): Promise<void>
  }
  const streaming = async (streamsMax = 3): Promise<Streaming> => {
    const levels = [levelOf(kmeId('kme-a'), 10, 0)]
    const world = await createAdminWorld({ pools: levels, streamsMax })
    const running = new AbortController()
    void (world.parts.pools as RunningPoolWatch).run(running.signal)
    const server = createServer(world.app).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    cleanUp.push(() => {
      running.abort()
      server.close()
      server.closeAllConnections()
    })
    return {
      world,
      levels,
      port,
      open: async (token) => {
        const headers = { authorization: `Bearer ${token}` }
        const sent = get({ port, host: '127.0.0.1', path: '/api/v1/pools/events', headers, agent: false })
        sent.on('error', () => undefined)
        const [response] = (await once(sent, 'response')) as [IncomingMessage]
        let text = ''
        let ended = false
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
        response.on('error', () => undefined).on('close', () => (ended = true))
        return {
          response,
          text: () => text,
          ended: () => ended,
          pools: () => [...text.matchAll(/^event: pools\ndata: (.*)\n\n/gm)].map(([, json]) => JSON.parse(json as string)),
        }
      },
      pass: async (seconds) => {
        for (let s = 0; s < seconds; s += 1) {
          world.clock.advanceMs(1000)
          await settle()
        }
      },
    }
  }
  const mines = (stream: Stream): number[] => stream.pools().map(({ pools }) => pools[0]!.mine)

  it('begins with all pools and goes on with what changes, as the document says', async () => {
    const { world, levels, open, pass } = await streaming()
    const stream = await open(await world.token(['pool:read']))
    expect(stream.response.headers).toMatchObject({ 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    await eventually('the first event', () => stream.pools().length === 1, timeLimitMs(5000))
    await pass(3)
    levels[0] = levelOf(kmeId('kme-a'), 25, 0)
    await pass(1)
    await eventually('the change', () => mines(stream).includes(25), timeLimitMs(5000))
    expect(new Set(mines(stream))).toEqual(new Set([10, 25]))
    expect(stream.pools().length).toBeLessThanOrEqual(3)
    contract.checkResponse('GET', '/api/v1/pools/events', 200, 'text/event-stream', stream.text())
    contract.checkResponse('GET', '/api/v1/pools', 200, 'application/json', JSON.stringify(stream.pools()[0]))
  })

  it('says every 15 seconds that it is still there', async () => {
    const { world, open, pass } = await streaming()
    const stream = await open(await world.token(['pool:read']))
    await pass(14)
    expect(stream.text()).not.toMatch(/^:/m)
    await pass(2)
    await eventually('the comment', () => /^: /m.test(stream.text()), timeLimitMs(5000))
  })

  it('ends when the token expires', async () => {
    const { world, open, pass } = await streaming()
    const stream = await open(await world.token(['pool:read'], { lifeS: 20 }))
    await pass(19)
    expect(stream.ended()).toBe(false)
    await pass(1)
    await eventually('the end', stream.ended, timeLimitMs(5000))
    expect(stream.response.complete).toBe(true)
  })

  it('is given to a bounded number, and to others when those have gone', async () => {
    const { world, open } = await streaming(2)
    const token = await world.token(['pool:read'])
    const streams = [await open(token), await open(token), await open(token)]
    expect(streams.map(({ response }) => response.statusCode)).toEqual([200, 200, 503])
    expect(streams[2]!.response.headers).toMatchObject({ 'content-type': 'application/problem+json', 'retry-after': '10' })
    streams[0]!.response.destroy()
    await eventually('a place is free', async () => (await open(token)).response.statusCode === 200, timeLimitMs(5000))
  })

  it('ends for all when the KME stops, and none begins', async () => {
    const { world, open } = await streaming()
    const token = await world.token(['pool:read'])
    const stream = await open(token)
    world.parts.streams.end()
    await eventually('the end', stream.ended, timeLimitMs(5000))
    expect(stream.response.complete).toBe(true)
    expect((await open(token)).response.statusCode).toBe(503)
  })

  it('drops a reader that reads nothing', async () => {
    const { world, levels, port, pass } = await streaming(1)
    const headers = { authorization: `Bearer ${await world.token(['pool:read'])}` }
    const sent = get({ port, host: '127.0.0.1', path: '/api/v1/pools/events', headers, agent: false })
    sent.on('error', () => undefined)
    let socket: Socket | undefined
    sent.on('socket', (opened: Socket) => (socket = opened))
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    response.pause()
    socket?.pause()
    // Many pools make long events; the system takes some of them in before it refuses more.
    for (let i = 1; i < 2000; i += 1) levels.push(levelOf(kmeId(`kme-${i}`), 10, 0))
    const token = headers.authorization.slice('Bearer '.length)
    await eventually('its place is free', async () => {
      levels[0] = levelOf(kmeId('kme-a'), levels[0]!.mine + 1, 0)
      await pass(1)
      const other = get({
        port,
        host: '127.0.0.1',
        path: '/api/v1/pools/events',
        headers: { authorization: `Bearer ${token}` },
        agent: false,
      })
      const [answer] = (await once(other, 'response')) as [IncomingMessage]
      other.destroy()
      return answer.statusCode === 200
    })
  })
})
