/** Parities of runs of bits, 32 bits a word: bit i of a frame is bit i mod 32 of word i / 32. */

/** Packed bytes (bit i in bit i mod 8 of byte i / 8) as words.
 *  @throws RangeError when the bytes are not as many as the bits need, or a spare bit of the last byte is set. */
export const wordsOf = (bytes: Uint8Array, bitCount: number): Uint32Array => {
  if (bytes.length !== (bitCount + 7) >>> 3) throw new RangeError(`${bitCount} bits do not fill ${bytes.length} bytes`)
  if (bitCount & 7 && bytes[bytes.length - 1]! >>> (bitCount & 7) !== 0) throw new RangeError('a spare bit of the frame is set')
  const words = new Uint32Array((bitCount + 31) >>> 5)
  for (let index = 0; index < bytes.length; index++) words[index >>> 2]! |= bytes[index]! << ((index & 3) << 3)
  return words
}

export const bytesOf = (words: Uint32Array, bitCount: number): Uint8Array => {
  const bytes = new Uint8Array((bitCount + 7) >>> 3)
  for (let index = 0; index < bytes.length; index++) bytes[index] = words[index >>> 2]! >>> ((index & 3) << 3)
  return bytes
}

export const bitOf = (words: Uint32Array, index: number): number => (words[index >>> 5]! >>> (index & 31)) & 1

export const parityOfWord = (word: number): number => {
  let x = word
  x ^= x >>> 16
  x ^= x >>> 8
  x ^= x >>> 4
  // The parities of all nibbles, one bit each.
  return (0x6996 >>> (x & 15)) & 1
}

/** How many bits of the word are set. */
export const bitsSet = (word: number): number => {
  let x = word - ((word >>> 1) & 0x55555555)
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333)
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** The bits in another order: bit `position` of the result is bit `bitAt[position]`. */
export const reordered = (words: Uint32Array, bitAt: Uint32Array): Uint32Array => {
  const result = new Uint32Array(words.length)
  const count = bitAt.length
  for (let index = 0, position = 0; position < count; index++) {
    const end = Math.min(position + 32, count)
    let word = 0
    for (let shift = 0; position < end; position++, shift++) {
      const bit = bitAt[position]!
      word |= ((words[bit >>> 5]! >>> (bit & 31)) & 1) << shift
    }
    result[index] = word
  }
  return result
}

/** Bit p of the result is the parity of bits 0 to p, both included. */
export const prefixParities = (words: Uint32Array): Uint32Array => {
  const result = new Uint32Array(words.length)
  let carry = 0
  for (let index = 0; index < words.length; index++) {
    let x = words[index]!
    x ^= x << 1
    x ^= x << 2
    x ^= x << 4
    x ^= x << 8
    x ^= x << 16
    x ^= carry
    result[index] = x
    carry = x >> 31
  }
  return result
}

/** The parity of the bits before `position`, from what prefixParities gave. */
export const prefixParity = (prefixes: Uint32Array, position: number): number =>
  position === 0 ? 0 : bitOf(prefixes, position - 1)

/** The parity of bits `start` (included) to `end` (excluded); 0 when there are none. */
export const rangeParity = (words: Uint32Array, start: number, end: number): number => {
  if (end <= start) return 0
  const first = start >>> 5
  const last = (end - 1) >>> 5
  const head = -1 << (start & 31)
  const tail = -1 >>> (31 - ((end - 1) & 31))
  if (first === last) return parityOfWord(words[first]! & head & tail)
  let x = words[first]! & head
  for (let index = first + 1; index < last; index++) x ^= words[index]!
  return parityOfWord(x ^ (words[last]! & tail))
}

/** The parity of the bits that both have set. */
export const maskedParity = (words: Uint32Array, mask: Uint32Array): number => {
  let x = 0
  for (let index = 0; index < words.length; index++) x ^= words[index]! & mask[index]!
  return parityOfWord(x)
}
