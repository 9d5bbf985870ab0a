/** What the statistical tests of source and channel share: a run of bursts counted by basis and intensity, the formulas it must
 *  agree with (written here a second time, from the physics, not from src), and the distance between both. */
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import {
  BASIS_X,
  basisAt,
  basisOf,
  createBasisChoice,
  createPulseSource,
  intensityOf,
  pulseAt,
  valueOf,
} from '../../src/bb84/pulse-source.ts'
import { createQuantumChannel } from '../../src/quantum-channel/channel.ts'
import type { Eve } from '../../src/quantum-channel/quantum-channel.ts'
import { seededStreams } from '../bb84/seeded-random.ts'

/** Pulses of one basis of Alice, one of Bob and one intensity. */
export interface Cell {
  readonly aliceBasis: number
  readonly bobBasis: number
  readonly intensity: number
  sent: number
  clicks: number
  /** Clicks with one detector, the wrong one. */
  wrong: number
  both: number
}

export interface Run {
  readonly cells: readonly Cell[]
  readonly slots: number
  readonly clicks: number
  /** Smallest distance between two clicks, in slots, over the borders of bursts too. */
  readonly smallestGap: number
  /** Matching X basis, in order: Alice's values and Bob's, a click of both detectors given a value by the test's own random bits. */
  readonly alice: readonly number[]
  readonly bob: readonly number[]
}

const BURST = 2 ** 18

export const cellOf = (cells: readonly Cell[], aliceBasis: number, bobBasis: number, intensity: number): Cell =>
  cells[((aliceBasis << 1) | bobBasis) * 4 + intensity]!

const newCells = (): Cell[] =>
  Array.from({ length: 16 }, (_, index) => ({
    aliceBasis: index >> 3,
    bobBasis: (index >> 2) & 1,
    intensity: index & 3,
    sent: 0,
    clicks: 0,
    wrong: 0,
    both: 0,
  }))

/** Sends `slots` pulses through a channel. `sent` of a cell is counted when `countSent`, else it is what is expected. */
export const run = (
  profile: Bb84Profile,
  slots: number,
  seed: string,
  { eve, countSent = true }: { readonly eve?: Eve; readonly countSent?: boolean } = {},
): Run => {
  const streams = seededStreams(seed)
  const source = createPulseSource(profile)
  const choice = createBasisChoice(profile)
  const channel = createQuantumChannel({ profile, ...(eve && { eve }) })
  const cells = newCells()
  const sentByIndex = new Float64Array(16)
  const alice: number[] = []
  const bob: number[] = []
  const coins = streams('coins')
  let last = -Infinity
  let smallestGap = Infinity
  let clicks = 0
  for (let from = 0, burst = 0; from < slots; from += BURST, burst += 1) {
    const length = Math.min(BURST, slots - from)
    const pulses = source.burst(length, streams(`alice:${burst}`))
    const bases = choice.burst(length, streams(`bob:${burst}`))
    if (countSent) {
      for (let slot = 0; slot < length; slot += 1) {
        const pulse = pulseAt(pulses, slot)
        sentByIndex[((basisOf(pulse) << 1) | basisAt(bases, slot)) * 4 + intensityOf(pulse)]! += 1
      }
    }
    const found = channel.transmit(pulses, bases, length, streams(`channel:${burst}`))
    clicks += found.slots.length
    const coin = coins.fill(new Uint8Array(found.slots.length))
    found.slots.forEach((slot, index) => {
      smallestGap = Math.min(smallestGap, from + slot - last)
      last = from + slot
      const pulse = pulseAt(pulses, slot)
      const bobBasis = basisAt(bases, slot)
      const cell = cellOf(cells, basisOf(pulse), bobBasis, intensityOf(pulse))
      const pattern = found.patterns[index]!
      cell.clicks += 1
      if (pattern === 3) cell.both += 1
      else if (pattern !== 1 << valueOf(pulse)) cell.wrong += 1
      if (basisOf(pulse) === BASIS_X && bobBasis === BASIS_X) {
        alice.push(valueOf(pulse))
        bob.push(pattern === 3 ? coin[index]! & 1 : pattern - 1)
      }
    })
  }
  const q = profile.keyBasisProbability
  cells.forEach((cell, index) => {
    const chance =
      (cell.aliceBasis === BASIS_X ? q : 1 - q) *
      (cell.bobBasis === BASIS_X ? q : 1 - q) *
      (profile.intensityProbabilities[cell.intensity] ?? 0)
    cell.sent = countSent ? sentByIndex[index]! : slots * chance
  })
  return { cells, slots, clicks, smallestGap, alice, bob }
}

export interface Expected {
  /** Per slot sent, dead time included. */
  readonly gain: number
  /** Per slot sent: one detector, the wrong one. */
  readonly wrong: number
  readonly both: number
  /** Gain times error rate, a click of both detectors being wrong half the time. */
  readonly errorGain: number
}

/** Two threshold detectors: P_right = 1 - (1-p_dc) exp(-eta mu (1-e)), P_wrong likewise with e; e is 1/2 in the other basis. */
export const thresholdDetectors = (profile: Bb84Profile, mean: number, basesAgree: boolean): Expected => {
  const eta = profile.receiver.efficiency * 10 ** (-(profile.attenuationDbPerKm * profile.distanceKm) / 10)
  const error = basesAgree ? profile.misalignment : 0.5
  const dark = profile.receiver.darkCountProbability
  const right = 1 - (1 - dark) * Math.exp(-eta * mean * (1 - error))
  const wrong = 1 - (1 - dark) * Math.exp(-eta * mean * error)
  return {
    gain: 1 - (1 - right) * (1 - wrong),
    wrong: wrong * (1 - right),
    both: wrong * right,
    errorGain: wrong * (1 - right) + (wrong * right) / 2,
  }
}

/** With afterpulses and dead time, once the channel has run for a while. A live slot clicks with probability c = D + (1-D) a, D being
 *  the mean of what light and darkness do and a = p_ap c the chance of an afterpulse, which fires either detector evenly and
 *  independently of the pulse it meets. Of all slots 1 / (1 + c d) are live, d being the blind slots after a click. */
export const expectedOf = (profile: Bb84Profile, mean: number, basesAgree: boolean): Expected => {
  const { afterpulseProbability, deadTimeNs } = profile.receiver
  const meanGain = profile.intensities.reduce(
    (sum, each, index) => sum + profile.intensityProbabilities[index]! * thresholdDetectors(profile, each, true).gain,
    0,
  )
  const click = meanGain / (1 - afterpulseProbability * (1 - meanGain))
  const after = afterpulseProbability * click
  const live = 1 / (1 + click * Math.ceil(deadTimeNs * 1e-9 * profile.pulseRateHz - 1e-6))
  const { gain, wrong, both } = thresholdDetectors(profile, mean, basesAgree)
  const rightAlone = gain - wrong - both
  const none = 1 - gain
  const wrongNow = (1 - after) * wrong + (after / 2) * (none + wrong)
  const bothNow = (1 - after) * both + after * both + (after / 2) * (wrong + rightAlone)
  const gainNow = gain + after * none
  return { gain: live * gainNow, wrong: live * wrongNow, both: live * bothNow, errorGain: live * (wrongNow + bothNow / 2) }
}

/** In standard deviations of a binomial count, of which a cluster of afterpulses is a little more.
 *  Counts too small to be normal are judged by 4.9 deviations of a Poisson count plus one. */
export const deviations = (count: number, trials: number, probability: number, spread = 1): number => {
  const mean = trials * probability
  const sigma = Math.sqrt(Math.max(mean * (1 - probability) * spread, 1e-300))
  return Math.max(0, Math.abs(count - mean) - (mean < 25 ? 1 : 0)) / sigma
}

/** Correlation of neighbours, in standard deviations of what even independent bits show. */
export const lagOneDeviations = (bits: readonly number[]): number => {
  let equal = 0
  for (let index = 1; index < bits.length; index += 1) if (bits[index] === bits[index - 1]) equal += 1
  return (2 * equal - (bits.length - 1)) / Math.sqrt(bits.length - 1)
}

/** @returns the probability that a chi-square variable with so many degrees of freedom is larger (regularised upper gamma function). */
export const chiSquareTail = (value: number, freedom: number): number => {
  const a = freedom / 2
  const x = value / 2
  const front = Math.exp(-x + a * Math.log(x) - logGamma(a))
  if (x < a + 1) {
    let term = 1 / a
    let sum = term
    for (let n = 1; n < 1_000 && term > sum * 1e-15; n += 1) {
      term *= x / (a + n)
      sum += term
    }
    return 1 - front * sum
  }
  // Continued fraction, by Lentz's method.
  let b = x + 1 - a
  let c = 1e300
  let d = 1 / b
  let h = d
  for (let n = 1; n < 1_000; n += 1) {
    const an = -n * (n - a)
    b += 2
    d = 1 / (an * d + b)
    c = b + an / c
    h *= d * c
    if (Math.abs(d * c - 1) < 1e-15) break
  }
  return front * h
}

/** Stirling's series after shifting the argument up. */
const logGamma = (z: number): number => {
  let shift = 0
  let x = z
  for (; x < 15; x += 1) shift -= Math.log(x)
  return shift + (x - 0.5) * Math.log(x) - x + Math.log(2 * Math.PI) / 2 + 1 / (12 * x) - 1 / (360 * x ** 3) + 1 / (1260 * x ** 5)
}
