/** The public random choices of Cascade, from a 16-byte seed: a permutation for every block pass but the first, and a
 *  random half, as a mask of words, for every later pass.
 *  Security and efficiency need one thing of the seed: it is drawn after the detections are fixed, so that nobody can
 *  place errors to suit it. It is public. Frames of one block may share it: their errors are independent of each
 *  other and of the seed, and what a parity gives away is counted whatever the choice.
 *  Holds: the same seed, pass and length give the same choice at both ends and at an auditor
 *  (test/vectors/cascade.json). */
import { streamOf } from './xoshiro.ts'

export const SEED_BYTES = 16

export interface Permutation {
  /** At each position of the shuffled frame, the index of the key bit there. */
  readonly bitAt: Uint32Array
  /** For each key bit, its position in the shuffled frame. */
  readonly positionOf: Uint32Array
}

export interface Shuffles {
  /** The permutation of a block pass, the second (1) or later. */
  permutation(pass: number): Permutation
  /** The half of a later pass, 32 key bits a word; spare bits of the last word are zero. */
  half(pass: number): Uint32Array
}

/** Fisher and Yates, inside out. An index is the high part of a 32-bit number times the range: exact in doubles up to
 *  2^20, and off from uniform by less than 2^-12. */
const permutationOf = (seed: Uint8Array, pass: number, frameBits: number): Permutation => {
  const next = streamOf(seed, pass, frameBits)
  const bitAt = new Uint32Array(frameBits)
  for (let index = 0; index < frameBits; index++) {
    const other = Math.floor(((next() >>> 0) * (index + 1)) / 4_294_967_296)
    bitAt[index] = bitAt[other]!
    bitAt[other] = index
  }
  const positionOf = new Uint32Array(frameBits)
  for (let position = 0; position < frameBits; position++) positionOf[bitAt[position]!] = position
  return { bitAt, positionOf }
}

const halfOf = (seed: Uint8Array, pass: number, frameBits: number): Uint32Array => {
  const next = streamOf(seed, pass, frameBits)
  const words = new Uint32Array((frameBits + 31) >>> 5)
  for (let index = 0; index < words.length; index++) words[index] = next()
  if (frameBits & 31) words[words.length - 1]! &= -1 >>> (32 - (frameBits & 31))
  return words
}

const memoised = <T>(make: (pass: number) => T): ((pass: number) => T) => {
  const made = new Map<number, T>()
  return (pass) => {
    const known = made.get(pass)
    if (known !== undefined) return known
    const fresh = make(pass)
    made.set(pass, fresh)
    return fresh
  }
}

/** The frames of a block differ in length by one at most, and two blocks may be under way at both ends. */
const KEPT = 8
const kept = new Map<string, Shuffles>()

/** The choices for frames of `frameBits` bits under one seed. Choices are made when first asked for; those of the last
 *  few seeds and lengths are kept, so that the frames of one block share them. Callers must not write to them.
 *  @throws RangeError when the seed is not 16 bytes. */
export const shufflesOf = (seed: Uint8Array, frameBits: number): Shuffles => {
  if (seed.length !== SEED_BYTES) throw new RangeError(`the seed of the shuffles has ${SEED_BYTES} bytes, not ${seed.length}`)
  const name = `${Buffer.from(seed.buffer, seed.byteOffset, seed.length).toString('hex')}/${frameBits}`
  const found = kept.get(name)
  if (found !== undefined) return found
  const own = Uint8Array.from(seed)
  const shuffles: Shuffles = {
    permutation: memoised((pass) => permutationOf(own, pass, frameBits)),
    half: memoised((pass) => halfOf(own, pass, frameBits)),
  }
  if (kept.size >= KEPT) kept.delete(kept.keys().next().value!)
  kept.set(name, shuffles)
  return shuffles
}
