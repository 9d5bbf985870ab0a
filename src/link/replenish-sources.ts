/** What can bring keys for the pool of a peer KME: the QKD links to it, and a loan from it. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import type { Lending } from './lend-units.ts'

import type { LinkDirectory, ReplenishSource } from './link.ts'

/** Ends that have about the same do not lend to and fro. */
const LOAN_UNITS_MIN = 128
const LOAN_UNITS_MAX = 4096

/** A link fills its pool by itself as long as there is room; what it can be asked for is not to wait. */
export const createLinkSource = (parts: {
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly links: LinkDirectory
}): ReplenishSource => ({
  name: `link ${parts.linkId}`,
  peerKmeId: parts.peerKmeId,
  replenish: () => {
    const status = parts.links.statuses().find(({ linkId }) => linkId === parts.linkId)
    if (status?.state === 'down') throw new Error(`the link is down: ${status.reason ?? 'no reason given'}`)
    return Promise.resolve({ outcome: 'asked' })
  },
})

/** Evens out what the two ends may issue. In need the richer end would lend anyway, but only after a request has waited. */
export const createLoanSource = (parts: {
  readonly peerKmeId: KmeId
  readonly lending: Pick<Lending, 'borrow'>
  readonly peers: PeerDirectory
}): ReplenishSource => ({
  name: 'loan',
  peerKmeId: parts.peerKmeId,
  replenish: async ({ level, borrowable }) => {
    const units = Math.min(LOAN_UNITS_MAX, Math.floor((borrowable - level.mine) / 2))
    if (units < LOAN_UNITS_MIN) return { outcome: 'nothing', reason: 'the other KME has hardly more than this one' }
    if (parts.peers.named(parts.peerKmeId)?.available() !== true) throw new Error('the other KME does not answer')
    if (!(await parts.lending.borrow(parts.peerKmeId, units))) throw new Error('the other KME lent nothing')
    return { outcome: 'filled', keys: units }
  },
})
