/** Method "Get key" (ETSI GS QKD 014, 5.3): hand the master SAE fresh keys it will share with its slave SAEs.
 *  Holds: keys leave here once, and only after every KME of the slaves durably holds the same bytes under the same IDs.
 *  In doubt keys are not handed out; only settle-reservations.ts decides whether they may be used again.
 *  Knows nothing of HTTP; routes.ts calls it. */
import type { AuditLog } from '../audit/audit.ts'
import type { Clock } from '../kernel/clock.ts'
import {
  BadRequest,
  Conflict,
  KeyDataAccess,
  KeysExhausted,
  PeerUnavailable,
  Unavailable,
  UnknownSlave,
} from '../kernel/errors.ts'
import type { AssignmentId, KeyId, SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import {
  ANY_WAY,
  coversPolicy,
  type Assignment,
  type Claim,
  type ClaimRequest,
  type Copy,
  type CopyProof,
  type Issue,
  type KeyMaterial,
  type KeyStore,
  type PriorIssue,
  type RelayPolicy,
  type UnitRun,
} from '../key-store/key-store.ts'
import type { PeerDirectory, PeerKme } from '../peer/peer.ts'
import { createPeerAgreement, RETRY_PEER_S, type Offer } from './agree-with-peers.ts'
import type { DeliveryLimits, NeighbourDirectory, NeighbourKme, SaeDirectory } from './delivery.ts'
import type { DeliveredKeys } from './key-container.ts'
import { OPTIONS_NOT_MET } from './extensions.ts'
import type { KeyRequest } from './key-request.ts'
import { relayWanted, type RelayWanted } from './relay-wanted.ts'
import { routeToSlaves, type Target } from './route-to-slaves.ts'
import type { Settlement } from './settle-reservations.ts'
import { makeTakeUnits, type TakeUnitsParts, type UnitsWanted } from './take-units.ts'

export interface GetKeyParts extends TakeUnitsParts {
  readonly directory: SaeDirectory
  readonly pool: KeyPool
  readonly store: KeyStore
  readonly peers: PeerDirectory
  readonly neighbours: NeighbourDirectory
  readonly limits: DeliveryLimits
  readonly settlement: Settlement
  /** How the operator wants keys of two SAEs relayed. */
  readonly relayPolicyOf: (masterSaeId: SaeId, slaveSaeId: SaeId) => RelayPolicy | undefined
  readonly audit: AuditLog
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

/** After how many seconds an SAE should ask again. */
const RETRY_NO_LINK_S = 60
/** How often stale hints of the pool are skipped before the request is given up. */
const CLAIM_ATTEMPTS = 4

interface Wanted extends UnitsWanted {
  readonly slaveSaeIds: readonly SaeId[]
  /** The other KMEs that are to hold the keys. The keys are units of the pool shared with the first of them; with none, of the pool
   *  of this KME. */
  readonly peerTargets: readonly Target[]
  readonly slavesHere: readonly SaeId[]
  readonly number: number
  readonly sizeBits: number
  readonly requestId: string | undefined
}

export type GetKey = (masterSaeId: SaeId, slave: string, request: KeyRequest) => Promise<DeliveredKeys>

export const makeGetKey = (parts: GetKeyParts): GetKey => {
  const { kmeId, store, pool, peers, limits, random, log } = parts
  const agreement = createPeerAgreement(parts)
  const takeUnits = makeTakeUnits(parts)
  /** Requests with a request ID that are being served; an equal one waits for the first. */
  const inFlight = new Map<string, Promise<void>>()

  const getKey: GetKey = async (masterSaeId, slave, request) => {
    const { slaveSaeIds, targets } = routeToSlaves(parts.directory, masterSaeId, slave, request.additionalSlaveSaeIds)
    const { number, sizeBits, extensions } = request
    const peerTargets = targets.filter((target) => target.kmeId !== kmeId)
    const slavesHere = targets.find((target) => target.kmeId === kmeId)?.slaveSaeIds ?? []
    // No link joins two SAEs at one KME, nor this KME and a neighbour: their keys come from the system's random source.
    const isOfLinks = peerTargets.length > 0 && peerTargets.every((target) => parts.neighbours.named(target.kmeId) === undefined)
    if (extensions.qkdOnly && !isOfLinks) throw new BadRequest(undefined, OPTIONS_NOT_MET)
    const { requestId, qkdOnly } = extensions
    const ofPairs = slaveSaeIds.map((slaveSaeId) => parts.relayPolicyOf(masterSaeId, slaveSaeId))
    const wanted: Wanted = {
      masterSaeId,
      slaveSaeIds,
      peerTargets,
      slavesHere,
      number,
      sizeBits,
      unitCount: number * Math.ceil(sizeBits / limits.keySizeBits),
      requestId,
      qkdOnly,
      relay: relayWanted(ofPairs, extensions.relay),
    }
    if (requestId === undefined) return deliverFresh(wanted)
    return deliverOnce(wanted, requestId, extensions.requestIdIsMandatory)
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
      const { must = ANY_WAY } = wanted.relay
      if ((wanted.qkdOnly && material.fallbackKeys.size > 0) || !coversPolicy(prior.relay ?? ANY_WAY, must)) {
        material.bytes.wipe()
        throw new BadRequest(undefined, OPTIONS_NOT_MET)
      }
      return toDelivered(prior.assignment, material, wanted.relay, prior.relay)
    } finally {
      inFlight.delete(name)
      finished()
    }
  }

  const deliverFresh = async (wanted: Wanted): Promise<DeliveredKeys> => {
    if (wanted.peerTargets.length === 0) return deliverHere(wanted)
    const neighbour = findNeighbour(wanted)
    return neighbour === undefined ? deliverWithPeers(wanted) : deliverToNeighbour(neighbour, wanted)
  }

  /** The KME of another network that the slaves are homed behind; undefined when they are homed in this one. */
  const findNeighbour = ({ peerTargets }: Wanted): NeighbourKme | undefined => {
    const found = peerTargets.flatMap((target) => parts.neighbours.named(target.kmeId) ?? [])
    if (found.length === 0 || peerTargets.length === 1) return found[0]
    const reason = 'shall not name SAEs of another network together with SAEs at other KMEs'
    throw new BadRequest([{ parameter: 'additional_slave_SAE_IDs', reason }])
  }

  const toAssignment = (wanted: Wanted, units: readonly UnitRun[]): Assignment => ({
    aid: random.uuid() as AssignmentId,
    masterSaeId: wanted.masterSaeId,
    slaveSaeIds: wanted.slaveSaeIds,
    sizeBits: wanted.sizeBits,
    keyIds: Array.from({ length: wanted.number }, () => random.uuid() as KeyId),
    units,
    ttlS: limits.heldForS,
  })

  /** Tries hints of the pools until the store grants a claim. Hints the store refused are dropped: they were stale. */
  const tryClaims = async <T>(
    wanted: Wanted,
    targets: readonly Target[],
    claim: (assignment: Assignment, copies: readonly Copy[], fromFallback: boolean) => Promise<T | 'conflict'>,
  ) => {
    for (let attempt = 1; attempt <= CLAIM_ATTEMPTS; attempt += 1) {
      const { units, fromFallback, met } = await takeUnits(wanted, targets)
      const assignment = toAssignment(wanted, units[0] as readonly UnitRun[])
      const copies = targets.slice(1).map(({ kmeId: peerKmeId, slaveSaeIds }, i) => ({
        peerKmeId,
        assignment: { ...assignment, slaveSaeIds, units: units[i + 1] as readonly UnitRun[] },
      }))
      const claimed = await claim(assignment, copies, fromFallback)
      if (claimed !== 'conflict') return { assignment, copies, claimed, met }
      // Units of the fallback source that another process was quicker to use; they are in no pool.
      if (fromFallback) continue
      const targetKmeIds = targets.map((target) => target.kmeId)
      log.warn({ aid: assignment.aid, targetKmeIds }, 'pool hints were stale')
      targetKmeIds.forEach(pool.doubt)
    }
    throw new Unavailable()
  }

  /** Master and slaves at this KME: no other KME has to agree. */
  const deliverHere = async (wanted: Wanted): Promise<DeliveredKeys> => {
    const issue = (assignment: Assignment) => ({
      peerKmeId: kmeId,
      assignment,
      requestId: wanted.requestId,
      retryWindowS: limits.retryWindowS,
      relay: wanted.relay.wish ?? wanted.relay.must,
    })
    try {
      const here = [{ kmeId, slaveSaeIds: wanted.slavesHere }]
      const { assignment, claimed, met } = await tryClaims(wanted, here, (candidate) => store.issueLocally(issue(candidate)))
      return toDelivered(assignment, claimed, wanted.relay, met)
    } catch (error) {
      throw error instanceof Conflict ? new Unavailable(1, { cause: error }) : error
    }
  }

  /** The KMEs of the slaves, if all of them can be asked now: one that is away costs no keys. */
  const findPeers = ({ masterSaeId, peerTargets }: Wanted): PeerKme[] => {
    const found = peerTargets.map(({ kmeId: target }) => {
      const peer = peers.named(target)
      if (peer !== undefined) return peer
      throw new KeysExhausted(RETRY_NO_LINK_S, 'no key material available: this KME has no link to the KME of the slave SAE')
    })
    if (!found.every((peer) => peer.available())) throw new PeerUnavailable(RETRY_PEER_S)
    if (peerTargets.length > 1) agreement.mayAsk(masterSaeId, peerTargets)
    return found
  }

  const claimUnits = async (request: ClaimRequest, targets: readonly Target[]): Promise<Claim | 'conflict'> => {
    try {
      return await store.claim(request)
    } catch (error) {
      if (error instanceof KeyDataAccess) await parts.settlement.burn(request.assignment.aid, 'the units could not be opened')
      else targets.forEach((target) => pool.doubt(target.kmeId))
      throw error
    }
  }

  const deliverWithPeers = async (wanted: Wanted): Promise<DeliveredKeys> => {
    const asked = findPeers(wanted)
    const { assignment, copies, claimed, met } = await tryClaims(wanted, wanted.peerTargets, (candidate, ...more) =>
      claimUnits(toClaim(wanted, candidate, ...more), wanted.peerTargets),
    )
    try {
      await agreement.reach(toOffers(asked, toClaim(wanted, assignment, copies), claimed))
      await commitIssue(wanted, assignment, copies, { fromFallback: claimed.material.fallbackKeys.size > 0, relay: met })
    } catch (error) {
      claimed.material.bytes.wipe()
      throw error
    }
    return toDelivered(assignment, claimed.material, wanted.relay, met)
  }

  /** Slaves are homed behind a KME of another network: keys of the local pool, sent to it whole. How its network relays them is not known
   *  here, so nothing is promised of that. */
  const deliverToNeighbour = async (neighbour: NeighbourKme, wanted: Wanted): Promise<DeliveredKeys> => {
    const { must, isMandatory } = wanted.relay
    if (must !== undefined && isMandatory) throw new BadRequest(undefined, OPTIONS_NOT_MET)
    if (must !== undefined)
      throw new KeysExhausted(RETRY_NO_LINK_S, 'no key material available: keys cannot be relayed as they must be')
    if (!neighbour.available()) throw new PeerUnavailable(RETRY_PEER_S)
    const here = [{ kmeId, slaveSaeIds: wanted.slaveSaeIds }]
    const plain = { ...wanted, relay: { ...wanted.relay, wish: undefined } }
    const { assignment, claimed, met } = await tryClaims(plain, here, (candidate) =>
      claimUnits({ ...toClaim(wanted, candidate, []), poolKmeId: kmeId }, here),
    )
    try {
      await handOver(neighbour, toClaim(wanted, assignment, []).assignment, claimed)
      await commitIssue(wanted, assignment, [], { fromFallback: false, relay: met })
    } catch (error) {
      claimed.material.bytes.wipe()
      throw error
    }
    return toDelivered(assignment, claimed.material, wanted.relay, met)
  }

  /** @throws unless the neighbour has relayed the keys. Then the reservation is back, burnt, or being settled. */
  const handOver = async (neighbour: NeighbourKme, assignment: Assignment, claim: Claim): Promise<void> => {
    const { aid } = assignment
    const outcome = await neighbour.send(assignment, claim.material.bytes).catch(async (error: unknown) => {
      await parts.settlement.abort(aid, 'the keys could not be sent')
      throw error
    })
    if (outcome === 'relayed') return
    log.warn({ aid, neighbour: neighbour.kmeId, outcome }, 'a neighbour did not take keys')
    if (outcome === 'never-sent') {
      await pool.giveBack(kmeId, await parts.settlement.giveBack(aid, neighbour.kmeId, 'R1'))
    } else if (outcome === 'in-doubt') {
      await parts.settlement.abort(aid, 'the neighbour has not relayed the keys')
    } else {
      await parts.settlement.burn(aid, `the neighbour refused the keys: ${outcome}`)
    }
    throw outcome === 'not-recognised' ? new UnknownSlave() : new PeerUnavailable(RETRY_PEER_S)
  }

  const commitIssue = async (
    { peerTargets, slavesHere, requestId }: Wanted,
    assignment: Assignment,
    copies: readonly Copy[],
    source: Pick<Issue, 'fromFallback' | 'relay'>,
  ): Promise<void> => {
    const peerKmeId = (peerTargets[0] as Target).kmeId
    const { retryWindowS } = limits
    try {
      await store.issue({ peerKmeId, assignment, copies, slavesHere, requestId, retryWindowS, ...source })
    } catch (error) {
      // The commit may have happened although its answer was lost. Only the database can say.
      if ((await parts.settlement.abort(assignment.aid, 'the issue was not confirmed')) !== 'issued') {
        throw error instanceof Conflict ? new Unavailable(1, { cause: error }) : error
      }
    }
  }

  return getKey
}

/** @param assignment with all slaves; each KME is told of its own. */
const toClaim = (
  { peerTargets }: Wanted,
  assignment: Assignment,
  copies: readonly Copy[],
  fromFallback = false,
): ClaimRequest => {
  const { kmeId: peerKmeId, slaveSaeIds } = peerTargets[0] as Target
  return { peerKmeId, assignment: { ...assignment, slaveSaeIds }, copies, fromFallback }
}

/** @param peers in the order of the targets. */
const toOffers = (peers: readonly PeerKme[], { assignment, copies = [] }: ClaimRequest, claim: Claim): Offer[] => {
  const told: Omit<Offer, 'peer'>[] = [
    { assignment, commitment: claim.commitment, expectedConfirmation: claim.expectedConfirmation },
    ...copies.map((copy, i) => ({ assignment: copy.assignment, ...(claim.copies[i] as CopyProof) })),
  ]
  return told.map((offer, i) => ({ ...offer, peer: peers[i] as PeerKme }))
}

/** @param met how the keys were relayed at least. */
const toDelivered = (
  assignment: Assignment,
  material: KeyMaterial,
  { isAsked }: RelayWanted,
  met: RelayPolicy | undefined,
): DeliveredKeys => ({
  keys: assignment.keyIds.map((keyId, position) => ({
    keyId,
    sizeBits: assignment.sizeBits,
    fromFallback: material.fallbackKeys.has(position),
  })),
  bytes: material.bytes,
  ...(isAsked && { relayed: { paths: met?.paths ?? 1, endToEnd: met?.endToEnd ?? false } }),
})

const isSameRequest = ({ assignment }: PriorIssue, wanted: Wanted): boolean =>
  assignment.sizeBits === wanted.sizeBits &&
  assignment.keyIds.length === wanted.number &&
  assignment.slaveSaeIds.length === wanted.slaveSaeIds.length &&
  assignment.slaveSaeIds.every((saeId, i) => saeId === wanted.slaveSaeIds[i])
