/** The KME-to-KME API of delivery: accept assignments, void them. */
import type { Express } from 'express'
import type { AuditLog } from '../audit/audit.ts'
import { only } from '../http/api-app.ts'
import { callerKme } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import { readBody } from '../http/request-body.ts'
import type { AssignmentId, KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import type { KeyStore } from '../key-store/key-store.ts'
import type { AbortAnswer, Retirement, RetirementAnswer } from '../peer/peer.ts'
import {
  parsePeerBody,
  PEER_BODY_BYTES_MAX,
  peerPaths,
  readAborts,
  readOffers,
  readRetirements,
  writeAssignmentAnswer,
} from '../peer/wire.ts'
import type { AcceptAssignment } from './accept-assignment.ts'

export const mountDeliveryPeerApi = (
  app: Express,
  parts: { acceptAssignment: AcceptAssignment; store: KeyStore; pool: KeyPool; audit: AuditLog; log: Logger },
): void => {
  /** A call that fails must not fail the others that travelled with it. */
  const orFailed = async <T>(call: Promise<T>): Promise<T | { outcome: 'failed' }> => {
    try {
      return await call
    } catch (error) {
      parts.log.warn({ error }, 'a call of a peer failed')
      return { outcome: 'failed' }
    }
  }

  const voidIt = async (kmeId: KmeId, aid: AssignmentId, call: 'aborts' | 'retirements'): Promise<{ outcome: AbortAnswer }> => {
    const answer = await parts.store.voidAssignment(kmeId, aid)
    if (answer.outcome === 'voided') await parts.pool.adjustTheirs(kmeId, answer.freedTheirs)
    else if (answer.isForeign) {
      const subject = { call, aid, reason: 'not-its-own' }
      await parts.audit.append({ event: 'peer.refused', actor: `kme:${kmeId}`, outcome: 'refused', subject })
    }
    return { outcome: answer.outcome }
  }
  /** Burnt units are first freed of the assignment they were offered for, then used up. */
  const retire = async (kmeId: KmeId, { aid, units }: Retirement): Promise<{ outcome: 'retired' }> => {
    await voidIt(kmeId, aid, 'retirements')
    await parts.pool.adjustTheirs(kmeId, -(await parts.store.retire(kmeId, units)))
    return { outcome: 'retired' }
  }

  only(app, peerPaths.assignments, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const offers = readOffers(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      const answers = await Promise.all(offers.map((offer) => orFailed(parts.acceptAssignment(kmeId, offer))))
      sendJson(response, { answers: answers.map(writeAssignmentAnswer) })
    },
  })
  only(app, peerPaths.aborts, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const aids = readAborts(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      const answers: { outcome: AbortAnswer }[] = []
      // One after the other: after a crash there may be many, and each is a transaction of its own.
      for (const aid of aids) {
        answers.push(await orFailed(voidIt(kmeId, aid, 'aborts')))
      }
      sendJson(response, { answers })
    },
  })
  only(app, peerPaths.retirements, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const retirements = readRetirements(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
      const answers: { outcome: RetirementAnswer }[] = []
      for (const retirement of retirements) {
        const answer = await orFailed(retire(kmeId, retirement))
        answers.push({ outcome: answer.outcome })
      }
      sendJson(response, { answers })
    },
  })
}
