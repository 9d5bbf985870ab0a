/** What a block of a link should look like before a single pulse is sent: expected counts, key length and rates, and the source
 *  parameters that give the most key per pulse. The length itself is key-length.ts on expected counts, so the model says what to
 *  expect and never what is secret. */
import { binaryEntropy } from './binary-entropy.ts'
import { expectedDetection, transmittance } from './detection-model.ts'
import type { ExpectedGain } from './detection-model.ts'
import { keyLength } from './key-length.ts'
import type { BlockCounts, KeyLength } from './key-length.ts'
import type { Bb84Profile } from './profile.ts'
import { climb } from './simplex-search.ts'

export interface ExpectedBlock {
  /** Pulses until n_X = blockBits is expected. */
  readonly pulses: number
  readonly seconds: number
  /** Means, not whole numbers. */
  readonly counts: Required<BlockCounts>
  /** Error rate of the key basis. */
  readonly qber: number
  /** f n_X h(qber) */
  readonly leakBits: number
  readonly keyLength: KeyLength
  readonly siftedBitsPerSecond: number
  readonly secretBitsPerSecond: number
  readonly secretBitsPerPulse: number
}

/** Gain and error per intensity in the matching basis. */
export type ReceiverModel = (profile: Bb84Profile) => readonly ExpectedGain[]

export interface ExpectationOptions {
  /** Exact by default; `firstOrderReceiver` is the one of Lim's published curves. */
  readonly receiverModel?: ReceiverModel
  /** eps_sec per secret bit, in place of the profile's eps_sec per block: how published curves state it. */
  readonly epsilonPerBit?: number
}

/** The detectors as the channel emulator has them. */
export const thresholdReceiver: ReceiverModel = (profile) => expectedDetection(profile).matched

/** The detectors of Lim 2014, section IV: first order in the background, afterpulses counted to the intensity of the pulse that
 *  caused them. D_k = 1 - (1 - 2 p_dc) exp(-eta k), R_k = D_k (1 + p_ap), e_k = p_dc + e_mis (1 - exp(-eta k)) + p_ap D_k / 2.
 *  The paper prints the fibre's transmittance in the error term; its curves come out with that of the whole link, as here.
 *  Dead time as in Rusca 2018, eq. (B3): a factor 1 / (1 + rate x click probability x dead time). */
export const firstOrderReceiver: ReceiverModel = (profile) => {
  const { darkCountProbability, afterpulseProbability, deadTimeNs } = profile.receiver
  const eta = transmittance(profile)
  const gains = profile.intensities.map((mu) => {
    const detected = 1 - (1 - 2 * darkCountProbability) * Math.exp(-eta * mu)
    return {
      gain: detected * (1 + afterpulseProbability),
      errorGain: darkCountProbability + profile.misalignment * (1 - Math.exp(-eta * mu)) + (afterpulseProbability * detected) / 2,
    }
  })
  const click = gains.reduce((sum, { gain }, k) => sum + profile.intensityProbabilities[k]! * gain, 0)
  const live = 1 / (1 + profile.pulseRateHz * click * deadTimeNs * 1e-9)
  return gains.map(({ gain, errorGain }) => ({ gain: gain * live, errorGain: errorGain * live }))
}

/** A block of the expected counts.
 *  @param efficiencyF disclosed bits over n_X h(qber): what the reconciliation was measured to need, or 1.05 before.
 *  @throws RangeError when the profile has no decoy states. */
export const expectedBlock = (
  profile: Bb84Profile,
  efficiencyF: number,
  { receiverModel = thresholdReceiver, epsilonPerBit }: ExpectationOptions = {},
): ExpectedBlock => {
  const gains = receiverModel(profile)
  const bothX = profile.keyBasisProbability ** 2
  const bothZ = (1 - profile.keyBasisProbability) ** 2
  const sent = (k: number) => profile.intensityProbabilities[k]!
  const meanGain = gains.reduce((sum, { gain }, k) => sum + sent(k) * gain, 0)
  const meanErrorGain = gains.reduce((sum, { errorGain }, k) => sum + sent(k) * errorGain, 0)

  const pulses = profile.blockBits / (bothX * meanGain)
  const counts = {
    nX: gains.map(({ gain }, k) => pulses * bothX * sent(k) * gain),
    mX: gains.map(({ errorGain }, k) => pulses * bothX * sent(k) * errorGain),
    nZ: gains.map(({ gain }, k) => pulses * bothZ * sent(k) * gain),
    mZ: gains.map(({ errorGain }, k) => pulses * bothZ * sent(k) * errorGain),
  }
  const qber = meanErrorGain / meanGain
  const leakBits = efficiencyF * profile.blockBits * binaryEntropy(qber)
  const length = lengthOf(profile, counts, leakBits, epsilonPerBit)
  const seconds = pulses / profile.pulseRateHz
  return {
    pulses,
    seconds,
    counts,
    qber,
    leakBits,
    keyLength: length,
    siftedBitsPerSecond: profile.blockBits / seconds,
    secretBitsPerSecond: length.lengthBits / seconds,
    secretBitsPerPulse: length.lengthBits / pulses,
  }
}

/** With eps_sec proportional to l the two are sought together; l depends on eps_sec by its logarithm only. */
const lengthOf = (profile: Bb84Profile, counts: BlockCounts, leakBits: number, epsilonPerBit: number | undefined): KeyLength => {
  if (epsilonPerBit === undefined) return keyLength(profile, counts, leakBits)
  let length: KeyLength | undefined
  for (let round = 0; round < 4; round++) {
    const bits = Math.max(1, length === undefined ? profile.blockBits : length.lengthBits)
    length = keyLength({ ...profile, epsilonSecrecy: epsilonPerBit * bits }, counts, leakBits)
  }
  return length!
}

/** The optimum of the published device over blocks of 1e4 to 1e9 bits: where a search starts. */
const STARTS = [
  { q: 0.405, p1: 0.034, p2: 0.495, mu1: 0.486, mu2: 0.097 },
  { q: 0.634, p1: 0.1, p2: 0.561, mu1: 0.457, mu2: 0.162 },
  { q: 0.768, p1: 0.201, p2: 0.554, mu1: 0.431, mu2: 0.202 },
  { q: 0.851, p1: 0.384, p2: 0.439, mu1: 0.414, mu2: 0.216 },
  { q: 0.927, p1: 0.756, p2: 0.155, mu1: 0.438, mu2: 0.169 },
] as const
const EVALUATIONS_PER_CLIMB = 400
const MOST_INTENSE = 2

const logistic = (x: number): number => 1 / (1 + Math.exp(-x))
const logit = (p: number): number => Math.log(p / (1 - p))

/** The profile with the bias, intensities and probabilities that give the most secret bits per pulse, sought without randomness.
 *  The weakest of three intensities stays as it is, being what the modulator lets through. Not quantised: see `quantised`.
 *  Where no choice gives key the best of the failures is returned. */
export const optimise = (profile: Bb84Profile, efficiencyF: number, options: ExpectationOptions = {}): Bb84Profile => {
  const mu3 = profile.intensities[2]
  const least = mu3 ?? 0

  // Every point of the space is a valid profile: shares by odds, mu2 between mu3 and mu1 - mu3.
  const profileAt = ([q, odds1, odds2, intense, weak]: readonly number[]): Bb84Profile => {
    const mu1 = 2 * least + (MOST_INTENSE - 2 * least) * logistic(intense!)
    const mu2 = least + (mu1 - 2 * least) * logistic(weak!)
    const shares = mu3 === undefined ? [Math.exp(odds1!), 1] : [Math.exp(odds1!), Math.exp(odds2!), 1]
    const all = shares.reduce((sum, share) => sum + share, 0)
    return {
      ...profile,
      keyBasisProbability: logistic(q!),
      intensities: mu3 === undefined ? [mu1, mu2] : [mu1, mu2, mu3],
      intensityProbabilities: shares.map((share) => share / all),
    }
  }
  const value = (point: readonly number[]): number => {
    const { keyLength: length, pulses } = expectedBlock(profileAt(point), efficiencyF, options)
    // Without key, fewer missing bits are better, and any key is better than none.
    return length.unclippedBits > 0 ? length.unclippedBits / pulses : length.unclippedBits / profile.blockBits - 1
  }
  const climbs = STARTS.map(({ q, p1, p2, mu1, mu2 }) => {
    const start = [
      logit(q),
      Math.log(p1 / (mu3 === undefined ? 1 - p1 : 1 - p1 - p2)),
      Math.log(p2 / (1 - p1 - p2)),
      logit(mu1 / MOST_INTENSE),
      logit(mu2 / mu1),
    ]
    return climb(value, start, EVALUATIONS_PER_CLIMB)
  })
  const ahead = climbs.reduce((best, next) => (next.value > best.value ? next : best))
  // A simplex may have collapsed: once more from where it stands, at full size.
  return profileAt(climb(value, ahead.point, 2 * EVALUATIONS_PER_CLIMB).point)
}
