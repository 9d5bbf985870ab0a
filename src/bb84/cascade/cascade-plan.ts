/** Which blocks Cascade compares: the near-optimal parameter set of Martinez-Mateo, Pacher, Peev, Ciurana and Martin,
 *  "Demystifying the information reconciliation protocol Cascade", QIC 15, 453 (2015), arXiv 1407.3257, table 3.
 *  Three passes cut the frame into blocks (the first in its own order, the others shuffled); in every later pass the
 *  parity of one random half is compared, the other half being implied by the parity of the whole frame.
 *  Holds: both ends compute the same plan from the same frame length and error rate. */

export const MIN_FRAME_BITS = 64
/** Positions must stay exact in the shuffle's arithmetic, see cascade-shuffles.ts. */
export const MAX_FRAME_BITS = 1 << 20
/** Block passes and random halves of a frame together, those of an extension included. */
export const MAX_PASSES = 64
const PLANNED_PASSES = 14

export interface CascadePlan {
  readonly frameBits: number
  /** Block size of each block pass, in bits; the last block of a pass may be shorter. */
  readonly blockBits: readonly number[]
  /** How many parities of random halves follow the block passes. */
  readonly halves: number
}

/** Table 3: error rate, then the block sizes of passes one and two. */
const TABLE: readonly (readonly [qber: number, first: number, second: number])[] = [
  [0.005, 256, 1024],
  [0.01, 128, 512],
  [0.02, 64, 512],
  [0.03, 32, 512],
  [0.04, 32, 256],
  [0.05, 16, 256],
  [0.06, 16, 256],
  [0.07, 16, 256],
  [0.08, 8, 256],
  [0.09, 8, 256],
  [0.1, 8, 256],
  [0.11, 8, 256],
]
const TABLE_LOWEST = 0.0035
const TABLE_HIGHEST = 0.12
const THIRD_BLOCK_BITS = 4096
/** Below this error rate larger blocks save next to nothing. */
const LOWEST_QBER = 1e-4

const firstBlocks = (qber: number): readonly [first: number, second: number] => {
  if (qber >= TABLE_LOWEST && qber <= TABLE_HIGHEST) {
    const [, first, second] = TABLE.reduce((best, row) => (Math.abs(row[0] - qber) < Math.abs(best[0] - qber) ? row : best))
    return [first, second]
  }
  // The closed form of the same paper, where its table has no row.
  const a = Math.log2(1 / Math.max(qber, LOWEST_QBER)) - 0.5
  return [2 ** Math.max(2, Math.ceil(a)), 2 ** Math.ceil((a + 12) / 2)]
}

/** The plan for a frame of `frameBits` bits of which a share `qber` is expected to differ. A wrong expectation costs
 *  parities, never correctness.
 *  @throws RangeError when the frame is shorter than 64 or longer than 2^20 bits, or `qber` is not between 0 and 0.5. */
export const cascadePlan = (frameBits: number, qber: number): CascadePlan => {
  if (!Number.isInteger(frameBits) || frameBits < MIN_FRAME_BITS || frameBits > MAX_FRAME_BITS)
    throw new RangeError(`a Cascade frame has ${MIN_FRAME_BITS} to ${MAX_FRAME_BITS} bits, not ${frameBits}`)
  if (!(qber >= 0 && qber <= 0.5)) throw new RangeError(`the expected error rate must be between 0 and 0.5, not ${qber}`)
  const half = Math.ceil(frameBits / 2)
  const blockBits = [...firstBlocks(qber), THIRD_BLOCK_BITS].map((bits) => Math.min(bits, half))
  return { frameBits, blockBits, halves: PLANNED_PASSES - blockBits.length }
}
