/** Door of the relay slice: keys for KMEs that no QKD link joins. The origin makes a block and sends it over trusted nodes to the
 *  destination, on each link under a one-time pad of that link's key; both ends then agree on it as on any other block, and all its units
 *  are the origin's to issue. Trusted nodes see the block while it passes and keep nothing of it. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { BlockAgreement, ReplenishSource } from '../link/link.ts'

export interface RelaySettings {
  /** Keys of each link that are never used for relaying. */
  readonly floorKeys: number
  /** Keys in one relayed block. */
  readonly blockKeys: number
  /** Most links of a way that this KME takes part in. */
  readonly maxHops: number
  /** From the first byte sent to the answer. */
  readonly deadlineMs: number
}

/** What is wanted for the keys shared with one peer. */
export interface RelayPolicy {
  /** Each block is split over so many ways that have no KME in common: only all of those on different ways together could read it. */
  readonly paths: number
  /** Whether KMEs in between see nothing they could use. */
  readonly endToEnd: boolean
  /** Most links of a way. */
  readonly maxHops: number
  readonly avoid: readonly KmeId[]
  /** Undefined: all but those to avoid. */
  readonly only: readonly KmeId[] | undefined
}

/** Relay as the rest of a KME sees it. */
export interface Relay {
  /** One for each KME that is reached by relay only. */
  readonly sources: readonly ReplenishSource[]
  /** Somebody waits for keys. @returns whether some came. */
  fetch(peerKmeId: KmeId, unitCount: number): Promise<boolean>
  /** The agreement on the blocks shared with a peer. */
  agreement(linkId: LinkId, peerKmeId: KmeId): BlockAgreement | undefined
  /** Finishes what a process did not live to finish, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}
