/** The asking side of ETSI GS QKD 020: sends keys to a neighbour and waits until it has said that every target can have them.
 *  Holds: which keys are sent is durable before a byte of them leaves; an acknowledgement counts whichever process of this KME it reaches;
 *  of acknowledgement, deadline and void the database says which came first. */
import type { Handover, NeighbourKme } from '../delivery/delivery.ts'
import { CallFailed } from '../kernel/call-failed.ts'
import type { Clock } from '../kernel/clock.ts'
import type { AssignmentId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { Assignment } from '../key-store/key-store.ts'
import type { NeighbourAnswer, NeighbourClient } from './neighbour-client.ts'
import type { TransferProgress, TransferStore } from './prisma-transfers.ts'
import { Refusal } from './refusal.ts'
import { readAckContainers, writeExtKeys } from './wire.ts'

export interface SendKeysParts {
  readonly transfers: TransferStore
  /** Where neighbours acknowledge to. */
  readonly callbackUrl: string
  /** A neighbour is to be told something. */
  readonly wakeMessenger: () => void
  readonly clock: Clock
}

export interface KeySender {
  neighbourKme(client: NeighbourClient): NeighbourKme
  /** Some process of this KME noted something about sent keys. */
  notice(): void
}

/** A notice may be lost with the connection that brings it. */
const LOOK_MS = 250

export const createKeySender = ({ transfers, callbackUrl, wakeMessenger, clock }: SendKeysParts): KeySender => {
  const waiting = new Set<AbortController>()

  /** Looks at once, at each notice, and now and then. */
  const waitForAcks = async (aid: AssignmentId, untilMs: number): Promise<TransferProgress> => {
    for (;;) {
      // Before the look, so that no notice falls between the two.
      const noticed = new AbortController()
      waiting.add(noticed)
      try {
        const progress = await transfers.progress(aid)
        const leftMs = untilMs - clock.monotonicMs()
        if (progress !== 'waiting' || leftMs <= 0) return progress
        await clock.sleep(Math.min(leftMs, LOOK_MS), noticed.signal)
      } finally {
        waiting.delete(noticed)
      }
    }
  }

  const send = async (client: NeighbourClient, assignment: Assignment, keys: SecretBytes): Promise<Handover> => {
    const { kmeId, deadlineMs } = client.neighbour
    const { aid, keyIds, sizeBits, masterSaeId: initiator, slaveSaeIds: targets } = assignment
    const untilMs = clock.monotonicMs() + deadlineMs
    await transfers.open(kmeId, assignment)
    const callback = client.isSynchronous() ? undefined : callbackUrl
    const body = writeExtKeys({ keyIds, sizeBits, initiator, targets }, keys, callback)
    let answer: NeighbourAnswer
    try {
      answer = await client.post('keys', body, deadlineMs)
    } catch (error) {
      if (!(error instanceof CallFailed)) throw error
      if (error.maybeReceived) return 'in-doubt'
      await transfers.forget(aid)
      return 'never-sent'
    } finally {
      body.fill(0)
    }
    if (answer.status === 400 || answer.status === 401) {
      await transfers.refused(aid)
      return answer.status === 400 && namesUnknownTarget(answer.body) ? 'not-recognised' : 'refused'
    }
    if (answer.status === 200) {
      if (!(await noteAnswer(client, answer))) return 'in-doubt'
    } else if (answer.status !== 202 || callback === undefined) return 'in-doubt'
    if ((await waitForAcks(aid, answer.status === 200 ? 0 : untilMs)) !== 'relayed') return 'in-doubt'
    return (await transfers.issue(aid)) ? 'relayed' : 'in-doubt'
  }

  const noteAnswer = async ({ neighbour }: NeighbourClient, { body }: NeighbourAnswer): Promise<boolean> => {
    try {
      return await transfers.note(neighbour.kmeId, readAckContainers(body))
    } catch (error) {
      if (error instanceof Refusal) return false
      throw error
    }
  }

  return {
    neighbourKme: (client) => ({
      kmeId: client.neighbour.kmeId,
      available: client.available,
      send: (assignment, keys) => send(client, assignment, keys),
      abandon: async (aid) => {
        await transfers.abandon(aid)
        wakeMessenger()
      },
    }),
    notice: () => waiting.forEach((one) => one.abort()),
  }
}

const namesUnknownTarget = (body: unknown): boolean => {
  const { details } = (body ?? {}) as { details?: unknown }
  return typeof details === 'object' && details !== null && 'target_sae_id_not_recognized' in details
}
