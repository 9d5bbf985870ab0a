/** The physics of the channel over 10^8 pulses per link, and once more with a seed of the day, which is printed when it fails. */
import { describe, expect, it } from '@jest/globals'
import { profileNamed } from '../../src/bb84/profile.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { LINKS } from '../quantum-channel/links.ts'
import { chiSquareTail, deviations, expectedOf, lagOneDeviations, run } from '../quantum-channel/statistics.ts'

const SIGMAS = 4.9
const PULSES = 100_000_000

const SEEDS = ['fixed', systemRandom.uuid()] as const

describe.each(SEEDS)('quantum channel over 10^8 pulses, seed %s', (seed) => {
  it.each(LINKS)('%s', (name, profile) => {
    const { cells, alice, bob, smallestGap } = run(profile, PULSES, `${seed} ${name}`)
    // A click brings p_ap others in the mean, geometrically many: counts scatter by (1 + p_ap) / (1 - p_ap) more.
    const { afterpulseProbability, deadTimeNs } = profile.receiver
    const spread = (1 + afterpulseProbability) / (1 - afterpulseProbability)
    let chiSquare = 0
    let freedom = 0
    for (const { aliceBasis, bobBasis, intensity, sent, clicks, wrong, both } of cells) {
      const mean = profile.intensities[intensity]
      if (mean === undefined) continue
      const expected = expectedOf(profile, mean, aliceBasis === bobBasis)
      expect(deviations(clicks, sent, expected.gain, spread)).toBeLessThan(SIGMAS)
      expect(deviations(wrong + both / 2, sent, expected.errorGain, spread)).toBeLessThan(SIGMAS)
      expect(deviations(both, sent, expected.both, spread)).toBeLessThan(SIGMAS)
      if (sent * expected.wrong < 25) continue
      chiSquare += deviations(clicks - wrong, sent, expected.gain - expected.wrong, spread) ** 2
      chiSquare += deviations(wrong, sent, expected.wrong, spread) ** 2
      freedom += 2
    }
    expect(freedom).toBeGreaterThanOrEqual(16)
    expect(chiSquareTail(chiSquare, freedom)).toBeGreaterThan(1e-4)
    expect(Math.abs(lagOneDeviations(alice))).toBeLessThan(SIGMAS)
    expect(Math.abs(lagOneDeviations(bob))).toBeLessThan(SIGMAS)
    expect(smallestGap).toBeGreaterThan(Math.round(deadTimeNs * 1e-9 * profile.pulseRateHz))
  })

  it.each([0.02, 0.1, 0.25, 1])('Eve intercepting %d of the pulses', (fraction) => {
    const profile = profileNamed('metro', { distanceKm: 25 })
    const { cells } = run(profile, PULSES, `${seed} intercept ${fraction}`, { eve: { attack: 'intercept', fraction } })
    for (const { aliceBasis, bobBasis, intensity, sent, clicks, wrong, both } of cells) {
      const mean = profile.intensities[intensity]
      if (mean === undefined) continue
      const agree = expectedOf(profile, mean, aliceBasis === bobBasis)
      const crossed = expectedOf(profile, mean, false)
      expect(deviations(clicks, sent, agree.gain)).toBeLessThan(SIGMAS)
      const error = agree.errorGain + (fraction / 2) * (crossed.errorGain - agree.errorGain)
      expect(deviations(wrong + both / 2, sent, error)).toBeLessThan(SIGMAS)
    }
  })
})
