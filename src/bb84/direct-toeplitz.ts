/** The product of a Toeplitz matrix and a bit vector over GF(2) by its definition: the columns of all one bits, added word by word.
 *  Exact, and slow: it takes vectorBits x outputBits / 32 steps. No branch and no address depends on the bits. */
import type { ToeplitzProduct } from './toeplitz-product.ts'

export const directToeplitz: ToeplitzProduct = {
  addTo: (output, { diagonals, vector, vectorBits, outputBits }) => {
    // A word more than needed, so that every read of two neighbours stays inside.
    const t = toWords(diagonals, ((vectorBits + outputBits + 31) >> 5) + 1)
    const y = toWords(output, (outputBits + 31) >> 5)
    for (let column = 0; column < vectorBits; column += 1) {
      const mask = -((vector[column >> 3]! >> (column & 7)) & 1)
      const from = vectorBits - 1 - column
      const word = from >> 5
      const shift = from & 31
      // Shifted in two steps, for a shift by 32 would be one by 0.
      for (let i = 0; i < y.length; i += 1) y[i]! ^= mask & ((t[word + i]! >>> shift) | ((t[word + i + 1]! << 1) << (31 - shift)))
    }
    for (let i = 0; i < outputBits >> 3; i += 1) output[i] = y[i >> 2]! >>> (8 * (i & 3))
    const rest = outputBits & 7
    if (rest !== 0) {
      const last = outputBits >> 3
      const kept = (1 << rest) - 1
      output[last] = (output[last]! & ~kept) | ((y[last >> 2]! >>> (8 * (last & 3))) & kept)
    }
    t.fill(0)
    y.fill(0)
    return 0
  },
}

const toWords = (bytes: Uint8Array, wordCount: number): Uint32Array => {
  const words = new Uint32Array(wordCount)
  const length = Math.min(bytes.length, 4 * wordCount)
  for (let i = 0; i < length; i += 1) words[i >> 2]! |= bytes[i]! << (8 * (i & 3))
  return words
}
