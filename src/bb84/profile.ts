/** A link's physics and its protocol parameters: what both ends must agree on before the first pulse.
 *  Holds: probabilities of a profile from `profileNamed` are exact in seven (basis) and eight (intensity) random bits,
 *  so the source draws exactly the probabilities the formulas use; a profile without decoy states never passes `checkProfile`. */

export interface Receiver {
  /** Optics times detector, eta_B: 0 to 1. */
  readonly efficiency: number
  /** Per detector and gate. */
  readonly darkCountProbability: number
  /** That a click is followed by a second one of the same cause. */
  readonly afterpulseProbability: number
  /** Both detectors are blind for this long after a click. */
  readonly deadTimeNs: number
}

export interface Bb84Profile {
  readonly name: string
  readonly distanceKm: number
  readonly attenuationDbPerKm: number
  readonly receiver: Receiver
  /** Probability that a photon meets the wrong detector in the matching basis. */
  readonly misalignment: number
  /** Mean photons per pulse, strongest first. Three: two decoys (Lim 2014). Two: one decoy (Rusca 2018). */
  readonly intensities: readonly number[]
  readonly intensityProbabilities: readonly number[]
  /** q_x of both ends: how often the key basis X is chosen. */
  readonly keyBasisProbability: number
  readonly pulseRateHz: number
  /** Sifted key bits per block, n_X. */
  readonly blockBits: number
  readonly epsilonSecrecy: number
  readonly epsilonCorrectness: number
}

export type ProfileOverrides = Partial<Omit<Bb84Profile, 'receiver'>> & { readonly receiver?: Partial<Receiver> }

/** Key basis chosen with a / 128, intensity k with b_k / 256. */
export const BASIS_STEPS = 128
export const INTENSITY_STEPS = 256

const common = { pulseRateHz: 1e8, blockBits: 1_000_000, epsilonSecrecy: 1e-10, epsilonCorrectness: 1e-15 } as const

/** Intensities, probabilities and bias of each are the optimum of `optimise` (expected-rate.ts) at its distance. */
const PROFILES = {
  /** Dedicated fibre and InGaAs avalanche photodiodes of Lim et al., PRA 89, 022307 (2014). */
  'lab-2014': {
    ...common,
    name: 'lab-2014',
    distanceKm: 25,
    attenuationDbPerKm: 0.2,
    receiver: { efficiency: 0.1, darkCountProbability: 6e-7, afterpulseProbability: 0.04, deadTimeNs: 0 },
    misalignment: 0.005,
    intensities: [0.487, 0.231, 0.0002],
    intensityProbabilities: [45 / 256, 142 / 256, 69 / 256],
    keyBasisProbability: 102 / 128,
  },
  /** Superconducting detectors across a town. */
  metro: {
    ...common,
    name: 'metro',
    distanceKm: 5,
    attenuationDbPerKm: 0.2,
    receiver: { efficiency: 0.5, darkCountProbability: 1e-7, afterpulseProbability: 0, deadTimeNs: 0 },
    misalignment: 0.01,
    intensities: [0.626, 0.306, 0.0002],
    intensityProbabilities: [70 / 256, 131 / 256, 55 / 256],
    keyBasisProbability: 104 / 128,
  },
  /** Gobby, Yuan and Shields' receiver as Ma et al., PRA 72, 012326 (2005), describe it; their laser ran at 2 MHz, this one at 100. */
  gys: {
    ...common,
    name: 'gys',
    distanceKm: 20,
    attenuationDbPerKm: 0.21,
    receiver: { efficiency: 0.045, darkCountProbability: 8.5e-7, afterpulseProbability: 0, deadTimeNs: 0 },
    misalignment: 0.033,
    intensities: [0.395, 0.18, 0.0002],
    intensityProbabilities: [44 / 256, 145 / 256, 67 / 256],
    keyBasisProbability: 98 / 128,
  },
  /** Indium gallium arsenide photodiodes of today on a short fibre. */
  ingaas: {
    ...common,
    name: 'ingaas',
    distanceKm: 10,
    attenuationDbPerKm: 0.2,
    receiver: { efficiency: 0.2, darkCountProbability: 1e-6, afterpulseProbability: 0.01, deadTimeNs: 0 },
    misalignment: 0.01,
    intensities: [0.533, 0.256, 0.0002],
    intensityProbabilities: [60 / 256, 137 / 256, 59 / 256],
    keyBasisProbability: 103 / 128,
  },
} as const satisfies Record<string, Bb84Profile>

export type ProfileName = keyof typeof PROFILES
export const PROFILE_NAMES = Object.keys(PROFILES) as readonly ProfileName[]

/** A named profile with some values replaced, checked and quantised.
 *  @throws RangeError when the name is unknown, or naming every fault of the result. */
export const profileNamed = (name: string, overrides: ProfileOverrides = {}): Bb84Profile => {
  if (!Object.hasOwn(PROFILES, name)) {
    throw new RangeError(`unknown BB84 profile "${name}"; there are ${PROFILE_NAMES.join(', ')}`)
  }
  const named: Bb84Profile = PROFILES[name as ProfileName]
  const profile: Bb84Profile = { ...named, ...overrides, receiver: { ...named.receiver, ...overrides.receiver } }
  const faults = checkProfile(profile)
  if (faults.length > 0) throw new RangeError(`BB84 profile "${profile.name}": ${faults.join('; ')}`)
  return quantised(profile)
}

/** A profile without faults, with probabilities the source can draw exactly: nearest a/128 and b/256, each at least one step, the b's 256 together. */
export const quantised = (profile: Bb84Profile): Bb84Profile => {
  const a = Math.round(profile.keyBasisProbability * BASIS_STEPS)
  return {
    ...profile,
    keyBasisProbability: Math.min(Math.max(a, 1), BASIS_STEPS - 1) / BASIS_STEPS,
    intensityProbabilities: quantisedSum(profile.intensityProbabilities).map((steps) => steps / INTENSITY_STEPS),
  }
}

/** Whole steps nearest to the probabilities whose sum is INTENSITY_STEPS: the rest goes where rounding hurt most. */
const quantisedSum = (probabilities: readonly number[]): number[] => {
  const exact = probabilities.map((probability) => probability * INTENSITY_STEPS)
  const steps = exact.map((value) => Math.max(1, Math.round(value)))
  const surplus = () => steps.reduce((sum, value) => sum + value, 0) - INTENSITY_STEPS
  while (surplus() !== 0) {
    const direction = surplus() > 0 ? -1 : 1
    let best = -1
    for (const [index, value] of steps.entries()) {
      if (direction < 0 && value === 1) continue
      const gain = direction * (exact[index]! - value)
      if (best < 0 || gain > direction * (exact[best]! - steps[best]!)) best = index
    }
    steps[best]! += direction
  }
  return steps
}

/** Every reason why a link must not start with this profile, in words; empty when there is none. */
export const checkProfile = (profile: Bb84Profile): readonly string[] => {
  const faults: string[] = []
  const demand = (holds: boolean, fault: string) => {
    if (!holds) faults.push(fault)
  }
  const within = (value: number, low: number, high: number) => value >= low && value <= high
  const { receiver, intensities, intensityProbabilities } = profile

  demand(profile.name.length > 0, 'the name is empty')
  demand(within(profile.distanceKm, 0, 1_000), 'distanceKm is not between 0 and 1000')
  demand(within(profile.attenuationDbPerKm, 0, 10), 'attenuationDbPerKm is not between 0 and 10')
  demand(within(receiver.efficiency, 0, 1) && receiver.efficiency > 0, 'receiver.efficiency is not above 0 and at most 1')
  demand(within(receiver.darkCountProbability, 0, 0.5), 'receiver.darkCountProbability is not between 0 and 0.5')
  demand(within(receiver.afterpulseProbability, 0, 0.5), 'receiver.afterpulseProbability is not between 0 and 0.5')
  demand(within(receiver.deadTimeNs, 0, 1e9), 'receiver.deadTimeNs is not between 0 and 1e9')
  demand(within(profile.misalignment, 0, 0.5), 'misalignment is not between 0 and 0.5')
  faults.push(...intensityFaults(intensities))
  demand(
    intensityProbabilities.length === intensities.length,
    `there are ${intensities.length} intensities but ${intensityProbabilities.length} probabilities`,
  )
  demand(
    intensityProbabilities.every((probability) => within(probability, 0.5 / INTENSITY_STEPS, 1)),
    `an intensity is never sent: each probability is at least ${0.5 / INTENSITY_STEPS}`,
  )
  const sum = intensityProbabilities.reduce((total, probability) => total + probability, 0)
  demand(Math.abs(sum - 1) <= 1 / INTENSITY_STEPS, `intensityProbabilities add up to ${sum}, not to 1`)
  demand(
    within(profile.keyBasisProbability, 1 / BASIS_STEPS, 1 - 1 / BASIS_STEPS),
    'keyBasisProbability is not between 1/128 and 127/128: both bases are needed',
  )
  demand(within(profile.pulseRateHz, 1, 1e11), 'pulseRateHz is not between 1 and 1e11')
  demand(
    Number.isSafeInteger(profile.blockBits) && within(profile.blockBits, 1_000, 1e7),
    'blockBits is not a whole number from 1000 to 1e7',
  )
  demand(within(profile.epsilonSecrecy, 1e-30, 1e-3), 'epsilonSecrecy is not between 1e-30 and 1e-3')
  // The verification tag of the longest block reaches 1e-26 (forgeryBoundLog2), with room for a block that comes out longer.
  demand(within(profile.epsilonCorrectness, 1e-24, 1e-3), 'epsilonCorrectness is not between 1e-24 and 1e-3')
  return faults
}

const intensityFaults = (intensities: readonly number[]): readonly string[] => {
  const [mu1, mu2, mu3] = intensities
  if (!intensities.every((mu) => Number.isFinite(mu) && mu >= 0)) return ['an intensity is not a number of photons']
  if (mu1 === undefined || mu2 === undefined)
    return ['weak pulses without decoy states are not secure: give two or three intensities']
  if (intensities.length > 3) return ['more than three intensities: the proofs cover one decoy or two']
  if (mu3 === undefined) return mu1 > mu2 && mu2 > 0 ? [] : ['the intensities are not mu1 > mu2 > 0']
  const faults: string[] = []
  if (!(mu1 > mu2 + mu3)) faults.push('the intensities are not mu1 > mu2 + mu3')
  if (!(mu2 > mu3)) faults.push('the intensities are not mu2 > mu3 >= 0')
  return faults
}
