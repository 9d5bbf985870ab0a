/** Door of the link slice: what a QKD device driver is, and what the rest of the KME may know of a link.
 *  A driver delivers blocks of raw key that its twin at the other end of the link delivers too, under the same block ID. */
import type { LedgerFigures } from './authentication-ledger.ts'
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { PoolLevel } from '../key-pool/key-pool.ts'
import type { LinkSecurity, SecurityStatement } from '../key-store/key-store.ts'

export type { BlockAgreement } from './agree-block.ts'
export { blockIdOf } from './block-id.ts'

/** One block of key material as a device hands it over. */
export interface KeyBlock {
  /** The device's own name for the block, equal at both ends; printable ASCII, 1 to 64 characters. */
  readonly deviceBlock: string
  /** Quantum bit error rate the device measured for this block, 0 to 1; undefined if it does not say. */
  readonly qber: number | undefined
  /** Undefined when the key was distilled elsewhere, inside a device. */
  readonly statement?: SecurityStatement
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
  /** What the link measured of a block gave no key: too many errors, or too little that is provably secret. */
  | { readonly kind: 'no-key'; readonly reason: string; readonly qber: number }
  /** What came from the other end was changed on the way, or there is no key left to tell. */
  | { readonly kind: 'not-authenticated'; readonly reason: string }

/** The only thing a new device needs. */
export interface LinkDriver {
  /** Delivers blocks until `signal` aborts, reconnecting by itself; a failure it cannot mend is thrown.
   *  Pulling is the back-pressure: the driver asks its device for no more than what was pulled and acknowledged.
   *  A block delivered and not acknowledged comes again after a reconnect; no acknowledged block does. */
  blocks(signal: AbortSignal, report: (event: DriverEvent) => void): AsyncIterable<KeyBlock>
  /** What this KME shows its peers, or whom it believes, has changed: a connection made before does not live on. */
  reconnect?(): void
  /** What a driver that distils key itself knows besides. */
  facts?(): Promise<DistillationFacts>
}

/** What the records of a link's blocks add up to, beside what its driver knows. */
export interface Distillation extends DistillationFacts {
  readonly security: LinkSecurity
}

export interface DistillationFacts {
  /** What the model of the link gives, bits of secret key per second. */
  readonly expectedKeyRateBps: number
  /** Key for authentication, over the life of the link. */
  readonly authentication: LedgerFigures
}

export type LinkState = 'starting' | 'up' | 'down'

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
  /** Of a link whose key this KME distils itself. */
  readonly distillation?: Distillation | undefined
}

/** What the admin API reads. */
export interface LinkDirectory {
  statuses(): readonly LinkStatus[]
}

/** What a source is asked for. */
export interface PoolNeed {
  readonly level: PoolLevel
  /** Of what the other end may issue, what it would lend. */
  readonly borrowable: number
  /** How full the pool may get. */
  readonly ceilingKeys: number
}

export type Replenished =
  | { readonly outcome: 'filled'; readonly keys: number }
  /** Keys come as soon as there are any. */
  | { readonly outcome: 'asked' }
  | { readonly outcome: 'nothing'; readonly reason: string }

/** Something that can bring keys for one pool: a link, a loan, a relay, the random source of the local pool. */
export interface ReplenishSource {
  /** For people: `link a-b`. */
  readonly name: string
  readonly peerKmeId: KmeId
  /** @throws Error saying what keeps it from bringing any; it is asked again after a while. */
  replenish(need: PoolNeed): Promise<Replenished>
}

export type SourceReport = { readonly source: string } & (Replenished | { readonly outcome: 'failed'; readonly reason: string })

/** What an operator may ask for. */
export interface Replenisher {
  /** Asks every source of a pool now. @param keys how full the pool may get this once, if more than usual.
   *  @param actor for the audit log. @throws NotFound. */
  replenishNow(
    peerKmeId: KmeId,
    keys: number | undefined,
    actor: string,
  ): Promise<{ readonly ceilingKeys: number; readonly sources: readonly SourceReport[] }>
}
