/** What the corrector needs of a pass: the blocks whose parity it knows from Alice, which of them are odd (Bob's parity
 *  differs), and their binary search. Two kinds: block passes (block-pass.ts) and random halves (half-pass.ts). */
import type { SearchRound } from './search-round.ts'

export interface SearchedPass {
  /** Adds the asks that halve every odd block; none when no block is odd. */
  halve(round: SearchRound): void
  /** Cuts the block of one of those asks with Alice's answer. Bits may have been flipped since it was asked.
   *  @param correct is called with the index of each key bit that must be wrong, and flips it. */
  cut(round: SearchRound, index: number, parity: number, correct: (bit: number) => void): void
  /** Bob has flipped a key bit.
   *  @throws ContradictoryParities when Alice has given this very bit before, with the other value. */
  flipped(bit: number): void
  wipe(): void
}

/** The parities do not belong to one key: the peer, or what lies between, is broken. */
export class ContradictoryParities extends Error {
  constructor() {
    super('the parities received contradict each other')
    this.name = new.target.name
  }
}
