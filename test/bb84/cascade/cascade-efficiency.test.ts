/** What Cascade gives away and how often it asks, 200 frames a point; 2,000 are in test/bb84-long. Three standard
 *  errors of slack: a point that is exactly at its goal fails once in 740 runs of other seeds. */
import { describe, expect, it } from '@jest/globals'
import { measureCascade } from '../../../bench/bb84/bench-cascade.ts'
import { LONG_FRAMES, PUBLISHED } from './published.ts'

const FRAMES = 200

describe('frames of 2^14 bits', () => {
  it.each(PUBLISHED)('at $qber disclose at most $highestF of n h(q), in about $channelUses rounds', (point) => {
    const { qber, highestF, channelUses } = point
    const { f, fError, rounds, roundsError } = measureCascade({ frameBits: 2 ** 14, qber, frames: FRAMES, seed: 1 })
    expect(f - 3 * fError).toBeLessThanOrEqual(highestF)
    expect(f + 3 * fError).toBeGreaterThan(1)
    expect(Math.abs(rounds - channelUses)).toBeLessThanOrEqual(0.1 * channelUses + 3 * roundsError)
  })
})

describe('frames of 2^16 bits', () => {
  it.each(LONG_FRAMES)('at $qber disclose at most $highestF of n h(q)', ({ qber, highestF }) => {
    const { f, fError } = measureCascade({ frameBits: 2 ** 16, qber, frames: FRAMES, seed: 1 })
    expect(f - 3 * fError).toBeLessThanOrEqual(highestF)
    expect(f + 3 * fError).toBeGreaterThan(1)
  })
})

it('an error rate guessed wrong by a third costs parities, not equality', () => {
  for (const guess of [0.02, 0.045]) {
    const plan = { frameBits: 2 ** 14, qber: guess, frames: 3, seed: 1 }
    expect(measureCascade(plan).frameErrors).toBe(0)
  }
})
