import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { expectedDetection, slotOutcome, transmittance } from '../../../src/bb84/detection-model.ts'
import { expectedBlock, optimise } from '../../../src/bb84/expected-rate.ts'
import type { Bb84Profile } from '../../../src/bb84/profile.ts'
import { PROFILE_NAMES, profileNamed, quantised } from '../../../src/bb84/profile.ts'
import { bestOfLim, firstOrder, isLimsRate, isRuscasRate, lim, published } from './published-devices.ts'

describe('the expected block of a link', () => {
  const model: Readonly<Record<string, number>> = { 'lab-2014': 133_400, metro: 2_664_000, gys: 35_900, ingaas: 650_000 }

  it.each(PROFILE_NAMES)('of %s is the one in the documents', (name) => {
    const block = expectedBlock(profileNamed(name), 1.05)
    expect(Math.abs(block.secretBitsPerSecond / model[name]! - 1)).toBeLessThan(0.005)
    expect(block.seconds).toBeCloseTo(block.pulses / 1e8, 9)
    expect(block.siftedBitsPerSecond * block.seconds).toBeCloseTo(1e6, 3)
    expect(block.secretBitsPerPulse * 1e8).toBeCloseTo(block.secretBitsPerSecond, 3)
    expect(block.counts.nX.reduce((sum, count) => sum + count, 0)).toBeCloseTo(1e6, 3)
  })

  it.each(PROFILE_NAMES)('of %s is within 1 % of the best there is, quantised as it is', (name) => {
    const profile = profileNamed(name)
    const best = expectedBlock(optimise(profile, 1.05), 1.05).secretBitsPerPulse
    expect(expectedBlock(profile, 1.05).secretBitsPerPulse).toBeGreaterThan(0.99 * best)
    expect(expectedBlock(profile, 1.05).secretBitsPerPulse).toBeLessThan(1.001 * best)
  })

  it('gives the published model of the 25-km and 5-km links: 104 kbit/s and 2.67 Mbit/s', () => {
    const rate = (profile: Bb84Profile) =>
      expectedBlock(optimise(profile, 1.05, firstOrder), 1.05, firstOrder).secretBitsPerSecond
    expect(Math.abs(rate(published) / 104e3 - 1)).toBeLessThan(0.01)
    expect(Math.abs(rate(profileNamed('metro')) / 2.67e6 - 1)).toBeLessThan(0.01)
    expect(Math.abs(rate(profileNamed('ingaas')) / 0.623e6 - 1)).toBeLessThan(0.01)
  })

  it('bounds from below what is there: single photons, vacuum events, and the error rate from above', () => {
    const links = fc.record({
      distanceKm: fc.double({ min: 0, max: 200, noNaN: true }),
      misalignment: fc.double({ min: 0, max: 0.08, noNaN: true }),
      dark: fc.double({ min: 0, max: 1e-5, noNaN: true }),
      mu1: fc.double({ min: 0.1, max: 1, noNaN: true }),
      weak: fc.double({ min: 0.05, max: 0.9, noNaN: true }),
      keyBasisProbability: fc.double({ min: 0.3, max: 0.95, noNaN: true }),
      magnitude: fc.double({ min: 4, max: 9, noNaN: true }),
      decoys: fc.constantFrom(1, 2),
    })
    let withKey = 0
    fc.assert(
      fc.property(links, ({ dark, mu1, weak, magnitude, decoys, ...rest }) => {
        const profile: Bb84Profile = {
          ...published,
          ...rest,
          receiver: { ...published.receiver, darkCountProbability: dark, afterpulseProbability: 0 },
          intensities: decoys === 2 ? [mu1, 2e-4 + (mu1 - 4e-4) * weak, 2e-4] : [mu1, mu1 * weak],
          intensityProbabilities: decoys === 2 ? [0.5, 0.3, 0.2] : [0.7, 0.3],
          blockBits: Math.round(10 ** magnitude),
        }
        const { keyLength, pulses } = expectedBlock(profile, 1.05)
        const eta = transmittance(profile)
        const vacuum = slotOutcome(0, 0, dark).click
        const yieldOfOne = eta + (1 - eta) * vacuum
        const errorsOfOne =
          eta * (1 - profile.misalignment) * (dark / 2) + eta * profile.misalignment * (1 - dark / 2) + (1 - eta) * (vacuum / 2)
        const sent = (photons: number) =>
          profile.intensities.reduce((sum, mu, k) => sum + profile.intensityProbabilities[k]! * Math.exp(-mu) * mu ** photons, 0)
        const inX = pulses * profile.keyBasisProbability ** 2
        expect(keyLength.sX0).toBeLessThanOrEqual(inX * sent(0) * vacuum * (1 + 1e-9))
        expect(keyLength.sX1).toBeLessThanOrEqual(inX * sent(1) * yieldOfOne * (1 + 1e-9))
        expect(keyLength.phi).toBeGreaterThanOrEqual(Math.min(0.5, errorsOfOne / yieldOfOne))
        if (keyLength.lengthBits > 0) withKey += 1
      }),
      { numRuns: 1_000 },
    )
    expect(withKey).toBeGreaterThan(100)
  })

  it('loses its key to an eavesdropper on a fifth of the pulses', () => {
    const attacked = (fraction: number) => (profile: Bb84Profile) => expectedDetection(profile, fraction).matched
    for (const name of PROFILE_NAMES) {
      const rates = [0, 0.05, 0.2].map(
        (fraction) => expectedBlock(profileNamed(name), 1.05, { receiverModel: attacked(fraction) }).secretBitsPerSecond,
      )
      expect(rates[1]!).toBeLessThan(rates[0]!)
      expect(rates[2]!).toBe(0)
    }
  })

  it('refuses a profile without decoys', () => {
    const profile = { ...profileNamed('metro'), intensities: [0.5], intensityProbabilities: [1] }
    expect(() => expectedBlock(profile, 1.05)).toThrow('weak pulses without decoy states are not secure')
  })
})

describe('the device of Lim 2014', () => {
  // The whole table is in the long suite.
  it.each(lim.publishedDevice.rows)('gives the best rate at 100 km for blocks of $blockBits bits', ({ blockBits, rates }) => {
    expect(isLimsRate(blockBits, 100, rates[lim.publishedDevice.distancesKm.indexOf(100)]!)).toBe(true)
  })

  it('gains from blocks of 1e9 bits over 1e7 what the paper states, about 1.75 at 100 km', () => {
    const ratio = bestOfLim(1e9, 100) / bestOfLim(1e7, 100)
    expect(ratio).toBeGreaterThan(1.7)
    expect(ratio).toBeLessThan(1.85)
  })

  it.each(lim.intercepted.rows)(
    'keeps the key it should under intercept-resend: afterpulses $afterpulseProbability, $blockBits bits',
    ({ afterpulseProbability, blockBits, keyPerSiftedBit }) => {
      const { distanceKm, efficiencyF, fractions } = lim.intercepted
      const tuned = optimise({ ...published, distanceKm, blockBits }, efficiencyF, firstOrder)
      const device = { ...tuned, receiver: { ...tuned.receiver, afterpulseProbability } }
      fractions.forEach((fraction, column) => {
        const misalignment = device.misalignment + fraction * (0.25 - device.misalignment / 2)
        const { keyLength } = expectedBlock({ ...device, misalignment }, efficiencyF, firstOrder)
        expect(Math.abs(keyLength.lengthBits / blockBits - keyPerSiftedBit[column]!)).toBeLessThan(0.0015)
      })
    },
  )
})

describe('other published bounds', () => {
  it('stays below the tighter Chernoff bound of Zhang et al. 2017 at 1e10 pulses, at their setting and at the best one', () => {
    const { chernoffBound } = lim
    const device: Bb84Profile = {
      ...profileNamed('gys', { distanceKm: chernoffBound.distanceKm }),
      intensities: chernoffBound.intensities,
      intensityProbabilities: chernoffBound.intensityProbabilities,
    }
    const withPulses = (profile: Bb84Profile): Bb84Profile => ({
      ...profile,
      blockBits: profile.blockBits * (chernoffBound.pulses / expectedBlock(profile, 1.16).pulses),
    })
    const rate = (profile: Bb84Profile) => expectedBlock(withPulses(profile), 1.16).secretBitsPerPulse
    for (let a = 32; a < 128; a++)
      expect(rate({ ...device, keyBasisProbability: a / 128 })).toBeLessThanOrEqual(chernoffBound.rate)

    let tuned = device
    for (let round = 0; round < 8; round++) tuned = optimise(withPulses(tuned), 1.16)
    expect(rate(tuned)).toBeGreaterThan(5e-7)
    expect(rate(tuned)).toBeLessThanOrEqual(chernoffBound.rate)
  })

  it('gives the rates of the one-decoy device of Rusca 2018', () => {
    expect(isRuscasRate(1e7, 20, 4.32e5)).toBe(true)
    expect(isRuscasRate(1e7, 60, 17)).toBe(true)
  })
})

describe('the search for the best source', () => {
  it('finds the same profile twice', () => {
    const profile = profileNamed('ingaas')
    expect(optimise(profile, 1.05)).toEqual(optimise(profile, 1.05))
  })

  it('gives a profile the source can draw after quantising, at a loss below 1 %', () => {
    const tuned = optimise(profileNamed('metro', { distanceKm: 25 }), 1.05)
    const drawn = quantised(tuned)
    const rate = expectedBlock(tuned, 1.05).secretBitsPerPulse
    expect(expectedBlock(drawn, 1.05).secretBitsPerPulse).toBeGreaterThan(0.99 * rate)
    expect(rate).toBeCloseTo(9.7e-3, 4)
  })
})
