/** Alice's half of Cascade for one frame: she gives parities of her key and learns nothing but which are asked for.
 *  Holds: `disclosedBits` is the exact number of parities given; an ask from outside the frame is refused before any
 *  parity is given. The key and everything computed from it are zero after `wipe`. */
import { checkAsk, firstAsks, passOfAsk, positionOfAsk } from './cascade-asks.ts'
import type { CascadePlan } from './cascade-plan.ts'
import { shufflesOf } from './cascade-shuffles.ts'
import { bitOf, maskedParity, prefixParities, reordered, wordsOf } from './parity-words.ts'

export interface CascadeFrame {
  /** The key bits, packed, spare bits zero. They are copied. */
  readonly bits: Uint8Array
  readonly bitCount: number
  /** For `bitCount` bits. */
  readonly plan: CascadePlan
  /** 16 public bytes, drawn afresh for every block after its detections are fixed. */
  readonly seed: Uint8Array
}

export interface CascadeResponder {
  /** The parities that Bob needs in any case (`firstAsks` says which), packed: her first message, sent once, unasked. */
  firstParities(): Uint8Array
  /** One bit for each ask, packed.
   *  @throws RangeError when an ask names a pass or position that is not there; then nothing is given. */
  answer(asks: Int32Array): Uint8Array
  /** Parities given so far, in bits. */
  readonly disclosedBits: number
  /** Zeroes the copy of the key and all parities. Nothing works afterwards. */
  wipe(): void
}

/** @throws RangeError when the bits are not `bitCount` bits, the plan is for another length or the seed is not 16 bytes. */
export const createResponder = ({ bits, bitCount, plan, seed }: CascadeFrame): CascadeResponder => {
  if (plan.frameBits !== bitCount) throw new RangeError(`the plan is for ${plan.frameBits} bits, the frame has ${bitCount}`)
  const shuffles = shufflesOf(seed, bitCount)
  const key = wordsOf(bits, bitCount)
  const prefixes: (Uint32Array | undefined)[] = []
  let disclosedBits = 0
  let wiped = false

  const masked = (pass: number): Uint32Array => {
    const half = shuffles.half(pass)
    return key.map((word, index) => word & half[index]!)
  }

  const prefixesOf = (pass: number): Uint32Array => {
    if (pass === 0) return (prefixes[0] = prefixParities(key))
    const ordered = pass < plan.blockBits.length ? reordered(key, shuffles.permutation(pass).bitAt) : masked(pass)
    const fresh = prefixParities(ordered)
    ordered.fill(0)
    prefixes[pass] = fresh
    return fresh
  }

  const answer = (asks: Int32Array): Uint8Array => {
    if (wiped) throw new Error('the frame is wiped')
    for (let index = 0; index < asks.length; index++) checkAsk(asks[index]!, bitCount)
    const parities = new Uint8Array((asks.length + 7) >>> 3)
    for (let index = 0; index < asks.length; index++) {
      const pass = passOfAsk(asks[index]!)
      const position = positionOfAsk(asks[index]!)
      // Most halves are never searched.
      const parity =
        pass >= plan.blockBits.length && position === bitCount
          ? maskedParity(key, shuffles.half(pass))
          : bitOf(prefixes[pass] ?? prefixesOf(pass), position - 1)
      parities[index >>> 3]! |= parity << (index & 7)
    }
    disclosedBits += asks.length
    return parities
  }

  return {
    firstParities: () => answer(firstAsks(plan)),
    answer,
    get disclosedBits() {
      return disclosedBits
    },
    wipe: () => {
      wiped = true
      key.fill(0)
      for (const words of prefixes) words?.fill(0)
    },
  }
}
