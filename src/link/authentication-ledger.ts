/** Keeps the key that authenticates the classical channel of a QKD link (Wegman and Carter): segments of a hash key, which is used again
 *  and again, and of one-time pads, each byte of which masks one tag and is never used a second time.
 *
 *  Both ends hold the same segments and agree on a stretch before each tag. Each end takes as its start the larger of what both have used:
 *  so an end whose database was set back does not use again what its peer knows to be used. */
import type { SecretBytes } from '../kernel/secret-bytes.ts'

/** Length of the hash key that every segment begins with. */
export const SEGMENT_HASH_KEY_BYTES = 16

export interface LedgerSegment {
  /** Equal at both ends. */
  readonly segmentId: string
  readonly sizeBytes: number
  /** The bytes before are not to be had: hash key, handed out, or skipped. At least SEGMENT_HASH_KEY_BYTES. */
  readonly usedBytes: number
}

/** Exact over the life of the link: replenished = consumed + discarded + remaining. */
export interface LedgerFigures {
  /** Handed out as pads. */
  readonly consumedBits: number
  /** All that ever came in, the pre-shared secret included. */
  readonly replenishedBits: number
  /** Can still be handed out. */
  readonly remainingBits: number
  /** Set aside as hash keys, skipped because the other end had used it, or given up because it never had it. */
  readonly discardedBits: number
}

export interface AuthenticationLedger {
  /** Oldest first; those with bytes left. */
  segments(): Promise<readonly LedgerSegment[]>
  /** Hands out `lengthBytes` bytes from `fromByte` on. These and all before them are durably marked as used before anything is returned:
   *  no byte is returned twice, whatever crashes and however many processes ask. The caller wipes them.
   *  @throws AuthenticationKeyRefused; nothing was marked then. Any other error leaves open whether the bytes were marked. */
  reserve(segmentId: string, fromByte: number, lengthBytes: number): Promise<SecretBytes>
  /** The hash key of a segment, for tags whose pads come from it. The caller wipes it. To be asked for before the last pad is used: it
   *  may be gone once the segment is used up and another one has been added.
   *  @throws AuthenticationKeyRefused. */
  hashKey(segmentId: string): Promise<SecretBytes>
  /** Takes over a segment of distilled key, and wipes it.
   *  @param segmentId 1 to 64 characters as in a link ID.
   *  @returns 'known' when there is or was a segment of this name: it stays as it is. */
  add(segmentId: string, secret: SecretBytes): Promise<'added' | 'known'>
  /** Gives up segments of distilled key that the other end does not have. A pre-shared secret stays: the other end may get it yet. */
  discard(segmentIds: readonly string[]): Promise<void>
  figures(): Promise<LedgerFigures>
}

/** Why no bytes were handed out: the segment is not there (any more), others have used the bytes, or it has no more so many. */
export type RefusedReason = 'unknown' | 'used' | 'exhausted'

export class AuthenticationKeyRefused extends Error {
  readonly reason: RefusedReason

  constructor(reason: RefusedReason) {
    super(`authentication key was refused: ${reason}`)
    this.name = 'AuthenticationKeyRefused'
    this.reason = reason
  }
}
