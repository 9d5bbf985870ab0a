/** Operation that shows the QKD links of this KME. */
import type { components } from '../generated/admin.ts'
import type { LinkDirectory, LinkStatus } from '../link/link.ts'
import type { AdminRoute } from './admin-route.ts'

type Link = components['schemas']['Link']

export const showLinksRoutes = ({ links }: { readonly links: LinkDirectory }): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/links',
    scope: 'link:read',
    handle: () => ({ json: { links: links.statuses().map(toLink) } }),
  },
]

const toLink = (status: LinkStatus): Link => ({
  linkId: status.linkId,
  peerKmeId: status.peerKmeId,
  driver: status.driver,
  state: status.state,
  reason: status.reason ?? null,
  qber: status.qber ?? null,
  keyRateBps: status.keyRateBps,
  blocksAgreed: status.blocksAgreed,
  blocksRejected: status.blocksRejected,
  newestBlockAgeMs: status.newestBlockAgeMs ?? null,
  distillation: status.distillation ?? null,
})
