/** Posts acknowledgements and voids to neighbours, each until it is taken or nobody wants to know any more. What waits is in the database:
 *  any process of this KME goes on with it, also after a restart.
 *  Holds: no neighbour waits for another one; a key whose acknowledgement is given up is voided at both sides. */
import { waitAfter } from '../kernel/back-off.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { ReceivedKeyStore } from '../key-store/key-store.ts'
import type { Ack, NeighbourMessage, WaitingMessage } from './interworking.ts'
import { logOutcomes } from './log-outcomes.ts'
import type { NeighbourAnswer, NeighbourClient } from './neighbour-client.ts'
import type { TransferStore } from './prisma-transfers.ts'
import { Refusal } from './refusal.ts'
import { readAckContainers, writeAcks, writeVoid } from './wire.ts'

export interface TellNeighboursParts {
  readonly clients: ReadonlyMap<KmeId, NeighbourClient>
  readonly transfers: TransferStore
  readonly store: ReceivedKeyStore
  /** Where neighbours acknowledge to. */
  readonly callbackUrl: string
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface NeighbourMessenger {
  /** There is something to post. */
  wake(): void
  /** Posts what is due until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

const DEADLINE_MS = 5000
/** Longer than a call can take, and time for a slow commit. */
const LEASE_MS = 15_000
const POLL_INTERVAL_MS = 1000
const TIDY_INTERVAL_MS = 60_000
const FIRST_PAUSE_MS = 500
/** Whoever waits for an acknowledgement does not wait long; nobody waits for a void. */
const LONGEST_PAUSE_MS = { ack: 2000, void: 30_000 } as const

export const createNeighbourMessenger = (parts: TellNeighboursParts): NeighbourMessenger => {
  const { clients, transfers, store, clock, random, log } = parts
  let woken = new AbortController()
  const wake = (): void => {
    woken.abort()
    woken = new AbortController()
  }

  const bodyOf = (client: NeighbourClient, message: NeighbourMessage): object =>
    message.kind === 'ack' ? writeAcks(message.acks) : writeVoid(message, client.isSynchronous() ? undefined : parts.callbackUrl)

  /** Keys nobody acknowledged: no target gets them any more, and the sender is told. */
  const giveUp = async (kmeId: KmeId, { status, initiator, targets, keyIds }: Ack): Promise<void> => {
    if (status !== 'relayed') return
    const parties = { masterSaeId: initiator as SaeId, slaveSaeIds: targets as readonly SaeId[] }
    const voided = await store.voidReceived({ peerKmeId: kmeId, ...parties, keyIds })
    const ended = voided.filter(({ outcome }) => outcome === 'voided').map(({ keyId }) => keyId)
    log.warn(
      { neighbour: kmeId, voided: ended.length, of: keyIds.length },
      'an acknowledgement was not taken; its keys are voided',
    )
    if (ended.length === 0) return
    await transfers.tell(kmeId, { kind: 'void', initiator, targets, keyIds: ended })
    wake()
  }
  const end = async ({ id, kmeId, message }: WaitingMessage): Promise<void> => {
    if (message.kind === 'ack') for (const ack of message.acks) await giveUp(kmeId, ack)
    else log.warn({ neighbour: kmeId, keyIds: message.keyIds }, 'a neighbour could not be told to void keys')
    await transfers.told(id)
  }

  /** What a neighbour says of keys it was told to void; about keys it had sent itself there is nothing to note. */
  const noteVoids = async (kmeId: KmeId, { body }: NeighbourAnswer): Promise<void> => {
    let acks: Ack[]
    try {
      acks = readAckContainers(body)
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      return log.warn({ neighbour: kmeId }, 'what a neighbour says of voided keys is not understood')
    }
    if (!(await transfers.note(kmeId, acks))) return
    const late = acks.filter(({ status }) => status === 'failed to void')
    logOutcomes(log, kmeId, late, 'a neighbour had delivered keys that were voided')
  }

  const deliver = async (client: NeighbourClient, waiting: WaitingMessage): Promise<void> => {
    const { id, kmeId, message, attempts } = waiting
    const later = async (reason: string): Promise<void> => {
      log.debug({ neighbour: kmeId, kind: message.kind, attempts, reason }, 'a neighbour was not told; trying again')
      const pauseMs = waitAfter(attempts, { firstMs: FIRST_PAUSE_MS, longestMs: LONGEST_PAUSE_MS[message.kind], random })
      await transfers.tryLater(id, pauseMs)
    }
    let answer: NeighbourAnswer
    try {
      answer = await client.post(message.kind, Buffer.from(JSON.stringify(bodyOf(client, message))), DEADLINE_MS)
    } catch (error) {
      return later((error as Error).message)
    }
    // It will never take what it does not understand.
    if (answer.status === 400) return end(waiting)
    if (answer.status !== 200 && answer.status !== 202) return later(`answered ${answer.status}`)
    if (message.kind === 'void' && answer.status === 200) await noteVoids(kmeId, answer)
    await transfers.told(id)
  }

  /** Takes messages and handles them, again and again: at once while there are some, when somebody wakes it, and now and then. */
  const goOn = async (
    signal: AbortSignal,
    take: () => Promise<readonly WaitingMessage[]>,
    handle: (message: WaitingMessage) => Promise<void>,
  ): Promise<void> => {
    while (!signal.aborted) {
      // Before it looks, so that no call falls between the two.
      const called = woken.signal
      try {
        const messages = await take()
        await Promise.all(messages.map(handle))
        if (messages.length > 0) continue
      } catch (error) {
        log.warn({ error }, 'messages to neighbours could not be read or marked; trying again')
      }
      await clock.sleep(POLL_INTERVAL_MS, AbortSignal.any([signal, called]))
    }
  }

  const tellOne = (client: NeighbourClient, signal: AbortSignal): Promise<void> => {
    const { kmeId } = client.neighbour
    const take = async (): Promise<readonly WaitingMessage[]> =>
      client.available() ? await transfers.takeDue(kmeId, LEASE_MS) : []
    return goOn(signal, take, (waiting) => deliver(client, waiting))
  }

  const tidyUp = (signal: AbortSignal): Promise<void> => {
    let tidiedMs = -Infinity
    const take = async (): Promise<readonly WaitingMessage[]> => {
      if (clock.monotonicMs() - tidiedMs >= TIDY_INTERVAL_MS) {
        await transfers.tidy()
        tidiedMs = clock.monotonicMs()
      }
      return transfers.takeExpired(LEASE_MS)
    }
    return goOn(signal, take, end)
  }

  return {
    wake,
    run: async (signal) => {
      await Promise.all([tidyUp(signal), ...[...clients.values()].map((client) => tellOne(client, signal))])
    },
  }
}
