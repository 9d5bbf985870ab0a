/** What privacy amplification needs done: the product of a Toeplitz matrix and a vector of bits over GF(2). */

/** Bits are packed, bit i = (bytes[i >> 3] >> (i & 7)) & 1; bits beyond the counts are not looked at. */
export interface ToeplitzTask {
  /** t: the matrix has t[i - j + vectorBits - 1] in row i, column j. Holds vectorBits + outputBits - 1 bits. */
  readonly diagonals: Uint8Array
  readonly vector: Uint8Array
  /** At least 1. */
  readonly vectorBits: number
  /** At least 1. */
  readonly outputBits: number
}

export interface ToeplitzProduct {
  /** Adds (XOR) the product to the first `outputBits` bits of `output`. Leaves nothing of the task in memory.
   *  @returns the largest distance of a computed sum from a whole number; 0 when the method computes with whole numbers. */
  addTo(output: Uint8Array, task: ToeplitzTask): number
}
