/** A block distilled from known seeds under the eyes of the auditor. */
import { createPulseSource, pulseAt } from '../../src/bb84/pulse-source.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { seededStreams } from '../bb84/seeded-random.ts'
import { createAuditor, type AuditedBlock } from './auditor.ts'
import { runSimulatedLink, type LinkOutcome, type Role } from './simulated-link.ts'

export const SLOTS_PER_BURST = 16_384
const SEED = 'audited'

export const streamsOf = (owner: Role | 'channel') => seededStreams(`${SEED} ${owner}`)

export interface AuditedRun {
  readonly profile: Bb84Profile
  readonly outcome: LinkOutcome
  readonly block: AuditedBlock
}

/** @throws Error when the block is not audited to its end. */
export const runAudited = async (profile: Bb84Profile): Promise<AuditedRun> => {
  const auditor = createAuditor(profile, SLOTS_PER_BURST)
  const outcome = await runSimulatedLink({
    profile,
    blocks: 1,
    slotsPerBurst: SLOTS_PER_BURST,
    streams: streamsOf,
    tap: auditor.tap,
  })
  return { profile, outcome, block: auditor.audit(1) }
}

/** What Alice sent in each slot that clicked, from her seed: the auditor has no such thing. */
export const statesOf = ({ profile, block }: AuditedRun): number[] => {
  const source = createPulseSource(profile)
  const bursts = new Map<number, Uint8Array>()
  const pulses = (burst: number): Uint8Array => {
    const made = bursts.get(burst) ?? source.burst(SLOTS_PER_BURST, streamsOf('alice')(`pulses:${burst}`))
    bursts.set(burst, made)
    return made
  }
  return block.clicks.map(({ burst, slot }) => pulseAt(pulses(burst), slot))
}

/** Alice's bits of each frame, packed. */
export const framesOf = (run: AuditedRun): Uint8Array[] => {
  const { block } = run
  const states = statesOf(run)
  const bits = block.revealed.key.map((click) => (states[click] as number) & 1)
  return block.frames.map(({ plan: { frameBits }, firstBit }) => {
    const packed = new Uint8Array((frameBits + 7) >> 3)
    for (let bit = 0; bit < frameBits; bit += 1) packed[bit >> 3]! |= (bits[firstBit + bit] as number) << (bit & 7)
    return packed
  })
}

/** @param packed the bits of a frame. */
export const parityOf = (mask: Uint32Array, packed: Uint8Array): number => {
  let sum = 0
  for (let byte = 0; byte < packed.length; byte += 1) {
    sum ^= (packed[byte] as number) & ((mask[byte >> 2] as number) >>> ((byte & 3) * 8)) & 255
  }
  sum ^= sum >> 4
  sum ^= sum >> 2
  return (sum ^ (sum >> 1)) & 1
}
