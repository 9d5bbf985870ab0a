/** Which detectors a pulse fires, as probabilities: two threshold detectors behind a lossy fibre, exact (Ma et al., PRA 72, 012326
 *  (2005), section II, with both detectors written out instead of to first order in the background).
 *
 *  A phase-randomised pulse of mean photon number mu reaches the detectors as two independent Poisson processes of means
 *  eta mu (1 - e) and eta mu e, e being the misalignment if Alice's and Bob's bases agree and one half if they do not.
 *  Dark counts are independent of the light and of each other. */
import { transmittance } from '../bb84/detection-model.ts'
import { splitForwarding } from './eve.ts'
import type { ChannelProfile, Eve } from './quantum-channel.ts'

/** Probabilities of the three patterns of a slot; what is missing to 1 is no click. */
export interface PatternLaw {
  /** The detector of the value that was sent, alone. */
  readonly right: number
  /** The other detector, alone. */
  readonly wrong: number
  readonly both: number
}

/** @param meanDetected eta mu. @param error probability that a photon goes to the wrong detector. */
const lightLaw = (meanDetected: number, error: number): PatternLaw => {
  const right = -Math.expm1(-meanDetected * (1 - error))
  const wrong = -Math.expm1(-meanDetected * error)
  return { right: right * (1 - wrong), wrong: wrong * (1 - right), both: right * wrong }
}

const scaled = (law: PatternLaw, factor: number): PatternLaw => ({
  right: law.right * factor,
  wrong: law.wrong * factor,
  both: law.both * factor,
})

const withDarkCounts = ({ right, wrong, both }: PatternLaw, dark: number): PatternLaw => {
  const none = 1 - right - wrong - both
  return {
    right: (right + none * dark) * (1 - dark),
    wrong: (wrong + none * dark) * (1 - dark),
    both: both + (right + wrong) * dark + none * dark * dark,
  }
}

/** @param mean photons of the pulse when it leaves Alice. @param basesAgree whether Bob measures in the pulse's basis. */
export const patternLaw = (profile: ChannelProfile, eve: Eve, mean: number, basesAgree: boolean): PatternLaw => {
  const eta = transmittance(profile)
  const error = basesAgree ? profile.misalignment : 0.5
  const dark = profile.receiver.darkCountProbability
  if (eve.attack !== 'split') return withDarkCounts(lightLaw(eta * mean, error), dark)
  const signal = profile.intensities[0]!
  const signalClicks = -Math.expm1(-eta * signal)
  if (signalClicks === 0) return withDarkCounts({ right: 0, wrong: 0, both: 0 }, dark)
  // What she lets through fires the detectors as a signal pulse that was seen does, so that the signal shows no trace of her.
  const forwarded = splitForwarding(profile, signalClicks).ofPulse(mean)
  return withDarkCounts(scaled(lightLaw(eta * signal, error), forwarded / signalClicks), dark)
}
