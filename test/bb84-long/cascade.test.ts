/** The efficiency of Cascade over 2,000 frames a point, and its frame error rate before any extension. */
import { describe, expect, it } from '@jest/globals'
import { measureCascade } from '../../bench/bb84/bench-cascade.ts'
import { LONG_FRAMES, PUBLISHED } from '../bb84/cascade/published.ts'

const FRAMES = 2_000

describe('frames of 2^14 bits', () => {
  it.each(PUBLISHED)('at $qber disclose at most $highestF of n h(q), in about $channelUses rounds', (point) => {
    const { qber, highestF, channelUses } = point
    const { f, rounds } = measureCascade({ frameBits: 2 ** 14, qber, frames: FRAMES, seed: 2 })
    expect(f).toBeGreaterThan(1)
    expect(f).toBeLessThanOrEqual(highestF)
    expect(Math.abs(rounds / channelUses - 1)).toBeLessThanOrEqual(0.1)
  })
})

describe('frames of 2^16 bits', () => {
  it.each(LONG_FRAMES)('at $qber disclose at most $highestF of n h(q)', ({ qber, highestF }) => {
    const { f } = measureCascade({ frameBits: 2 ** 16, qber, frames: FRAMES, seed: 2 })
    expect(f).toBeGreaterThan(1)
    expect(f).toBeLessThanOrEqual(highestF)
  })
})

// What is compared is the number of failures that a rate of 5e-4 would reach or stay below with probability 0.05.
it.each([
  [2 ** 14, 40_000, 12],
  [2 ** 16, 10_000, 1],
])(
  'of frames of %i bits, %i of them, so few end unequal that the rate is below 5e-4',
  (frameBits, frames, most) => {
    const { frameErrors } = measureCascade({ frameBits, qber: 0.02, frames, seed: 3 })
    expect(frameErrors).toBeLessThanOrEqual(most)
  },
  600_000,
)
