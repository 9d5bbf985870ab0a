/** A link whose blocks are distilled in a fraction of a second: no fibre, perfect detectors, and probabilities that give key from 10^5 bits. */
import { profileNamed, type Bb84Profile, type ProfileOverrides } from '../../src/bb84/profile.ts'

export const smallProfile = (overrides: ProfileOverrides = {}): Bb84Profile =>
  profileNamed('metro', {
    name: 'small',
    distanceKm: 0,
    receiver: { efficiency: 1, darkCountProbability: 1e-7, afterpulseProbability: 0, deadTimeNs: 0 },
    intensities: [0.6, 0.25, 0.0002],
    intensityProbabilities: [0.4, 0.35, 0.25],
    keyBasisProbability: 0.625,
    pulseRateHz: 1e9,
    blockBits: 100_000,
    ...overrides,
  })
