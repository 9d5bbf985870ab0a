/** A `Random` that repeats itself, for tests: the key stream of AES-256 under the digest of a seed. */
import { createCipheriv, createHash } from 'node:crypto'
import type { Random } from '../../src/kernel/random.ts'

const ZEROS = Buffer.alloc(65_536)

export const seededRandom = (seed: string): Random => {
  const cipher = createCipheriv('aes-256-ctr', createHash('sha256').update(seed).digest(), Buffer.alloc(16))
  const fill = <T extends Uint8Array>(target: T): T => {
    for (let at = 0; at < target.length; at += ZEROS.length) target.set(cipher.update(ZEROS.subarray(0, target.length - at)), at)
    return target
  }
  return {
    fill,
    uuid: () => {
      const hex = Buffer.from(fill(new Uint8Array(16))).toString('hex')
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`
    },
  }
}

/** Named streams of one run, as the stations and the channel take them. */
export const seededStreams =
  (seed: string) =>
  (name: string): Random =>
    seededRandom(`${seed} ${name}`)
