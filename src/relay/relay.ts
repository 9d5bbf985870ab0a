/** Door of the relay slice: keys for KMEs that no QKD link joins. The origin makes a block and sends it over trusted nodes to the
 *  destination, on each link under a one-time pad of that link's key; both ends then agree on it as on any other block, and all its units
 *  are the origin's to issue. Trusted nodes see the block while it passes and keep nothing of it. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { RelayPolicy, UnitRun } from '../key-store/key-store.ts'
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

/** `no-way`: the network, as it is now, has none that meets the policy. `not-now`: it has, but no keys came. */
export type RelayedUnits = readonly UnitRun[] | 'no-way' | 'not-now'

/** Relay as the rest of a KME sees it. `not-relayed`: a link leads to that peer, or relay is off. */
export interface Relay {
  /** One for each KME that is reached by relay only. */
  readonly sources: readonly ReplenishSource[]
  /** Somebody waits for keys. @returns whether some came. */
  fetch(peerKmeId: KmeId, unitCount: number): Promise<boolean>
  /** Relays keys for somebody who wants them relayed in a way of his own; they are in no pool. */
  take(peerKmeId: KmeId, unitCount: number, policy: RelayPolicy): Promise<RelayedUnits | 'not-relayed'>
  /** The agreement on the blocks shared with a peer. */
  agreement(linkId: LinkId, peerKmeId: KmeId): BlockAgreement | undefined
  /** Finishes what a process did not live to finish, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}
