/** An authentication ledger without a database, for tests of what uses one. It keeps the promises of the interface but for durability; the
 *  same contract suite runs on it. */
import {
  AuthenticationKeyRefused,
  SEGMENT_HASH_KEY_BYTES,
  type AuthenticationLedger,
} from '../../src/link/authentication-ledger.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'

interface Segment {
  readonly bytes: Buffer
  usedBytes: number
  consumedBytes: number
}

export const createMemoryAuthenticationLedger = (): AuthenticationLedger => {
  const held = new Map<string, Segment>()
  const live = (segmentId: string): Segment => {
    const segment = held.get(segmentId)
    if (segment === undefined) throw new AuthenticationKeyRefused('unknown')
    return segment
  }
  const copy = (segment: Segment, from: number, to: number): SecretBytes =>
    SecretBytes.take(Buffer.from(segment.bytes.subarray(from, to)))
  const sum = (of: (segment: Segment) => number): number => 8 * [...held.values()].reduce((total, each) => total + of(each), 0)

  return {
    segments: async () =>
      [...held]
        .filter(([, { bytes, usedBytes }]) => usedBytes < bytes.length)
        .map(([segmentId, { bytes, usedBytes }]) => ({ segmentId, sizeBytes: bytes.length, usedBytes })),
    reserve: async (segmentId, fromByte, lengthBytes) => {
      if (!Number.isInteger(fromByte) || fromByte < SEGMENT_HASH_KEY_BYTES || !Number.isInteger(lengthBytes) || lengthBytes < 1) {
        throw new RangeError('pads are behind the hash key, in whole bytes')
      }
      const segment = live(segmentId)
      if (segment.bytes.length - fromByte < lengthBytes) throw new AuthenticationKeyRefused('exhausted')
      if (segment.usedBytes > fromByte) throw new AuthenticationKeyRefused('used')
      segment.usedBytes = fromByte + lengthBytes
      segment.consumedBytes += lengthBytes
      return copy(segment, fromByte, fromByte + lengthBytes)
    },
    hashKey: async (segmentId) => copy(live(segmentId), 0, SEGMENT_HASH_KEY_BYTES),
    add: async (segmentId, secret) => {
      using own = secret
      if (own.lengthBytes <= SEGMENT_HASH_KEY_BYTES) throw new RangeError('a segment holds a hash key and pads')
      if (held.has(segmentId)) return 'known'
      const bytes = own.use((lent) => Buffer.from(lent))
      held.set(segmentId, { bytes, usedBytes: SEGMENT_HASH_KEY_BYTES, consumedBytes: 0 })
      return 'added'
    },
    discard: async (segmentIds) => {
      for (const segmentId of segmentIds) {
        const segment = held.get(segmentId)
        if (segment !== undefined) segment.usedBytes = segment.bytes.length
      }
    },
    figures: async () => {
      const replenishedBits = sum(({ bytes }) => bytes.length)
      const consumedBits = sum(({ consumedBytes }) => consumedBytes)
      const remainingBits = sum(({ bytes, usedBytes }) => bytes.length - usedBytes)
      return { consumedBits, replenishedBits, remainingBits, discardedBits: replenishedBits - consumedBits - remainingBits }
    },
  }
}
