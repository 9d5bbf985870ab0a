/** A pass that compares the parity of one random half of the frame. It finds what survived the block passes, which is
 *  little: its cuts are a short list. Positions are those of the key's own order. */
import { askOf, positionOfAsk } from './cascade-asks.ts'
import { bitOf, bitsSet, parityOfWord } from './parity-words.ts'
import { ContradictoryParities } from './searched-pass.ts'
import type { SearchedPass } from './searched-pass.ts'

export interface HalfPassOptions {
  readonly pass: number
  readonly frameBits: number
  readonly half: Uint32Array
  /** Bob's bits, as they change. */
  readonly key: Uint32Array
  /** Alice's parity of the half. */
  readonly parity: number
}

export const createHalfPass = ({ pass, frameBits, half, key, parity }: HalfPassOptions): SearchedPass => {
  const masked = (start: number, end: number): number => {
    let x = 0
    for (let index = start >>> 5; index << 5 < end; index++) {
      let word = key[index]! & half[index]!
      if (index << 5 < start) word &= -1 << (start & 31)
      if ((index << 5) + 32 > end) word &= ~(-1 << (end & 31))
      x ^= word
    }
    return parityOfWord(x)
  }

  const membersOf = (start: number, end: number): number => {
    let members = 0
    for (let index = start >>> 5; index << 5 < end; index++) {
      let word = half[index]!
      if (index << 5 < start) word &= -1 << (start & 31)
      if ((index << 5) + 32 > end) word &= ~(-1 << (end & 31))
      members += bitsSet(word)
    }
    return members
  }

  /** The position after the first `count` members from `start` on. */
  const after = (start: number, count: number): number => {
    let position = start
    for (let left = count; left > 0; position++) left -= bitOf(half, position)
    return position
  }

  /** Where the known blocks begin, ascending, and the end of the frame. */
  const cuts = [0, frameBits]
  /** At each cut: Alice's parity of the members before it. */
  const given = [0, parity]
  /** Of the block that begins at each cut. */
  const odd = [(masked(0, frameBits) ^ parity) === 1]
  let oddBlocks = odd[0] ? 1 : 0
  if (oddBlocks === 1 && membersOf(0, frameBits) === 0) throw new ContradictoryParities()

  return {
    halve: (round) => {
      for (let index = 0; oddBlocks > 0 && index < odd.length; index++) {
        if (!odd[index]) continue
        const start = cuts[index]!
        const end = cuts[index + 1]!
        // A half of one member is one random number in 2^57; asking once too often is simpler than a case of its own.
        const middle = after(start, Math.max(1, membersOf(start, end) >>> 1))
        round.add(askOf(pass, middle), start, end)
      }
    },
    cut: (round, index, answer, correct) => {
      const start = round.start(index)
      const middle = positionOfAsk(round.ask(index))
      const at = cuts.indexOf(start)
      const inSecond = (given[at]! ^ answer) === masked(start, middle)
      cuts.splice(at + 1, 0, middle)
      given.splice(at + 1, 0, answer)
      odd.splice(at, 1, !inSecond, inSecond)
      const wrong = inSecond ? middle : start
      const members = membersOf(wrong, inSecond ? round.end(index) : middle)
      if (members === 0) throw new ContradictoryParities()
      if (members === 1) correct(after(wrong, 1) - 1)
    },
    flipped: (bit) => {
      if (bitOf(half, bit) === 0) return
      const at = cuts.findIndex((cut) => cut > bit) - 1
      odd[at] = !odd[at]
      oddBlocks += odd[at] ? 1 : -1
      if (odd[at] && membersOf(cuts[at]!, cuts[at + 1]!) === 1) throw new ContradictoryParities()
    },
    wipe: () => {
      given.fill(0)
      odd.fill(false)
    },
  }
}
