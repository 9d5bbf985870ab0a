/** Door of the interworking slice: KMEs of other networks that stand at this site, whatever their make (ETSI GS QKD 020 V1.1.1).
 *
 *  Words. A *neighbour* is such a KME. SAEs of its network are *homed behind* it: registered here with the neighbour's ID as their KME.
 *  The *initiator* of a key is its master SAE, its *targets* are the slave SAEs. Keys are sent whole, under the key_ID the SAEs will know
 *  them by; the site protects the way between the two KMEs, and TLS. */
import type { CertificateName } from '../http/client-identity.ts'
import type { BreakerStatus } from '../kernel/circuit-breaker.ts'
import type { KeyId, KmeId } from '../kernel/identifiers.ts'

export interface Neighbour {
  readonly kmeId: KmeId
  /** What its certificate must bear, as client and as server. */
  readonly certificate: CertificateName
  /** Of its interworking API. */
  readonly url: string
  /** The only URL it may have acknowledgements sent to. */
  readonly callbackUrl: string
  /** Whether keys are sent to it without a callback, if it can do that. */
  readonly synchronous: boolean
  /** How long it has to relay keys to their targets. */
  readonly deadlineMs: number
  /** Most requests of it, */
  readonly requestsPerS: number
  /** and most keys in those that send, void or acknowledge keys. */
  readonly keysPerS: number
}

/** What this KME shows to neighbours and which authorities it takes theirs from. */
export interface NeighbourTls {
  readonly certificatePem: string
  readonly privateKeyPem: string
  readonly caPem: string
  readonly crlPems?: readonly string[]
}

/** As for a peer KME. */
export interface NeighbourStatus extends BreakerStatus {
  readonly kmeId: KmeId
  readonly url: string
}

/** Calls to one neighbour under way at a time; the others wait. */
export const CONNECTIONS_PER_NEIGHBOUR = 4

export const ACK_STATUSES = ['relayed', 'failed', 'voided', 'failed to void', 'key not present'] as const
export type AckStatus = (typeof ACK_STATUSES)[number]

/** What became of some keys. SAE IDs are as the neighbour wrote them. */
export interface Ack {
  readonly status: AckStatus
  readonly initiator: string
  readonly targets: readonly string[]
  readonly keyIds: readonly KeyId[]
}

/** What a neighbour must be told until it has taken it. */
export type NeighbourMessage =
  | { readonly kind: 'ack'; readonly acks: readonly Ack[] }
  | { readonly kind: 'void'; readonly initiator: string; readonly targets: readonly string[]; readonly keyIds: readonly KeyId[] }

export interface WaitingMessage {
  readonly id: string
  readonly kmeId: KmeId
  readonly message: NeighbourMessage
  readonly attempts: number
}
