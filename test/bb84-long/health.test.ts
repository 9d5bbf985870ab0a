import { describe, expect, it } from '@jest/globals'
import { createHealthTest } from '../../src/bb84/health-tests.ts'
import { biasedBits, goodBits } from '../bb84/health/faulty-streams.ts'

describe('the health tests of a bit stream', () => {
  it('raise no alarm in a thousand million good bits', () => {
    const test = createHealthTest()
    const next = goodBits(90)
    for (let block = 0; block < 1_000; block++) test.examine(next(1_000_000), 1_000_000)
    expect(test.alarm).toBeUndefined()
  })

  it('find a share of ones of 0.65 within five windows, 99.5 % of the time', () => {
    let found = 0
    for (let run = 0; run < 10_000; run++) if (createHealthTest().examine(biasedBits(run, 5_120, 0.65), 5_120)) found += 1
    expect(found).toBeGreaterThanOrEqual(9_950)
  })
})
