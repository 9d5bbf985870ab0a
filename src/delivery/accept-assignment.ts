/** Another KME assigns keys to SAEs here: check that it may, and hold them.
 *  Holds: a peer speaks only for its own SAEs and only on its own units; a refusal changes nothing and is audited. */
import type { AuditLog } from '../audit/audit.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import { unitCountOf } from '../key-pool/key-pool.ts'
import type { Assignment, HoldAnswer, KeyStore } from '../key-store/key-store.ts'
import type { AssignmentAnswer, AssignmentOffer } from '../peer/peer.ts'
import type { DeliveryLimits, SaeDirectory } from './delivery.ts'

export interface AcceptAssignmentParts {
  readonly kmeId: KmeId
  readonly directory: SaeDirectory
  readonly store: KeyStore
  readonly pool: KeyPool
  readonly audit: AuditLog
  readonly limits: DeliveryLimits
  readonly clock: Clock
}

const PENDING_WAIT_MS = 25
const PENDING_WAITS_MAX = 10

export type AcceptAssignment = (caller: KmeId, offer: AssignmentOffer | undefined) => Promise<AssignmentAnswer>

export const makeAcceptAssignment = (parts: AcceptAssignmentParts): AcceptAssignment => {
  const refuse = async (caller: KmeId, reason: string, aid?: string): Promise<void> => {
    await parts.audit.append({
      event: 'peer.refused',
      actor: `kme:${caller}`,
      outcome: 'refused',
      subject: { call: 'assign', aid, reason },
    })
  }
  return async (caller, offer) => {
    const answer = await answerTo(parts, caller, offer)
    if (answer.outcome === 'refused') await refuse(caller, answer.reason, offer?.assignment.aid)
    return answer
  }
}

const answerTo = async (
  parts: AcceptAssignmentParts,
  caller: KmeId,
  offer: AssignmentOffer | undefined,
): Promise<AssignmentAnswer> => {
  if (offer === undefined || !isWithinLimits(offer.assignment, parts.limits)) return { outcome: 'refused', reason: 'malformed' }
  const { assignment, commitment, difference } = offer
  const { directory } = parts
  const served =
    directory.find(assignment.masterSaeId)?.kmeId === caller &&
    assignment.slaveSaeIds.every((slave) => directory.find(slave)?.kmeId === parts.kmeId)
  if (!served) return { outcome: 'refused', reason: 'sae-not-served' }
  if (!assignment.slaveSaeIds.every((slave) => directory.mayShare(assignment.masterSaeId, slave))) {
    return { outcome: 'refused', reason: 'pair-not-permitted' }
  }
  const held = { ...assignment, ttlS: Math.min(assignment.ttlS, parts.limits.heldForS) }
  const hold = () => parts.store.hold(caller, held, commitment, difference)
  let answer = await hold()
  // The other end was quicker to hear that both agreed on the block; this end is about to.
  for (let waits = 0; isPending(answer) && waits < PENDING_WAITS_MAX; waits += 1) {
    await parts.clock.sleep(PENDING_WAIT_MS)
    answer = await hold()
  }
  if (answer.outcome === 'held') {
    await parts.pool.adjustTheirs(caller, (answer.fallbackUnits ?? 0) - unitCountOf(assignment.units))
  }
  return answer
}

const isPending = (answer: HoldAnswer): boolean => answer.outcome === 'refused' && answer.reason === 'block-pending'

const isWithinLimits = (assignment: Assignment, limits: DeliveryLimits): boolean =>
  assignment.keyIds.length <= limits.maxKeysPerRequest &&
  new Set(assignment.keyIds).size === assignment.keyIds.length &&
  assignment.slaveSaeIds.length <= limits.maxSaeIdCount + 1 &&
  new Set(assignment.slaveSaeIds).size === assignment.slaveSaeIds.length &&
  assignment.sizeBits % 8 === 0 &&
  assignment.sizeBits >= limits.minKeySizeBits &&
  assignment.sizeBits <= limits.maxKeySizeBits
