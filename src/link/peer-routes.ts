/** The KME-to-KME API of links: agree on blocks, lend units. */
import type { Express } from 'express'
import type { AuditLog } from '../audit/audit.ts'
import { only } from '../http/api-app.ts'
import { callerKme } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import { readBody } from '../http/request-body.ts'
import type { BlockAnswer } from '../peer/peer.ts'
import { parsePeerBody, PEER_BODY_BYTES_MAX, peerPaths, readLoanRequest, readProposals, writeBlockAnswer } from '../peer/wire.ts'
import type { Lending } from './lend-units.ts'
import type { RunningLinks } from './link-directory.ts'

export const mountLinkPeerApi = (app: Express, parts: { links: RunningLinks; lending: Lending; audit: AuditLog }): void => {
  only(app, peerPaths.blocks, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const proposals = readProposals(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      const answers = await Promise.all(
        proposals.map(async (proposal): Promise<BlockAnswer> => {
          const link = parts.links.find(proposal.linkId, kmeId)
          if (link !== undefined) return link.agreement.answer(proposal)
          const subject = { call: 'blocks', linkId: proposal.linkId, reason: 'not a link to this KME' }
          await parts.audit.append({ event: 'peer.refused', actor: `kme:${kmeId}`, outcome: 'refused', subject })
          return { outcome: 'unknown' }
        }),
      )
      sendJson(response, { answers: answers.map(writeBlockAnswer) })
    },
  })
  only(app, peerPaths.loans, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const { loanId, unitCount } = readLoanRequest(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      sendJson(response, { units: await parts.lending.lend(kmeId, loanId, unitCount) })
    },
  })
}
