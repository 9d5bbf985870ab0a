/** Many random bytes from few: the output of AES-256 in counter mode under a key drawn from a `Random` (the generator of NIST
 *  SP 800-90A, 10.2.1, with a new key per stream instead of reseeding). An ideal source is told apart from it only by breaking AES.
 *  Holds: the same key gives the same stream; the key is zeroed once the cipher has it. */
import { createCipheriv } from 'node:crypto'
import type { Random } from '../kernel/random.ts'

export interface RandomStream {
  /** The next bytes of the stream, aligned to its own buffer. Who needs them secret zeroes them after use. */
  next(lengthBytes: number): Buffer<ArrayBuffer>
}

const KEY_BYTES = 32
const BLOCK_BYTES = 16

/** @param random gives the key: 32 bytes. */
export const createRandomStream = (random: Random): RandomStream => {
  const key = random.fill(Buffer.allocUnsafeSlow(KEY_BYTES))
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(BLOCK_BYTES))
  key.fill(0)
  let zeros = Buffer.alloc(0)
  return {
    next: (lengthBytes) => {
      if (zeros.length < lengthBytes) zeros = Buffer.alloc(lengthBytes)
      return cipher.update(zeros.subarray(0, lengthBytes))
    },
  }
}
