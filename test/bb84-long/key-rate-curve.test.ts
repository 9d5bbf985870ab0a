/** Key rate over distance: three blocks of 10^6 sifted bits per distance against the analytic length of the expected counts, evaluated
 *  with the efficiency that reconciliation was measured to have. */
import { describe, expect, it } from '@jest/globals'
import { analyticCurve } from '../../bench/bb84/key-rate-curve.ts'
import { simulatePoint } from '../../bench/bb84/simulated-point.ts'
import { profileNamed } from '../../src/bb84/profile.ts'

const RUNS = 3
const LINKS = [5, 10, 25, 50, 75, 100].map((km) => ['lab-2014', km] as const)

describe('secret bits per pulse', () => {
  it.each([...LINKS, ['metro', 5], ['metro', 25]] as const)(
    'of %s at %d km are within 5 % of the analysis, and no block is more than three deviations above it',
    async (name, distanceKm) => {
      const { profile } = analyticCurve(profileNamed(name, { blockBits: 1_000_000 }), [distanceKm])[0]!
      const ratios: number[] = []
      for (let run = 1; run <= RUNS; run += 1) {
        const point = await simulatePoint(profile, `long key rate ${name} ${distanceKm}, run ${run}`)
        const { secretBitsPerPulse, expectedBitsPerPulse, deviationBitsPerPulse } = point
        // One block scatters by up to 3 %, which the mean of three must not show.
        expect(deviationBitsPerPulse / expectedBitsPerPulse).toBeLessThan(0.03)
        expect((secretBitsPerPulse - expectedBitsPerPulse) / deviationBitsPerPulse).toBeLessThan(3)
        ratios.push(secretBitsPerPulse / expectedBitsPerPulse)
      }
      expect(Math.abs(ratios.reduce((sum, ratio) => sum + ratio, 0) / RUNS - 1)).toBeLessThan(0.05)
    },
    600_000,
  )
})
