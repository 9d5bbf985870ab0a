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

export interface CascadePlan {
  readonly frameBits: number
  /** Block size of each block pass, in bits; the last block of a pass may be shorter. */
  readonly blockBits: readonly number[]
  /** How many parities of random halves follow the block passes. */
  readonly halves: number
  /** A round after one of fewer asks than this searches the first two passes together. */
  readonly togetherAsks: number
}

/** Table 3: error rate, then the block sizes of passes one and two. The last row is from own simulations: blocks for
 *  error rates at which there is no key to be had, chosen for few rounds. */
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
  [0.5, 4, 128],
]
/** Between two rows the one above gives away less and needs fewer rounds (simulated), but for a little beyond a row. */
const ROW_REACH = 1.1
/** Below it the closed form of the same paper asks for larger blocks than the first row has. */
const TABLE_LOWEST = 0.0028
/** Larger blocks than its save next to nothing. */
const LOWEST_QBER = 1e-4
/** The third block size of the table, for its frames of 2^14 bits; a longer frame has four blocks as well. */
const THIRD_BLOCK_BITS = 4096
const TABLE_FRAME_BITS = 2 ** 14
/** With the three block passes, the published 14. */
const HALVES = 11
/** In frames longer than the table's, so that its channel uses hold. Own simulations at 2^16 bits and 2 %: a fifth fewer rounds for
 *  0.2 % more parities. */
const TOGETHER_ASKS = 12

const firstBlocks = (qber: number): readonly [first: number, second: number] => {
  if (qber < TABLE_LOWEST) {
    const a = Math.log2(1 / Math.max(qber, LOWEST_QBER)) - 0.5
    return [2 ** Math.ceil(a), 2 ** Math.ceil((a + 12) / 2)]
  }
  const [, first, second] = TABLE.find((row) => qber <= ROW_REACH * row[0])!
  return [first, second]
}

/** The plan for a frame of `frameBits` bits of which a share `qber` is expected to differ. A wrong expectation costs
 *  parities, never correctness.
 *  @throws RangeError when the frame is shorter than 64 or longer than 2^20 bits, or `qber` is not between 0 and 0.5. */
export const cascadePlan = (frameBits: number, qber: number): CascadePlan => {
  if (!Number.isInteger(frameBits) || frameBits < MIN_FRAME_BITS || frameBits > MAX_FRAME_BITS)
    throw new RangeError(`a Cascade frame has ${MIN_FRAME_BITS} to ${MAX_FRAME_BITS} bits, not ${frameBits}`)
  if (!(qber >= 0 && qber <= 0.5)) throw new RangeError(`the expected error rate must be between 0 and 0.5, not ${qber}`)
  const half = Math.ceil(frameBits / 2)
  const third = Math.max(THIRD_BLOCK_BITS, 2 ** Math.round(Math.log2(frameBits / 4)))
  const blockBits = [...firstBlocks(qber), third].map((bits) => Math.min(bits, half))
  // A longer frame keeps more errors past the block passes; every half finds each of them with probability 1/2.
  const extraHalves = Math.max(0, Math.round(Math.log2(frameBits / TABLE_FRAME_BITS)))
  const togetherAsks = frameBits > TABLE_FRAME_BITS ? TOGETHER_ASKS : 0
  return { frameBits, blockBits, halves: HALVES + extraHalves, togetherAsks }
}
