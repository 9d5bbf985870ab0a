/** What Bob asks of Alice, and what each answer says about her key.
 *  An ask names a pass and a position: the answer is the parity of the first `position` key bits in the order of that
 *  pass (in a pass of a random half: of those among them that are in the half). The parity of a run is the sum of two
 *  of these, so a run whose beginning is known costs one bit. Every answer is one linear functional of Alice's key,
 *  which anybody who has read the wire can write down (`maskOf`).
 *  An ask is one number of 27 bits: the pass times 2^21 plus the position. */
import { MAX_PASSES } from './cascade-plan.ts'
import type { CascadePlan } from './cascade-plan.ts'
import { shufflesOf } from './cascade-shuffles.ts'
import { bitOf } from './parity-words.ts'

const POSITION_BITS = 21

/** @param pass counted from 0. @param position 1 to the frame's length, in bits. */
export const askOf = (pass: number, position: number): number => (pass << POSITION_BITS) | position

export const passOfAsk = (ask: number): number => ask >>> POSITION_BITS

export const positionOfAsk = (ask: number): number => ask & ((1 << POSITION_BITS) - 1)

/** @throws RangeError when there is no such pass or position in a frame of this length. */
export const checkAsk = (ask: number, frameBits: number): void => {
  const pass = passOfAsk(ask)
  const position = positionOfAsk(ask)
  if (pass >= MAX_PASSES || position < 1 || position > frameBits)
    throw new RangeError(`no such parity: pass ${pass}, position ${position} of a frame of ${frameBits} bits`)
}

/** The parities every frame needs, in the order in which Alice sends them unasked: the end of every block of the block
 *  passes, and every half. The last block ends with the frame, whose parity is the same in all orders and is given
 *  once, in the first pass. */
export const firstAsks = (plan: CascadePlan): Int32Array => {
  const { frameBits, blockBits, halves } = plan
  const asks: number[] = []
  for (const [pass, bits] of blockBits.entries()) {
    for (let end = bits; end < frameBits; end += bits) asks.push(askOf(pass, end))
    if (pass === 0) asks.push(askOf(0, frameBits))
  }
  for (let pass = blockBits.length; pass < blockBits.length + halves; pass++) asks.push(askOf(pass, frameBits))
  return Int32Array.from(asks)
}

/** The indices of the key bits whose parity answers the ask, ascending.
 *  @throws RangeError when there is no such parity. */
export const maskOf = (ask: number, plan: CascadePlan, seed: Uint8Array): Uint32Array => {
  checkAsk(ask, plan.frameBits)
  const pass = passOfAsk(ask)
  const position = positionOfAsk(ask)
  if (pass === 0) return Uint32Array.from({ length: position }, (_, index) => index)
  const shuffles = shufflesOf(seed, plan.frameBits)
  if (pass < plan.blockBits.length) return shuffles.permutation(pass).bitAt.slice(0, position).sort()
  const half = shuffles.half(pass)
  const indices: number[] = []
  for (let index = 0; index < position; index++) if (bitOf(half, index) === 1) indices.push(index)
  return Uint32Array.from(indices)
}
