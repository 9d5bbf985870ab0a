/** Bob's station: chooses bases, announces which slots clicked, and distils blocks with Alice.
 *  Holds: he never gets anything Alice did not send over the fibre or the classical channel. */
import { createBasisChoice } from '../../../bb84/pulse-source.ts'
import { bitAt, encodeClicks, gatherClicks, packedBytes, SiftingError, type ClickTally } from '../../../bb84/sifting.ts'
import { explainUsedUp } from './alice-station.ts'
import { converse, PAD_BYTES_PER_BLOCK, type BlockConversation, type UnkeyedConversation } from './block-conversation.ts'
import { SessionEnded } from './classical-session.ts'
import { distilAtBob } from './distil-at-bob.ts'
import { createKeyHealth } from './key-health.ts'
import { openClickReceiver, type ClickReceiver } from './photon-link.ts'
import { runBlocks } from './run-blocks.ts'
import {
  authenticateBlock,
  AuthenticationKeyUsedUp,
  beginSession,
  openPhotons,
  readBlockStart,
  type BlockStart,
  type StationParts,
} from './station.ts'

const BOTH_DETECTORS = 3

/** Runs until the session ends. @throws SessionEnded, AuthenticationFailed, AuthenticationKeyUsedUp, HealthTestFailed. */
export const runBob = async (parts: StationParts, signal: AbortSignal): Promise<void> => {
  const { profile, streams, slotsPerBurst } = parts
  const session = await beginSession('bob', parts, signal)
  const { classical, segments } = session
  const choice = createBasisChoice(profile)
  const health = createKeyHealth()
  let nextBurst = 0

  const accept = async (): Promise<{ conversation: UnkeyedConversation; start: BlockStart }> => {
    const conversation = converse({ channel: await classical.opened(), role: 'bob', context: session.context })
    const start = readBlockStart(await conversation.receive('block-start'))
    if (start.firstBurst !== nextBurst) throw new SessionEnded('BLOCK-START names bursts out of order')
    nextBurst += start.bursts
    const segment = segments.find(({ segmentId }) => segmentId === start.segmentId)
    if (segment === undefined) throw new AuthenticationKeyUsedUp(explainUsedUp(segments))
    if (start.fromByte !== segment.nextByte || start.fromByte + PAD_BYTES_PER_BLOCK > segment.sizeBytes) {
      throw new SessionEnded('BLOCK-START names authentication key that is not next')
    }
    segment.nextByte += PAD_BYTES_PER_BLOCK
    return { conversation, start }
  }

  const collect = async (conversation: BlockConversation, start: BlockStart, photons: ClickReceiver): Promise<ClickTally> => {
    const gathered = gatherClicks(profile.blockBits * 2)
    try {
      for (let burst = start.firstBurst; burst < start.firstBurst + start.bursts; burst += 1) {
        const { slots, patterns, bases: chosen } = await photons.clicks(burst)
        const bases = new Uint8Array(packedBytes(slots.length))
        const coins = streams(`double-clicks:${burst}`).fill(new Uint8Array(packedBytes(slots.length)))
        for (let click = 0; click < slots.length; click += 1) {
          const basis = bitAt(chosen, slots[click] as number)
          bases[click >> 3] = (bases[click >> 3] as number) | (basis << (click & 7))
          const pattern = patterns[click] as number
          // A double click must not be dropped: basis independence rests on it.
          gathered.add(pattern === BOTH_DETECTORS ? bitAt(coins, click) : pattern >> 1, basis)
        }
        patterns.fill(0)
        await conversation.send('clicks', encodeClicks({ slots, bases }))
      }
      return gathered.take()
    } catch (error) {
      gathered.wipe()
      throw error
    }
  }

  const photons = await openPhotons(parts, session, (stream) =>
    openClickReceiver({
      stream,
      linkId: parts.linkId,
      sessionId: session.sessionId,
      slotsPerBurst,
      chooseBases: (burst) => choice.burst(slotsPerBurst, streams(`bases:${burst}`)),
    }),
  )
  await runBlocks(
    {
      session,
      photons,
      report: parts.report,
      deliver: parts.deliver,
      next: async (_block, over) => {
        const { conversation, start } = await accept()
        await parts.wanted(over)
        if (over.aborted) throw new SessionEnded('stopped')
        await conversation.send('block-accept', Buffer.alloc(0))
        const tally = await collect(conversation, start, photons)
        const block = { deviceBlock: start.deviceBlock, tally, segments, health }
        return {
          conversation,
          authenticate: () => authenticateBlock(conversation, parts.ledger, start),
          distil: () =>
            distilAtBob(conversation, block, parts).catch((error: unknown) => {
              if (error instanceof SiftingError) throw new SessionEnded(`refused: ${error.message}`)
              throw error
            }),
          wipe: () => void tally.states.fill(0),
        }
      },
    },
    signal,
  )
}
