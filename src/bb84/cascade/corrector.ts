/** Bob's half of Cascade for one frame: he asks for parities of Alice's key until his own bits agree with all of them.
 *  Brassard and Salvail, EUROCRYPT '93, with the reuse of all known sub-blocks of Martinez-Mateo et al. (see
 *  cascade-plan.ts): every parity ever given cuts a pass into smaller known blocks, and a corrected bit is looked for in
 *  the smallest known block of each pass that holds it. In one round all odd blocks of one pass are halved, and where few
 *  are left in a long frame (`togetherAsks` of the plan) those of the first two passes.
 *  Holds: a parity that follows from known ones (the other half of a block, the last block of a pass) is never asked
 *  for; `disclosedBits` is the number of Alice's parities received, and equal to hers; a corrected bit is never touched
 *  again; the end comes after at most as many parities as the passes have bits, whatever the peer says. The key and
 *  everything computed from it are zero after `wipe`. */
import { createBlockPass } from './block-pass.ts'
import { askOf, firstAsks, passOfAsk } from './cascade-asks.ts'
import { MAX_PASSES } from './cascade-plan.ts'
import { shufflesOf } from './cascade-shuffles.ts'
import { createHalfPass } from './half-pass.ts'
import { bytesOf, wordsOf } from './parity-words.ts'
import type { CascadeFrame } from './responder.ts'
import { createSearchRound } from './search-round.ts'
import type { SearchedPass } from './searched-pass.ts'

export interface CascadeCorrector {
  /** The asks of the next round, empty when the frame is finished. Before the first `take` these are the ones Alice
   *  answers unasked (`firstAsks`). The same until the next `take`, `extend` or `wipe`. */
  asks(): Int32Array
  /** Alice's answers to `asks()`, packed.
   *  @throws RangeError when there are not as many as asked for; ContradictoryParities when they cannot come from any key. */
  take(parities: Uint8Array): void
  /** For a frame that is finished and yet differs (its tag says so): `extraHalves` more random halves are compared, at
   *  one bit each besides the searches they start. A frame that differs stays undetected with probability 2^-extraHalves.
   *  @throws RangeError when the frame has no passes left; Error when it is not finished. */
  extend(extraHalves: number): void
  /** The bits as corrected so far, packed: a copy, the caller's to wipe. */
  corrected(): Uint8Array
  /** Parities received so far, in bits. */
  readonly disclosedBits: number
  readonly correctedBits: number
  /** Messages of parities taken, the first one included. */
  readonly roundCount: number
  /** Zeroes the copy of the key and all parities. Nothing works afterwards. */
  wipe(): void
}

/** In the third and the halves a block is so long that a search beside others mostly finds what they find. */
const TOGETHER_PASSES = 2

/** @throws RangeError when the bits are not `bitCount` bits, the plan is for another length or the seed is not 16 bytes. */
export const createCorrector = ({ bits, bitCount, plan, seed }: CascadeFrame): CascadeCorrector => {
  if (plan.frameBits !== bitCount) throw new RangeError(`the plan is for ${plan.frameBits} bits, the frame has ${bitCount}`)
  const shuffles = shufflesOf(seed, bitCount)
  const key = wordsOf(bits, bitCount)
  const blockPasses = plan.blockBits.length
  const round = createSearchRound()
  /** The passes begun so far. */
  const passes: SearchedPass[] = []
  /** How many passes have their own parities: those of the plan, later those of the extensions. */
  let knownPasses = 0
  /** The parities that passes begin with, in order; `nextOpening` is the first one not used. */
  let openings: Uint8Array = new Uint8Array(0)
  let nextOpening = 0
  let frameParity = 0
  /** The asks under way are the parities that passes begin with. */
  let opens = true
  /** The pass searched last. */
  let searched: SearchedPass | undefined
  let asks = firstAsks(plan)
  let disclosedBits = 0
  let correctedBits = 0
  let roundCount = 0
  let wiped = false

  const opening = (): number => {
    const at = nextOpening++
    return (openings[at >>> 3]! >>> (at & 7)) & 1
  }

  const begin = (pass: number): SearchedPass => {
    if (pass >= blockPasses)
      return createHalfPass({ pass, frameBits: bitCount, half: shuffles.half(pass), key, parity: opening() })
    return createBlockPass({
      pass,
      frameBits: bitCount,
      blockBits: plan.blockBits[pass]!,
      key,
      permutation: pass === 0 ? undefined : shuffles.permutation(pass),
      parityUpTo: (end) => {
        if (end < bitCount) return opening()
        if (pass === 0) frameParity = opening()
        return frameParity
      },
    })
  }

  /** Searches the pass under search to its end, then the first one with an odd block. When few blocks are left, waiting for the
   *  answers is all the time a round takes, and the first two passes do not wait for each other. */
  const advance = (): void => {
    const together = round.count < plan.togetherAsks
    round.clear()
    if (together) for (const pass of passes.slice(0, TOGETHER_PASSES)) pass.halve(round)
    if (round.count === 0) searched?.halve(round)
    for (let pass = 0; round.count === 0 && pass < knownPasses; pass++) {
      if (pass === passes.length) passes.push(begin(pass))
      searched = passes[pass]!
      searched.halve(round)
    }
    opens = false
    asks = round.asks()
  }

  const correct = (bit: number): void => {
    key[bit >>> 5]! ^= 1 << (bit & 31)
    correctedBits++
    for (const pass of passes) pass.flipped(bit)
  }

  const assertUsable = (): void => {
    if (wiped) throw new Error('the frame is wiped')
  }

  return {
    asks: () => asks,
    take: (parities) => {
      assertUsable()
      const count = asks.length
      if (count === 0) throw new Error('the frame is finished: nothing was asked')
      if (parities.length !== (count + 7) >>> 3) throw new RangeError(`${parities.length} bytes do not answer ${count} asks`)
      disclosedBits += count
      roundCount++
      if (opens) {
        openings = parities.slice()
        nextOpening = 0
        knownPasses = passes.length === 0 ? blockPasses + plan.halves : passes.length + count
      } else {
        for (let index = 0; index < count; index++) {
          const pass = passes[passOfAsk(round.ask(index))]!
          pass.cut(round, index, (parities[index >>> 3]! >>> (index & 7)) & 1, correct)
        }
      }
      advance()
    },
    extend: (extraHalves) => {
      assertUsable()
      if (asks.length > 0) throw new Error('the frame is not finished')
      if (!Number.isInteger(extraHalves) || extraHalves < 1 || passes.length + extraHalves > MAX_PASSES)
        throw new RangeError(`a frame has at most ${MAX_PASSES} passes`)
      opens = true
      asks = Int32Array.from({ length: extraHalves }, (_, index) => askOf(passes.length + index, bitCount))
    },
    corrected: () => {
      assertUsable()
      return bytesOf(key, bitCount)
    },
    get disclosedBits() {
      return disclosedBits
    },
    get correctedBits() {
      return correctedBits
    },
    get roundCount() {
      return roundCount
    },
    wipe: () => {
      wiped = true
      key.fill(0)
      openings.fill(0)
      for (const pass of passes) pass.wipe()
      round.wipe()
      asks = new Int32Array(0)
    },
  }
}
