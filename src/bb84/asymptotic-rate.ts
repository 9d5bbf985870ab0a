/** Key per pulse in the limit of infinitely many pulses: Ma, Qi, Zhao, Lo, "Practical decoy state for quantum key distribution",
 *  PRA 72, 012326 (2005), and GLLP without decoys for comparison. For anchors and plots: a link's key length comes from
 *  key-length.ts and nowhere else.
 *  Holds: a yield is bounded by 0 and an error rate by 1/2 when the numbers are infeasible, for those prove nothing. */
import { binaryEntropy } from './binary-entropy.ts'

/** A link as the paper describes it. */
export interface AsymptoticLink {
  /** eta: fibre times receiver. */
  readonly transmittance: number
  /** Y_0: probability of a click without a photon. */
  readonly backgroundYield: number
  /** e_d */
  readonly misalignment: number
}

export interface SinglePhotons {
  /** Y_1 or a lower bound of it. */
  readonly yield: number
  /** e_1 or an upper bound of it. */
  readonly error: number
}

/** e_0: a background click is right one time in two. */
const BACKGROUND_ERROR = 0.5

/** Q_mu = Y_0 + 1 - exp(-eta mu), eq. (10). */
export const gain = (link: AsymptoticLink, mu: number): number => link.backgroundYield + 1 - Math.exp(-link.transmittance * mu)

/** E_mu Q_mu = e_0 Y_0 + e_d (1 - exp(-eta mu)), eq. (11). */
export const errorGain = (link: AsymptoticLink, mu: number): number =>
  BACKGROUND_ERROR * link.backgroundYield + link.misalignment * (1 - Math.exp(-link.transmittance * mu))

/** What infinitely many decoy intensities would find: Y_1 and e_1 themselves, eqs. (7) and (9). */
export const singlePhotons = (link: AsymptoticLink): SinglePhotons => {
  const { transmittance: eta, backgroundYield } = link
  const yieldOfOne = backgroundYield + eta - backgroundYield * eta
  return { yield: yieldOfOne, error: (BACKGROUND_ERROR * backgroundYield + link.misalignment * eta) / yieldOfOne }
}

/** Bounds from measured gains of a signal, a weak decoy (nu < mu) and vacuum, eqs. (34) and (37).
 *  @param vacuumYield measured gain of the vacuum, Y_0. */
export const boundFromVacuumAndWeak = (
  signal: { readonly mu: number; readonly gain: number },
  weak: { readonly mu: number; readonly gain: number; readonly errorGain: number },
  vacuumYield: number,
): SinglePhotons => {
  const mu = signal.mu
  const nu = weak.mu
  const ratio = (nu * nu) / (mu * mu)
  const lower =
    (mu / (mu * nu - nu * nu)) * (weak.gain * Math.exp(nu) - signal.gain * Math.exp(mu) * ratio - (1 - ratio) * vacuumYield)
  return bounded(lower, (weak.errorGain * Math.exp(nu) - BACKGROUND_ERROR * vacuumYield) / nu)
}

/** Bounds from two decoys nu1 > nu2 >= 0, neither of them a perfect vacuum, eqs. (18), (21) and (25).
 *  @throws RangeError unless nu1 + nu2 < mu. */
export const boundFromTwoDecoys = (
  signal: { readonly mu: number; readonly gain: number },
  first: { readonly mu: number; readonly gain: number; readonly errorGain: number },
  second: { readonly mu: number; readonly gain: number; readonly errorGain: number },
): SinglePhotons => {
  const mu = signal.mu
  const nu1 = first.mu
  const nu2 = second.mu
  if (!(nu1 > nu2 && nu2 >= 0 && nu1 + nu2 < mu)) throw new RangeError('the decoys are not nu1 > nu2 >= 0 with nu1 + nu2 < mu')
  const q1 = first.gain * Math.exp(nu1)
  const q2 = second.gain * Math.exp(nu2)
  const background = Math.max(0, (nu1 * q2 - nu2 * q1) / (nu1 - nu2))
  const lower =
    (mu / (mu * nu1 - mu * nu2 - nu1 * nu1 + nu2 * nu2)) *
    (q1 - q2 - ((nu1 * nu1 - nu2 * nu2) / (mu * mu)) * (signal.gain * Math.exp(mu) - background))
  return bounded(lower, (first.errorGain * Math.exp(nu1) - second.errorGain * Math.exp(nu2)) / (nu1 - nu2))
}

/** @param errorsOfOne upper bound of e_1 Y_1. */
const bounded = (lowerYield: number, errorsOfOne: number): SinglePhotons => {
  if (!(lowerYield > 0) || errorsOfOne < 0) return { yield: Math.max(0, lowerYield), error: 0.5 }
  return { yield: lowerYield, error: Math.min(0.5, errorsOfOne / lowerYield) }
}

/** R = q { -Q_mu f h(E_mu) + Q_1 (1 - h(e_1)) } bits per pulse with q = 1/2, eq. (1); never below 0. */
export const keyRate = (link: AsymptoticLink, mu: number, ofOne: SinglePhotons, efficiencyF: number): number => {
  const signalGain = gain(link, mu)
  const corrected = signalGain * efficiencyF * binaryEntropy(errorGain(link, mu) / signalGain)
  const untouched = ofOne.yield * mu * Math.exp(-mu) * (1 - binaryEntropy(ofOne.error))
  return Math.max(0, 0.5 * (untouched - corrected))
}

/** Rate with infinitely many decoy intensities. */
export const infiniteDecoyRate = (link: AsymptoticLink, mu: number, efficiencyF: number): number =>
  keyRate(link, mu, singlePhotons(link), efficiencyF)

/** Rate with vacuum and one weak decoy. */
export const vacuumAndWeakRate = (link: AsymptoticLink, mu: number, nu: number, efficiencyF: number): number =>
  keyRate(link, mu, expectedBound(link, mu, nu), efficiencyF)

/** The bound of vacuum and weak decoy from the gains this link is expected to show. */
export const expectedBound = (link: AsymptoticLink, mu: number, nu: number): SinglePhotons =>
  boundFromVacuumAndWeak(
    { mu, gain: gain(link, mu) },
    { mu: nu, gain: gain(link, nu), errorGain: errorGain(link, nu) },
    link.backgroundYield,
  )

/** Rate without decoys (Gottesman, Lo, Luetkenhaus, Preskill 2004): every pulse of several photons is taken for detected and known
 *  to Eve, and every error for one of a single photon. */
export const noDecoyRate = (link: AsymptoticLink, mu: number, efficiencyF: number): number => {
  const signalGain = gain(link, mu)
  const several = 1 - (1 + mu) * Math.exp(-mu)
  const gainOfOne = signalGain - several
  if (gainOfOne <= 0) return 0
  const error = errorGain(link, mu)
  const untouched = gainOfOne * (1 - binaryEntropy(Math.min(0.5, error / gainOfOne)))
  return Math.max(0, 0.5 * (untouched - signalGain * efficiencyF * binaryEntropy(error / signalGain)))
}

/** The signal intensity of the best rate where background can be neglected: (1 - mu) exp(-mu) = f h(e_d) / (1 - h(e_d)), eq. (12). */
export const optimalIntensity = (misalignment: number, efficiencyF: number): number => {
  const entropy = binaryEntropy(misalignment)
  const target = (efficiencyF * entropy) / (1 - entropy)
  return bisect((mu) => (1 - mu) * Math.exp(-mu) - target, 0, 1)
}

/** The distance from which a rate is zero, in km, by bisection. */
export const largestDistanceKm = (rateAt: (distanceKm: number) => number, limitKm = 500): number => bisect(rateAt, 0, limitKm)

/** Where a falling function stops being positive. */
const bisect = (falling: (x: number) => number, low: number, high: number): number => {
  let [from, to] = [low, high]
  for (let step = 0; step < 60; step++) {
    const middle = (from + to) / 2
    if (falling(middle) > 0) from = middle
    else to = middle
  }
  return from
}
