/** One hop of a relay, at the KME that sends: a pad is spent, the parcel made of it is stored, then sent until it is answered or time is up.
 *  Holds: one parcel per relay ID, and every time the same; the sender's copy of the block is wiped as soon as the parcel is made. */
import type { Alarms } from '../alarms/alarms.ts'
import { CallFailed } from '../kernel/call-failed.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { PadStore } from '../key-store/key-store.ts'
import type { RelayAnswer, RelayParcel, RelayPartner, RelayRefusal } from '../peer/peer.ts'
import { readRelayParcel, writeRelayParcel } from '../peer/wire.ts'
import { sameTag } from '../bb84/universal-hash.ts'
import { answerTag, encryptForHop, type ParcelDraft } from './hop-cipher.ts'
import type { LinkPads } from './link-pads.ts'

export interface SendParcelParts {
  readonly kmeId: KmeId
  readonly store: PadStore
  readonly pads: LinkPads
  readonly partner: (kmeId: KmeId) => RelayPartner | undefined
  readonly alarms: Alarms
  readonly clock: Clock
  readonly log: Logger
}

/** `unknown`: the destination may or may not have it. */
export type Sent =
  | { readonly outcome: 'delivered'; readonly reply: Buffer | undefined }
  | { readonly outcome: 'refused'; readonly reason: RelayRefusal; readonly at: KmeId }
  | { readonly outcome: 'unknown' }

/** `budgetMs` is set when the parcel is made. */
export type Journey = Omit<ParcelDraft, 'pad' | 'budgetMs'>

export interface ParcelSender {
  /** @param block wiped when this settles, most often long before. @param untilMs on the monotonic clock. */
  send(journey: Journey, block: SecretBytes, untilMs: number): Promise<Sent>
  /** Sends what was stored under a relay ID once more; of use after the process that made it died. */
  sendAgain(relayId: string, untilMs: number): Promise<void>
}

const RETRY_PAUSE_MS = 50
const SPEND_ATTEMPTS = 3

export const createParcelSender = (parts: SendParcelParts): ParcelSender => {
  const { kmeId, store, pads, clock, log } = parts
  const refusedHere = (reason: RelayRefusal): Sent => ({ outcome: 'refused', reason, at: kmeId })

  /** @returns undefined when time is up. */
  const sendUntilAnswered = async (to: KmeId, parcel: RelayParcel, untilMs: number): Promise<RelayAnswer | undefined> => {
    for (;;) {
      const leftMs = untilMs - clock.monotonicMs()
      if (leftMs <= 0) return undefined
      const partner = parts.partner(to)
      if (partner?.available() === true) {
        try {
          return await partner.relay(parcel, leftMs)
        } catch (error) {
          if (!(error instanceof CallFailed)) throw error
          log.warn({ relayId: parcel.relayId, peer: to, error }, 'a relay was not answered')
        }
      }
      await clock.sleep(Math.min(RETRY_PAUSE_MS, Math.max(1, untilMs - clock.monotonicMs())))
    }
  }

  /** A parcel that is durable, or why there is none. */
  const makeParcel = async (
    to: KmeId,
    journey: Journey,
    block: SecretBytes,
    untilMs: number,
  ): Promise<{ parcel: RelayParcel; answerKey: SecretBytes } | RelayRefusal> => {
    for (let attempt = 1; attempt <= SPEND_ATTEMPTS; attempt += 1) {
      const pad = await pads.take(to, block.lengthBytes)
      if (pad === undefined) return 'insufficient'
      const draft: ParcelDraft = { ...journey, pad, budgetMs: Math.max(1, Math.floor(untilMs - clock.monotonicMs())) }
      let made: ReturnType<typeof encryptForHop> | undefined
      try {
        const spent = await store.spendPad({
          peerKmeId: to,
          relayId: journey.relayId,
          units: pad,
          subject: { path: journey.path, hop: journey.hop, block: journey.block },
          encrypt: (bytes) => {
            made?.answerKey.wipe()
            made = encryptForHop(draft, block, bytes)
            return writeRelayParcel(made.parcel)
          },
        })
        if (spent !== 'conflict' && made !== undefined) return made
        pads.doubt(to)
      } catch (error) {
        made?.answerKey.wipe()
        throw error
      }
    }
    return 'insufficient'
  }

  const judge = (parcel: RelayParcel, answer: RelayAnswer | undefined, answerKey: SecretBytes): Sent => {
    if (answer === undefined) return { outcome: 'unknown' }
    if (answer.outcome === 'refused') return answer
    if (sameTag(answerTag(parcel, answer.reply, answerKey), answer.mac)) return { outcome: 'delivered', reply: answer.reply }
    const at = parcel.path[parcel.hop] as KmeId
    parts.alarms.raise(
      `relay.pad:${at}`,
      'critical',
      `the answer of ${at} to a relay is not authentic: somebody speaks in its name, or its keys differ from ours`,
      { peerKmeId: at, relayId: parcel.relayId },
    )
    return { outcome: 'unknown' }
  }

  return {
    send: async (journey, block, untilMs) => {
      using plain = block
      const to = journey.path[journey.hop] as KmeId
      const made = await makeParcel(to, journey, plain, untilMs)
      plain.wipe()
      if (typeof made === 'string') return refusedHere(made)
      using answerKey = made.answerKey
      const sent = judge(made.parcel, await sendUntilAnswered(to, made.parcel, untilMs), answerKey)
      await store.closePad(journey.relayId, sent.outcome === 'delivered' ? 'delivered' : 'given-up')
      return sent
    },
    sendAgain: async (relayId, untilMs) => {
      const sent = await store.sentUnder(relayId)
      if (sent !== undefined) await sendUntilAnswered(sent.peerKmeId, readRelayParcel(sent.message), untilMs)
    },
  }
}
