import { afterEach, describe, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import type { LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { obeyControlLine } from '../../src/device-emulator/control-line.ts'
import { createDeviceEmulator } from '../../src/device-emulator/device-emulator.ts'
import type { DeviceEmulator, DeviceEmulatorOptions, EndName } from '../../src/device-emulator/device-emulator.ts'
import { createTcpDriver } from '../../src/link/drivers/tcp-driver.ts'
import { eventually } from '../setup/eventually.ts'
import { read, takeBlocks } from './reader.ts'
import type { Reader } from './reader.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

describe('device emulator', () => {
  const cleanUps: (() => Promise<void>)[] = []
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })

  const started = async (options: DeviceEmulatorOptions): Promise<DeviceEmulator> => {
    const emulator = createDeviceEmulator({ rateBlocksPerS: 2_000, blockBytes: 32, ...options })
    await emulator.start()
    cleanUps.push(() => emulator.stop())
    return emulator
  }
  const readEnd = (emulator: DeviceEmulator, end: EndName, linkId = 'A-B'): Reader => {
    const driver = createTcpDriver({
      host: '127.0.0.1',
      port: emulator.ports[end],
      linkId: linkId as LinkId,
      creditBlocks: 8,
      connectTimeoutMs: 2_000,
      idleTimeoutMs: 5_000,
      clock: systemClock,
      random: systemRandom,
    })
    const reader = read(driver)
    cleanUps.push(() => reader.stop())
    return reader
  }
  /** Everything both ends hold once the emulator has made all its blocks. */
  const takeAll = async (emulator: DeviceEmulator, totalBlocks: number) => {
    await eventually('all blocks are made', () => emulator.produced() === totalBlocks)
    const { a, b } = emulator.status().ends
    return Promise.all([takeBlocks(readEnd(emulator, 'a'), a.heldBlocks), takeBlocks(readEnd(emulator, 'b'), b.heldBlocks)])
  }
  const bitsApart = (one: string, other: string): number => {
    const bytes = Buffer.from(other, 'hex')
    return Buffer.from(one, 'hex').reduce((sum, byte, index) => {
      const difference = byte ^ bytes.readUInt8(index)
      return sum + difference.toString(2).replaceAll('0', '').length
    }, 0)
  }

  it('loses the blocks it is told to lose at one end only, and says how many', async () => {
    const emulator = await started({ lossProbability: 0.5, totalBlocks: 200 })
    const [a, b] = await takeAll(emulator, 200)
    const idsA = new Set(a.map((block) => block.id))
    const idsB = new Set(b.map((block) => block.id))
    const common = a.filter((block) => idsB.has(block.id))
    expect(new Set([...idsA, ...idsB]).size).toBe(200)
    expect(200 - common.length).toBe(emulator.status().lostBlocks)
    // 200 draws at one half: outside 50 to 150 less often than once in 10^11 runs.
    expect(common.length).toBeGreaterThan(50)
    expect(common.length).toBeLessThan(150)
    expect(idsA.size).toBeLessThan(200)
    expect(idsB.size).toBeLessThan(200)
    expect(common).toEqual(b.filter((block) => idsA.has(block.id)))
  })

  it('flips exactly one bit at one end in the blocks it is told to corrupt', async () => {
    const emulator = await started({ corruptionProbability: 0.5, totalBlocks: 100 })
    const [a, b] = await takeAll(emulator, 100)
    const apart = a.map((block, index) => bitsApart(block.key, b[index]?.key ?? ''))
    expect(apart.filter((bits) => bits === 1)).toHaveLength(emulator.status().corruptedBlocks)
    expect(apart.every((bits) => bits <= 1)).toBe(true)
    expect(emulator.status().corruptedBlocks).toBeGreaterThan(15)
    expect(emulator.status().corruptedBlocks).toBeLessThan(85)
  })

  it('makes equal blocks at both ends when nothing is to go wrong', async () => {
    const emulator = await started({ totalBlocks: 40 })
    const [a, b] = await takeAll(emulator, 40)
    expect(a).toEqual(b)
    expect(emulator.status()).toMatchObject({ lostBlocks: 0, corruptedBlocks: 0 })
  })

  it('measures a QBER around its mean', async () => {
    const emulator = await started({ totalBlocks: 200, qberMean: 0.05, blockBytes: 1_024 })
    const [a] = await takeAll(emulator, 200)
    const values = a.map((block) => block.qber ?? NaN)
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length
    expect(mean).toBeCloseTo(0.05, 2)
    expect(new Set(values).size).toBeGreaterThan(20)
  })

  it('stops when the buffer of either end is full, loses nothing, and goes on when there is room', async () => {
    const emulator = await started({ bufferBlocks: 20 })
    const a = readEnd(emulator, 'a')
    const ofA = await takeBlocks(a, 20)
    // End b has no reader: its buffer is full.
    await eventually('both wait for end b', () => emulator.status().ends.b.heldBlocks === 20)
    const stuckAt = emulator.produced()
    expect(stuckAt).toBe(20)
    const [more, ofB] = await Promise.all([takeBlocks(a, 40), takeBlocks(readEnd(emulator, 'b'), 60)])
    expect([...ofA, ...more]).toEqual(ofB)
  })

  it('pauses, resumes and changes pace while it runs', async () => {
    const emulator = await started({ startPaused: true })
    expect(emulator.status()).toMatchObject({ producedBlocks: 0, paused: true })
    emulator.resume()
    await eventually('it produces', () => emulator.produced() > 0)
    emulator.pause()
    const pausedAt = emulator.produced()
    await systemClock.sleep(20)
    expect(emulator.produced()).toBe(pausedAt)
    emulator.setRate(0)
    emulator.resume()
    await systemClock.sleep(20)
    expect(emulator.produced()).toBe(pausedAt)
    emulator.setRate(2_000)
    await eventually('it produces again', () => emulator.produced() > pausedAt)
  })

  it('keeps to its rate', async () => {
    const startMs = performance.now()
    const emulator = await started({ rateBlocksPerS: 200, totalBlocks: 40 })
    await eventually('40 blocks', () => emulator.produced() === 40)
    const tookMs = performance.now() - startMs
    expect(tookMs).toBeGreaterThan(180)
    expect(tookMs).toBeLessThan(timeLimitMs(5_000))
  })

  it('never uses a block ID again after a restart', async () => {
    const first = await started({ totalBlocks: 5 })
    const [before] = await takeAll(first, 5)
    await first.stop()
    const second = await started({ totalBlocks: 5 })
    const [after] = await takeAll(second, 5)
    expect(new Set([...before, ...after].map((block) => block.id)).size).toBe(10)
  })

  it('refuses the driver of another link', async () => {
    const emulator = await started({ linkName: 'A-B' })
    await takeBlocks(readEnd(emulator, 'a', 'A-B'), 1)
    const wrong = readEnd(emulator, 'b', 'A-C')
    wrong.next().catch(() => {})
    await eventually('the link is refused', () => wrong.events.some((event) => event.kind === 'rejected'))
    expect(wrong.events[0]).toEqual({ kind: 'rejected', reason: 'the device is on link "A-B", not on "A-C"' })
  })

  it('lets the newest connection of an end win', async () => {
    const emulator = await started({ totalBlocks: 3 })
    const old = readEnd(emulator, 'a')
    await takeBlocks(old, 1)
    old.next().catch(() => {})
    const taken = takeBlocks(readEnd(emulator, 'a'), 2)
    await eventually('the old one is cut', () => old.events.some((event) => event.kind === 'disconnected'))
    await old.stop()
    expect(await taken).toHaveLength(2)
  })

  it('refuses options out of range, and a port in use', async () => {
    expect(() => createDeviceEmulator({ lossProbability: 1.5 })).toThrow(RangeError)
    expect(() => createDeviceEmulator({ corruptionProbability: -1 })).toThrow(RangeError)
    expect(() => createDeviceEmulator({ blockBytes: 0 })).toThrow(RangeError)
    expect(() => createDeviceEmulator({ blockBytes: 2_000_000 })).toThrow(RangeError)
    expect(() => createDeviceEmulator({ rateBlocksPerS: -1 })).toThrow(RangeError)
    const emulator = await started({})
    await expect(createDeviceEmulator({ portA: emulator.ports.a }).start()).rejects.toThrow('EADDRINUSE')
  })

  it('obeys lines typed at it and answers those it does not know', async () => {
    const emulator = await started({ startPaused: true })
    const say = (line: string) => obeyControlLine(emulator, line)
    expect(say('rate 5')).toEqual({ text: 'ok', quit: false })
    expect(say('loss 0.1').text).toBe('ok')
    expect(say(' corrupt  0.2 ').text).toBe('ok')
    expect(JSON.parse(say('status').text)).toMatchObject({
      paused: true,
      rateBlocksPerS: 5,
      lossProbability: 0.1,
      corruptionProbability: 0.2,
      ends: { a: { connected: false, heldBlocks: 0 }, b: { connected: false, heldBlocks: 0 } },
    })
    expect(say('resume').text).toBe('ok')
    expect(emulator.status().paused).toBe(false)
    expect(say('pause').text).toBe('ok')
    expect(emulator.status().paused).toBe(true)
    expect(say('drop').text).toBe('ok')
    for (const wrong of ['loss 2', 'loss', 'rate -1', 'rate x', 'corrupt NaN']) expect(say(wrong).text).toContain('must be')
    for (const wrong of ['help', 'rate 5 6', '']) expect(say(wrong).text).toContain('say one of')
    expect(emulator.status()).toMatchObject({ rateBlocksPerS: 5, lossProbability: 0.1, corruptionProbability: 0.2 })
    expect(say('quit').quit).toBe(true)
  })
})
