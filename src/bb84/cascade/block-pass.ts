/** A pass that cuts the whole frame into blocks. Its known blocks only ever get smaller, so a block is named by the
 *  position it begins at. */
import { askOf } from './cascade-asks.ts'
import type { Permutation } from './cascade-shuffles.ts'
import { bitOf, prefixParities, prefixParity, rangeParity, reordered } from './parity-words.ts'
import { ContradictoryParities } from './searched-pass.ts'
import type { SearchedPass } from './searched-pass.ts'

const setBit = (words: Uint32Array, index: number): void => {
  words[index >>> 5]! |= 1 << (index & 31)
}

const flipBit = (words: Uint32Array, index: number): void => {
  words[index >>> 5]! ^= 1 << (index & 31)
}

/** The last set bit at or before `position`; there must be one. */
const setBitUpTo = (words: Uint32Array, position: number): number => {
  let index = position >>> 5
  let word = words[index]! & (-1 >>> (31 - (position & 31)))
  while (word === 0) word = words[--index]!
  return (index << 5) + 31 - Math.clz32(word)
}

/** The first set bit after `position`; there must be one. */
const setBitAfter = (words: Uint32Array, position: number): number => {
  let index = (position + 1) >>> 5
  let word = words[index]! & (-1 << ((position + 1) & 31))
  while (word === 0) word = words[++index]!
  return (index << 5) + 31 - Math.clz32(word & -word)
}

export interface BlockPassOptions {
  readonly pass: number
  readonly frameBits: number
  readonly blockBits: number
  /** Bob's bits as they are when the pass begins, in the key's own order. */
  readonly key: Uint32Array
  /** Undefined when the pass is in the key's own order. */
  readonly permutation: Permutation | undefined
  /** Alice's parity of the first `end` bits, for the end of each block. */
  readonly parityUpTo: (end: number) => number
}

export const createBlockPass = (options: BlockPassOptions): SearchedPass => {
  const { pass, frameBits, blockBits, permutation } = options
  const bits = permutation === undefined ? options.key.slice() : reordered(options.key, permutation.bitAt)
  // Bit p of each belongs to the block that begins at p, which the frame's end counts as.
  const wordCount = (frameBits >>> 5) + 1
  const cuts = new Uint32Array(wordCount)
  /** At a cut: Alice's parity of all bits before it. */
  const given = new Uint32Array(wordCount)
  const odd = new Uint32Array(wordCount)
  const queued = new Uint32Array(wordCount)
  /** Beginnings of blocks, the odd ones among them. */
  let queue: number[] = []

  const enqueue = (start: number): void => {
    if (bitOf(queued, start) === 1) return
    setBit(queued, start)
    queue.push(start)
  }

  const bitAt = (position: number): number => (permutation === undefined ? position : permutation.bitAt[position]!)

  const own = prefixParities(bits)
  let before = 0
  setBit(cuts, 0)
  for (let start = 0; start < frameBits; start += blockBits) {
    const end = Math.min(start + blockBits, frameBits)
    const parity = options.parityUpTo(end)
    const difference = parity ^ prefixParity(own, end)
    setBit(cuts, end)
    if (parity === 1) setBit(given, end)
    if (difference !== before) {
      setBit(odd, start)
      enqueue(start)
    }
    before = difference
  }
  own.fill(0)

  return {
    halve: (round) => {
      let kept = 0
      for (let index = 0; index < queue.length; index++) {
        const start = queue[index]!
        if (bitOf(odd, start) === 0) {
          flipBit(queued, start)
          continue
        }
        queue[kept++] = start
        const end = setBitAfter(cuts, start)
        const middle = (start + end) >>> 1
        round.add(askOf(pass, middle), start, end)
      }
      queue.length = kept
    },
    cut: (round, index, parity, correct) => {
      const start = round.start(index)
      const end = round.end(index)
      const middle = (start + end) >>> 1
      setBit(cuts, middle)
      if (parity === 1) setBit(given, middle)
      const firstOdd = bitOf(given, start) ^ parity ^ rangeParity(bits, start, middle)
      const secondOdd = bitOf(odd, start) ^ firstOdd
      if (secondOdd === 1) {
        flipBit(odd, start)
        setBit(odd, middle)
        enqueue(middle)
      }
      if (firstOdd === 1 && middle - start === 1) correct(bitAt(start))
      if (secondOdd === 1 && end - middle === 1) correct(bitAt(middle))
    },
    flipped: (bit) => {
      const position = permutation === undefined ? bit : permutation.positionOf[bit]!
      flipBit(bits, position)
      const start = setBitUpTo(cuts, position)
      flipBit(odd, start)
      if (bitOf(odd, start) === 0) return
      if (bitOf(cuts, start + 1) === 1) throw new ContradictoryParities()
      enqueue(start)
    },
    wipe: () => {
      for (const words of [bits, cuts, given, odd, queued]) words.fill(0)
      queue.fill(0)
      queue = []
    },
  }
}
