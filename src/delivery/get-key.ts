/** Method "Get key" (ETSI GS QKD 014, 5.3): hand the master SAE fresh keys it will share with its slave SAEs.
 *  Holds: keys leave here once, and only after the KME of the slaves durably holds the same bytes under the same IDs.
 *  In doubt keys are not handed out; only settle-reservations.ts decides whether they may be used again.
 *  Knows nothing of HTTP; routes.ts calls it. */
import { timingSafeEqual } from 'node:crypto'
import {
  BadRequest,
  Conflict,
  KeyDataAccess,
  KeysExhausted,
  PeerUnavailable,
  Unavailable,
  UnknownSlave,
} from '../kernel/errors.ts'
import type { AuditLog } from '../audit/audit.ts'
import type { AssignmentId, KeyId, KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { Account, KeyPool } from '../key-pool/key-pool.ts'
import type { Assignment, Claim, KeyMaterial, KeyStore, PriorIssue, UnitRun } from '../key-store/key-store.ts'
import { PeerCallFailed, type AssignmentAnswer, type PeerDirectory, type PeerKme } from '../peer/peer.ts'
import type { DeliveryLimits, SaeDirectory } from './delivery.ts'
import type { DeliveredKeys } from './key-container.ts'
import type { KeyRequest } from './key-request.ts'
import { routeToSlaves } from './route-to-slaves.ts'
import type { Settlement } from './settle-reservations.ts'

export interface GetKeyParts {
  readonly kmeId: KmeId
  readonly directory: SaeDirectory
  readonly pool: KeyPool
  readonly store: KeyStore
  readonly peers: PeerDirectory
  readonly limits: DeliveryLimits
  readonly settlement: Settlement
  /** Asks the other end of a link to lend units when this end has too few. False when it lent none. */
  readonly borrow: (peerKmeId: KmeId, unitCount: number) => Promise<boolean>
  /** After how many seconds to ask again when the pool of a peer lacks so many keys. */
  readonly retryAfterS: (peerKmeId: KmeId, missingKeys: number) => number
  /** Whom the pool counts a request for. */
  readonly accountOf: (masterSaeId: SaeId, slaveSaeId: SaeId) => Account
  /** Units of the fallback source, for a peer whose pool is exhausted. Undefined where it is off, or gives none now. */
  readonly takeFallback: (peerKmeId: KmeId, unitCount: number) => Promise<readonly UnitRun[] | undefined>
  readonly audit: AuditLog
  readonly random: Random
  readonly log: Logger
}

/** After how many seconds an SAE should ask again. */
const RETRY_NO_LINK_S = 60
const RETRY_PEER_S = 2
const OPTIONS_NOT_MET = 'not all extension_mandatory request options could be met'
/** How often stale hints of the pool are skipped before the request is given up. */
const CLAIM_ATTEMPTS = 4

interface Wanted {
  readonly masterSaeId: SaeId
  readonly slaveSaeIds: readonly SaeId[]
  readonly targetKmeId: KmeId
  readonly number: number
  readonly sizeBits: number
  readonly requestId: string | undefined
  readonly qkdOnly: boolean
}

export type GetKey = (masterSaeId: SaeId, slave: string, request: KeyRequest) => Promise<DeliveredKeys>

export const makeGetKey = (parts: GetKeyParts): GetKey => {
  const { kmeId, store, pool, peers, limits, random, log } = parts
  /** Requests with a request ID that are being served; an equal one waits for the first. */
  const inFlight = new Map<string, Promise<void>>()

  const getKey: GetKey = async (masterSaeId, slave, request) => {
    const { slaveSaeIds, targetKmeId } = routeToSlaves(parts.directory, masterSaeId, slave, request.additionalSlaveSaeIds)
    const { number, sizeBits, extensions } = request
    // No link joins two SAEs at one KME: their keys come from the system's random source.
    if (extensions.qkdOnly && targetKmeId === kmeId) throw new BadRequest(undefined, OPTIONS_NOT_MET)
    const wanted: Wanted = { masterSaeId, slaveSaeIds, targetKmeId, number, sizeBits, ...extensions }
    if (extensions.requestId === undefined) return deliverFresh(wanted)
    return deliverOnce(wanted, extensions.requestId, extensions.requestIdIsMandatory)
  }

  /** Extension openkme_request_id: equal requests within the retry window get one answer. */
  const deliverOnce = async (wanted: Wanted, requestId: string, mandatory: boolean): Promise<DeliveredKeys> => {
    const name = `${wanted.masterSaeId} ${requestId}`
    // After each wait the line is looked at again: of many equal requests one at a time goes on.
    for (let first = inFlight.get(name); first !== undefined; first = inFlight.get(name)) await first
    let finished = (): void => undefined
    inFlight.set(name, new Promise((resolve) => (finished = resolve)))
    try {
      let prior = await store.priorIssue(wanted.masterSaeId, requestId)
      if (prior === undefined) {
        try {
          return await deliverFresh(wanted)
        } catch (error) {
          if (!(error instanceof Unavailable && error.cause instanceof Conflict)) throw error
          // Another process served an equal request meanwhile, and its keys are the answer to this one too.
          prior = await store.priorIssue(wanted.masterSaeId, requestId)
          if (prior === undefined) throw error
        }
      }
      if (prior !== 'spent' && !isSameRequest(prior, wanted)) {
        throw new BadRequest([{ parameter: 'openkme_request_id', reason: 'was used for a different request' }])
      }
      const material = prior === 'spent' ? undefined : await store.reopen(prior)
      if (prior === 'spent' || material === undefined) {
        throw new BadRequest(undefined, mandatory ? OPTIONS_NOT_MET : 'not all extension_optional request options handled')
      }
      if (wanted.qkdOnly && material.fallbackKeys.size > 0) {
        material.bytes.wipe()
        throw new BadRequest(undefined, OPTIONS_NOT_MET)
      }
      return toDelivered(prior.assignment, material)
    } finally {
      inFlight.delete(name)
      finished()
    }
  }

  const deliverFresh = (wanted: Wanted): Promise<DeliveredKeys> =>
    wanted.targetKmeId === kmeId ? deliverHere(wanted) : deliverWithPeer(wanted)

  const toAssignment = (wanted: Wanted, units: readonly UnitRun[]): Assignment => ({
    aid: random.uuid() as AssignmentId,
    masterSaeId: wanted.masterSaeId,
    slaveSaeIds: wanted.slaveSaeIds,
    sizeBits: wanted.sizeBits,
    keyIds: Array.from({ length: wanted.number }, () => random.uuid() as KeyId),
    units,
    ttlS: limits.heldForS,
  })

  const unitCountOf = ({ number, sizeBits }: Wanted): number => number * Math.ceil(sizeBits / limits.keySizeBits)

  /** Tries hints of the pool until the store grants a claim. Hints the store refused are dropped: they were stale. */
  const tryClaims = async <T>(
    wanted: Wanted,
    claim: (assignment: Assignment, fromFallback: boolean) => Promise<T | 'conflict'>,
  ) => {
    for (let attempt = 1; attempt <= CLAIM_ATTEMPTS; attempt += 1) {
      const { units, fromFallback } = await takeUnits(wanted)
      const assignment = toAssignment(wanted, units)
      const claimed = await claim(assignment, fromFallback)
      if (claimed !== 'conflict') return { assignment, claimed }
      // Units of the fallback source that another process was quicker to use; they are in no pool.
      if (fromFallback) continue
      log.warn({ aid: assignment.aid, targetKmeId: wanted.targetKmeId }, 'pool hints were stale')
      pool.doubt(wanted.targetKmeId)
    }
    throw new Unavailable()
  }

  /** From the pool, else borrowed, else of the fallback source; never some of each, so that one unit does not mark many keys. */
  const takeUnits = async (wanted: Wanted): Promise<{ units: readonly UnitRun[]; fromFallback: boolean }> => {
    const unitCount = unitCountOf(wanted)
    const target = wanted.targetKmeId
    const account = parts.accountOf(wanted.masterSaeId, wanted.slaveSaeIds[0] as SaeId)
    for (let attempt = 1; ; attempt += 1) {
      const taken = await pool.take(target, account, unitCount)
      if ('units' in taken) return { units: taken.units, fromFallback: false }
      // Several requests may share one loan; whoever finds it used up asks for another.
      const mayBorrow = target !== kmeId && attempt <= CLAIM_ATTEMPTS
      if (mayBorrow && (await parts.borrow(target, taken.missing))) continue
      const units = wanted.qkdOnly || target === kmeId ? undefined : await parts.takeFallback(target, unitCount)
      if (units === undefined) throw new KeysExhausted(parts.retryAfterS(target, taken.missing))
      return { units, fromFallback: true }
    }
  }

  /** Master and slaves at this KME: no other KME has to agree. */
  const deliverHere = async (wanted: Wanted): Promise<DeliveredKeys> => {
    const issue = (assignment: Assignment) => ({
      peerKmeId: kmeId,
      assignment,
      requestId: wanted.requestId,
      retryWindowS: limits.retryWindowS,
    })
    try {
      const { assignment, claimed } = await tryClaims(wanted, (candidate) => store.issueLocally(issue(candidate)))
      return toDelivered(assignment, claimed)
    } catch (error) {
      throw error instanceof Conflict ? new Unavailable(1, { cause: error }) : error
    }
  }

  const deliverWithPeer = async (wanted: Wanted): Promise<DeliveredKeys> => {
    const peer = peers.named(wanted.targetKmeId)
    if (peer === undefined) {
      throw new KeysExhausted(RETRY_NO_LINK_S, 'no key material available: this KME has no link to the KME of the slave SAE')
    }
    // Asked before anything is claimed: a peer that is away costs no keys.
    if (!peer.available()) throw new PeerUnavailable(RETRY_PEER_S)
    const { assignment, claimed } = await tryClaims(wanted, async (candidate, fromFallback) => {
      try {
        return await store.claim({ peerKmeId: peer.kmeId, assignment: candidate, fromFallback })
      } catch (error) {
        if (error instanceof KeyDataAccess) await parts.settlement.burn(candidate.aid, 'the units could not be opened')
        else pool.doubt(peer.kmeId)
        throw error
      }
    })
    try {
      await agreeWithPeer(peer, assignment, claimed)
      await commitIssue(peer, assignment, wanted.requestId, claimed.material.fallbackKeys.size > 0)
    } catch (error) {
      claimed.material.bytes.wipe()
      throw error
    }
    return toDelivered(assignment, claimed.material)
  }

  /** @throws unless the peer durably holds the same bytes. Then the reservation is back, burnt, or being settled. */
  const agreeWithPeer = async (peer: PeerKme, assignment: Assignment, claim: Claim): Promise<void> => {
    let answer: AssignmentAnswer
    try {
      answer = await peer.assign({ assignment, commitment: claim.commitment })
    } catch (error) {
      if (error instanceof PeerCallFailed && !error.maybeReceived) {
        // Rule R1: this same process knows that not one byte of the offer was sent.
        await pool.giveBack(peer.kmeId, await parts.settlement.giveBack(assignment.aid, 'R1'))
      } else {
        await parts.settlement.abort(assignment.aid, 'no answer to the assignment')
      }
      throw new PeerUnavailable(RETRY_PEER_S, { cause: error })
    }
    if (answer.outcome === 'held') {
      const { confirmation } = answer
      if (
        confirmation.length === claim.expectedConfirmation.length &&
        timingSafeEqual(confirmation, claim.expectedConfirmation)
      ) {
        return
      }
      await parts.settlement.abort(assignment.aid, 'the confirmation does not fit the key bytes')
      await parts.audit.append({
        event: 'peer.refused',
        actor: `kme:${peer.kmeId}`,
        outcome: 'refused',
        subject: { call: 'assignments', aid: assignment.aid, reason: 'wrong-confirmation' },
      })
      throw new PeerUnavailable(RETRY_PEER_S)
    }
    if (answer.outcome === 'failed') {
      await parts.settlement.abort(assignment.aid, 'the peer could not say whether it holds the keys')
      throw new PeerUnavailable(RETRY_PEER_S)
    }
    await refused(peer, assignment, answer.reason)
  }

  const refused = async (peer: PeerKme, assignment: Assignment, reason: string): Promise<never> => {
    log.warn({ aid: assignment.aid, peer: peer.kmeId, reason }, 'the peer KME refused an assignment')
    if (reason === 'block-pending') {
      // This end finished agreeing on the block first; the other end is about to.
      await parts.settlement.abort(assignment.aid, reason)
      throw new PeerUnavailable(RETRY_PEER_S)
    }
    if (reason === 'sae-not-served' || reason === 'pair-not-permitted') {
      // Nothing is wrong with the units; the two KMEs are set up differently.
      await parts.settlement.abort(assignment.aid, reason)
      throw new UnknownSlave()
    }
    await parts.settlement.burn(assignment.aid, `refused by the peer: ${reason}`)
    throw new PeerUnavailable(RETRY_PEER_S)
  }

  const commitIssue = async (
    peer: PeerKme,
    assignment: Assignment,
    requestId: string | undefined,
    fromFallback: boolean,
  ): Promise<void> => {
    try {
      await store.issue({ peerKmeId: peer.kmeId, assignment, requestId, retryWindowS: limits.retryWindowS, fromFallback })
    } catch (error) {
      // The commit may have happened although its answer was lost. Only the database can say.
      if ((await parts.settlement.abort(assignment.aid, 'the issue was not confirmed')) !== 'issued') {
        throw error instanceof Conflict ? new Unavailable(1, { cause: error }) : error
      }
    }
  }

  return getKey
}

const toDelivered = (assignment: Assignment, material: KeyMaterial): DeliveredKeys => ({
  keys: assignment.keyIds.map((keyId, position) => ({
    keyId,
    sizeBits: assignment.sizeBits,
    fromFallback: material.fallbackKeys.has(position),
  })),
  bytes: material.bytes,
})

const isSameRequest = ({ assignment }: PriorIssue, wanted: Wanted): boolean =>
  assignment.sizeBits === wanted.sizeBits &&
  assignment.keyIds.length === wanted.number &&
  assignment.slaveSaeIds.length === wanted.slaveSaeIds.length &&
  assignment.slaveSaeIds.every((saeId, i) => saeId === wanted.slaveSaeIds[i])
