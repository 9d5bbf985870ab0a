/** xoshiro128++ 1.0 (Blackman and Vigna, "Scrambled linear pseudorandom number generators", ACM TOMS 47, 36, 2021):
 *  32-bit numbers for the public choices of Cascade. Not for secrets: the seed is known to everybody. */

/** The next 32 bits, as a signed or unsigned number; apply `>>> 0` where the sign matters. */
export type WordSource = () => number

/** @param state four words that are not all zero. */
export const xoshiro128pp = (state: readonly [number, number, number, number]): WordSource => {
  let [a, b, c, d] = state
  a |= 0
  b |= 0
  c |= 0
  d |= 0
  return () => {
    const sum = (a + d) | 0
    const word = (((sum << 7) | (sum >>> 25)) + a) | 0
    const shifted = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    d = (d << 11) | (d >>> 21)
    return word
  }
}

/** The mixing step of MurmurHash3 (Appleby): a bijection of 32-bit words in which every bit of the input counts. */
const mixed = (word: number): number => {
  let x = word
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return x ^ (x >>> 16)
}

/** An independent stream per seed, pass and frame length: the words of the seed (little-endian) are mixed with both.
 *  @param seed 16 bytes. */
export const streamOf = (seed: Uint8Array, pass: number, frameBits: number): WordSource => {
  const view = new DataView(seed.buffer, seed.byteOffset, seed.byteLength)
  const word = (index: number): number => view.getInt32(4 * index, true)
  const a = mixed(word(0) ^ mixed(pass + 1))
  const b = mixed(word(1) ^ mixed(frameBits) ^ a)
  const c = mixed(word(2) ^ b)
  const d = mixed(word(3) ^ c)
  return xoshiro128pp((a | b | c | d) === 0 ? [1, 0, 0, 0] : [a, b, c, d])
}
