/** Operations that show how full the key pools are. One unit key is one key of the default size. */
import type { DeliveryLimits } from '../delivery/delivery.ts'
import type { components } from '../generated/admin.ts'
import type { KeyPool, PoolLevel } from '../key-pool/key-pool.ts'
import { NotFound } from '../kernel/errors.ts'
import type { AdminRoute } from './admin-route.ts'

export interface ShowPoolsParts {
  readonly pools: KeyPool
  readonly limits: DeliveryLimits
}

type Pool = components['schemas']['Pool']

export const showPoolsRoutes = ({ pools, limits }: ShowPoolsParts): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/pools',
    scope: 'pool:read',
    handle: () => ({ json: { pools: pools.levels().map((level) => toPool(level, limits)) } }),
  },
  {
    method: 'get',
    path: '/api/v1/pools/:kmeId',
    scope: 'pool:read',
    handle: ({ pathParameter }) => {
      const level = pools.levels().find(({ peerKmeId }) => peerKmeId === pathParameter)
      if (level === undefined) throw new NotFound('there is no pool for this KME')
      return { json: toPool(level, limits) }
    },
  },
]

const toPool = (level: PoolLevel, limits: DeliveryLimits): Pool => {
  // The other KME lends what lies above the floor it keeps for its own masters.
  const borrowable = Math.max(0, level.theirs - limits.lendFloorKeys)
  return {
    kmeId: level.peerKmeId,
    keySizeBits: limits.keySizeBits,
    mine: level.mine,
    theirs: level.theirs,
    deliverable: Math.min(limits.maxStoredKeys, level.mine + borrowable),
    max: limits.maxStoredKeys,
  }
}
