/** Bob's half of a block after its last burst: he counts errors in what is disclosed, corrects his key with Cascade until it is
 *  Alice's, and delivers the key once her tag fits. Order and messages: docs/bb84.md. */
import { firstAsks } from '../../../bb84/cascade/cascade-asks.ts'
import { createCorrector, type CascadeCorrector } from '../../../bb84/cascade/corrector.ts'
import { ContradictoryParities } from '../../../bb84/cascade/searched-pass.ts'
import { seedBytes } from '../../../bb84/privacy-amplification.ts'
import { correctedPerIntensity, joinFrames, siftAtBob, type ClickTally, type SiftedKey } from '../../../bb84/sifting.ts'
import { frameTag, HASH_KEY_BYTES, sameTag, TAG_BYTES, verificationTag } from '../../../bb84/universal-hash.ts'
import type { BlockConversation } from './block-conversation.ts'
import { SessionEnded } from './classical-session.ts'
import {
  encodeAmplifyHead,
  encodeAsks,
  encodeCounts,
  estimatedQber,
  FRAME_TAG_BITS,
  isReplenishmentPossible,
  makeKey,
  MENDING_HALVES,
  MENDING_ROUNDS_MAX,
  NoKey,
  parityBytes,
  qberOf,
  replenish,
  requireHope,
  requireLength,
  splitParts,
  toDistilled,
  toFrames,
  VERIFICATION_BITS,
  type Verified,
} from './distil.ts'
import { requireHealthyKey, type KeyHealth } from './key-health.ts'
import type { DistilledBlock, PadSegment, StationParts } from './station.ts'

const SEED_BYTES = 16
/** Where AMPLIFY says how much is kept as authentication key. */
const REPLENISH_AT = 4

export const distilAtBob = async (
  conversation: BlockConversation,
  block: {
    readonly deviceBlock: string
    readonly tally: ClickTally
    readonly segments: PadSegment[]
    readonly health: KeyHealth
  },
  { profile, ledger }: Pick<StationParts, 'profile' | 'ledger'>,
): Promise<DistilledBlock> => {
  await conversation.sendTag()
  const reveal = await conversation.receive('reveal')
  using secrets = new DisposableStack()
  const { key, counts, keyIntensities } = siftAtBob(block.tally, reveal, profile.intensities.length)
  secrets.defer(() => key.bits.fill(0))
  requireHealthyKey(block.health, 'sifted', key.bits, key.bitCount)
  await conversation.send('counts', encodeCounts(counts.mZ))
  requireHope(profile, counts)

  const before = key.bits.slice()
  secrets.defer(() => before.fill(0))
  const reconciled = await correct(conversation, key, estimatedQber(counts))
  const { bits, bitCount } = reconciled.key
  secrets.defer(() => bits.fill(0))
  const mX = correctedPerIntensity(before, bits, keyIntensities, profile.intensities.length)
  const all = { ...counts, mX }
  const qber = qberOf(all)
  const verify = await conversation.receive('verify')
  if (verify.length !== HASH_KEY_BYTES + TAG_BYTES) throw new SessionEnded('VERIFY is malformed')
  const tag = verificationTag(verify.subarray(0, HASH_KEY_BYTES), bits)
  if (!sameTag(tag, verify.subarray(HASH_KEY_BYTES))) {
    throw new NoKey('the two ends do not hold the same bits after reconciliation', qber)
  }
  await conversation.send('verified', encodeCounts([reconciled.disclosedBits, ...mX]))
  const leakBits = reconciled.disclosedBits + VERIFICATION_BITS
  const length = requireLength(profile, all, leakBits, qber)

  const amplifying = await conversation.receive('amplify')
  const replenishBytes = amplifying.length >= REPLENISH_AT + 4 ? amplifying.readUInt32BE(REPLENISH_AT) : 0
  const { disclosedBits } = reconciled
  const head = encodeAmplifyHead(length.lengthBits, replenishBytes, { disclosedBits, mZ: counts.mZ, mX })
  const fits =
    amplifying.length === head.length + seedBytes(bitCount) &&
    amplifying.subarray(0, head.length).equals(head) &&
    isReplenishmentPossible(replenishBytes, length.lengthBits)
  if (!fits) throw new SessionEnded('AMPLIFY does not fit the block')
  await conversation.receiveTag()

  const verified: Verified = { key: reconciled.key, counts: all, leakBits, length }
  const made = makeKey(verified, amplifying.subarray(head.length), replenishBytes)
  try {
    requireHealthyKey(block.health, 'final', made.key, made.key.length * 8)
    // Before the tag: Alice keeps hers only when she has seen it.
    if (made.pads !== undefined) await replenish(made.pads, block.deviceBlock, ledger, block.segments)
    await conversation.sendTag()
  } catch (error) {
    made.key.fill(0)
    made.pads?.wipe()
    throw error
  }
  return toDistilled(verified, { deviceBlock: block.deviceBlock, key: made.key, replenishBytes }, profile, conversation)
}

export interface Corrected {
  readonly key: SiftedKey
  readonly disclosedBits: number
}

/** @throws NoKey when a frame stays different. */
export const correct = async (conversation: BlockConversation, key: SiftedKey, qber: number): Promise<Corrected> => {
  const frames = toFrames(key, qber)
  const message = await conversation.receive('frames')
  const counts = frames.map(({ plan }) => firstAsks(plan).length)
  const [seed, ...first] = splitParts(message, [SEED_BYTES, ...counts.map(parityBytes)]) as [Buffer, ...Buffer[]]
  const correctors = frames.map(({ key: frame, plan }): CascadeCorrector => createCorrector({ ...frame, plan, seed }))
  let tagBits = 0
  try {
    correctors.forEach((corrector, index) => corrector.take(first[index] as Buffer))
    let open = frames.map((_, index) => index)
    for (let round = 0; ; round += 1) {
      await askUntilDone(conversation, correctors)
      const tags = await conversation.receive('frame-tags')
      if (tags.length !== HASH_KEY_BYTES + open.length * 4) throw new SessionEnded('FRAME-TAGS is malformed')
      tagBits += open.length * FRAME_TAG_BITS
      const hashKey = tags.subarray(0, HASH_KEY_BYTES)
      const result = Buffer.from(
        open.map((index, at) => {
          const bits = (correctors[index] as CascadeCorrector).corrected()
          const isEqual = frameTag(hashKey, index, bits) === tags.readUInt32BE(HASH_KEY_BYTES + at * 4)
          bits.fill(0)
          return isEqual ? 1 : 0
        }),
      )
      await conversation.send('frame-result', result)
      open = open.filter((_, at) => result[at] === 0)
      if (open.length === 0) break
      if (round === MENDING_ROUNDS_MAX) throw new NoKey(`${open.length} frames could not be reconciled`, qber)
      for (const index of open) (correctors[index] as CascadeCorrector).extend(MENDING_HALVES)
    }
    const corrected = correctors.map((corrector, index) => ({
      bits: corrector.corrected(),
      bitCount: (frames[index] as { key: SiftedKey }).key.bitCount,
    }))
    return {
      key: joinFrames(corrected),
      disclosedBits: correctors.reduce((sum, { disclosedBits }) => sum + disclosedBits, tagBits),
    }
  } catch (error) {
    if (error instanceof ContradictoryParities) throw new SessionEnded(`refused: ${error.message}`)
    throw error
  } finally {
    for (const corrector of correctors) corrector.wipe()
    for (const frame of frames) frame.key.bits.fill(0)
  }
}

const askUntilDone = async (conversation: BlockConversation, correctors: readonly CascadeCorrector[]): Promise<void> => {
  for (;;) {
    const asks = correctors.map((corrector) => corrector.asks())
    await conversation.send('asks', encodeAsks(asks))
    if (asks.every((ofFrame) => ofFrame.length === 0)) return
    const parities = splitParts(
      await conversation.receive('parities'),
      asks.map(({ length }) => parityBytes(length)),
    )
    correctors.forEach((corrector, index) => {
      if ((asks[index] as Int32Array).length > 0) corrector.take(parities[index] as Buffer)
    })
  }
}
