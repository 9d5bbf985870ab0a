import { describe, expect, it } from '@jest/globals'
import { expectedDetection } from '../../src/bb84/detection-model.ts'
import { keyLengthTwoDecoys } from '../../src/bb84/key-length.ts'
import { binaryEntropy } from '../../src/bb84/binary-entropy.ts'
import { profileNamed } from '../../src/bb84/profile.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { createQuantumChannel } from '../../src/quantum-channel/channel.ts'
import { patternLaw } from '../../src/quantum-channel/click-law.ts'
import { splitForwarding } from '../../src/quantum-channel/eve.ts'
import type { Eve } from '../../src/quantum-channel/quantum-channel.ts'
import { LINKS } from './links.ts'
import { deviations, expectedOf, run, thresholdDetectors } from './statistics.ts'
import type { Cell } from './statistics.ts'

const SIGMAS = 4.9
const OFF: Eve = { attack: 'off' }
const SPLIT: Eve = { attack: 'split' }

const gainOf = (profile: Bb84Profile, eve: Eve, mean: number): number => {
  const { right, wrong, both } = patternLaw(profile, eve, mean, true)
  return right + wrong + both
}
const sumOf = (cells: readonly Cell[], what: 'sent' | 'clicks' | 'wrong' | 'both'): number =>
  cells.reduce((sum, cell) => sum + cell[what], 0)

describe('Eve intercepts and resends', () => {
  // e + p (1/4 - e/2) with e = 1 %: the numbers of the analysis, in per cent.
  it.each([
    [0.05, 2.23],
    [0.1, 3.45],
    [0.2, 5.9],
    [0.4, 10.8],
    [1, 25.5],
  ])('a fraction of %d: an error rate of %d %%, and every gain as before', (fraction, percent) => {
    // Far enough for double clicks to be rare, quiet enough for dark counts to be.
    const profile = profileNamed('metro', { distanceKm: 40, receiver: { darkCountProbability: 1e-9 } })
    const { cells } = run(profile, 2 ** 23, `intercept ${fraction}`, {
      eve: { attack: 'intercept', fraction },
      countSent: false,
    })
    const agree = cells.filter((cell) => cell.aliceBasis === cell.bobBasis)
    const clicks = sumOf(agree, 'clicks')
    const formula = profile.misalignment + fraction * (0.25 - profile.misalignment / 2)
    expect(formula).toBeCloseTo(percent / 100, 3)
    expect(clicks).toBeGreaterThan(50_000)
    expect(deviations(sumOf(agree, 'wrong') + sumOf(agree, 'both') / 2, clicks, formula)).toBeLessThan(SIGMAS)
    for (const { sent, intensity, clicks: seen } of cells) {
      const mean = profile.intensities[intensity]
      if (mean === undefined) continue
      expect(deviations(seen, sent, thresholdDetectors(profile, mean, true).gain)).toBeLessThan(SIGMAS)
    }
  })

  it.each([0, 0.15, 1])('errs per basis and intensity as the model of the link expects (fraction %d)', (fraction) => {
    const profile = profileNamed('lab-2014', { receiver: { deadTimeNs: 200 } })
    const { cells } = run(profile, 2 ** 23, `model ${fraction}`, { eve: { attack: 'intercept', fraction }, countSent: false })
    const model = expectedDetection(profile, fraction)
    for (const { aliceBasis, bobBasis, intensity, sent, clicks, wrong, both } of cells) {
      const expected = (aliceBasis === bobBasis ? model.matched : model.mismatched)[intensity]
      if (expected === undefined) continue
      expect(deviations(clicks, sent, expected.gain, 1.08)).toBeLessThan(SIGMAS)
      expect(deviations(wrong + both / 2, sent, expected.errorGain, 1.08)).toBeLessThan(SIGMAS)
    }
  })

  it('refuses fractions that are none, when made and when changed', () => {
    for (const fraction of [-0.1, 1.1, NaN]) {
      const eve: Eve = { attack: 'intercept', fraction }
      expect(() => createQuantumChannel({ profile: profileNamed('metro'), eve })).toThrow(RangeError)
      expect(() => createQuantumChannel({ profile: profileNamed('metro') }).setEve(eve)).toThrow(RangeError)
    }
  })
})

describe('Eve splits photon numbers', () => {
  const gys = (distanceKm: number): Bb84Profile => ({ ...profileNamed('gys', { distanceKm }), intensities: [0.48, 0.05, 0] })

  // Signal gain, honest and attacked gain of the decoy with the receiver of Gobby, Yuan and Shields.
  it.each([
    [0, 2.137e-2, 2.249e-3, 3.085e-4],
    [20, 8.1802e-3, 8.568e-4, 1.191e-4],
    [40, 3.119e-3, 3.269e-4, 4.646e-5],
    [60, 1.188e-3, 1.253e-4, 1.874e-5],
  ])('at %d km the gain of the signal stays and that of the decoy falls', (distanceKm, signal, honest, attacked) => {
    const profile = gys(distanceKm)
    const relative = (value: number, reference: number) => Math.abs(value / reference - 1)
    for (const eve of [OFF, SPLIT]) expect(relative(gainOf(profile, eve, 0.48), signal)).toBeLessThan(5e-4)
    expect(gainOf(profile, SPLIT, 0.48)).toBeCloseTo(gainOf(profile, OFF, 0.48), 15)
    expect(relative(gainOf(profile, OFF, 0.05), honest)).toBeLessThan(5e-4)
    expect(relative(gainOf(profile, SPLIT, 0.05), attacked)).toBeLessThan(5e-4)
    expect(gainOf(profile, SPLIT, 0)).toBeCloseTo(2 * 8.5e-7, 9)
  })

  it('leaves no trace in the signal: every pattern in every basis as without her', () => {
    for (const [, profile] of LINKS) {
      for (const agree of [true, false]) {
        const signal = profile.intensities[0]!
        const honest = patternLaw(profile, OFF, signal, agree)
        const attacked = patternLaw(profile, SPLIT, signal, agree)
        for (const pattern of ['right', 'wrong', 'both'] as const) expect(attacked[pattern]).toBeCloseTo(honest[pattern], 14)
      }
    }
  })

  it('is sampled as it is computed', () => {
    const profile: Bb84Profile = { ...gys(0), intensityProbabilities: [0.375, 0.5, 0.125] }
    const { cells } = run(profile, 2 ** 23, 'split', { eve: SPLIT, countSent: false })
    for (const { aliceBasis, bobBasis, intensity, sent, clicks, wrong } of cells) {
      const mean = profile.intensities[intensity]
      if (mean === undefined) continue
      const law = patternLaw(profile, SPLIT, mean, aliceBasis === bobBasis)
      expect(deviations(clicks, sent, law.right + law.wrong + law.both)).toBeLessThan(SIGMAS)
      expect(deviations(wrong, sent, law.wrong)).toBeLessThan(SIGMAS)
      if (intensity === 0) expect(deviations(clicks, sent, expectedOf(profile, mean, true).gain)).toBeLessThan(SIGMAS)
    }
    // The decoy gives her away: an eighth of what an honest link shows.
    const decoys = cells.filter((cell) => cell.intensity === 1)
    const honest = thresholdDetectors(profile, 0.05, true).gain
    expect(sumOf(decoys, 'clicks') / sumOf(decoys, 'sent')).toBeLessThan(honest / 6)
  })

  it('proves nothing secret of a link where she gets everything, at an error rate that says nothing', () => {
    const profile = profileNamed('lab-2014')
    const lengthUnder = (eve: Eve) => {
      const sifted = 1e7
      const law = (k: number) => patternLaw(profile, eve, profile.intensities[k]!, true)
      const clicks = [0, 1, 2].map((k) => profile.intensityProbabilities[k]! * (law(k).right + law(k).wrong + law(k).both))
      const errors = [0, 1, 2].map((k) => profile.intensityProbabilities[k]! * (law(k).wrong + law(k).both / 2))
      const perClick = sifted / clicks.reduce((sum, value) => sum + value, 0)
      const scaled = (values: readonly number[], factor: number) => values.map((value) => value * perClick * factor)
      const qber = errors.reduce((sum, value) => sum + value, 0) / clicks.reduce((sum, value) => sum + value, 0)
      const counts = { nX: scaled(clicks, 1), nZ: scaled(clicks, 0.1), mZ: scaled(errors, 0.1) }
      return { qber, ...keyLengthTwoDecoys(counts, 1.05 * sifted * binaryEntropy(qber), profile) }
    }
    const honest = lengthUnder(OFF)
    const attacked = lengthUnder(SPLIT)
    expect(attacked.qber).toBeCloseTo(honest.qber, 3)
    expect(honest.lengthBits).toBeGreaterThan(1e6)
    expect([attacked.sX1, attacked.lengthBits]).toEqual([0, 0])
  })

  it('lets single photons pass where pulses with several cannot make the gain', () => {
    const profile = { ...profileNamed('metro', { distanceKm: 5 }), intensities: [0.627, 0.306, 0.0002] }
    const clicks = -Math.expm1(-0.5 * 10 ** -0.1 * 0.627)
    const { multiphotonFraction, singlePhotonFraction, ofPulse } = splitForwarding(profile, clicks)
    expect(multiphotonFraction).toBe(1)
    expect(singlePhotonFraction).toBeCloseTo((clicks - (1 - Math.exp(-0.627) * 1.627)) / (0.627 * Math.exp(-0.627)), 12)
    expect(ofPulse(0.627)).toBeCloseTo(clicks, 14)
    expect(gainOf(profile, SPLIT, 0.306)).toBeLessThan(0.9 * gainOf(profile, OFF, 0.306))
  })
})
