/** "Get key", the part between KMEs: every KME of the slaves is offered its keys, all at once, and all must hold them durably.
 *  Holds: when one does not, each reservation is given back, burnt, or left to settlement, and no key is handed out. The units that
 *  cover a copy are a one-time pad: once their difference may have been sent they are burnt, whatever the peers answered. So are the units
 *  of the key itself: the KME of the copy knows them, and must not know a key that is made of them later. */
import { timingSafeEqual } from 'node:crypto'
import type { AuditLog } from '../audit/audit.ts'
import { createBackOff, type BackOff } from '../kernel/back-off.ts'
import { CallFailed } from '../kernel/call-failed.ts'
import type { Clock } from '../kernel/clock.ts'
import { PeerUnavailable, UnknownSlave } from '../kernel/errors.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import type { AssignmentAnswer, AssignmentOffer, PeerKme } from '../peer/peer.ts'
import { KEY_MAY_BE_KNOWN, type Settlement } from './settle-reservations.ts'

/** After how many seconds an SAE should ask again when a peer did not agree. */
export const RETRY_PEER_S = 2
const REST_FIRST_MS = 1000
const REST_LONGEST_MS = 60_000

export interface Offer extends AssignmentOffer {
  readonly peer: PeerKme
  readonly expectedConfirmation: Buffer
}

export interface PeerAgreement {
  /** Asked before anything is claimed for keys that several KMEs are to hold. After an agreement that cost units, a master's requests
   *  for the KMEs that did not agree rest for a while, so that an SAE that repeats its request does not empty the pools of the others.
   *  @throws PeerUnavailable. */
  mayAsk(masterSaeId: SaeId, peers: readonly { readonly kmeId: KmeId }[]): void
  /** @throws unless every peer durably holds the keys it was offered. Then each reservation is back, burnt, or being settled. */
  reach(offers: readonly Offer[]): Promise<void>
}

export interface PeerAgreementParts {
  readonly pool: KeyPool
  readonly settlement: Settlement
  readonly audit: AuditLog
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

/** `not-sent`: this same process knows that not one byte of the offer was sent. `unsettled`: the peer may hold the keys.
 *  `forged`: it may, but proved other bytes. `voidable`: it refused, and nothing is wrong with the units. */
type Outcome =
  | { readonly is: 'held' }
  | { readonly is: 'forged'; readonly reason: string }
  | { readonly is: 'not-sent' | 'unsettled'; readonly reason: string; readonly cause?: unknown }
  | { readonly is: 'voidable' | 'refused'; readonly reason: string }

/** An offer and what came of it. */
interface Made {
  readonly offer: Offer
  readonly outcome: Outcome
}

/** The two KMEs are set up differently: it is not a matter of time. */
const isAboutSaes = ({ is, reason }: { is: string; reason?: string }): boolean =>
  is === 'voidable' && (reason === 'sae-not-served' || reason === 'pair-not-permitted')

const judge = (answer: AssignmentAnswer, expectedConfirmation: Buffer): Outcome => {
  if (answer.outcome === 'failed') return { is: 'unsettled', reason: 'the peer could not say whether it holds the keys' }
  if (answer.outcome === 'held') {
    const { confirmation } = answer
    const fits = confirmation.length === expectedConfirmation.length && timingSafeEqual(confirmation, expectedConfirmation)
    return fits ? { is: 'held' } : { is: 'forged', reason: 'the confirmation does not fit the key bytes' }
  }
  const { reason } = answer
  // One end may finish agreeing on a block before the other: the other is about to.
  const isVoidable = reason === 'block-pending' || reason === 'sae-not-served' || reason === 'pair-not-permitted'
  return { is: isVoidable ? 'voidable' : 'refused', reason }
}

const present = async ({ peer, expectedConfirmation, ...offer }: Offer): Promise<Outcome> => {
  try {
    return judge(await peer.assign(offer), expectedConfirmation)
  } catch (cause) {
    const notSent = cause instanceof CallFailed && !cause.maybeReceived
    return { is: notSent ? 'not-sent' : 'unsettled', reason: 'no answer to the assignment', cause }
  }
}

export const createPeerAgreement = ({ pool, settlement, audit, clock, random, log }: PeerAgreementParts): PeerAgreement => {
  /** By master and KME; as many as there are SAEs here that ask for keys of several KMEs. */
  const rests = new Map<string, { readonly backOff: BackOff; untilMs: number }>()
  const restName = (masterSaeId: SaeId, peerKmeId: KmeId): string => `${masterSaeId} ${peerKmeId}`

  const rest = (name: string): void => {
    const { backOff } = rests.get(name) ?? {
      backOff: createBackOff({ firstMs: REST_FIRST_MS, longestMs: REST_LONGEST_MS, random }),
    }
    rests.set(name, { backOff, untilMs: clock.monotonicMs() + backOff.failed() })
  }

  /** @param others that were offered the same keys. */
  const settle = async ({ offer, outcome }: Made, others: readonly Made[]): Promise<void> => {
    const { peer, difference } = offer
    const { aid } = offer.assignment
    const isKnown = difference === undefined && others.some((other) => other.outcome.is !== 'not-sent')
    if (outcome.is === 'not-sent' && !isKnown) {
      // Rule R1.
      await pool.giveBack(peer.kmeId, await settlement.giveBack(aid, peer.kmeId, 'R1'))
    } else if (others.length > 0) {
      await settlement.burn(aid, KEY_MAY_BE_KNOWN, peer.kmeId)
    } else if (outcome.is === 'refused') {
      await settlement.burn(aid, `refused by the peer: ${outcome.reason}`, peer.kmeId)
    } else if (outcome.is !== 'held') {
      await settlement.abort(aid, outcome.reason)
    }
  }

  const accuse = ({ peer, assignment: { aid } }: Offer): Promise<void> =>
    audit.append({
      event: 'peer.refused',
      actor: `kme:${peer.kmeId}`,
      outcome: 'refused',
      subject: { call: 'assignments', aid, reason: 'wrong-confirmation' },
    })

  return {
    mayAsk: (masterSaeId, peers) => {
      const nowMs = clock.monotonicMs()
      const untilMs = Math.max(0, ...peers.map(({ kmeId }) => rests.get(restName(masterSaeId, kmeId))?.untilMs ?? 0))
      if (untilMs > nowMs) throw new PeerUnavailable(Math.ceil((untilMs - nowMs) / 1000))
    },

    reach: async (offers) => {
      const made = await Promise.all(offers.map(async (offer): Promise<Made> => ({ offer, outcome: await present(offer) })))
      const failed = made.filter(({ outcome }) => outcome.is !== 'held')
      if (failed.length === 0) {
        if (offers.length > 1) {
          for (const { peer, assignment } of offers) rests.delete(restName(assignment.masterSaeId, peer.kmeId))
        }
        return
      }
      const costUnits = made.length > 1 && made.some(({ outcome }) => outcome.is !== 'not-sent')
      for (const { offer, outcome } of failed) {
        if (costUnits) rest(restName(offer.assignment.masterSaeId, offer.peer.kmeId))
        if (outcome.is === 'voidable' || outcome.is === 'refused') {
          const { reason } = outcome
          log.warn({ aid: offer.assignment.aid, peer: offer.peer.kmeId, reason }, 'the peer KME refused an assignment')
        }
      }
      for (const one of made) {
        const others = made.filter((other) => other !== one)
        await settle(one, others)
      }
      for (const { offer, outcome } of failed) if (outcome.is === 'forged') await accuse(offer)
      if (failed.some(({ outcome }) => isAboutSaes(outcome))) throw new UnknownSlave()
      const cause = failed.map(({ outcome }) => ('cause' in outcome ? outcome.cause : undefined)).find((one) => one !== undefined)
      throw new PeerUnavailable(RETRY_PEER_S, { cause })
    },
  }
}
