import { describe, expect, it } from '@jest/globals'
import type { ProfileOverrides } from '../../../src/bb84/profile.ts'
import { checkProfile, PROFILE_NAMES, profileNamed, quantised } from '../../../src/bb84/profile.ts'

describe('a BB84 profile', () => {
  it.each(PROFILE_NAMES)('%s has no fault and is drawn exactly by the source', (name) => {
    const profile = profileNamed(name)
    expect(checkProfile(profile)).toEqual([])
    expect(profile.name).toBe(name)
    expect(profile.keyBasisProbability * 128).toBe(Math.round(profile.keyBasisProbability * 128))
    const steps = profile.intensityProbabilities.map((probability) => probability * 256)
    expect(steps).toEqual(steps.map(Math.round))
    expect(steps.reduce((sum, value) => sum + value, 0)).toBe(256)
    expect(quantised(profile)).toEqual(profile)
  })

  it('takes overrides, those of the receiver one by one', () => {
    const profile = profileNamed('metro', { name: 'ours', distanceKm: 12, receiver: { deadTimeNs: 50 } })
    expect(profile).toMatchObject({ name: 'ours', distanceKm: 12, receiver: { efficiency: 0.5, deadTimeNs: 50 } })
  })

  it('rounds probabilities to what the source can draw and keeps their sum', () => {
    const { keyBasisProbability, intensityProbabilities } = profileNamed('metro', {
      keyBasisProbability: 0.9,
      intensityProbabilities: [1 / 3, 1 / 3, 1 / 3],
    })
    expect(keyBasisProbability).toBe(115 / 128)
    expect(intensityProbabilities.map((p) => p * 256).sort()).toEqual([85, 85, 86])
  })

  it('never rounds an intensity away', () => {
    expect(quantised(profileNamed('metro', { intensityProbabilities: [0.994, 0.003, 0.003] })).intensityProbabilities).toEqual([
      254 / 256,
      1 / 256,
      1 / 256,
    ])
  })

  it('names the profiles there are when asked for another', () => {
    expect(() => profileNamed('satellite')).toThrow(/unknown BB84 profile "satellite"; there are lab-2014, metro, gys, ingaas/)
    expect(() => profileNamed('toString')).toThrow(/unknown BB84 profile/)
  })

  it('refuses weak pulses without decoy states', () => {
    expect(() => profileNamed('metro', { intensities: [0.5], intensityProbabilities: [1] })).toThrow(
      'weak pulses without decoy states are not secure',
    )
  })

  const faulty: readonly (readonly [string, ProfileOverrides])[] = [
    ['mu1 > mu2 + mu3', { intensities: [0.3, 0.2, 0.1] }],
    ['mu2 > mu3 >= 0', { intensities: [0.5, 0.1, 0.1] }],
    ['mu1 > mu2 > 0', { intensities: [0.2, 0.2], intensityProbabilities: [0.5, 0.5] }],
    ['mu1 > mu2 > 0', { intensities: [0.2, 0], intensityProbabilities: [0.5, 0.5] }],
    ['not a number of photons', { intensities: [0.5, 0.1, Number.NaN] }],
    ['more than three', { intensities: [0.5, 0.2, 0.1, 0], intensityProbabilities: [0.25, 0.25, 0.25, 0.25] }],
    ['3 intensities but 2 probabilities', { intensityProbabilities: [0.5, 0.5] }],
    ['add up to', { intensityProbabilities: [0.5, 0.2, 0.2] }],
    ['never sent', { intensityProbabilities: [0.6, 0.4, 0] }],
    ['both bases', { keyBasisProbability: 1 }],
    ['both bases', { keyBasisProbability: Number.NaN }],
    ['distanceKm', { distanceKm: -1 }],
    ['attenuationDbPerKm', { attenuationDbPerKm: Number.POSITIVE_INFINITY }],
    ['efficiency', { receiver: { efficiency: 0 } }],
    ['darkCountProbability', { receiver: { darkCountProbability: 0.6 } }],
    ['afterpulseProbability', { receiver: { afterpulseProbability: -0.1 } }],
    ['deadTimeNs', { receiver: { deadTimeNs: -1 } }],
    ['misalignment', { misalignment: 0.51 }],
    ['pulseRateHz', { pulseRateHz: 0 }],
    ['blockBits', { blockBits: 10_000.5 }],
    ['epsilonSecrecy', { epsilonSecrecy: 0 }],
    ['epsilonCorrectness', { epsilonCorrectness: 1 }],
    ['name', { name: '' }],
  ]
  it.each(faulty)('refuses a profile where the fault is: %s', (words, overrides) => {
    expect(() => profileNamed('metro', overrides)).toThrow(words)
  })

  it('lists every fault at once', () => {
    const faults = checkProfile({ ...profileNamed('gys'), distanceKm: -5, pulseRateHz: 0, intensities: [0.5] })
    expect(faults).toHaveLength(4)
  })
})
