/** Eve on the fibre, blocks by the dozen; thousands of them are in test/bb84-long. */
import { describe, expect, it } from '@jest/globals'
import { expectedQber, qberDeviations, runManyBlocks, tuned } from './many-blocks.ts'
import { expectedBlock } from '../../src/bb84/expected-rate.ts'

const SIGMAS = 4.9

describe('a link of 5 km tuned for blocks of 10^5 bits', () => {
  const profile = tuned('metro', 5, 100_000)

  it('gives key from every block when nobody listens', async () => {
    const honest = await runManyBlocks(profile, 25, { attack: 'off' }, 'short honest')
    expect(honest).toMatchObject({ blocks: 25, aborted: 0, failures: [] })
    expect(Math.abs(qberDeviations(profile, honest, 0))).toBeLessThan(SIGMAS)
  })

  it('gives not one bit when a fifth of the pulses is intercepted, far below an error rate of 11 %', async () => {
    const attacked = await runManyBlocks(profile, 25, { attack: 'intercept', fraction: 0.2 }, 'short intercept')
    expect(attacked).toMatchObject({ blocks: 25, aborted: 25, keyBits: 0, failures: [] })
    expect(expectedQber(profile, 0.2)).toBeCloseTo(0.01 + 0.2 * (1 / 4 - 0.01 / 2), 3)
    expect(Math.abs(qberDeviations(profile, attacked, 0.2))).toBeLessThan(SIGMAS)
  })
})

it('a link whose pulses are split gives not one bit, at the error rate of an honest one', async () => {
  const profile = tuned('gys', 5, 100_000)
  expect(expectedBlock(profile, 1.05).keyLength.lengthBits).toBeGreaterThan(10_000)
  const attacked = await runManyBlocks(profile, 12, { attack: 'split' }, 'short split')
  expect(attacked).toMatchObject({ blocks: 12, aborted: 12, keyBits: 0, failures: [] })
  expect(Math.abs(attacked.qber / expectedQber(profile, 0) - 1)).toBeLessThan(0.1)
})
