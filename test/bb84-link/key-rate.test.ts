/** What a link distils against what the analysis expects of it; the whole curve is in test/bb84-long. */
import { describe, expect, it } from '@jest/globals'
import { analyticCurve } from '../../bench/bb84/key-rate-curve.ts'
import { simulatePoint } from '../../bench/bb84/simulated-point.ts'
import { profileNamed } from '../../src/bb84/profile.ts'

describe('the key of a block tuned to its distance', () => {
  it.each([
    ['lab-2014', 5],
    ['lab-2014', 25],
    ['metro', 5],
  ])('over %s at %d km is as long as the analysis expects of the expected counts', async (name, distanceKm) => {
    const { profile } = analyticCurve(profileNamed(name, { blockBits: 200_000 }), [distanceKm])[0]!
    const point = await simulatePoint(profile, `short key rate ${name} ${distanceKm}`)
    expect(point.efficiencyF).toBeGreaterThan(1)
    expect(point.efficiencyF).toBeLessThan(1.07)
    // Blocks of this size scatter by 2 to 4 %.
    const { secretBitsPerPulse, expectedBitsPerPulse, deviationBitsPerPulse } = point
    expect(deviationBitsPerPulse / expectedBitsPerPulse).toBeLessThan(0.045)
    const deviations = (secretBitsPerPulse - expectedBitsPerPulse) / deviationBitsPerPulse
    expect(deviations).toBeLessThan(3)
    expect(deviations).toBeGreaterThan(-4.9)
  })
})
