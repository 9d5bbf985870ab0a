/** The audit of test/bb84-link/auditor.test.ts on a block of several frames, which takes more linear algebra. */
import { describe, expect, it } from '@jest/globals'
import { framesOf, parityOf, runAudited } from '../bb84-link/audited-run.ts'
import { smallProfile } from '../bb84-link/small-profile.ts'

describe('an auditor of the classical channel of a block of several frames', () => {
  it('finds at most as many independent parities as were charged, each that of the bits Alice sent', async () => {
    const run = await runAudited(smallProfile({ blockBits: 80_000 }))
    const { block, outcome } = run
    expect(block.frames.length).toBeGreaterThan(1)
    const frames = framesOf(run)
    const wrong = block.parities.filter(({ frame, mask, value }) => parityOf(mask, frames[frame] as Uint8Array) !== value)
    expect(wrong).toHaveLength(0)
    const rank = block.rank()
    for (const role of ['alice', 'bob'] as const) {
      const leakBits = outcome.delivered[role][0]?.statement.leakBits ?? 0
      expect(leakBits).toBe(block.parities.length + block.tagBits)
      expect(rank).toBeLessThanOrEqual(leakBits - block.tagBits)
    }
    process.stderr.write(
      `${block.revealed.key.length} key bits in ${frames.length} frames: ${block.parities.length} parities of rank ${rank}, ${block.tagBits} bits of tags\n`,
    )
  }, 600_000)
})
