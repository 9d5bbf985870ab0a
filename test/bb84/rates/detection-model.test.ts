import { describe, expect, it } from '@jest/globals'
import { deadTimeSlots, expectedDetection, slotOutcome, transmittance } from '../../../src/bb84/detection-model.ts'
import type { Bb84Profile } from '../../../src/bb84/profile.ts'
import { profileNamed } from '../../../src/bb84/profile.ts'

const mean = (profile: Bb84Profile, values: readonly number[]): number =>
  values.reduce((sum, value, k) => sum + profile.intensityProbabilities[k]! * value, 0)

describe('the detection model', () => {
  it('gives the expected gain and error rate of the published receiver at 20 km', () => {
    const profile = { ...profileNamed('gys'), intensities: [0.48, 0.05, 0], intensityProbabilities: [0.7, 0.2, 0.1] }
    const { matched } = expectedDetection(profile)
    const gain = mean(
      profile,
      matched.map((slot) => slot.gain),
    )
    const errorGain = mean(
      profile,
      matched.map((slot) => slot.errorGain),
    )
    expect(gain).toBeCloseTo(0.0058976, 7)
    expect(errorGain / gain).toBeCloseTo(0.0331, 4)
  })

  it('counts photons and dark counts of both detectors, double clicks included', () => {
    const { correct, wrong, click, error } = slotOutcome(0.3, 0.02, 0.001)
    expect(correct).toBeCloseTo(1 - 0.999 * Math.exp(-0.3 * 0.98), 14)
    expect(wrong).toBeCloseTo(1 - 0.999 * Math.exp(-0.3 * 0.02), 14)
    expect(click).toBeCloseTo(1 - 0.999 ** 2 * Math.exp(-0.3), 14)
    expect(error).toBeCloseTo(wrong - (wrong * correct) / 2, 14)
    expect(slotOutcome(0.3, 0.5, 0.001).error).toBeCloseTo(click / 2, 14)
    expect(slotOutcome(0, 0.02, 0.001).error).toBeCloseTo(slotOutcome(0, 0.02, 0.001).click / 2, 14)
  })

  it('loses 0.2 dB per km', () => {
    expect(transmittance(profileNamed('lab-2014', { distanceKm: 50 }))).toBeCloseTo(0.01, 12)
  })

  it('is blind for whole slots', () => {
    expect([0, 10, 11, 30, 35].map((ns) => deadTimeSlots(ns, 1e8))).toEqual([0, 1, 2, 3, 4])
  })

  it('has half of the clicks wrong in the other basis, and as many of them', () => {
    const { matched, mismatched } = expectedDetection(profileNamed('lab-2014', { receiver: { deadTimeNs: 40 } }))
    mismatched.forEach(({ gain, errorGain }, k) => {
      expect(errorGain).toBeCloseTo(gain / 2, 12)
      expect(gain).toBeCloseTo(matched[k]!.gain, 12)
    })
  })

  it('raises the error rate as intercept-resend does, and no gain', () => {
    const profile = profileNamed('metro')
    const honest = expectedDetection(profile).matched[0]!
    const attacked = expectedDetection(profile, 0.2).matched[0]!
    const honestRate = honest.errorGain / honest.gain
    expect(attacked.gain).toBe(honest.gain)
    expect(attacked.errorGain / attacked.gain).toBeCloseTo(honestRate + 0.2 * (0.25 - honestRate / 2), 12)
  })

  it('agrees with a receiver played slot by slot: afterpulses in the first slot that sees, dead time, double clicks', () => {
    const profile = profileNamed('metro', {
      distanceKm: 0,
      misalignment: 0.05,
      receiver: { efficiency: 0.8, darkCountProbability: 0.01, afterpulseProbability: 0.3, deadTimeNs: 20 },
    })
    const eta = transmittance(profile)
    const uniform = mulberry(7)
    const slots = 1_500_000
    const sent = [0, 0, 0]
    const clicks = [0, 0, 0]
    const errors = [0, 0, 0]
    let blind = 0
    let due = false
    for (let slot = 0; slot < slots; slot++) {
      const draw = uniform()
      const k = draw < profile.intensityProbabilities[0]! ? 0 : draw < 1 - profile.intensityProbabilities[2]! ? 1 : 2
      sent[k]! += 1
      if (blind > 0) {
        blind -= 1
        continue
      }
      const light = slotOutcome(eta * profile.intensities[k]!, profile.misalignment, profile.receiver.darkCountProbability)
      let right = uniform() < light.correct
      let wrong = uniform() < light.wrong
      if (due) {
        if (uniform() < 0.5) right = true
        else wrong = true
      }
      if (!right && !wrong) continue
      clicks[k]! += 1
      if (right && wrong ? uniform() < 0.5 : wrong) errors[k]! += 1
      blind = 2
      due = uniform() < profile.receiver.afterpulseProbability
    }
    const expected = expectedDetection(profile)
    const total = clicks.reduce((sum, count) => sum + count, 0)
    expect(Math.abs(total / slots - expected.clickProbability)).toBeLessThan(4.9 * Math.sqrt(expected.clickProbability / slots))
    expected.matched.forEach(({ gain, errorGain }, k) => {
      expect(Math.abs(clicks[k]! / sent[k]! - gain)).toBeLessThan(4.9 * Math.sqrt(gain / sent[k]!))
      expect(Math.abs(errors[k]! / sent[k]! - errorGain)).toBeLessThan(4.9 * Math.sqrt(errorGain / sent[k]!))
    })
  })
})

/** A small seeded generator: good enough to play dice with. */
const mulberry = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
