/** Door of the peer slice: the conversation with other KMEs. Calls that wait for the same peer at the same moment
 *  travel in one request; a circuit breaker says beforehand whether a call makes sense. */
import type { BreakerStatus } from '../kernel/circuit-breaker.ts'
import type { AssignmentId, BlockId, KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Assignment, HoldAnswer, UnitRun } from '../key-store/key-store.ts'

export interface AssignmentOffer {
  readonly assignment: Assignment
  readonly commitment: Buffer
  /** Of a copy: keys XOR units. */
  readonly difference?: Buffer | undefined
}

/** `refused` besides the store's reasons: the peer does not serve these SAEs or does not allow the pair.
 *  `failed`: the peer does not know itself whether it holds the keys. */
export type AssignmentAnswer =
  | HoldAnswer
  | { readonly outcome: 'refused'; readonly reason: 'sae-not-served' | 'pair-not-permitted' | 'malformed' }
  | { readonly outcome: 'failed' }

/** `failed`: nothing is decided, ask again. */
export type AbortAnswer = 'voided' | 'released' | 'failed'

/** Units of a burnt assignment: this KME issues them and never will. */
export interface Retirement {
  readonly aid: AssignmentId
  readonly units: readonly UnitRun[]
}

export type RetirementAnswer = 'retired' | 'failed'

export interface BlockProposal {
  readonly linkId: LinkId
  readonly blockId: BlockId
  readonly tag: Buffer
}

/** `unknown`: the peer's device has not delivered the block (yet). `different`: both ends discard it. */
export type BlockAnswer = { readonly outcome: 'agreed'; readonly tag: Buffer } | { readonly outcome: 'unknown' | 'different' }

/** `too-many`: not so many just now. `refused`: the peer wants no keys of the fallback source. */
export type FallbackAnswer = 'stored' | 'too-many' | 'refused'

/** What a KME says of its own links, as it travels between KMEs that may never have met. */
export interface SignedStatement {
  /** Canonical JSON (docs/topology.md); what it says is the topology slice's to read. */
  readonly statement: string
  readonly signature: Buffer
  /** DER: that of the KME that signed, then those of authorities in between, if any. */
  readonly certificates: readonly Buffer[]
}

/** How the topologies of two KMEs differ, seen from the one that asked. */
export interface TopologyDifference<Statement = SignedStatement> {
  /** Statements the peer has newer. */
  readonly newer: readonly Statement[]
  /** KMEs whose statements the peer lacks or has older. */
  readonly wanted: readonly KmeId[]
  /** There are more newer ones than fit into one answer. */
  readonly more: boolean
}

/** A peer as the topology slice sees it. Its calls may fail without making the peer unavailable: one that knows nothing of topology
 *  shares keys all the same. */
export interface FloodingPartner {
  readonly kmeId: KmeId
  /** Whether a call is worth trying now. */
  available(): boolean
  /** @throws CallFailed. */
  sendStatements(statements: readonly SignedStatement[]): Promise<void>
  /** @param sequences of the newest statements known here, by KME. @throws CallFailed. */
  compareTopology(sequences: ReadonlyMap<KmeId, number>): Promise<TopologyDifference<SignedStatement | undefined>>
}

/** Where a relayed block goes, as the KME that is asked to take it sees it. */
export interface RelayLeg {
  /** All KMEs from the origin to the destination. */
  readonly path: readonly KmeId[]
  /** Which of them is asked, counted from the origin, which is 0. */
  readonly hop: number
  /** For how long the caller waits for the answer. */
  readonly budgetMs: number
}

/** One part of a block that is split, or the whole of it. */
export interface RelayShare {
  /** From 0. */
  readonly index: number
  readonly count: number
}

/** A block on its way over trusted nodes, under a one-time pad of the link between the caller and the KME that is asked. */
export interface RelayParcel extends RelayLeg {
  /** A UUID, another for each path. */
  readonly relayId: string
  /** The origin's name for the block: a UUID. */
  readonly block: string
  readonly share: RelayShare
  /** Units of the link that the pad is made of, all issued by the caller. */
  readonly pad: readonly UnitRun[]
  readonly ciphertext: Buffer
  /** Public keys of the origin, when the block is wrapped end to end. */
  readonly wrap?: Buffer
  /** One-time MAC over all of this. */
  readonly mac: Buffer
}

/** Asks whether a block of that size could be taken now; nothing is used up. */
export interface RelayCheck extends RelayLeg {
  readonly sizeBytes: number
}

/** Why a KME takes no part in a relay. `failed`: nobody knows how far it came. */
export type RelayRefusal =
  | 'malformed'
  | 'relay-off'
  | 'path-not-allowed'
  | 'next-hop-unknown'
  | 'next-hop-unavailable'
  | 'insufficient'
  | 'deadline'
  | 'too-many'
  | 'pad-used'
  | 'given-up'
  | 'pad-unavailable'
  | 'pad-pending'
  | 'not-authentic'
  | 'relay-id-in-use'
  | 'failed'

export interface RelayRefused {
  readonly outcome: 'refused'
  readonly reason: RelayRefusal
  /** The KME that refused it. */
  readonly at: KmeId
}

/** `delivered`: the destination stored the block. */
export type RelayAnswer =
  | {
      readonly outcome: 'delivered'
      /** What the destination adds when the block is wrapped end to end. */
      readonly reply?: Buffer
      /** One-time MAC of the KME that answers. */
      readonly mac: Buffer
    }
  | RelayRefused

export type RelayCheckAnswer = { readonly outcome: 'ready' } | RelayRefused

/** A peer as the relay slice sees it. Calls stay open until the destination, or whoever refuses, has answered. */
export interface RelayPartner {
  readonly kmeId: KmeId
  /** Whether a call is worth trying now. */
  available(): boolean
  /** Repeating a parcel is safe. @throws CallFailed when there is no answer in time, or one to another relay. */
  relay(parcel: RelayParcel, withinMs: number): Promise<RelayAnswer>
  /** @throws CallFailed. */
  checkRelay(check: RelayCheck): Promise<RelayCheckAnswer>
}

export interface PeerKme {
  readonly kmeId: KmeId
  /** Whether a call is worth trying now; ask before claiming keys. */
  available(): boolean
  assign(offer: AssignmentOffer): Promise<AssignmentAnswer>
  abort(aid: AssignmentId): Promise<AbortAnswer>
  /** Tells the peer that nobody will ever need these units. */
  retire(retirement: Retirement): Promise<RetirementAnswer>
  confirmBlock(proposal: BlockProposal): Promise<BlockAnswer>
  /** Asks the peer to lend up to `unitCount` units; repeating a loan ID is safe. */
  requestLoan(loanId: string, unitCount: number): Promise<readonly UnitRun[]>
  /** Sends a block made here.
   *  @param name a UUID; the sender and it name the block at both ends. @param bytes wiped when this settles. */
  sendFallbackBlock(name: string, bytes: Buffer): Promise<FallbackAnswer>
}

export interface PeerStatus extends BreakerStatus {
  readonly kmeId: KmeId
  readonly url: string
}

export interface PeerDirectory {
  named(kmeId: KmeId): PeerKme | undefined
  statuses(): readonly PeerStatus[]
}

export interface ApprovedCertificate {
  /** SHA-256 as `AA:BB:...`. */
  readonly fingerprint: string
  /** In the configuration file, or approved over the admin API. */
  readonly from: 'configuration' | 'operator'
}

/** Which certificates a peer KME may show, and how often an operator asked for new session keys with it. */
export interface PeerTrust {
  /** A certificate of the KME authority that names this peer: is it good enough? */
  accepts(peerKmeId: KmeId, fingerprint256: string): boolean
  generation(peerKmeId: KmeId): number
  /** The certificates the peer is held to; undefined when any of the KME authority will do. */
  approved(peerKmeId: KmeId): readonly ApprovedCertificate[] | undefined
  /** @param approved false to withdraw it; from then on the peer needs another that is approved.
   *  @throws NotFound when there is no such peer. */
  setApproved(peerKmeId: KmeId, fingerprint256: string, approved: boolean, actor: string): Promise<void>
  /** @throws NotFound when there is no such peer. */
  rekey(peerKmeId: KmeId, actor: string): Promise<void>
}
