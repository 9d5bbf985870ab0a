/** Operation that shows the peer KMEs of this KME. */
import type { components } from '../generated/admin.ts'
import type { PeerDirectory, PeerStatus } from '../peer/peer.ts'
import type { AdminRoute } from './admin-route.ts'

type Peer = components['schemas']['Peer']

export const showPeersRoutes = ({ peers }: { readonly peers: PeerDirectory }): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/peers',
    scope: 'peer:read',
    handle: () => ({ json: { peers: peers.statuses().map(toPeer) } }),
  },
]

const toPeer = (status: PeerStatus): Peer => ({
  kmeId: status.kmeId,
  url: status.url,
  available: status.available,
  lastAnswerAgeMs: status.lastAnswerAgeMs ?? null,
  failuresInARow: status.failuresInARow,
})
