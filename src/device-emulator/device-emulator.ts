/** A pair of emulated QKD devices: two TCP ports that deliver the same blocks of random key under the same block IDs,
 *  as the two ends of a real link do (docs/device-protocol.md). For demos, trials and tests; its keys come from the
 *  random source of this machine, not from quantum physics.
 *  Holds: a block that both ends get is equal at both unless corruption is asked for; each end has a finite buffer and
 *  the pair stops producing while either is full, so a slow or absent KME loses nothing. */
import { systemClock } from '../kernel/clock.ts'
import type { Clock } from '../kernel/clock.ts'
import { drawUniform, systemRandom, type Random } from '../kernel/random.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { MAX_KEY_BYTES } from '../link/drivers/frame-codec.ts'
import { createDeviceEnd } from './device-end.ts'

export type EndName = 'a' | 'b'

export interface DeviceEmulatorOptions {
  readonly host?: string
  /** 0 takes any free port. */
  readonly portA?: number
  readonly portB?: number
  /** Name of the link both devices are on; empty when they do not know it. */
  readonly linkName?: string
  readonly blockBytes?: number
  readonly rateBlocksPerS?: number
  /** No more blocks than this; unlimited unless given. */
  readonly totalBlocks?: number
  /** Mean quantum bit error rate, 0 to 1; a block's own value scatters as an estimate from its bits would. */
  readonly qberMean?: number
  /** Probability that a block reaches one end only. */
  readonly lossProbability?: number
  /** Probability that one bit of a block is wrong at one end. */
  readonly corruptionProbability?: number
  /** How many unacknowledged blocks each end keeps. */
  readonly bufferBlocks?: number
  readonly startPaused?: boolean
  readonly clock?: Clock
  readonly random?: Random
}

export interface EmulatorStatus {
  readonly producedBlocks: number
  readonly lostBlocks: number
  readonly corruptedBlocks: number
  readonly paused: boolean
  readonly rateBlocksPerS: number
  readonly lossProbability: number
  readonly corruptionProbability: number
  readonly ends: Readonly<Record<EndName, { readonly connected: boolean; readonly heldBlocks: number }>>
}

export interface DeviceEmulator {
  /** The ports in use; 0 before `start` has resolved. */
  readonly ports: Readonly<Record<EndName, number>>
  /** Opens both ports and starts to produce unless paused. @throws when a port cannot be opened. */
  start(): Promise<void>
  pause(): void
  resume(): void
  /** @throws RangeError unless 0 or more. */
  setRate(blocksPerS: number): void
  /** @throws RangeError unless between 0 and 1. */
  setLoss(probability: number): void
  /** @throws RangeError unless between 0 and 1. */
  setCorruption(probability: number): void
  /** Cuts the connections of both ends, or of one. */
  dropConnections(end?: EndName): void
  produced(): number
  status(): EmulatorStatus
  /** Closes the ports and zeroes all blocks. */
  stop(): Promise<void>
}

/** @throws RangeError when an option is out of range. */
export const createDeviceEmulator = (options: DeviceEmulatorOptions = {}): DeviceEmulator => {
  const { host = '127.0.0.1', portA = 0, portB = 0, linkName = '', clock = systemClock, random = systemRandom } = options
  const blockBytes = requireWhole('block size in bytes', options.blockBytes ?? 8192, MAX_KEY_BYTES)
  const bufferBlocks = requireWhole('buffer in blocks', options.bufferBlocks ?? 1024, 1_000_000)
  const totalBlocks = options.totalBlocks ?? Infinity
  const qberMean = requireProbability('QBER', options.qberMean ?? 0.02)
  let rate = requireRate(options.rateBlocksPerS ?? 10)
  let loss = requireProbability('loss', options.lossProbability ?? 0)
  let corruption = requireProbability('corruption', options.corruptionProbability ?? 0)
  let paused = options.startPaused ?? false
  let producedBlocks = 0
  let lostBlocks = 0
  let corruptedBlocks = 0

  // A new run ID at every start keeps block IDs unique for ever although the counter starts again.
  const runId = random.uuid()
  const stopping = new AbortController()
  let changed = new AbortController()
  const onChange = (): void => {
    changed.abort()
    changed = new AbortController()
  }
  const newEnd = (name: EndName) =>
    createDeviceEnd({ runId, linkName, name: `emulator-${name}`, onAcknowledged: () => waitsForRoom && onChange() })
  const ends = { a: newEnd('a'), b: newEnd('b') }
  const ports = { a: 0, b: 0 }
  let waitsForRoom = false
  let producing: Promise<void> = Promise.resolve()

  const isFull = (): boolean => ends.a.heldBlocks() >= bufferBlocks || ends.b.heldBlocks() >= bufferBlocks

  const keepProducing = async (): Promise<void> => {
    let owedBlocks = 0
    let beforeMs = clock.monotonicMs()
    while (!stopping.signal.aborted && producedBlocks < totalBlocks) {
      waitsForRoom = isFull()
      if (paused || rate === 0 || waitsForRoom) {
        await untilAborted(changed.signal)
        owedBlocks = 0
        beforeMs = clock.monotonicMs()
        continue
      }
      await clock.sleep(Math.max(1, ((1 - owedBlocks) * 1000) / rate), changed.signal)
      const nowMs = clock.monotonicMs()
      // What fell due is capped, so that a pause of the whole process is not followed by a burst.
      owedBlocks = Math.min(owedBlocks + ((nowMs - beforeMs) * rate) / 1000, Math.max(1, rate))
      beforeMs = nowMs
      while (owedBlocks >= 1 && !stopping.signal.aborted && !paused && !isFull() && producedBlocks < totalBlocks) {
        produce()
        owedBlocks -= 1
      }
    }
  }

  const produce = (): void => {
    producedBlocks += 1
    const deviceBlock = `${runId}-${producedBlocks}`
    const qber = drawQber(qberMean, blockBytes * 8, random)
    const lostAt = draw(loss)
    const corruptAt = lostAt === undefined ? draw(corruption) : undefined
    if (lostAt) lostBlocks += 1
    if (corruptAt) corruptedBlocks += 1
    const original = random.fill(Buffer.allocUnsafeSlow(blockBytes))
    for (const end of ['a', 'b'] as const) {
      if (end === lostAt) continue
      const copy = Buffer.allocUnsafeSlow(blockBytes)
      original.copy(copy)
      if (end === corruptAt) flipOneBit(copy)
      ends[end].offer({ deviceBlock, qber, key: SecretBytes.adopt(copy) })
    }
    original.fill(0)
  }

  /** @returns the end that something happens at, or undefined when nothing does. */
  const draw = (probability: number): EndName | undefined => {
    if (drawUniform(random) >= probability) return undefined
    return drawUniform(random) < 0.5 ? 'a' : 'b'
  }

  const flipOneBit = (bytes: Buffer): void => {
    const bit = Math.floor(drawUniform(random) * bytes.length * 8)
    const index = bit >> 3
    bytes.writeUInt8(bytes.readUInt8(index) ^ (1 << (bit & 7)), index)
  }

  const stop = async (): Promise<void> => {
    stopping.abort()
    onChange()
    await producing
    await Promise.all([ends.a.stop(), ends.b.stop()])
  }

  return {
    ports,
    start: async () => {
      try {
        ports.a = await ends.a.listen(host, portA)
        ports.b = await ends.b.listen(host, portB)
      } catch (error) {
        await stop()
        throw error
      }
      producing = keepProducing()
    },
    pause: () => {
      paused = true
      onChange()
    },
    resume: () => {
      paused = false
      onChange()
    },
    setRate: (blocksPerS) => {
      rate = requireRate(blocksPerS)
      onChange()
    },
    setLoss: (probability) => {
      loss = requireProbability('loss', probability)
    },
    setCorruption: (probability) => {
      corruption = requireProbability('corruption', probability)
    },
    dropConnections: (end) => {
      if (end !== 'b') ends.a.dropConnection()
      if (end !== 'a') ends.b.dropConnection()
    },
    produced: () => producedBlocks,
    status: () => ({
      producedBlocks,
      lostBlocks,
      corruptedBlocks,
      paused,
      rateBlocksPerS: rate,
      lossProbability: loss,
      corruptionProbability: corruption,
      ends: {
        a: { connected: ends.a.connected(), heldBlocks: ends.a.heldBlocks() },
        b: { connected: ends.b.connected(), heldBlocks: ends.b.heldBlocks() },
      },
    }),
    stop,
  }
}

const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))

/** Twelve even draws less six are close to a normal one. */
const drawQber = (mean: number, bits: number, random: Random): number => {
  let normal = -6
  for (let draws = 0; draws < 12; draws += 1) normal += drawUniform(random)
  return Math.min(1, Math.max(0, mean + normal * Math.sqrt((mean * (1 - mean)) / bits)))
}

const requireProbability = (what: string, value: number): number => {
  if (!(value >= 0 && value <= 1)) throw new RangeError(`${what} must be between 0 and 1`)
  return value
}

const requireRate = (blocksPerS: number): number => {
  if (!(blocksPerS >= 0 && blocksPerS <= 100_000)) throw new RangeError('rate must be 0 to 100000 blocks per second')
  return blocksPerS
}

const requireWhole = (what: string, value: number, max: number): number => {
  if (!Number.isInteger(value) || value < 1 || value > max)
    throw new RangeError(`${what} must be a whole number from 1 to ${max}`)
  return value
}
