/** Cascade between two ends: equal keys, counted parities, nothing given for free. */
import { describe, expect, it } from '@jest/globals'
import { cascadePlan } from '../../../src/bb84/cascade/cascade-plan.ts'
import { bytesOfNumber, noisyFrame, reconcile } from './reconcile.ts'

describe('a frame', () => {
  it.each([
    [64, 0.05],
    [1_000, 0.02],
    [16_384, 0.01],
    [16_384, 0.11],
    [62_500, 0.03],
    [100_003, 0.05],
  ])('of %i bits with %f errors ends equal, with the same count at both ends', (bitCount, qber) => {
    const { alice, bob, errors } = noisyFrame(bitCount, qber, 1)
    const { responder, corrector, asks } = reconcile(alice, bob, cascadePlan(bitCount, qber), bytesOfNumber(2))
    expect(Buffer.from(corrector.corrected()).equals(alice)).toBe(true)
    expect(corrector.correctedBits).toBe(errors)
    expect(corrector.disclosedBits).toBe(asks.length)
    expect(responder.disclosedBits).toBe(asks.length)
    expect(new Set(asks).size).toBe(asks.length)
  })
})
