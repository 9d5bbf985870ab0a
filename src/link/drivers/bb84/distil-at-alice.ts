/** Alice's half of a block after its last burst: she reveals, answers parities, lets Bob verify, draws the seed of privacy
 *  amplification, and delivers the key once Bob's last tag fits. Order and messages: docs/bb84.md. */

import { createResponder, type CascadeResponder } from '../../../bb84/cascade/responder.ts'
import { seedBytes } from '../../../bb84/privacy-amplification.ts'
import { joinFrames, siftAtAlice, type ClickTally, type SiftedKey } from '../../../bb84/sifting.ts'
import { frameTag, HASH_KEY_BYTES, verificationTag } from '../../../bb84/universal-hash.ts'
import type { Random } from '../../../kernel/random.ts'
import type { BlockConversation } from './block-conversation.ts'
import { SessionEnded } from './classical-session.ts'
import {
  decodeAsks,
  decodeCounts,
  encodeAmplifyHead,
  estimatedQber,
  FRAME_TAG_BITS,
  makeKey,
  MENDING_ROUNDS_MAX,
  NoKey,
  qberOf,
  replenish,
  replenishBytesOf,
  requireHope,
  requireLength,
  toDistilled,
  toFrames,
  VERIFICATION_BITS,
  type Verified,
} from './distil.ts'
import { requireHealthyKey, type KeyHealth } from './key-health.ts'
import type { DistilledBlock, PadSegment, StationParts } from './station.ts'

/** `public` seeds: Cascade's shuffles, the hash keys, the seed of privacy amplification. */
const drawPublic = (random: Random, lengthBytes: number): Buffer => random.fill(Buffer.alloc(lengthBytes))

export const distilAtAlice = async (
  conversation: BlockConversation,
  block: {
    readonly deviceBlock: string
    readonly tally: ClickTally
    readonly segments: PadSegment[]
    readonly health: KeyHealth
  },
  { profile, ledger, streams }: Pick<StationParts, 'profile' | 'ledger' | 'streams'>,
): Promise<DistilledBlock> => {
  const random = streams(`distil:${conversation.block}`)
  // Bob's announcement is complete and authentic: from here on Alice may speak.
  await conversation.receiveTag()
  using secrets = new DisposableStack()
  const { key, counts: matched, reveal } = siftAtAlice(block.tally, profile.intensities.length)
  secrets.defer(() => key.bits.fill(0))
  requireHealthyKey(block.health, 'sifted', key.bits, key.bitCount)
  await conversation.send('reveal', reveal)
  const counts = { ...matched, mZ: decodeCounts(await conversation.receive('counts'), matched.nZ) }
  requireHope(profile, counts)

  const reconciled = await answerCascade(conversation, key, estimatedQber(counts), random)
  secrets.defer(() => reconciled.key.bits.fill(0))
  const hashKey = drawPublic(random, HASH_KEY_BYTES)
  await conversation.send('verify', Buffer.concat([hashKey, verificationTag(hashKey, reconciled.key.bits)]))
  const { mX, disclosedBits } = readVerified(await conversation.receive('verified'), matched.nX)
  const all = { ...counts, mX }
  if (disclosedBits !== reconciled.disclosedBits) throw new SessionEnded('the two ends count different leaks')
  const leakBits = disclosedBits + VERIFICATION_BITS
  const length = requireLength(profile, all, leakBits, qberOf(all))

  const seed = drawPublic(random, seedBytes(reconciled.key.bitCount))
  const replenishBytes = replenishBytesOf(block.segments, length.lengthBits)
  const head = encodeAmplifyHead(length.lengthBits, replenishBytes, { disclosedBits, mZ: counts.mZ, mX })
  await conversation.send('amplify', Buffer.concat([head, seed]))
  await conversation.sendTag()
  const verified: Verified = { key: reconciled.key, counts: all, leakBits, length }
  const made = makeKey(verified, seed, replenishBytes)
  try {
    await conversation.receiveTag()
    requireHealthyKey(block.health, 'final', made.key, made.key.length * 8)
    if (made.pads !== undefined) await replenish(made.pads, block.deviceBlock, ledger, block.segments)
  } catch (error) {
    made.key.fill(0)
    made.pads?.wipe()
    throw error
  }
  return toDistilled(verified, { deviceBlock: block.deviceBlock, key: made.key, replenishBytes }, profile, conversation)
}

/** Answers Bob's asks until every frame carries the tag it has here. @throws NoKey when some never do. */
export const answerCascade = async (
  conversation: BlockConversation,
  key: SiftedKey,
  qber: number,
  random: Random,
): Promise<{ readonly key: SiftedKey; readonly disclosedBits: number }> => {
  const seed = drawPublic(random, 16)
  const frames = toFrames(key, qber)
  const responders = frames.map(({ key: frame, plan }): CascadeResponder => createResponder({ ...frame, plan, seed }))
  let tagBits = 0
  try {
    await conversation.send('frames', Buffer.concat([seed, ...responders.map((responder) => responder.firstParities())]))
    let open = frames.map((_, index) => index)
    for (let round = 0; ; round += 1) {
      await answerUntilDone(conversation, responders)
      const hashKey = drawPublic(random, HASH_KEY_BYTES)
      const tags = Buffer.alloc(open.length * 4)
      open.forEach((index, at) =>
        tags.writeUInt32BE(frameTag(hashKey, index, (frames[index] as { key: SiftedKey }).key.bits), at * 4),
      )
      tagBits += open.length * FRAME_TAG_BITS
      await conversation.send('frame-tags', Buffer.concat([hashKey, tags]))
      const result = await conversation.receive('frame-result')
      if (result.length !== open.length) throw new SessionEnded('FRAME-RESULT is malformed')
      open = open.filter((_, at) => result[at] !== 1)
      if (open.length === 0) break
      if (round === MENDING_ROUNDS_MAX) throw new NoKey(`${open.length} frames could not be reconciled`, qber)
    }
    const disclosedBits = responders.reduce((sum, responder) => sum + responder.disclosedBits, tagBits)
    return { key: joinFrames(frames.map((frame) => frame.key)), disclosedBits }
  } finally {
    for (const responder of responders) responder.wipe()
    for (const frame of frames) frame.key.bits.fill(0)
  }
}

const answerUntilDone = async (conversation: BlockConversation, responders: readonly CascadeResponder[]): Promise<void> => {
  for (;;) {
    const asks = decodeAsks(await conversation.receive('asks'), responders.length)
    if (asks.every((ofFrame) => ofFrame.length === 0)) return
    let parities: Uint8Array[]
    try {
      parities = responders.map((responder, index) => responder.answer(asks[index] as Int32Array))
    } catch (error) {
      if (error instanceof RangeError) throw new SessionEnded(`refused: ${error.message}`)
      throw error
    }
    await conversation.send('parities', Buffer.concat(parities))
  }
}

/** How many parities Bob counted, and of how many bits of each intensity he found the value wrong. */
const readVerified = (payload: Buffer, nX: readonly number[]): { disclosedBits: number; mX: number[] } => {
  if (payload.length < 4) throw new SessionEnded('VERIFIED is malformed')
  return { disclosedBits: payload.readUInt32BE(0), mX: decodeCounts(payload.subarray(4), nX) }
}
