/** The KME-to-KME API of delivery: accept assignments, void them. */
import type { Express } from 'express'
import { only } from '../http/api-app.ts'
import { callerKme } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import { readBody } from '../http/request-body.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import type { KeyStore } from '../key-store/key-store.ts'
import type { AbortAnswer } from '../peer/peer.ts'
import { parsePeerBody, PEER_BODY_BYTES_MAX, peerPaths, readAborts, readOffers, writeAssignmentAnswer } from '../peer/wire.ts'
import type { AcceptAssignment } from './accept-assignment.ts'

export const mountDeliveryPeerApi = (
  app: Express,
  parts: { acceptAssignment: AcceptAssignment; store: KeyStore; pool: KeyPool },
): void => {
  only(app, peerPaths.assignments, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const offers = readOffers(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      const answers = await Promise.all(offers.map((offer) => parts.acceptAssignment(kmeId, offer)))
      sendJson(response, { answers: answers.map(writeAssignmentAnswer) })
    },
  })
  only(app, peerPaths.aborts, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const aids = readAborts(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      const answers = await Promise.all(
        aids.map(async (aid): Promise<{ outcome: AbortAnswer }> => {
          const answer = await parts.store.voidAssignment(kmeId, aid)
          if (answer.outcome === 'voided') parts.pool.adjustTheirs(kmeId, answer.freedTheirs)
          return { outcome: answer.outcome }
        }),
      )
      sendJson(response, { answers })
    },
  })
}
