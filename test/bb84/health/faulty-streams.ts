/** Streams of packed bits, good ones and such as a broken source gives. */
import { createCipheriv } from 'node:crypto'

/** The AES-256-CTR stream of a numbered key, as good as random and the same every time. */
export const goodBits = (seed: number) => {
  const key = Buffer.alloc(32)
  key.writeUInt32BE(seed)
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  return (bitCount: number): Uint8Array => cipher.update(Buffer.alloc(Math.ceil(bitCount / 8)))
}

export const pack = (bitCount: number, bitAt: (index: number) => number): Uint8Array => {
  const bits = new Uint8Array(Math.ceil(bitCount / 8))
  for (let index = 0; index < bitCount; index++) bits[index >> 3]! |= bitAt(index) << (index & 7)
  return bits
}

/** Bits that are one with probability `share`, to 1/65536. */
export const biasedBits = (seed: number, bitCount: number, share: number): Uint8Array => {
  const draws = goodBits(seed)(bitCount * 16)
  return pack(bitCount, (index) => (((draws[2 * index]! << 8) | draws[2 * index + 1]!) < share * 65_536 ? 1 : 0))
}
