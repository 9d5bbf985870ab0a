/** The classical channel of a BB84 link under many more changes than the short suite has time for. */
import { describe, expect, it } from '@jest/globals'
import { flipBits, SAID } from '../bb84-link/flipped-bits.ts'

const FLIPS = 10_000

describe('one flipped bit', () => {
  it(
    `in any of ${FLIPS} messages of all kinds never leaves different keys, nor a changed block at both ends`,
    async () => {
      const tally = await flipBits('long', FLIPS)
      expect(tally.faults).toEqual([])
      expect(tally.flips).toBeGreaterThanOrEqual(FLIPS)
      expect(Object.keys(tally.flipsByMessage)).toHaveLength(SAID.length)
      for (const flips of Object.values(tally.flipsByMessage)) expect(flips).toBeGreaterThan(FLIPS / SAID.length / 4)
      process.stderr.write(`${JSON.stringify(tally)}\n`)
    },
    60 * 60_000,
  )
})
