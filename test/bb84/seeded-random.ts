/** A `Random` that repeats itself, for tests: the key stream of AES-256 under the digest of a seed. */
import { createCipheriv, createHash } from 'node:crypto'
import type { Random } from '../../src/kernel/random.ts'

export const seededRandom = (seed: string): Random => {
  const cipher = createCipheriv('aes-256-ctr', createHash('sha256').update(seed).digest(), Buffer.alloc(16))
  const fill = <T extends Uint8Array>(target: T): T => {
    target.set(cipher.update(Buffer.alloc(target.byteLength)))
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
