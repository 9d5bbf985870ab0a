/** Whether keys that a peer lends may be used as those made here. What a peer relayed, it relayed as its own operator wants it: where more is
 *  wanted here of all keys shared with it, they may not. */
import type { KmeId } from '../kernel/identifiers.ts'
import { ANY_WAY, coversPolicy, type RelayPolicy } from '../key-store/key-store.ts'

export const makeMayBorrow = (parts: {
  /** Peers that no link leads to. */
  readonly distantPeers: readonly KmeId[]
  readonly policyOf: (peerKmeId: KmeId) => RelayPolicy
  /** Most links of a way that this KME takes part in: no block comes here over more. */
  readonly maxHops: number
}): ((peerKmeId: KmeId) => boolean) => {
  const wantNothing = (peerKmeId: KmeId): boolean =>
    coversPolicy({ ...ANY_WAY, maxHops: parts.maxHops }, parts.policyOf(peerKmeId))
  return (peerKmeId) => !parts.distantPeers.includes(peerKmeId) || wantNothing(peerKmeId)
}
