/** Door of the delivery slice: the three methods of ETSI GS QKD 014 and who may use them. */
import type { AssignmentId, KmeId, SaeId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { Assignment } from '../key-store/key-store.ts'

/** What "Get status" announces and requests are checked against; sizes in bits. */
export interface DeliveryLimits {
  readonly keySizeBits: number
  readonly minKeySizeBits: number
  readonly maxKeySizeBits: number
  readonly maxKeysPerRequest: number
  readonly maxStoredKeys: number
  readonly maxSaeIdCount: number
  readonly heldForS: number
  readonly retryWindowS: number
  /** Keys a KME keeps for its own masters: Infinity where nothing is borrowed of it. */
  readonly lendFloorKeys: (peerKmeId: KmeId) => number
}

export interface RegisteredSae {
  readonly saeId: SaeId
  readonly kmeId: KmeId
  readonly enabled: boolean
  /** SAEs it may share keys with, in either role. */
  readonly sharesWith: readonly SaeId[]
}

/** Which SAE is homed at which KME, whether it is enabled, and who may share keys with whom. Reads are from memory:
 *  a change is effective for the next request of an open connection. */
export interface SaeDirectory {
  find(saeId: SaeId): RegisteredSae | undefined
  /** True when both SAEs are registered, enabled and paired. */
  mayShare(one: SaeId, other: SaeId): boolean
  list(): readonly RegisteredSae[]
  /** @throws Conflict when the ID is registered already. */
  register(sae: { saeId: SaeId; kmeId: KmeId }, actor: string): Promise<void>
  /** @throws NotFound. */
  setEnabled(saeId: SaeId, enabled: boolean, actor: string): Promise<void>
  /** @throws NotFound when either is not registered. */
  setPair(one: SaeId, other: SaeId, allowed: boolean, actor: string): Promise<void>
  /** Reads all entries again. */
  reload(): Promise<void>
  /** Calls back after a change, with the SAE it concerns. */
  onChange(listener: (saeId: SaeId) => void): void
}

/** What became of keys sent to a neighbour. `relayed`: every slave can have them. `never-sent`: not one byte left. `not-recognised`: the
 *  neighbour does not know the SAEs, or not each other's, and has no trace of the keys; `refused`: the same for another reason.
 *  `in-doubt`: it may have them. */
export type Handover = 'relayed' | 'never-sent' | 'not-recognised' | 'refused' | 'in-doubt'

/** A KME of another network at this site. Keys are not agreed on with it but sent to it, whole. */
export interface NeighbourKme {
  readonly kmeId: KmeId
  /** Whether sending is worth trying now; ask before claiming keys. */
  available(): boolean
  /** Resolves when the neighbour has said what became of the keys, or has not in time. @param keys stay as they are. */
  send(assignment: Assignment, keys: SecretBytes): Promise<Handover>
  /** The keys will never be issued. Durable when it resolves; the neighbour is told until it has heard. */
  abandon(aid: AssignmentId): Promise<void>
}

export interface NeighbourDirectory {
  named(kmeId: KmeId): NeighbourKme | undefined
}
