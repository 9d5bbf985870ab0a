/** Privacy amplification: a reconciled string of which an eavesdropper knows something becomes a shorter one of which she knows nothing.
 *
 *  Modified Toeplitz hashing (Hayashi and Tsurumaru, IEEE Trans. Inf. Theory 62, 2213, 2016, section V): the string is cut into x1 of n - l
 *  bits and x2 of l bits, and y = T x1 XOR x2 with a Toeplitz matrix T that n - 1 seed bits fill. Strings that differ in x1 collide for exactly
 *  2^-l of all seeds, and strings that differ in x2 only for none: the family is two-universal, as the leftover hash lemma wants it. The
 *  length l comes from the finite-key analysis.
 *  Holds: the seed is drawn evenly, after reconciliation has ended, and may be public. Every copy of the string made here is zeroed. */
import { directToeplitz } from './direct-toeplitz.ts'
import { createFourierToeplitz } from './fourier-toeplitz.ts'
import type { ToeplitzProduct } from './toeplitz-product.ts'
import { createWasmToeplitz } from './wasm-toeplitz.ts'

export interface Amplification {
  /** The reconciled string, packed. Left as it is: the caller wipes it. */
  readonly bits: Uint8Array
  /** n */
  readonly bitCount: number
  /** l, at most n */
  readonly outputBits: number
  /** `seedBytes(bitCount)` bytes, of which n - 1 bits count. */
  readonly seed: Uint8Array
}

/** Longest string, in bits: work space is 32 bytes per bit. */
export const MAX_BIT_COUNT = 2 ** 26

/** A computed sum this far from a whole number is not trusted. A bit would be wrong from 0.5 on; 2^20 bits come to about 1e-10. */
const TRUSTED_DISTANCE = 1e-6

/** Length of the seed for a string of `bitCount` bits. */
export const seedBytes = (bitCount: number): number => (Math.max(0, bitCount - 1) + 7) >> 3

/** Shortens strings with one way of computing the product. What that way does not compute exactly is computed again from the definition:
 *  the same key in any case, only later (some 10 s for 2^20 bits).
 *  @returns `amplify`: gives the key, packed, spare bits zero. It throws RangeError when lengths do not fit. */
export const createAmplify =
  (product: ToeplitzProduct): ((task: Amplification) => Uint8Array) =>
  ({ bits, bitCount, outputBits, seed }) => {
    if (!Number.isInteger(bitCount) || bitCount < 0 || bitCount > MAX_BIT_COUNT || bits.length < bitCount / 8) {
      throw new RangeError(`privacy amplification takes up to ${MAX_BIT_COUNT} bits, and as many as it is told`)
    }
    if (!Number.isInteger(outputBits) || outputBits < 0 || outputBits > bitCount) {
      throw new RangeError('privacy amplification only shortens')
    }
    if (seed.length !== seedBytes(bitCount))
      throw new RangeError(`the seed for ${bitCount} bits has ${seedBytes(bitCount)} bytes`)
    const vectorBits = bitCount - outputBits
    const output = cutBits(bits, vectorBits, outputBits)
    if (vectorBits === 0 || outputBits === 0) return output
    const task = { diagonals: seed, vector: bits, vectorBits, outputBits }
    const distance = product.addTo(output, task)
    if (distance < TRUSTED_DISTANCE) return output
    output.fill(0)
    const again = cutBits(bits, vectorBits, outputBits)
    directToeplitz.addTo(again, task)
    return again
  }

const wasm = createWasmToeplitz()

/** How `amplify` computes here: 'TypeScript', about three times as slow, only where the runtime has no WebAssembly. */
export const AMPLIFICATION_METHOD = wasm === undefined ? 'TypeScript' : 'WebAssembly'

/** Shortens a string. One call at a time; the thread is busy meanwhile. */
export const amplify = createAmplify(wasm ?? createFourierToeplitz())

/** Copies `count` bits from bit `from` on; spare bits are zero. */
const cutBits = (bits: Uint8Array, from: number, count: number): Uint8Array => {
  const cut = new Uint8Array((count + 7) >> 3)
  const byte = from >> 3
  const shift = from & 7
  for (let i = 0; i < cut.length; i += 1) cut[i] = ((bits[byte + i]! | ((bits[byte + i + 1] ?? 0) << 8)) >> shift) & 0xff
  if ((count & 7) !== 0) cut[cut.length - 1]! &= (1 << (count & 7)) - 1
  return cut
}
