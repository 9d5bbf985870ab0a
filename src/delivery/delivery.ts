/** Door of the delivery slice: the three methods of ETSI GS QKD 014 and who may use them. */
import type { KmeId, SaeId } from '../kernel/identifiers.ts'

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
  readonly lendFloorKeys: number
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
