/** Door of the link slice: what a QKD device driver is, and what the rest of the KME may know of a link.
 *  A driver delivers blocks of raw key that its twin at the other end of the link delivers too, under the same block ID. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'

/** One block of key material as a device hands it over. */
export interface KeyBlock {
  /** The device's own name for the block, equal at both ends; printable ASCII, 1 to 64 characters. */
  readonly deviceBlock: string
  /** Quantum bit error rate the device measured for this block, 0 to 1; undefined if it does not say. */
  readonly qber: number | undefined
  /** The key bytes. Whoever receives the block wipes them. */
  readonly key: SecretBytes
  /** Tells the device that the block is stored durably and need not be sent again. */
  acknowledge(): void
}

/** What a driver reports while it runs; the supervisor turns it into link status, log lines and metrics. */
export type DriverEvent =
  | { readonly kind: 'connected' }
  | { readonly kind: 'disconnected'; readonly reason: string }
  /** A block or frame was refused: wrong checksum, wrong length, out of sequence. */
  | { readonly kind: 'rejected'; readonly reason: string }

/** The only thing a new device needs. */
export interface LinkDriver {
  /** Delivers blocks until `signal` aborts, reconnecting by itself; a failure it cannot mend is thrown.
   *  Pulling is the back-pressure: the driver asks its device for no more than what was pulled and acknowledged.
   *  A block delivered and not acknowledged comes again after a reconnect; no acknowledged block does. */
  blocks(signal: AbortSignal, report: (event: DriverEvent) => void): AsyncIterable<KeyBlock>
}

export type LinkState = 'starting' | 'up' | 'down' | 'stopped'

/** What operators see of a link. */
export interface LinkStatus {
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly driver: string
  readonly state: LinkState
  /** Why the link is not up, in words for an operator. */
  readonly reason: string | undefined
  /** QBER of the newest block, 0 to 1. */
  readonly qber: number | undefined
  /** Agreed key bits per second over the last minute. */
  readonly keyRateBps: number
  /** Since the link was set up. */
  readonly blocksAgreed: number
  readonly blocksRejected: number
  /** Milliseconds since the newest block was agreed; undefined before the first. */
  readonly newestBlockAgeMs: number | undefined
}

/** What the admin API reads. */
export interface LinkDirectory {
  statuses(): readonly LinkStatus[]
}
