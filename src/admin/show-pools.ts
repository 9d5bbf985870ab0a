/** Operations that show how full the key pools are. One unit key is one key of the default size. */
import type { DeliveryLimits } from '../delivery/delivery.ts'
import type { components } from '../generated/admin.ts'
import type { KeyPool, PoolLevel } from '../key-pool/key-pool.ts'
import { NotFound } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import type { AdminRoute } from './admin-route.ts'

export interface ShowPoolsParts {
  readonly kmeId: KmeId
  readonly peers: PeerDirectory
  readonly pools: KeyPool
  readonly limits: DeliveryLimits
}

type Pool = components['schemas']['Pool']

export const showPoolsRoutes = (parts: ShowPoolsParts): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/pools',
    scope: 'pool:read',
    handle: async () => ({ json: { pools: (await parts.pools.levels()).map((level) => toPool(level, parts)) } }),
  },
  {
    method: 'get',
    path: '/api/v1/pools/:kmeId',
    scope: 'pool:read',
    handle: async ({ pathParameter }) => {
      const level = (await parts.pools.levels()).find(({ peerKmeId }) => peerKmeId === pathParameter)
      if (level === undefined) throw new NotFound('there is no pool for this KME')
      return { json: toPool(level, parts) }
    },
  },
]

const toPool = (level: PoolLevel, parts: ShowPoolsParts): Pool => ({
  kmeId: level.peerKmeId,
  keySizeBits: parts.limits.keySizeBits,
  mine: level.mine,
  theirs: level.theirs,
  deliverable: deliverable(level, parts),
  max: parts.limits.maxStoredKeys,
})

/** What "Get status" would announce. */
const deliverable = ({ peerKmeId, mine, theirs }: PoolLevel, { kmeId, peers, limits }: ShowPoolsParts): number => {
  const isLocal = peerKmeId === kmeId
  // No key leaves without the consent of the other end.
  if (!isLocal && peers.named(peerKmeId)?.available() !== true) return 0
  // The other KME lends what lies above the floor it keeps for its own masters.
  const borrowable = isLocal ? 0 : Math.max(0, theirs - limits.lendFloorKeys)
  return Math.min(limits.maxStoredKeys, mine + borrowable)
}
