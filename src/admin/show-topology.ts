/** Operation that shows the network of all KMEs. */
import type { components } from '../generated/admin.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { KnownKme, KnownLink, TopologyDirectory } from '../topology/topology.ts'
import type { AdminRoute } from './admin-route.ts'

type Schemas = components['schemas']

export interface ShowTopologyParts {
  readonly kmeId: KmeId
  readonly topology: TopologyDirectory
}

export const showTopologyRoutes = ({ kmeId, topology }: ShowTopologyParts): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/topology',
    scope: 'topology:read',
    handle: () => {
      const json: Schemas['Topology'] = { kmeId, kmes: topology.kmes().map(toKme), links: topology.links().map(toLink) }
      return { json }
    },
  },
]

const toKme = ({ kmeId, sequence, issuedAtMs, validUntilMs, route }: KnownKme): Schemas['KnownKme'] => ({
  kmeId,
  sequence,
  issuedAt: new Date(issuedAtMs).toISOString(),
  validUntil: new Date(validUntilMs).toISOString(),
  route: route === undefined ? null : [...route],
})

const toLink = ({ linkId, one, other, state, availableKeys, keyRateBps }: KnownLink): Schemas['KnownLink'] => ({
  linkId,
  one,
  other,
  state,
  availableKeys,
  keyRateBps,
})
