/** Whether this KME may take part in a relay that a peer asks for, and what it would be in it (I17, F93).
 *  Holds: a path names no KME twice, so nothing goes in circles; a parcel comes from the KME before this one and goes to one that this KME
 *  is set up to speak to over a link of its own. Nothing a peer writes is ever used as an address. */
import type { KmeId } from '../kernel/identifiers.ts'
import type { RelayLeg, RelayRefusal } from '../peer/peer.ts'

export interface JudgeLegParts {
  readonly kmeId: KmeId
  readonly maxHops: number
  /** KMEs at the other end of a QKD link. */
  readonly neighbours: ReadonlySet<KmeId>
  /** KMEs that this one takes relayed blocks of. */
  readonly origins: ReadonlySet<KmeId>
}

export type Role =
  | { readonly role: 'destination'; readonly origin: KmeId }
  | { readonly role: 'hop'; readonly next: KmeId }
  | { readonly role: 'none'; readonly reason: RelayRefusal }

const none = (reason: RelayRefusal): Role => ({ role: 'none', reason })

export const judgeLeg = (parts: JudgeLegParts, caller: KmeId, { path, hop }: RelayLeg): Role => {
  const isSound = path.length - 1 <= parts.maxHops && new Set(path).size === path.length
  // The pad is key of the link between the two.
  if (!isSound || path[hop] !== parts.kmeId || path[hop - 1] !== caller || !parts.neighbours.has(caller))
    return none('path-not-allowed')
  const next = path[hop + 1]
  if (next !== undefined) return parts.neighbours.has(next) ? { role: 'hop', next } : none('next-hop-unknown')
  const origin = path[0] as KmeId
  return parts.origins.has(origin) ? { role: 'destination', origin } : none('path-not-allowed')
}
