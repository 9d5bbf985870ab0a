import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import type { AsymptoticLink } from '../../../src/bb84/asymptotic-rate.ts'
import {
  boundFromTwoDecoys,
  boundFromVacuumAndWeak,
  errorGain,
  expectedBound,
  gain,
  infiniteDecoyRate,
  largestDistanceKm,
  noDecoyRate,
  optimalIntensity,
  singlePhotons,
  vacuumAndWeakRate,
} from '../../../src/bb84/asymptotic-rate.ts'
import { slotOutcome } from '../../../src/bb84/detection-model.ts'
import { lastDigit, vectorFile } from './vector-file.ts'

interface MaVectors {
  readonly device: {
    readonly attenuationDbPerKm: number
    readonly efficiency: number
    readonly backgroundYield: number
    readonly misalignment: number
  }
  readonly mu: number
  readonly nu: number
  readonly efficiencyF: number
  readonly published: {
    readonly optimalIntensity: readonly { readonly efficiencyF: number; readonly mu: number }[]
    readonly deviationAt40Km: { readonly nuOverMu: number; readonly yieldPercent: number; readonly errorPercent: number }
    readonly largestDistanceKm: { readonly infinite: number; readonly vacuumAndWeak: number }
    readonly rateAtZeroInfinite: number
  }
  readonly noDecoyLargestDistanceKm: number
  readonly rows: readonly (readonly number[])[]
  readonly splittingAttack: {
    readonly rows: readonly { readonly km: number; readonly weakGainHonest: number; readonly weakGainAttacked: number }[]
    readonly boundAt20Km: { readonly honest: number; readonly attackedBeforeClipping: number }
  }
}
const vectors = vectorFile('ma-2005.json') as MaVectors
const { device, mu, nu, efficiencyF, published } = vectors

const linkAt = (km: number): AsymptoticLink => ({
  transmittance: device.efficiency * 10 ** ((-device.attenuationDbPerKm * km) / 10),
  backgroundYield: device.backgroundYield,
  misalignment: device.misalignment,
})

describe('the asymptotic decoy-state rate of Ma et al. 2005', () => {
  it.each(vectors.rows)('reproduces the table at %d km to every printed digit', (km, ...expected) => {
    const link = linkAt(km)
    const infinite = singlePhotons(link)
    const bound = expectedBound(link, mu, nu)
    const computed = [
      gain(link, mu),
      errorGain(link, mu) / gain(link, mu),
      infinite.yield,
      infinite.error,
      infiniteDecoyRate(link, mu, efficiencyF),
      bound.yield,
      bound.error,
      vacuumAndWeakRate(link, mu, nu, efficiencyF),
    ]
    expected.forEach((value, column) => {
      // Error rates are printed to five decimals, everything else to five significant digits.
      const step = [1, 3, 6].includes(column) ? 1e-5 : lastDigit(value, 5)
      expect(Math.abs(computed[column]! - value)).toBeLessThanOrEqual(0.5000001 * step)
    })
  })

  it.each(published.optimalIntensity)('finds the published optimal intensity for f = $efficiencyF', (anchor) => {
    expect(optimalIntensity(device.misalignment, anchor.efficiencyF)).toBeCloseTo(anchor.mu, 2)
  })

  it('deviates from infinitely many decoys as published at 40 km', () => {
    const link = linkAt(40)
    const bound = expectedBound(link, mu, mu * published.deviationAt40Km.nuOverMu)
    const truth = singlePhotons(link)
    expect(Math.abs(100 * (1 - bound.yield / truth.yield) - published.deviationAt40Km.yieldPercent)).toBeLessThan(0.05)
    expect(Math.abs(100 * (bound.error / truth.error - 1) - published.deviationAt40Km.errorPercent)).toBeLessThan(0.05)
  })

  it('reaches the published distances and the rate at 0 km', () => {
    const infinite = largestDistanceKm((km) => infiniteDecoyRate(linkAt(km), mu, efficiencyF))
    const weak = largestDistanceKm((km) => vacuumAndWeakRate(linkAt(km), mu, nu, efficiencyF))
    expect(Math.abs(infinite - published.largestDistanceKm.infinite)).toBeLessThan(0.1)
    expect(Math.abs(weak - published.largestDistanceKm.vacuumAndWeak)).toBeLessThan(0.1)
    expect(infiniteDecoyRate(linkAt(0), mu, efficiencyF)).toBeCloseTo(published.rateAtZeroInfinite, 6)
  })

  it('reaches about 40 km without decoys, even with the best intensity', () => {
    const grid = Array.from({ length: 300 }, (_, step) => 1e-3 * 1.025 ** step)
    const best = largestDistanceKm((km) => Math.max(...grid.map((intensity) => noDecoyRate(linkAt(km), intensity, efficiencyF))))
    expect(best).toBeCloseTo(vectors.noDecoyLargestDistanceKm, 1)
  })

  it('gives the bound of vacuum and weak decoy when the second of two decoys is a vacuum', () => {
    const link = linkAt(20)
    const seen = (intensity: number) => ({ mu: intensity, gain: gain(link, intensity), errorGain: errorGain(link, intensity) })
    const general = boundFromTwoDecoys(seen(mu), seen(nu), seen(0))
    expect(general.yield).toBeCloseTo(expectedBound(link, mu, nu).yield, 12)
    expect(general.error).toBeCloseTo(expectedBound(link, mu, nu).error, 12)
  })

  it('refuses decoys the derivation does not cover', () => {
    const link = linkAt(20)
    const seen = (intensity: number) => ({ mu: intensity, gain: gain(link, intensity), errorGain: errorGain(link, intensity) })
    expect(() => boundFromTwoDecoys(seen(0.5), seen(0.3), seen(0.2))).toThrow(RangeError)
    expect(() => boundFromTwoDecoys(seen(0.5), seen(0.1), seen(0.2))).toThrow(RangeError)
  })

  it.each(vectors.splittingAttack.rows)('sees photon-number splitting at $km km in the weak decoy', (row) => {
    const link = linkAt(row.km)
    const several = (intensity: number) => 1 - (1 + intensity) * Math.exp(-intensity)
    const forwarded = (gain(link, mu) - link.backgroundYield) / several(mu)
    const attacked = link.backgroundYield + forwarded * several(nu)
    expect(Math.abs(gain(link, nu) - row.weakGainHonest)).toBeLessThanOrEqual(0.51 * lastDigit(row.weakGainHonest, 4))
    expect(Math.abs(attacked - row.weakGainAttacked)).toBeLessThanOrEqual(0.51 * lastDigit(row.weakGainAttacked, 4))

    const bound = boundFromVacuumAndWeak(
      { mu, gain: gain(link, mu) },
      { mu: nu, gain: attacked, errorGain: device.misalignment * attacked },
      link.backgroundYield,
    )
    expect(bound).toEqual({ yield: 0, error: 0.5 })
  })

  it('never claims more single photons, or fewer errors of them, than there are', () => {
    const links = fc.record({
      km: fc.double({ min: 0, max: 200, noNaN: true }),
      efficiency: fc.double({ min: 0.01, max: 1, noNaN: true }),
      dark: fc.double({ min: 1e-9, max: 1e-4, noNaN: true }),
      misalignment: fc.double({ min: 0, max: 0.12, noNaN: true }),
      mu: fc.double({ min: 0.05, max: 1.5, noNaN: true }),
      first: fc.double({ min: 0.02, max: 0.9, noNaN: true }),
      second: fc.double({ min: 0, max: 0.9, noNaN: true }),
    })
    fc.assert(
      fc.property(links, (drawn) => {
        const eta = drawn.efficiency * 10 ** (-0.02 * drawn.km)
        const seen = (intensity: number) => {
          const { click, error } = slotOutcome(eta * intensity, drawn.misalignment, drawn.dark)
          return { mu: intensity, gain: click, errorGain: error }
        }
        // Exactly one photon that reaches the right detector, the wrong one, or none.
        const right = eta * (1 - drawn.misalignment)
        const wrong = eta * drawn.misalignment
        const background = 1 - (1 - drawn.dark) ** 2
        const yieldOfOne = eta + (1 - eta) * background
        const errorsOfOne = right * (drawn.dark / 2) + wrong * (1 - drawn.dark / 2) + (1 - eta) * (background / 2)

        const strong = seen(drawn.mu)
        const weak = seen(drawn.mu * drawn.first)
        const weakest = seen(drawn.mu * drawn.first * drawn.second * Math.min(1, 1 / drawn.first - 1))
        const bounds = [boundFromVacuumAndWeak(strong, weak, background)]
        if (weakest.mu < 0.9 * weak.mu && weak.mu + weakest.mu < drawn.mu) bounds.push(boundFromTwoDecoys(strong, weak, weakest))
        for (const bound of bounds) {
          expect(bound.yield).toBeLessThanOrEqual(yieldOfOne * (1 + 1e-9))
          expect(bound.error).toBeGreaterThanOrEqual(Math.min(0.5, errorsOfOne / yieldOfOne) * (1 - 1e-9))
        }
      }),
      { numRuns: 2_000 },
    )
  })
})
