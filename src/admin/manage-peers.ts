/** Operations on peer KMEs: how they are, which certificates they may show, new session keys. */
import type { components } from '../generated/admin.ts'
import { BadRequest, NotFound } from '../kernel/errors.ts'
import { parseFingerprint, parseKmeId, type KmeId } from '../kernel/identifiers.ts'
import type { PeerDirectory, PeerStatus, PeerTrust } from '../peer/peer.ts'
import { actorOf, readMembers, type AdminRequest, type AdminRoute } from './admin-route.ts'

type Peer = components['schemas']['Peer']

export interface ManagePeersParts {
  readonly peers: PeerDirectory
  readonly trust: PeerTrust
}

const fingerprint = (value: unknown): string | undefined => (typeof value === 'string' ? parseFingerprint(value) : undefined)

export const managePeersRoutes = ({ peers, trust }: ManagePeersParts): AdminRoute[] => {
  const show = (peerKmeId: KmeId): Peer => {
    const status = peers.statuses().find(({ kmeId }) => kmeId === peerKmeId)
    if (status === undefined) throw new NotFound('no such peer')
    return toPeer(status, trust)
  }
  const change = (
    verb: 'approve' | 'withdraw' | 'rekey',
    apply: (peerKmeId: KmeId, request: AdminRequest) => Promise<void>,
  ): AdminRoute => ({
    method: 'post',
    path: `/api/v1/peers/:kmeId/${verb}`,
    scope: 'peer:write',
    handle: async (request) => {
      const peerKmeId = parseKmeId(request.pathParameter)
      if (peerKmeId === undefined) throw new BadRequest([{ problem: 'kmeId: not a KME ID' }])
      await apply(peerKmeId, request)
      return { json: show(peerKmeId) }
    },
  })
  const setApproved =
    (approved: boolean) =>
    async (peerKmeId: KmeId, { admin, body }: AdminRequest): Promise<void> => {
      const members = readMembers<{ fingerprint: string }>(body, { fingerprint })
      await trust.setApproved(peerKmeId, members.fingerprint, approved, actorOf(admin))
    }
  return [
    {
      method: 'get',
      path: '/api/v1/peers',
      scope: 'peer:read',
      handle: () => ({ json: { peers: peers.statuses().map((status) => toPeer(status, trust)) } }),
    },
    change('approve', setApproved(true)),
    change('withdraw', setApproved(false)),
    change('rekey', async (peerKmeId, { admin, body }) => {
      readMembers(body, {})
      await trust.rekey(peerKmeId, actorOf(admin))
    }),
  ]
}

const toPeer = (status: PeerStatus, trust: PeerTrust): Peer => ({
  kmeId: status.kmeId,
  url: status.url,
  available: status.available,
  lastAnswerAgeMs: status.lastAnswerAgeMs ?? null,
  failuresInARow: status.failuresInARow,
  certificates: trust.approved(status.kmeId)?.map((certificate) => ({ ...certificate })) ?? null,
})
