/** A peer sends a parcel: this KME is its destination, or a trusted node that sends it on.
 *  Holds: a relay is taken once, and its answer is the same however often it is asked for (I18); the pad is used up before the block is
 *  seen (I33); a node has the block in memory only, and only until the next parcel is made (I34). A refusal changes nothing. */
import type { Alarms } from '../alarms/alarms.ts'
import type { AuditLog } from '../audit/audit.ts'
import { CallFailed } from '../kernel/call-failed.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import { unitCountOf } from '../key-pool/key-pool.ts'
import type { PadRedeemed, PadStore } from '../key-store/key-store.ts'
import type {
  RelayAnswer,
  RelayCheck,
  RelayCheckAnswer,
  RelayParcel,
  RelayPartner,
  RelayRefusal,
  RelayRefused,
} from '../peer/peer.ts'
import { readRelayAnswer, writeRelayAnswer } from '../peer/wire.ts'
import { answerTag, decryptFromHop, digestOf } from './hop-cipher.ts'
import { judgeLeg, type JudgeLegParts, type Role } from './judge-leg.ts'
import type { LinkPads } from './link-pads.ts'
import type { ParcelSender } from './send-parcel.ts'

/** Takes blocks that end here. */
export interface BlockReceiver {
  /** Whether a block of that size would be taken now. */
  judge(origin: KmeId, blockBytes: number): Promise<'ready' | Extract<RelayRefusal, 'malformed' | 'too-many'>>
  /** @param block wiped when this settles. @returns what the origin is told when the block is wrapped; `failed` when it is not taken. */
  receive(parcel: RelayParcel, block: SecretBytes): Promise<{ readonly reply: Buffer | undefined } | 'failed'>
}

export interface AcceptParcelParts extends JudgeLegParts {
  readonly store: PadStore
  readonly pool: Pick<KeyPool, 'adjustTheirs'>
  readonly pads: LinkPads
  readonly sender: ParcelSender
  readonly partner: (kmeId: KmeId) => RelayPartner | undefined
  readonly receiver: BlockReceiver
  readonly audit: Pick<AuditLog, 'append'>
  readonly alarms: Alarms
  readonly clock: Clock
  readonly log: Logger
}

export interface ParcelAcceptor {
  /** @param parcel undefined when it was not understood. */
  accept(caller: KmeId, parcel: RelayParcel | undefined): Promise<RelayAnswer>
  check(caller: KmeId, check: RelayCheck | undefined): Promise<RelayCheckAnswer>
}

/** Kept of a budget for the way back. */
const HOP_MARGIN_MS = 100
/** With less nobody could answer. */
const BUDGET_MIN_MS = 200
const PENDING_WAIT_MS = 25
const PENDING_WAITS_MAX = 10

/** What no honest peer asks for. */
const HOSTILE: ReadonlySet<RelayRefusal> = new Set([
  'malformed',
  'path-not-allowed',
  'next-hop-unknown',
  'pad-used',
  'pad-unavailable',
  'not-authentic',
  'relay-id-in-use',
])
/** Somebody uses key of the link that is not to be used. */
const AGAINST_THE_LINK: ReadonlySet<RelayRefusal> = new Set(['pad-used', 'not-authentic'])

export const createParcelAcceptor = (parts: AcceptParcelParts): ParcelAcceptor => {
  const { kmeId, store, pads, sender, alarms, clock, log } = parts
  /** Relays under way in this process, so that a parcel that comes twice waits for the first answer. */
  const underWay = new Map<string, { readonly caller: KmeId; readonly digest: Buffer; readonly answer: Promise<RelayAnswer> }>()

  const refused = (reason: RelayRefusal): RelayRefused => ({ outcome: 'refused', reason, at: kmeId })

  /** Tells people about what no honest peer asks for: the audit log raises an alarm for each record, but where a graver one is due. */
  const note = async (caller: KmeId, call: string, answer: RelayAnswer | RelayCheckAnswer, relayId?: string): Promise<void> => {
    if (answer.outcome !== 'refused' || answer.at !== kmeId || !HOSTILE.has(answer.reason)) return
    const { reason } = answer
    await parts.audit.append({
      event: 'peer.refused',
      actor: `kme:${caller}`,
      outcome: 'refused',
      subject: { call, reason, ...(relayId !== undefined && { relayId }) },
    })
    if (!AGAINST_THE_LINK.has(reason)) return
    alarms.raise(
      `relay.pad:${caller}`,
      'critical',
      `${caller} sent a relay under link key that was used before or differs from ours (${reason}): its data may have been restored from ` +
        'a backup, or somebody speaks in its name',
      { peerKmeId: caller, reason },
    )
  }

  /** What this KME is in the relay, if it can do it now. Changes nothing. */
  const judge = async (caller: KmeId, leg: RelayCheck): Promise<Role> => {
    const role = judgeLeg(parts, caller, leg)
    if (role.role === 'none') return role
    const none = (reason: RelayRefusal): Role => ({ role: 'none', reason })
    // With less the last KME could not answer any more, and what was spent on the way to it would be lost.
    if (leg.budgetMs < BUDGET_MIN_MS + HOP_MARGIN_MS * (leg.path.length - 1 - leg.hop)) return none('deadline')
    if (role.role === 'destination') {
      const verdict = await parts.receiver.judge(role.origin, leg.sizeBytes)
      return verdict === 'ready' ? role : none(verdict)
    }
    if (parts.partner(role.next)?.available() !== true) return none('next-hop-unavailable')
    return (await pads.haveRoom(role.next, leg.sizeBytes)) ? role : none('insufficient')
  }

  const prior = async (caller: KmeId, parcel: RelayParcel, digest: Buffer, untilMs: number): Promise<RelayAnswer | undefined> => {
    const before = await store.priorAnswer({ peerKmeId: caller, relayId: parcel.relayId, digest })
    if (before === undefined) return undefined
    if (before === 'other-content') return refused('relay-id-in-use')
    if (before.answer !== undefined) return readRelayAnswer(parcel.relayId, before.answer)
    // Whoever took it has not answered yet: that process died, and with it the keys to answer with, or it is another one and still at
    // it. Either way what it had stored for the next KME goes there once more, which takes it once, and the caller hears that the relay
    // failed. If the block arrives all the same, its origin has given it up by then, and the destination gives up what nobody proposes.
    await sender.sendAgain(parcel.relayId, untilMs)
    return refused('failed')
  }

  const redeem = async (
    caller: KmeId,
    parcel: RelayParcel,
    digest: Buffer,
    decrypt: (pad: Buffer) => boolean,
  ): Promise<PadRedeemed> => {
    for (let waits = 0; ; waits += 1) {
      const redeemed = await store.redeemPad({
        peerKmeId: caller,
        relayId: parcel.relayId,
        units: parcel.pad,
        digest,
        subject: { path: parcel.path, hop: parcel.hop, block: parcel.block },
        decrypt,
      })
      // The other end was quicker to hear that both agreed on the block; this end is about to.
      if (redeemed.outcome !== 'refused' || redeemed.reason !== 'pad-pending' || waits >= PENDING_WAITS_MAX) return redeemed
      await clock.sleep(PENDING_WAIT_MS)
    }
  }

  const passOn = async (
    parcel: RelayParcel,
    role: Role,
    block: SecretBytes,
    untilMs: number,
  ): Promise<RelayRefused | Buffer | undefined> => {
    if (role.role === 'destination') {
      const received = await parts.receiver.receive(parcel, block)
      return received === 'failed' ? refused('failed') : received.reply
    }
    const { relayId, path, hop, share, wrap } = parcel
    const journey = { relayId, path, hop: hop + 1, block: parcel.block, share, ...(wrap !== undefined && { wrap }) }
    const sent = await sender.send(journey, block, untilMs)
    if (sent.outcome === 'delivered') return sent.reply
    return sent.outcome === 'refused' ? sent : refused('failed')
  }

  /** The pad is used up: from here on the relay has one answer. */
  const finish = async (
    parcel: RelayParcel,
    role: Role,
    { block, answerKey }: { block: SecretBytes; answerKey: SecretBytes },
    untilMs: number,
  ): Promise<RelayAnswer> => {
    let answer: RelayAnswer
    try {
      const reply = await passOn(parcel, role, block, untilMs)
      answer =
        reply !== undefined && 'outcome' in reply
          ? reply
          : { outcome: 'delivered', ...(reply !== undefined && { reply }), mac: answerTag(parcel, reply, answerKey) }
    } catch (error) {
      log.warn({ relayId: parcel.relayId, error }, 'a relay failed here')
      answer = refused('failed')
    }
    await store.answerPad(parcel.relayId, writeRelayAnswer(parcel.relayId, answer))
    return answer
  }

  /** The pool's count is a hint; it must not cost a block. */
  const countUsed = async (caller: KmeId, parcel: RelayParcel): Promise<void> => {
    try {
      await parts.pool.adjustTheirs(caller, -unitCountOf(parcel.pad))
    } catch (error) {
      log.warn({ peer: caller, error }, 'the units of a relay could not be counted')
      pads.doubt(caller)
    }
  }

  const take = async (caller: KmeId, parcel: RelayParcel, digest: Buffer): Promise<RelayAnswer> => {
    const untilMs = clock.monotonicMs() + parcel.budgetMs - HOP_MARGIN_MS
    const before = await prior(caller, parcel, digest, untilMs)
    if (before !== undefined) return before
    const role = await judge(caller, { ...parcel, sizeBytes: parcel.ciphertext.length })
    if (role.role === 'none') return refused(role.reason)
    let opened: ReturnType<typeof decryptFromHop>
    const forget = (): void => {
      opened?.block.wipe()
      opened?.answerKey.wipe()
    }
    try {
      const redeemed = await redeem(caller, parcel, digest, (pad) => {
        forget()
        opened = decryptFromHop(parcel, pad)
        return opened !== undefined
      })
      if (redeemed.outcome === 'refused') return refused(redeemed.reason)
      if (redeemed.outcome === 'repeated' || opened === undefined)
        return (await prior(caller, parcel, digest, untilMs)) ?? refused('failed')
      const [answer] = await Promise.all([finish(parcel, role, opened, untilMs), countUsed(caller, parcel)])
      return answer
    } finally {
      forget()
    }
  }

  return {
    accept: async (caller, parcel) => {
      if (parcel === undefined) {
        const answer = refused('malformed')
        await note(caller, 'relays', answer)
        return answer
      }
      const digest = digestOf(parcel)
      const first = underWay.get(parcel.relayId)
      if (first?.caller === caller && first.digest.equals(digest)) return first.answer
      const answer = first === undefined ? take(caller, parcel, digest) : Promise.resolve(refused('relay-id-in-use'))
      if (first === undefined) underWay.set(parcel.relayId, { caller, digest, answer })
      try {
        const given = await answer
        await note(caller, 'relays', given, parcel.relayId)
        return given
      } finally {
        if (underWay.get(parcel.relayId)?.answer === answer) underWay.delete(parcel.relayId)
      }
    },
    check: async (caller, check) => {
      const role: Role = check === undefined ? { role: 'none', reason: 'malformed' } : await judge(caller, check)
      if (role.role === 'none') {
        const answer = refused(role.reason)
        await note(caller, 'relay-checks', answer)
        return answer
      }
      if (role.role === 'destination' || check === undefined) return { outcome: 'ready' }
      const next = parts.partner(role.next)
      if (next === undefined) return refused('next-hop-unavailable')
      try {
        return await next.checkRelay({ ...check, hop: check.hop + 1, budgetMs: check.budgetMs - HOP_MARGIN_MS })
      } catch (error) {
        if (error instanceof CallFailed) return refused('next-hop-unavailable')
        throw error
      }
    },
  }
}
