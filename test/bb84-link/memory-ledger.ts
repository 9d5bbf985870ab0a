/** Authentication key in memory, for stations without a database. */
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { AuthenticationLedger } from '../../src/link/authentication-ledger.ts'

const HASH_KEY_BYTES = 16

export const createMemoryLedger = (): AuthenticationLedger => {
  const segments = new Map<string, { bytes: Buffer; usedBytes: number }>()
  let consumedBits = 0
  let replenishedBits = 0
  const segment = (segmentId: string) => {
    const found = segments.get(segmentId)
    if (found === undefined) throw new Error(`no segment ${segmentId}`)
    return found
  }
  return {
    segments: () =>
      Promise.resolve(
        [...segments].map(([segmentId, { bytes, usedBytes }]) => ({ segmentId, sizeBytes: bytes.length, usedBytes })),
      ),
    reserve: (segmentId, fromByte, lengthBytes) => {
      const { bytes, usedBytes } = segment(segmentId)
      if (fromByte < usedBytes || fromByte + lengthBytes > bytes.length) throw new Error('these bytes are used')
      segment(segmentId).usedBytes = fromByte + lengthBytes
      consumedBits += (fromByte + lengthBytes - usedBytes) * 8
      return Promise.resolve(SecretBytes.adopt(Buffer.from(bytes.subarray(fromByte, fromByte + lengthBytes))))
    },
    hashKey: (segmentId) => Promise.resolve(SecretBytes.adopt(Buffer.from(segment(segmentId).bytes.subarray(0, HASH_KEY_BYTES)))),
    add: (segmentId, secret) => {
      if (segments.has(segmentId)) return Promise.resolve('known')
      replenishedBits += secret.lengthBytes * 8
      segments.set(segmentId, { bytes: secret.use((bytes) => Buffer.from(bytes)), usedBytes: HASH_KEY_BYTES })
      secret.wipe()
      return Promise.resolve('added')
    },
    retire: () => Promise.resolve(),
    figures: () => {
      const remainingBits = [...segments.values()].reduce((sum, { bytes, usedBytes }) => sum + (bytes.length - usedBytes) * 8, 0)
      return Promise.resolve({
        consumedBits,
        replenishedBits,
        remainingBits,
        discardedBits: replenishedBits - consumedBits - remainingBits,
      })
    },
  }
}
