/** When what failed is tried again. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { createBackOff } from '../../src/kernel/back-off.ts'
import { systemRandom, type Random } from '../../src/kernel/random.ts'

const always = (byte: number): Random => ({ ...systemRandom, fill: (target) => target.fill(byte) })
const waits = (random: Random, tries: number): number[] => {
  const backOff = createBackOff({ firstMs: 1000, longestMs: 60_000, random })
  return Array.from({ length: tries }, () => Math.round(backOff.failed()))
}

describe('what fails again and again', () => {
  it('is tried after twice the time each time, up to the longest', () => {
    expect(waits(always(255), 9)).toEqual([1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000])
  })

  it('is tried after half of that at the earliest, and never before the first wait', () => {
    expect(waits(always(0), 8)).toEqual([1000, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000])
  })

  it('stays within its bounds however often it fails', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2000 }), (tries) => {
        const last = waits(systemRandom, tries).at(-1)!
        expect(last).toBeGreaterThanOrEqual(1000)
        expect(last).toBeLessThanOrEqual(60_000)
      }),
      { numRuns: 20 },
    )
  })
})

it('what succeeded begins again', () => {
  const backOff = createBackOff({ firstMs: 100, longestMs: 60_000, random: always(255) })
  for (let i = 0; i < 5; i += 1) backOff.failed()
  expect(backOff.failuresInARow).toBe(5)
  backOff.succeeded()
  expect(backOff.failuresInARow).toBe(0)
  expect(Math.round(backOff.failed())).toBe(100)
})
