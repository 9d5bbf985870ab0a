/** Linear algebra over GF(2), for what parities say about a key together. */

export interface ParitySpan {
  /** @param mask 32 key bits a word; left as it is. @returns whether it follows from those before. */
  add(mask: Uint32Array): boolean
  readonly rank: number
}

/** Gaussian elimination, a row at a time: each row kept has a leading bit of its own. */
export const createParitySpan = (bitCount: number): ParitySpan => {
  const rows: (Uint32Array | undefined)[] = new Array<Uint32Array | undefined>(bitCount)
  let rank = 0
  return {
    add: (mask) => {
      const row = mask.slice()
      for (let word = row.length - 1; word >= 0; word -= 1) {
        while (row[word] !== 0) {
          const lead = word * 32 + 31 - Math.clz32(row[word] as number)
          const known = rows[lead]
          if (known === undefined) {
            rows[lead] = row
            rank += 1
            return false
          }
          for (let index = 0; index <= word; index += 1) row[index] = (row[index] as number) ^ (known[index] as number)
        }
      }
      return true
    },
    get rank() {
      return rank
    },
  }
}

export const maskOfIndices = (indices: Iterable<number>, bitCount: number): Uint32Array => {
  const mask = new Uint32Array((bitCount + 31) >>> 5)
  for (const index of indices) mask[index >>> 5] = (mask[index >>> 5] as number) | (1 << (index & 31))
  return mask
}
