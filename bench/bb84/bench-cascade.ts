/** Cascade alone, both ends in this process: parities disclosed, rounds, frames left unequal, and CPU time. */
import { cascadePlan } from '../../src/bb84/cascade/cascade-plan.ts'
import { createCorrector } from '../../src/bb84/cascade/corrector.ts'
import { createResponder } from '../../src/bb84/cascade/responder.ts'
import { xoshiro128pp } from '../../src/bb84/cascade/xoshiro.ts'

export interface CascadePoint {
  readonly frameBits: number
  /** Of the simulated channel; the plan is made for it. */
  readonly qber: number
  readonly frames: number
  /** The same number gives the same frames and shuffles. */
  readonly seed: number
}

export interface CascadeFigures extends CascadePoint {
  /** Mean parities disclosed per frame over n h(q). That a run draws more or fewer errors than n q on average is taken
   *  out by regression on the number of errors. */
  readonly f: number
  /** Its standard error. */
  readonly fError: number
  /** Messages from Alice per frame, and the standard error. */
  readonly rounds: number
  readonly roundsError: number
  /** Frames that ended unequal. */
  readonly frameErrors: number
  /** Of sifted key per second of CPU time of both ends, the shuffles of every block included. */
  readonly mbitPerCpuSecond: number
}

export const BENCH_FRAME_BITS: readonly number[] = [2 ** 14, 2 ** 16]
export const BENCH_QBERS: readonly number[] = [0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.11]
/** The frames of one block share a seed. */
const BLOCK_BITS = 1_000_000

/** h(q) in bits. */
export const binaryEntropy = (q: number): number => (q <= 0 || q >= 1 ? 0 : -q * Math.log2(q) - (1 - q) * Math.log2(1 - q))

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

const standardError = (values: readonly number[]): number => {
  const middle = mean(values)
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0)
  return Math.sqrt(squares / (values.length - 1) / values.length)
}

/** `values` less what their regression on `cause` explains of its deviation from `expected`. */
const withoutCause = (values: readonly number[], cause: readonly number[], expected: number): number[] => {
  const [value, middle] = [mean(values), mean(cause)]
  const variance = cause.reduce((sum, x) => sum + (x - middle) ** 2, 0)
  const covariance = cause.reduce((sum, x, index) => sum + (x - middle) * (values[index]! - value), 0)
  const slope = variance === 0 ? 0 : covariance / variance
  return values.map((y, index) => y - slope * (cause[index]! - expected))
}

/** @throws RangeError when there are fewer than three frames, or the point is not one Cascade takes. */
export const measureCascade = ({ frameBits, qber, frames, seed }: CascadePoint): CascadeFigures => {
  if (frames < 3) throw new RangeError('a mean and its error need three frames')
  const plan = cascadePlan(frameBits, qber)
  const next = xoshiro128pp([seed, frameBits, Math.round(qber * 1e6), 1])
  const draw = (length: number): Uint8Array => {
    const bytes = new Uint8Array(length)
    for (let index = 0; index < length; index++) bytes[index] = next() >>> 24
    return bytes
  }
  /** How many good bits come before the next wrong one: geometric. */
  const gap = (): number => Math.floor(Math.log(((next() >>> 0) + 1) / 2 ** 32) / Math.log1p(-qber))
  const framesPerBlock = Math.ceil(BLOCK_BITS / frameBits)
  const disclosed: number[] = []
  const errors: number[] = []
  const rounds: number[] = []
  let frameErrors = 0
  let cpuUs = 0
  let blockSeed = draw(16)
  for (let frame = 0; frame < frames; frame++) {
    if (frame % framesPerBlock === 0) blockSeed = draw(16)
    const alice = draw((frameBits + 7) >>> 3)
    if (frameBits & 7) alice[alice.length - 1]! &= (1 << (frameBits & 7)) - 1
    const bob = alice.slice()
    let wrong = 0
    for (let index = gap(); index < frameBits; index += 1 + gap()) {
      bob[index >>> 3]! ^= 1 << (index & 7)
      wrong++
    }
    const start = process.cpuUsage()
    const responder = createResponder({ bits: alice, bitCount: frameBits, plan, seed: blockSeed })
    const corrector = createCorrector({ bits: bob, bitCount: frameBits, plan, seed: blockSeed })
    corrector.take(responder.firstParities())
    for (let asks = corrector.asks(); asks.length > 0; asks = corrector.asks()) corrector.take(responder.answer(asks))
    const corrected = corrector.corrected()
    responder.wipe()
    corrector.wipe()
    const used = process.cpuUsage(start)
    cpuUs += used.user + used.system
    if (responder.disclosedBits !== corrector.disclosedBits) throw new Error('the ends count differently')
    if (!Buffer.from(corrected.buffer).equals(alice)) frameErrors++
    disclosed.push(corrector.disclosedBits)
    errors.push(wrong)
    rounds.push(corrector.roundCount)
  }
  const bound = frameBits * binaryEntropy(qber)
  const adjusted = withoutCause(disclosed, errors, frameBits * qber)
  return {
    frameBits,
    qber,
    frames,
    seed,
    f: mean(adjusted) / bound,
    fError: standardError(adjusted) / bound,
    rounds: mean(rounds),
    roundsError: standardError(rounds),
    frameErrors,
    mbitPerCpuSecond: (frames * frameBits) / cpuUs,
  }
}

/** All points, each with about `bitsPerPoint` bits of key, after a run that warms the code. */
export const benchCascade = (bitsPerPoint = 16_000_000, seed = 1): CascadeFigures[] => {
  measureCascade({ frameBits: 2 ** 14, qber: 0.03, frames: 200, seed })
  return BENCH_FRAME_BITS.flatMap((frameBits) =>
    BENCH_QBERS.map((qber) =>
      measureCascade({ frameBits, qber, frames: Math.max(3, Math.ceil(bitsPerPoint / frameBits)), seed }),
    ),
  )
}
