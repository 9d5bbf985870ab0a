/** The KME-to-KME API of links: agree on blocks, lend units. */
import type { Express } from 'express'
import type { AuditLog } from '../audit/audit.ts'
import { only } from '../http/api-app.ts'
import { callerKme } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import { readBody, readSecretBody } from '../http/request-body.ts'
import { pathSegment } from '../http/request-target.ts'
import { BadRequest } from '../kernel/errors.ts'
import { parseBlockId, type KmeId, type LinkId } from '../kernel/identifiers.ts'
import type { BlockAnswer } from '../peer/peer.ts'
import { parsePeerBody, PEER_BODY_BYTES_MAX, peerPaths, readLoanRequest, readProposals, writeBlockAnswer } from '../peer/wire.ts'
import type { BlockAgreement } from './agree-block.ts'
import type { Lending } from './lend-units.ts'
import { FALLBACK_BLOCK_BYTES_MAX, type FallbackSource } from './fallback-source.ts'
import type { RunningLinks } from './link-directory.ts'

/** /kme/v1/fallback-blocks/{block}: the segment with the name. */
const BLOCK_SEGMENT = 3

export const mountLinkPeerApi = (
  app: Express,
  parts: {
    links: RunningLinks
    /** Who shares blocks with peers that come from no link. */
    others: readonly { agreement(linkId: LinkId, peerKmeId: KmeId): BlockAgreement | undefined }[]
    fallback: FallbackSource
    lending: Lending
    audit: AuditLog
  },
): void => {
  only(app, peerPaths.blocks, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const proposals = readProposals(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      const answers = await Promise.all(
        proposals.map(async (proposal): Promise<BlockAnswer> => {
          const { linkId } = proposal
          const agreements = parts.others.map((other) => other.agreement(linkId, kmeId))
          const agreement = [parts.links.find(linkId, kmeId)?.agreement, ...agreements].find((one) => one !== undefined)
          if (agreement !== undefined) return agreement.answer(proposal)
          const subject = { call: 'blocks', linkId, reason: 'not a link to this KME' }
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
  only(app, peerPaths.fallbackBlocks.replace('{block}', ':block'), {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const name = parseBlockId(pathSegment(request, BLOCK_SEGMENT))
      if (name === undefined) throw new BadRequest()
      const key = await readSecretBody(request, FALLBACK_BLOCK_BYTES_MAX)
      sendJson(response, { outcome: await parts.fallback.accept(kmeId, name, key) })
    },
  })
}
