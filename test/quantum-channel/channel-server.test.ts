import { afterEach, describe, expect, it } from '@jest/globals'
import { once } from 'node:events'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { profileNamed } from '../../src/bb84/profile.ts'
import { basesBytes, pulsesBytes } from '../../src/bb84/pulse-source.ts'
import { createChannelServer } from '../../src/quantum-channel/channel-server.ts'
import type { ChannelServerOptions } from '../../src/quantum-channel/channel-server.ts'
import { createQuantumChannel } from '../../src/quantum-channel/channel.ts'
import { seededStreams } from '../bb84/seeded-random.ts'
import { eventually } from '../setup/eventually.ts'
import { connectStation, helloOf } from './station.ts'

const SLOTS = 4_096
const profile = profileNamed('metro', { distanceKm: 0 })

describe('quantum channel server', () => {
  const cleanUps: (() => unknown)[] = []
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })

  const started = async (options: Partial<ChannelServerOptions> = {}) => {
    const server = createChannelServer({
      host: '127.0.0.1',
      portA: 0,
      portB: 0,
      controlPort: 0,
      linkId: 'a-b',
      profile,
      streams: seededStreams('server'),
      ...options,
    })
    await server.start()
    cleanUps.push(() => server.stop())
    const station = async (role: 'alice' | 'bob', sessionId?: string) => {
      const end = await connectStation(server.ports[role])
      cleanUps.push(end.end)
      if (sessionId === undefined) return end
      end.send(helloOf(role, sessionId))
      await end.take('hello-ok')
      return end
    }
    return { server, station }
  }
  /** Signal pulses of value 1 in basis X. */
  const pulsesOf = (slots = SLOTS) => new Uint8Array(pulsesBytes(slots)).fill(0x11)
  const burstOf = (burst: number) => ({ type: 'pulses', burst, slots: SLOTS, pulses: pulsesOf() }) as const
  const basesOf = (burst: number) => ({ type: 'bases', burst, bases: new Uint8Array(basesBytes(SLOTS)) }) as const

  it('carries bursts from Alice to Bob, as the channel alone would with the same random streams', async () => {
    const { server, station } = await started()
    const alice = await station('alice', 'one')
    const bob = await station('bob', 'one')
    const streams = seededStreams('server')
    const channel = createQuantumChannel({ profile: { ...profile, intensities: [0.6, 0.3, 0] } })
    for (const burst of [0, 1, 2, 3]) alice.send(burstOf(burst))
    let clicks = 0
    for (const burst of [0, 1, 2, 3]) {
      expect(await bob.take('arrival')).toEqual({ type: 'arrival', burst, slots: SLOTS })
      bob.send(basesOf(burst))
    }
    for (const burst of [0, 1, 2, 3]) {
      const found = await bob.take('clicks')
      const expected = channel.transmit(pulsesOf(), basesOf(burst).bases, SLOTS, streams(`channel:${burst}`))
      expect(found.burst).toBe(burst)
      expect(found.slots).toEqual(expected.slots)
      expect([...found.patterns]).toEqual([...expected.patterns])
      clicks += found.slots.length
    }
    expect(clicks).toBeGreaterThan(100)
    expect(server.status()).toMatchObject({
      linkId: 'a-b',
      profile: 'metro',
      eve: { attack: 'off' },
      bursts: 4,
      pulses: 4 * SLOTS,
      clicks,
      lostBursts: 0,
      connected: { alice: true, bob: true },
    })
    expect(alice.inbox).toEqual([])
  })

  it('loses the light when no Bob of the session is there', async () => {
    const { server, station } = await started()
    const alice = await station('alice', 'one')
    alice.send(burstOf(0))
    await eventually('the burst is lost', () => server.status().lostBursts === 1)
    const other = await station('bob', 'two')
    alice.send(burstOf(1))
    await eventually('the burst is lost', () => server.status().lostBursts === 2)
    const bob = await station('bob', 'one')
    expect((await other.take('error')).reason).toContain('replaced')
    await other.closed()
    alice.send(burstOf(2))
    expect(await bob.take('arrival')).toMatchObject({ burst: 2 })
    expect(server.status().lostBursts).toBe(2)
  })

  it('goes over to a new session when both stations do, and forgets what the old one had under way', async () => {
    const { server, station } = await started()
    const alice = await station('alice', 'one')
    const bob = await station('bob', 'one')
    alice.send(burstOf(0))
    await bob.take('arrival')
    const newBob = await station('bob', 'two')
    await bob.closed()
    const newAlice = await station('alice', 'two')
    await alice.closed()
    newAlice.send(burstOf(0))
    await newBob.take('arrival')
    newBob.send(basesOf(0))
    expect((await newBob.take('clicks')).slots.length).toBeGreaterThan(0)
    expect(server.status()).toMatchObject({ bursts: 1, lostBursts: 1 })
  })

  it('lets a replaced connection do nothing more', async () => {
    const { server, station } = await started()
    const first = await station('alice', 'one')
    const bob = await station('bob', 'one')
    const second = await station('alice', 'one')
    expect((await first.take('error')).reason).toContain('replaced')
    first.send(burstOf(5))
    await first.closed()
    second.send(burstOf(6))
    expect(await bob.take('arrival')).toMatchObject({ burst: 6 })
    expect(server.status().connected).toEqual({ alice: true, bob: true })
  })

  it('makes Alice wait for a Bob who does not measure, and loses nothing', async () => {
    const { server, station } = await started()
    const alice = await station('alice', 'one')
    const bob = await station('bob', 'one')
    const total = 3_000
    for (let burst = 0; burst < total; burst += 1) alice.send(burstOf(burst))
    await bob.take('arrival')
    // 6 MB are on their way; what the emulator has not read is still at Alice's.
    expect(alice.socket.writableLength).toBeGreaterThan(0)
    bob.send(basesOf(0))
    for (let burst = 1; burst < total;) {
      const frame = await eventually('a frame', () => bob.inbox.shift())
      if (frame.type !== 'arrival') continue
      expect(frame.burst).toBe(burst)
      bob.send(basesOf(burst))
      burst += 1
    }
    await eventually('all are measured', () => server.status().bursts === total)
    expect(server.status().lostBursts).toBe(0)
  })

  it('says that a station has gone', async () => {
    const { server, station } = await started()
    const alice = await station('alice', 'one')
    alice.end()
    await eventually('she is gone', () => !server.status().connected.alice)
  })

  it.each<readonly [string, 'alice' | 'bob', Parameters<typeof helloOf>, string]>([
    ['of another link', 'alice', ['alice', 'one', { linkId: 'b-c' }], 'this fibre is link "a-b"'],
    ['at the wrong end', 'alice', ['bob'], 'this is the end of alice'],
    ['at the wrong end', 'bob', ['alice'], 'this is the end of bob'],
  ])('refuses a station %s (%s)', async (_what, end, hello, reason) => {
    const { server, station } = await started()
    const before = await station(end, 'one')
    const stranger = await station(end)
    stranger.send(helloOf(...hello))
    expect((await stranger.take('error')).reason).toBe(reason)
    await stranger.closed()
    expect(before.socket.destroyed).toBe(false)
    expect(server.status().connected[end]).toBe(true)
  })

  it('takes a station of any link when it knows none', async () => {
    const { station } = await started({ linkId: '' })
    const alice = await station('alice')
    alice.send(helloOf('alice', 'one', { linkId: 'whatever' }))
    await alice.take('hello-ok')
  })

  it('refuses pulses before HELLO, a second HELLO, bursts longer than said, and bases nobody asked for', async () => {
    const { station } = await started()
    const early = await station('alice')
    early.send(burstOf(0))
    expect((await early.take('error')).reason).toContain('PULSES is not expected')
    const twice = await station('alice', 'one')
    twice.send(helloOf('alice'))
    expect((await twice.take('error')).reason).toContain('HELLO is not expected')
    const bob = await station('bob', 'one')
    const long = await station('alice', 'one')
    long.send({ type: 'pulses', burst: 0, slots: SLOTS + 1, pulses: new Uint8Array(pulsesBytes(SLOTS + 1)) })
    expect((await long.take('error')).reason).toContain('longer than HELLO said')
    bob.send(basesOf(0))
    expect((await bob.take('error')).reason).toContain('not for the burst')
    for (const end of [early, twice, bob, long]) await end.closed()
  })

  it('refuses bases that do not fit the burst', async () => {
    const { station } = await started()
    const alice = await station('alice', 'one')
    const bob = await station('bob', 'one')
    alice.send(burstOf(0))
    await bob.take('arrival')
    bob.send({ type: 'bases', burst: 0, bases: new Uint8Array(1) })
    expect((await bob.take('error')).reason).toContain('does not fit')
  })

  it('survives noise on its ports', async () => {
    const { server, station } = await started()
    for (const role of ['alice', 'bob'] as const) {
      const noise = await station(role)
      noise.sendBytes(Buffer.from('GET / HTTP/1.1\r\n\r\n'))
      await noise.take('error')
      await noise.closed()
    }
    const alice = await station('alice', 'one')
    const bob = await station('bob', 'one')
    alice.send(burstOf(0))
    await bob.take('arrival')
    expect(server.status().connected).toEqual({ alice: true, bob: true })
  })

  it('opens none of its ports when one is taken', async () => {
    const { server } = await started()
    const second = createChannelServer({
      host: '127.0.0.1',
      portA: 0,
      portB: server.ports.bob,
      linkId: '',
      profile,
      streams: seededStreams('second'),
    })
    await expect(second.start()).rejects.toThrow('EADDRINUSE')
    await expect(connectStation(second.ports.alice)).rejects.toThrow('ECONNREFUSED')
  })

  describe('control port', () => {
    const speak = async (port: number) => {
      const socket = connect(port, '127.0.0.1')
      await once(socket, 'connect')
      cleanUps.push(() => socket.destroy())
      const lines = createInterface({ input: socket })[Symbol.asyncIterator]()
      return {
        socket,
        say: async (line: string): Promise<string> => {
          socket.write(`${line}\n`)
          return (await lines.next()).value as string
        },
      }
    }

    it('changes Eve while the light is on, and tells what it did', async () => {
      const { server, station } = await started()
      const alice = await station('alice', 'one')
      const bob = await station('bob', 'one')
      const { say } = await speak(server.ports.control)
      const errorsOf = async (burst: number) => {
        alice.send(burstOf(burst))
        await bob.take('arrival')
        bob.send(basesOf(burst))
        const { patterns } = await bob.take('clicks')
        return patterns.filter((pattern) => pattern === 1).length / patterns.length
      }
      expect(await errorsOf(0)).toBeLessThan(0.05)
      expect(await say('eve intercept 1')).toBe('ok')
      expect(await errorsOf(1)).toBeGreaterThan(0.15)
      expect(JSON.parse(await say('status'))).toMatchObject({ eve: { attack: 'intercept', fraction: 1 }, bursts: 2 })
      expect(await say('eve split')).toBe('ok')
      expect(JSON.parse(await say('status'))).toMatchObject({ eve: { attack: 'split' } })
      expect(await say('  eve   off ')).toBe('ok')
      expect(await errorsOf(2)).toBeLessThan(0.05)
    })

    it.each([
      ['eve', 'say one of: eve intercept <0..1> | eve split | eve off | status | quit'],
      ['eve intercept', 'say one of'],
      ['eve intercept 2', 'must be between 0 and 1'],
      ['eve intercept x', 'must be between 0 and 1'],
      ['eve split 1', 'say one of'],
      ['eve off now', 'say one of'],
      ['status please', 'say one of'],
      ['help', 'say one of'],
    ])('answers %j and changes nothing', async (line, answer) => {
      const { server } = await started({ eve: { attack: 'intercept', fraction: 0.25 } })
      const { say } = await speak(server.ports.control)
      expect(await say(line)).toContain(answer)
      expect(server.status().eve).toEqual({ attack: 'intercept', fraction: 0.25 })
    })

    it('passes on that it is asked to stop', async () => {
      const { server } = await started()
      const { say } = await speak(server.ports.control)
      expect(await say('quit')).toBe('stopping')
      await server.quitAsked
    })

    it('hangs up on who never ends a line', async () => {
      const { server } = await started()
      const { socket } = await speak(server.ports.control)
      const closed = once(socket, 'close')
      socket.on('error', () => undefined)
      socket.write('x'.repeat(5_000))
      await closed
      expect((await speak(server.ports.control)).socket.destroyed).toBe(false)
    })

    it('is there only when asked for', async () => {
      const server = createChannelServer({
        host: '127.0.0.1',
        portA: 0,
        portB: 0,
        linkId: '',
        profile,
        streams: seededStreams('no control'),
      })
      await server.start()
      cleanUps.push(() => server.stop())
      expect(server.ports.control).toBe(0)
    })
  })
})
