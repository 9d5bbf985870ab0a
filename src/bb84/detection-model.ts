/** What two threshold detectors are expected to see of weak coherent pulses, exactly: gain and error per intensity.
 *
 *  One slot. A phase-randomised pulse of mu photons reaches the detectors with probability eta per photon; of what arrives, the
 *  share e_d falls on the wrong detector (1/2 when Bob's basis is the other one). Poissonian light splits into independent
 *  Poissonian parts, so the detectors fire independently of each other:
 *    P_c = 1 - (1 - p_dc) exp(-eta mu (1 - e_d)),  P_w = 1 - (1 - p_dc) exp(-eta mu e_d).
 *  Both firing is a click with a random bit: dropped, it would let the choice of basis be seen in the gain.
 *
 *  Many slots. After a click both detectors are blind for d = ceil(dead time x rate) slots. With probability p_ap a click leaves a
 *  carrier that fires one detector in the first slot that can see again, whatever arrives there; its bit has nothing to do with
 *  the pulse of that slot. Basis, value and intensity of a slot do not depend on the past, hence with P the mean click probability
 *  of a slot that sees: click probability of a seeing slot x = P / (1 - p_ap (1 - P)), share of seeing slots 1 / (1 + d x). */
import type { Bb84Profile } from './profile.ts'

/** Probabilities of one slot, detectors able to see. */
export interface SlotOutcome {
  /** The detector of the sent value fires (alone or not). */
  readonly correct: number
  /** The other detector fires (alone or not). */
  readonly wrong: number
  /** At least one fires. */
  readonly click: number
  /** Bob's bit is the wrong one: the wrong detector alone, or half of the double clicks. */
  readonly error: number
}

/** Per sent pulse, given its intensity and the matching basis. */
export interface ExpectedGain {
  /** Q: probability of a click. */
  readonly gain: number
  /** E Q: probability of a click with the wrong bit. */
  readonly errorGain: number
}

export interface ExpectedDetection {
  /** Probability of a click per slot, all bases and intensities together. */
  readonly clickProbability: number
  /** Share of slots in which the receiver can see. */
  readonly liveFraction: number
  /** Share of seeing slots in which an afterpulse fires. */
  readonly afterpulsesPerLiveSlot: number
  /** By index of the intensity; the same in both bases. */
  readonly matched: readonly ExpectedGain[]
  /** By index of the intensity, Bob in the other basis: half of the clicks are errors. */
  readonly mismatched: readonly ExpectedGain[]
}

/** eta = eta_B 10^(-alpha L / 10). */
export const transmittance = (
  profile: Pick<Bb84Profile, 'distanceKm' | 'attenuationDbPerKm'> & { readonly receiver: { readonly efficiency: number } },
): number => profile.receiver.efficiency * 10 ** ((-profile.attenuationDbPerKm * profile.distanceKm) / 10)

/** One slot without memory of earlier ones.
 *  @param arriving eta mu, mean photons that would be detected.
 *  @param misalignment e_d; 1/2 for the mismatched basis. */
export const slotOutcome = (arriving: number, misalignment: number, darkCountProbability: number): SlotOutcome => {
  const correct = 1 - (1 - darkCountProbability) * Math.exp(-arriving * (1 - misalignment))
  const wrong = 1 - (1 - darkCountProbability) * Math.exp(-arriving * misalignment)
  return {
    correct,
    wrong,
    click: 1 - (1 - correct) * (1 - wrong),
    error: wrong * (1 - correct) + (wrong * correct) / 2,
  }
}

/** Slots in which both detectors are blind after a click. */
export const deadTimeSlots = (deadTimeNs: number, pulseRateHz: number): number => {
  const slots = deadTimeNs * 1e-9 * pulseRateHz
  // 30 ns at 100 MHz are 3 slots, although the product is 3.0000000000000004.
  return Math.max(0, Math.ceil(slots - 1e-6))
}

/** The receiver of a profile in its stationary state.
 *  @param intercepted fraction of the pulses Eve measures in a random basis and resends as she saw them: half of those reach Bob as
 *    if in the other basis, so an error rate e becomes e + p (1/4 - e / 2) and no gain changes. */
export const expectedDetection = (profile: Bb84Profile, intercepted = 0): ExpectedDetection => {
  const { receiver, misalignment } = profile
  const eta = transmittance(profile)
  const outcomes = (error: number) => profile.intensities.map((mu) => slotOutcome(eta * mu, error, receiver.darkCountProbability))
  const matched = outcomes(misalignment)
  const mismatched = outcomes(0.5)

  // The product (1 - P_c)(1 - P_w) does not depend on e_d: one mean holds for both bases.
  const seen = matched.reduce((sum, outcome, k) => sum + profile.intensityProbabilities[k]! * outcome.click, 0)
  const click = seen / (1 - receiver.afterpulseProbability * (1 - seen))
  const afterpulsesPerLiveSlot = receiver.afterpulseProbability * click
  const liveFraction = 1 / (1 + deadTimeSlots(receiver.deadTimeNs, profile.pulseRateHz) * click)

  const withMemory = (outcome: SlotOutcome): ExpectedGain => {
    const quiet = 1 - afterpulsesPerLiveSlot
    // Either detector, one time in two: right (P_w / 2 errs by a double click) or wrong (only a double click can be right).
    const errorOfAfterpulse = (1 - outcome.correct / 2 + outcome.wrong / 2) / 2
    return {
      gain: liveFraction * (1 - (1 - outcome.click) * quiet),
      errorGain: liveFraction * (outcome.error * quiet + errorOfAfterpulse * afterpulsesPerLiveSlot),
    }
  }
  return {
    clickProbability: liveFraction * click,
    liveFraction,
    afterpulsesPerLiveSlot,
    matched: matched.map((outcome, k) => {
      const { gain, errorGain } = withMemory(outcome)
      return { gain, errorGain: errorGain + (intercepted / 2) * (withMemory(mismatched[k]!).errorGain - errorGain) }
    }),
    mismatched: mismatched.map(withMemory),
  }
}
