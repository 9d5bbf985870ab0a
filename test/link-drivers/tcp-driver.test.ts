import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals'
import { PassThrough } from 'node:stream'
import type { Duplex } from 'node:stream'
import { systemClock } from '../../src/kernel/clock.ts'
import type { Clock } from '../../src/kernel/clock.ts'
import type { LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { Random } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { encodeFrame } from '../../src/link/drivers/frame-codec.ts'
import { createTcpDriver } from '../../src/link/drivers/tcp-driver.ts'
import type { TcpDriverOptions } from '../../src/link/drivers/tcp-driver.ts'
import type { LinkDriver } from '../../src/link/link.ts'
import { eventually } from '../setup/eventually.ts'
import { describeBlock, read, takeBlocks } from './reader.ts'
import type { Reader } from './reader.ts'
import { block, hello, startScriptedDevice } from './scripted-device.ts'
import type { DeviceConnection, ScriptedDevice } from './scripted-device.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

describe('tcp driver, against a device whose frames are written by hand', () => {
  let device: ScriptedDevice
  const cleanUps: (() => Promise<void>)[] = []

  beforeEach(async () => {
    device = await startScriptedDevice()
    cleanUps.push(() => device.stop())
  })
  afterEach(async () => {
    jest.restoreAllMocks()
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })

  const driverWith = (options: Partial<TcpDriverOptions> = {}): LinkDriver =>
    createTcpDriver({
      host: '127.0.0.1',
      port: device.port,
      linkId: 'A-B' as LinkId,
      creditBlocks: 3,
      connectTimeoutMs: 2_000,
      idleTimeoutMs: 5_000,
      clock: systemClock,
      random: systemRandom,
      ...options,
    })
  const reading = (driver: LinkDriver): Reader => {
    const reader = read(driver)
    cleanUps.push(() => reader.stop())
    return reader
  }
  /** A reader that waits for a block, and the connection it opened for that. */
  const connected = async (driver: LinkDriver) => {
    const reader = reading(driver)
    const first = reader.next()
    first.catch(() => {})
    return { reader, first, connection: await device.nextConnection() }
  }
  const reasons = (reader: Reader, kind: 'rejected' | 'disconnected'): string[] =>
    reader.events.flatMap((event) => (event.kind === kind && 'reason' in event ? [event.reason] : []))
  const creditUntilNow = (connection: DeviceConnection): number =>
    connection.received.reduce((sum, frame) => sum + (frame.type === 'credit' ? frame.blocks : 0), 0)

  it('answers HELLO with its link, the run and where it stands, then gives its credit', async () => {
    const { connection } = await connected(driverWith())
    connection.send(hello('run-1'))
    await connection.expectFrame('credit')
    expect(connection.received).toEqual([
      { type: 'hello', runId: 'run-1', linkName: 'A-B', name: 'OpenKME', resumeFrom: 1 },
      { type: 'credit', blocks: 3 },
    ])
  })

  it('never lets more blocks be outstanding than its credit, and gives one more for each acknowledged', async () => {
    const { reader, first, connection } = await connected(driverWith())
    connection.send(hello('run-1'))
    await connection.expectFrame('credit')
    for (const sequence of [1, 2, 3]) connection.send(block(sequence))
    const blocks = [await first, await reader.next(), await reader.next()]
    expect(creditUntilNow(connection)).toBe(3)
    blocks[1]?.acknowledge()
    blocks[1]?.acknowledge()
    expect(await connection.expectFrame('ack')).toEqual({ type: 'ack', sequence: 2 })
    await eventually('credit for one more', () => creditUntilNow(connection) === 4)
    connection.send(block(4))
    const fourth = await reader.next()
    expect(describeBlock(fourth)).toEqual({ id: 'block-4', qber: 0.03, key: '04'.repeat(32) })
    expect(creditUntilNow(connection)).toBe(4)
    expect(connection.received.filter((frame) => frame.type === 'ack')).toHaveLength(1)
  })

  it('tells a device after a reconnect what it stored, drops doubles, and acknowledges again what the device missed', async () => {
    const { reader, first, connection } = await connected(driverWith({ creditBlocks: 4 }))
    connection.send(hello('run-1'))
    for (const sequence of [1, 2, 3]) connection.send(block(sequence))
    const one = await first
    const two = await reader.next()
    const three = await reader.next()
    const fourth = reader.next()
    connection.socket.destroy()
    one.acknowledge()
    three.acknowledge()

    const again = await device.nextConnection()
    again.send(hello('run-1', 4))
    expect(await again.expectFrame('hello')).toMatchObject({ runId: 'run-1', resumeFrom: 2 })
    for (const sequence of [2, 3, 4]) again.send(block(sequence))
    expect((await fourth).deviceBlock).toBe('block-4')
    expect(await again.expectFrame('ack')).toEqual({ type: 'ack', sequence: 3 })
    two.acknowledge()
    expect(await again.expectFrame('ack')).toEqual({ type: 'ack', sequence: 2 })
    expect(reasons(reader, 'rejected')).toEqual([])
  })

  it('starts anew when the device comes back as another run', async () => {
    const { reader, first, connection } = await connected(driverWith())
    connection.send(hello('run-1'))
    connection.send(block(1))
    const old = await first
    const second = reader.next()
    connection.socket.destroy()
    const again = await device.nextConnection()
    again.send(hello('run-2'))
    expect(await again.expectFrame('hello')).toMatchObject({ runId: 'run-2', resumeFrom: 1 })
    again.send(block(1))
    const fresh = await second
    old.acknowledge()
    fresh.acknowledge()
    await again.expectFrame('ack')
    await eventually('credit for both', () => creditUntilNow(again) === 4)
    expect(again.received.filter((frame) => frame.type === 'ack')).toEqual([{ type: 'ack', sequence: 1 }])
  })

  it('accepts the gaps that an earlier process left by acknowledging out of order', async () => {
    const { reader, first, connection } = await connected(driverWith())
    connection.send(hello('run-1', 10))
    for (const sequence of [5, 8, 10]) connection.send(block(sequence))
    expect([(await first).deviceBlock, (await reader.next()).deviceBlock, (await reader.next()).deviceBlock]).toEqual([
      'block-5',
      'block-8',
      'block-10',
    ])
  })

  const brokenBlock = (): Buffer => {
    const bytes = encodeFrame(block(2))
    bytes.writeUInt8(bytes.readUInt8(40) ^ 1, 40)
    return bytes
  }
  it.each<[string, (connection: DeviceConnection) => void, string]>([
    ['a wrong checksum', (to) => to.sendRaw(brokenBlock()), 'wrong checksum'],
    ['a frame that is too long', (to) => to.sendRaw(Buffer.from('514b44460103ffffffff', 'hex')), 'frame too long'],
    ['an unknown type', (to) => to.sendRaw(Buffer.from('514b4446017f00000000', 'hex')), 'unknown frame type 127'],
    ['bytes that are no frame', (to) => to.sendRaw(Buffer.from('SSH-2.0-OpenSSH')), 'wrong first bytes'],
    ['a gap', (to) => to.send(block(3)), 'out of sequence'],
    ['a block twice', (to) => to.send(block(1)), 'out of sequence'],
    ['more blocks than credit', (to) => [2, 3, 4].forEach((sequence) => to.send(block(sequence))), 'more blocks than credit'],
    ['a second HELLO', (to) => to.send(hello('run-1')), 'HELLO'],
    ['a frame that only drivers send', (to) => to.send({ type: 'credit', blocks: 1 }), 'CREDIT'],
  ])('refuses %s, says so to both sides, reconnects and goes on', async (_what, misbehave, reason) => {
    const { reader, first, connection } = await connected(driverWith())
    connection.send(hello('run-1'))
    connection.send(block(1))
    const one = await first
    misbehave(connection)
    await connection.closed
    expect(reasons(reader, 'rejected')).toEqual([expect.stringContaining(reason)])
    expect(connection.received.at(-1)).toEqual({ type: 'error', reason: expect.stringContaining(reason) })
    const again = await device.nextConnection()
    again.send(hello('run-1', 4))
    for (const sequence of [1, 2, 3]) again.send(block(sequence))
    one.acknowledge()
    const [second, third] = await takeBlocks(reader, 2)
    expect([second?.id, third?.id]).toEqual(['block-2', 'block-3'])
  })

  it.each<[string, (connection: DeviceConnection) => void, string]>([
    ['another link', (to) => to.send(hello('run-1', 1, 'A-C')), 'the device is on link "A-C", not on "A-B"'],
    ['no HELLO first', (to) => to.send(block(1)), 'BLOCK came before HELLO'],
  ])('refuses a device with %s', async (_what, misbehave, reason) => {
    const { reader, connection } = await connected(driverWith())
    misbehave(connection)
    await connection.closed
    await eventually('the end is reported', () => reader.events.length === 2)
    expect(reader.events).toEqual([
      { kind: 'rejected', reason },
      { kind: 'disconnected', reason: `refused: ${reason}` },
    ])
  })

  it('passes on what the device complains of', async () => {
    const { reader, connection } = await connected(driverWith())
    connection.send(hello('run-1'))
    connection.send({ type: 'error', reason: 'laser too hot' })
    await connection.closed
    await eventually('the end is reported', () => reader.events.length === 2)
    expect(reasons(reader, 'disconnected')).toEqual(['the device reports: laser too hot'])
  })

  it('asks a silent device for a sign of life, and leaves one that gives none', async () => {
    const { reader, connection } = await connected(driverWith({ idleTimeoutMs: 1500 }))
    connection.send(hello('run-1'))
    await connection.expectFrame('keepalive')
    await connection.closed
    await eventually('the end is reported', () => reasons(reader, 'disconnected').length === 1)
    expect(reasons(reader, 'disconnected')).toEqual(['the device said nothing for 1500 ms'])
  })

  it('keeps a connection on which only KEEPALIVE is answered', async () => {
    const { reader, first, connection } = await connected(driverWith({ idleTimeoutMs: 3000 }))
    connection.send(hello('run-1'))
    for (let round = 0; round < 4; round += 1) {
      await connection.expectFrame('keepalive')
      connection.send({ type: 'keepalive' })
    }
    connection.send(block(1))
    await first
    expect(reader.events).toEqual([{ kind: 'connected' }])
  })

  it('zeroes the blocks that were waiting when it is stopped, and not the one it delivered', async () => {
    const take = jest.spyOn(SecretBytes, 'take')
    const { reader, first, connection } = await connected(driverWith())
    connection.send(hello('run-1'))
    for (const sequence of [1, 2, 3]) connection.send(block(sequence))
    const delivered = await first
    await eventually('three blocks are received', () => take.mock.results.length === 3)
    const keys = take.mock.results.map((result) => result.value as SecretBytes)
    await reader.stop()
    expect(describeBlock(delivered).key).toBe('01'.repeat(32))
    expect(keys).toHaveLength(3)
    for (const waiting of keys.slice(1)) expect(() => waiting.use(() => {})).toThrow('wiped')
  })

  it('zeroes what it has of a block when the device is cut off in the middle of it', async () => {
    const { reader, first, connection } = await connected(driverWith())
    connection.send(hello('run-1'))
    await connection.expectFrame('credit')
    const bytes = encodeFrame(block(1))
    const allocate = jest.spyOn(Buffer, 'allocUnsafeSlow')
    connection.socket.end(bytes.subarray(0, 60))
    await eventually('the cut is noticed', () => reasons(reader, 'disconnected').length === 1)
    const partly = allocate.mock.results
      .map((result) => result.value as Buffer)
      .find(({ length }) => length === bytes.length - 10)
    expect(partly).toEqual(Buffer.alloc(bytes.length - 10))
    const again = await device.nextConnection()
    again.send(hello('run-1', 2))
    again.send(block(1))
    expect((await first).deviceBlock).toBe('block-1')
    expect(reasons(reader, 'rejected')).toEqual([])
  })

  it('refuses two readings at a time', async () => {
    const driver = driverWith()
    await connected(driver)
    await expect(read(driver).next()).rejects.toThrow('already being read')
  })

  it('throws what the receiver of its reports throws', async () => {
    const blocks = driverWith().blocks(new AbortController().signal, () => {
      throw new Error('the log is full')
    })
    const first = blocks[Symbol.asyncIterator]().next()
    const connection = await device.nextConnection()
    connection.send(hello('run-1'))
    await expect(first).rejects.toThrow('the log is full')
  })
})

describe('tcp driver, when it cannot connect', () => {
  const options = { host: 'device.invalid', port: 1, linkId: 'A-B' as LinkId, creditBlocks: 1, idleTimeoutMs: 5_000 }
  /** Half of the range of every draw. */
  const evenRandom: Random = {
    fill: (target) => target.fill(128),
    uuid: () => systemRandom.uuid(),
  }

  /** A clock on which only the sleeps that `passes` accepts are over, at once. */
  const clockThat = (passes: (durationMs: number) => boolean, slept: number[]): Clock => ({
    ...systemClock,
    sleep: async (durationMs, signal) => {
      slept.push(durationMs)
      if (passes(durationMs)) await new Promise((resolve) => setImmediate(resolve))
      else await systemClock.sleep(60_000, signal)
    },
  })

  it('waits twice as long after every failure, up to a limit, with jitter', async () => {
    const slept: number[] = []
    const driver = createTcpDriver({
      ...options,
      connectTimeoutMs: 77_777,
      clock: clockThat((durationMs) => durationMs !== 77_777, slept),
      random: evenRandom,
      connect: () => Promise.reject(new Error('refused')),
    })
    const reader = read(driver)
    reader.next().catch(() => {})
    await eventually('ten failures', () => reader.events.length >= 10)
    await reader.stop()
    expect(reader.events[0]).toEqual({ kind: 'disconnected', reason: 'cannot connect: refused' })
    const delaysMs = slept.filter((durationMs) => durationMs !== 77_777).slice(0, 9)
    const jitter = 0.5 * (1 + 0x80808080 / 2 ** 32)
    const expectedMs = [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000].map((wholeMs) => wholeMs * jitter)
    for (const [index, delayMs] of delaysMs.entries()) expect(delayMs).toBeCloseTo(expectedMs[index] ?? NaN)
  })

  it('gives up a connection that does not open in time, and closes it if it opens after all', async () => {
    const late = Promise.withResolvers<Duplex>()
    const signals: AbortSignal[] = []
    const driver = createTcpDriver({
      ...options,
      connectTimeoutMs: 2_000,
      clock: clockThat((durationMs) => durationMs === 2_000 && signals.length === 1, []),
      random: systemRandom,
      connect: (_host, _port, signal) => {
        signals.push(signal)
        return late.promise
      },
    })
    const reader = read(driver)
    reader.next().catch(() => {})
    await eventually('the attempt is given up', () => reader.events.length === 1)
    expect(reader.events).toEqual([{ kind: 'disconnected', reason: 'cannot connect: no answer within 2000 ms' }])
    expect(signals[0]?.aborted).toBe(true)
    const stream = new PassThrough()
    late.resolve(stream)
    await eventually('the late stream is closed', () => stream.destroyed)
    await reader.stop()
  })

  it('ends promptly while it is connecting', async () => {
    const driver = createTcpDriver({
      ...options,
      connectTimeoutMs: 60_000,
      clock: systemClock,
      random: systemRandom,
      connect: () => new Promise(() => {}),
    })
    const reader = read(driver)
    const ended = expect(reader.next()).rejects.toThrow('the driver ended')
    const startMs = performance.now()
    await reader.stop()
    await ended
    expect(performance.now() - startMs).toBeLessThan(timeLimitMs(5_000))
    expect(reader.events).toEqual([])
  })

  it('refuses a credit that makes no sense', () => {
    for (const creditBlocks of [0, -1, 1.5, 65_536]) {
      expect(() =>
        createTcpDriver({ ...options, creditBlocks, connectTimeoutMs: 1, clock: systemClock, random: systemRandom }),
      ).toThrow(RangeError)
    }
  })
})
