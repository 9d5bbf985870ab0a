/** Alice's station: sends pulses, keeps what each of them was until Bob has said which ones he saw, and distils blocks with him. While
 *  one block is distilled the pulses of the next are on their way.
 *  Holds: no pulse's value leaves this process but through the fibre; of a pulse Bob did not see nothing is kept. */
import { expectedBlock } from '../../../bb84/expected-rate.ts'
import { createPulseSource, pulseAt } from '../../../bb84/pulse-source.ts'
import { decodeClicks, bitAt, gatherClicks, SiftingError, type ClickTally } from '../../../bb84/sifting.ts'
import { converse, PAD_BYTES_PER_BLOCK, type BlockConversation, type UnkeyedConversation } from './block-conversation.ts'
import { SessionEnded } from './classical-session.ts'
import { distilAtAlice } from './distil-at-alice.ts'
import { createKeyHealth } from './key-health.ts'
import { openPulseSender, type PulseSender } from './photon-link.ts'
import { runBlocks } from './run-blocks.ts'
import {
  authenticateBlock,
  AuthenticationKeyUsedUp,
  beginSession,
  openPhotons,
  type BlockStart,
  type PadSegment,
  type StationParts,
} from './station.ts'

/** Does not change how many pulses a block takes. */
const EXPECTED_EFFICIENCY = 1.05
/** Bursts Bob has not announced his clicks of: enough to hide the way there and back. */
const BURSTS_IN_FLIGHT = 8
/** Behind by more than this, the source does not catch up: a pulse that was not sent in time was not sent. */
const LAG_MAX_MS = 100

/** Runs until the session ends. @throws SessionEnded, AuthenticationFailed, AuthenticationKeyUsedUp, HealthTestFailed. */
export const runAlice = async (parts: StationParts, signal: AbortSignal): Promise<void> => {
  const { profile, clock, streams, slotsPerBurst } = parts
  const session = await beginSession('alice', parts, signal)
  const { classical, segments } = session
  const bursts = Math.max(1, Math.ceil(expectedBlock(profile, EXPECTED_EFFICIENCY).pulses / slotsPerBurst))
  const burstMs = (slotsPerBurst * 1000) / profile.pulseRateHz
  const source = createPulseSource(profile)
  const health = createKeyHealth()
  let nextBurst = 0
  let dueMs = clock.monotonicMs()

  /** Takes turns with the other blocks by the number of the burst. */
  const pace = async (over: AbortSignal): Promise<void> => {
    const nowMs = clock.monotonicMs()
    dueMs = Math.max(dueMs + burstMs, nowMs - LAG_MAX_MS)
    if (dueMs > nowMs) await clock.sleep(dueMs - nowMs, over)
  }

  const collect = async (
    conversation: BlockConversation,
    start: BlockStart,
    photons: PulseSender,
    over: AbortSignal,
  ): Promise<ClickTally> => {
    const sent = new Map<number, Uint8Array>()
    let wakeSender: (() => void) | undefined
    let announced = 0
    const gathered = gatherClicks(profile.blockBits * 2)

    const send = async (): Promise<void> => {
      for (let index = 0; index < start.bursts; index += 1) {
        while (index - announced >= BURSTS_IN_FLIGHT && !over.aborted) {
          await new Promise<void>((resolve) => (wakeSender = resolve))
        }
        await pace(over)
        if (over.aborted) return
        const burst = start.firstBurst + index
        const pulses = source.burst(slotsPerBurst, streams(`pulses:${burst}`))
        sent.set(index, pulses)
        await photons.send(burst, slotsPerBurst, pulses)
      }
    }
    const hear = async (): Promise<void> => {
      for (let index = 0; index < start.bursts; index += 1) {
        const { slots, bases } = decodeClicks(await conversation.receive('clicks'), slotsPerBurst)
        const pulses = sent.get(index)
        if (pulses === undefined) throw new SessionEnded('Bob announces clicks of pulses that were not sent yet')
        for (let click = 0; click < slots.length; click += 1) {
          gathered.add(pulseAt(pulses, slots[click] as number), bitAt(bases, click))
        }
        pulses.fill(0)
        sent.delete(index)
        announced = index + 1
        wakeSender?.()
      }
    }
    const onOver = (): void => wakeSender?.()
    over.addEventListener('abort', onOver)
    try {
      await Promise.all([send(), hear()])
      return gathered.take()
    } catch (error) {
      gathered.wipe()
      throw error
    } finally {
      over.removeEventListener('abort', onOver)
      for (const pulses of sent.values()) pulses.fill(0)
    }
  }

  const begin = async (
    block: number,
    before: Promise<void>,
  ): Promise<{ conversation: UnkeyedConversation; start: BlockStart }> => {
    const unused = (): PadSegment | undefined =>
      segments.find(({ nextByte, sizeBytes }) => nextByte + PAD_BYTES_PER_BLOCK <= sizeBytes)
    let segment = unused()
    if (segment === undefined) {
      // The blocks under way may bring more.
      await before
      segment = unused()
    }
    if (segment === undefined) throw new AuthenticationKeyUsedUp(explainUsedUp(segments))
    const start: BlockStart = {
      deviceBlock: streams(`block:${block}`).uuid(),
      segmentId: segment.segmentId,
      fromByte: segment.nextByte,
      firstBurst: nextBurst,
      bursts,
    }
    segment.nextByte += PAD_BYTES_PER_BLOCK
    nextBurst += bursts
    const conversation = converse({ channel: classical.open(block), role: 'alice', context: session.context })
    await conversation.send('block-start', Buffer.from(JSON.stringify(start)))
    await conversation.receive('block-accept')
    return { conversation, start }
  }

  const photons = await openPhotons(parts, session, (stream) =>
    openPulseSender({
      stream,
      linkId: parts.linkId,
      sessionId: session.sessionId,
      slotsPerBurst,
      intensities: profile.intensities,
    }),
  )
  await runBlocks(
    {
      session,
      photons,
      report: parts.report,
      deliver: parts.deliver,
      next: async (block, over, before) => {
        await parts.wanted(over)
        if (over.aborted) throw new SessionEnded('stopped')
        const { conversation, start } = await begin(block, before)
        const tally = await collect(conversation, start, photons, over).catch((error: unknown) => {
          if (error instanceof SiftingError) throw new SessionEnded(`refused: ${error.message}`)
          throw error
        })
        return {
          conversation,
          authenticate: () => authenticateBlock(conversation, parts.ledger, start),
          distil: () => distilAtAlice(conversation, { deviceBlock: start.deviceBlock, tally, segments, health }, parts),
          wipe: () => void tally.states.fill(0),
        }
      },
    },
    signal,
  )
}

export const explainUsedUp = (segments: readonly PadSegment[]): string =>
  segments.length === 0
    ? 'the two ends hold no authentication key in common; install the same new one at both ("kme link new-secret")'
    : 'the authentication key of the link is used up; install the same new one at both ends ("kme link new-secret")'
