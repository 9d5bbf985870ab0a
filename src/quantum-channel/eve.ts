/** The eavesdropper's attacks, a setting of the emulator. She has everything physics allows: perfect detectors, a fibre without
 *  loss, a quantum memory, and she is granted the receiver's losses too, as the security proofs do.
 *
 *  Intercept and resend: of a fraction p of the pulses she measures all photons in X or Z, evenly, and sends as many on in the
 *  state she saw. Gains stay, the error rate grows from e to e + p (1/4 - e/2).
 *
 *  Photon-number splitting (Brassard et al., PRL 85, 1330 (2000); Lütkenhaus and Jahma, New J. Phys. 4, 44 (2002)): she counts the
 *  photons of a pulse without disturbing it. Of those with two or more she keeps one photon and makes sure that a fraction t of the
 *  pulses is detected; single photons she blocks. t keeps the gain of the signal. Where the gain is larger than all pulses
 *  with several photons can make it, t is 1 and a fraction s of the single photons must pass untouched. */
import type { ChannelProfile, Eve } from './quantum-channel.ts'

export const EVE_OFF: Eve = { attack: 'off' }

/** @returns what was given. @throws RangeError when the fraction is not between 0 and 1. */
export const checkedEve = (eve: Eve): Eve => {
  if (eve.attack === 'intercept' && !(eve.fraction >= 0 && eve.fraction <= 1)) {
    throw new RangeError('the fraction she intercepts must be between 0 and 1')
  }
  return eve
}

export interface SplitForwarding {
  /** t: of the pulses with two photons or more. */
  readonly multiphotonFraction: number
  /** s: of those with exactly one. */
  readonly singlePhotonFraction: number
  /** Probability that a pulse of this mean photon number is let through and detected. */
  ofPulse(mean: number): number
}

/** @param signalClicks probability that light of the signal is detected when she is away, 1 - exp(-eta mu). */
export const splitForwarding = (profile: Pick<ChannelProfile, 'intensities'>, signalClicks: number): SplitForwarding => {
  const signal = profile.intensities[0]!
  const multiphotonFraction = Math.min(1, signalClicks / multiphoton(signal))
  const missing = Math.max(0, signalClicks - multiphoton(signal))
  const singlePhotonFraction = missing / singlePhoton(signal)
  return {
    multiphotonFraction,
    singlePhotonFraction,
    ofPulse: (mean) => multiphotonFraction * multiphoton(mean) + singlePhotonFraction * singlePhoton(mean),
  }
}

const singlePhoton = (mean: number): number => mean * Math.exp(-mean)
const multiphoton = (mean: number): number => -Math.expm1(-mean) - singlePhoton(mean)
