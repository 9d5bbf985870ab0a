/** Door of the topology slice: which KMEs there are, by which QKD links they hang together, and the ways between them.
 *  Each KME states its own links and signs what it states; statements are flooded from peer to peer, so every KME knows the whole
 *  network, also KMEs it never spoke to. A link counts only when both of its ends state it: nobody can invent one alone.
 *  Nothing secret rests on it. A KME that lies about its own links attracts or repels relayed keys, and learns no more than any
 *  trusted node learns. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'

/** Size of the keys that statements count, whatever size a KME cuts. */
export const STATED_KEY_BITS = 256

/** One end's word about a link. */
export interface StatedLink {
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  /** Keys of STATED_KEY_BITS in the pool shared with the peer: a power of two or 0, within a factor of two of the truth. */
  readonly availableKeys: number
  /** Bits per second, rounded likewise. */
  readonly keyRateBps: number
  readonly up: boolean
}

/** What a KME says of its links. A statement with a higher sequence number replaces those with lower ones. */
export interface LinkStateStatement {
  readonly version: 1
  readonly kmeId: KmeId
  readonly sequence: number
  /** Milliseconds since 1970, by the clock of the KME that speaks. */
  readonly issuedAtMs: number
  readonly validForS: number
  /** Ordered by link ID. */
  readonly links: readonly StatedLink[]
}

export interface RouteRequest {
  readonly from: KmeId
  readonly to: KmeId
  /** Nodes in between that must not be on the way. */
  readonly avoid?: readonly KmeId[]
  /** If given, nodes in between are taken from these. */
  readonly only?: readonly KmeId[]
  /** Most links of a way; 16 if left out, and never more. */
  readonly maxHops?: number
  /** That many ways without a node in common, or none. */
  readonly disjointPaths?: number
}

export interface RouteFinder {
  /** Ways over links that are up, as lists of nodes from `from` to `to`, best first: the one whose weakest link has most key, of
   *  these the one with fewest hops, of these the first by name. Without `disjointPaths` the best one and, for each of its links,
   *  the best one without that link. Empty when there is no way. */
  routes(request: RouteRequest): readonly (readonly KmeId[])[]
}

/** A KME of the network, as this one knows it. */
export interface KnownKme {
  readonly kmeId: KmeId
  readonly sequence: number
  readonly issuedAtMs: number
  readonly validUntilMs: number
  /** The best way from this KME; undefined where there is none. */
  readonly route: readonly KmeId[] | undefined
}

/** A link of the network, as its ends state it. */
export interface KnownLink {
  readonly linkId: LinkId
  /** The ends; `one` has the smaller ID. */
  readonly one: KmeId
  readonly other: KmeId
  /** `one-sided`: only one end states it, so it does not count. */
  readonly state: 'up' | 'down' | 'one-sided'
  /** The smaller of what the ends state. */
  readonly availableKeys: number
  readonly keyRateBps: number
}

/** What operators see. */
export interface TopologyDirectory {
  /** Ordered by ID. */
  kmes(): readonly KnownKme[]
  /** Ordered by the IDs of the ends, then by link ID. */
  links(): readonly KnownLink[]
}

/** What became of a statement that was offered. */
export type StatementOutcome = 'accepted' | 'known' | 'deferred' | 'refused'

/** What the topology slice counts. */
export interface TopologyCounts {
  /** A request to a peer, or from one. */
  message(direction: 'sent' | 'received', kind: 'statements' | 'comparison'): void
  statement(outcome: StatementOutcome): void
}
