/** What both ends of a block do alike after sifting: sizes, counts on the wire, the key length, the key. */
import { cascadePlan, MIN_FRAME_BITS, type CascadePlan } from '../../../bb84/cascade/cascade-plan.ts'
import { keyLength, type BlockCounts, type KeyLength } from '../../../bb84/key-length.ts'
import { amplify } from '../../../bb84/privacy-amplification.ts'
import type { Bb84Profile } from '../../../bb84/profile.ts'
import { cutFrames, type SiftedCounts, type SiftedKey } from '../../../bb84/sifting.ts'
import { forgeryBoundLog2, TAG_BYTES } from '../../../bb84/universal-hash.ts'
import { SecretBytes } from '../../../kernel/secret-bytes.ts'
import type { AuthenticationLedger } from '../../authentication-ledger.ts'
import type { SecurityStatement } from '../../../key-store/key-store.ts'
import { PAD_BYTES_PER_BLOCK, TAGS_PER_BLOCK, type BlockConversation } from './block-conversation.ts'
import { SessionEnded } from './classical-session.ts'
import type { DistilledBlock, PadSegment } from './station.ts'

/** Long enough that larger frames save little, short enough that an error left over spoils little. */
export const FRAME_BITS_MAX = 65_536
export const FRAME_TAG_BITS = 32
export const VERIFICATION_BITS = TAG_BYTES * 8
/** How often a frame whose tag differs is searched further before the block is given up. */
export const MENDING_ROUNDS_MAX = 4
/** Random halves compared in each such round. */
export const MENDING_HALVES = 8

/** The block gave no key; the link goes on with the next one. */
export class NoKey extends Error {
  override readonly name = 'NoKey'
  readonly qber: number
  constructor(reason: string, qber: number) {
    super(reason)
    this.qber = qber
  }
}

/** The error rate the disclosed events show; what Cascade is planned with. Never 0, so that a lucky block is planned sensibly. */
export const estimatedQber = ({ nZ, mZ }: SiftedCounts): number => {
  const total = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0)
  return Math.min(0.5, (total(mZ) + 1) / (total(nZ) + 2))
}

/** Error rate of the sifted key, once reconciliation has found every error. */
export const qberOf = ({ nX, mX }: Pick<Required<BlockCounts>, 'nX' | 'mX'>): number => {
  const total = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0)
  return total(mX) / Math.max(1, total(nX))
}

/** @throws NoKey when no leak is small enough for a key. Both ends come to the same conclusion. */
export const requireHope = (profile: Bb84Profile, counts: SiftedCounts): void => {
  // Errors of the key basis, which one decoy needs, are known only after reconciliation: hope is that there are none.
  const { lengthBits, phi } = keyLength(profile, { ...counts, mX: counts.nX.map(() => 0) }, 0)
  const bits = counts.nX.reduce((sum, count) => sum + count, 0)
  if (lengthBits > 0 && bits >= MIN_FRAME_BITS) return
  const qber = estimatedQber(counts)
  throw new NoKey(
    `${bits} sifted bits with an error rate of ${percent(qber)} and a phase error rate of up to ${percent(phi)} hold no secret`,
    qber,
  )
}

/** @throws NoKey. */
export const requireLength = (profile: Bb84Profile, counts: BlockCounts, leakBits: number, qber: number): KeyLength => {
  const length = keyLength(profile, counts, leakBits)
  if (length.lengthBits >= 8) return length
  throw new NoKey(`at an error rate of ${percent(qber)} reconciliation told everybody as much as was secret`, qber)
}

const percent = (share: number): string => `${(share * 100).toFixed(2)} %`

export const toFrames = (key: SiftedKey, qber: number): { readonly key: SiftedKey; readonly plan: CascadePlan }[] =>
  cutFrames(key, FRAME_BITS_MAX).map((frame) => ({ key: frame, plan: cascadePlan(frame.bitCount, qber) }))

export const encodeCounts = (counts: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(counts.length * 4)
  counts.forEach((count, index) => bytes.writeUInt32BE(count, index * 4))
  return bytes
}

/** What the length of a key follows from and only Bob can count: how many bits Cascade told, errors in Z and in X by intensity. */
export interface BobsCounts {
  readonly disclosedBits: number
  readonly mZ: readonly number[]
  readonly mX: readonly number[]
}

/** What AMPLIFY says before the seed. Alice repeats what she heard of Bob's counts and what she herself told in Cascade, so that her tag
 *  covers it: whoever changed a word of Bob's on its way has Bob see it before he makes a key. */
export const encodeAmplifyHead = (lengthBits: number, replenishBytes: number, { disclosedBits, mZ, mX }: BobsCounts): Buffer =>
  encodeCounts([lengthBits, replenishBytes, disclosedBits, ...mZ, ...mX])

/** @throws SessionEnded unless there is one for each of `largest`, none larger. */
export const decodeCounts = (bytes: Buffer, largest: readonly number[]): number[] => {
  if (bytes.length !== largest.length * 4) throw new SessionEnded('COUNTS is malformed')
  return largest.map((most, index) => {
    const count = bytes.readUInt32BE(index * 4)
    if (count > most) throw new SessionEnded('COUNTS tells of more errors than events')
    return count
  })
}

/** One round of asks: for each frame how many (u16), then the asks (u32 each). */
export const encodeAsks = (rounds: readonly Int32Array[]): Buffer => {
  const bytes = Buffer.allocUnsafe(rounds.reduce((sum, asks) => sum + 2 + asks.length * 4, 0))
  let at = 0
  for (const asks of rounds) {
    at = bytes.writeUInt16BE(asks.length, at)
    for (const ask of asks) at = bytes.writeInt32BE(ask, at)
  }
  return bytes
}

/** @throws SessionEnded. */
export const decodeAsks = (bytes: Buffer, frameCount: number): Int32Array[] => {
  const rounds: Int32Array[] = []
  let at = 0
  for (let frame = 0; frame < frameCount; frame += 1) {
    const count = at + 2 <= bytes.length ? bytes.readUInt16BE(at) : 0
    at += 2
    if (at + count * 4 > bytes.length) break
    const asks = new Int32Array(count)
    for (let index = 0; index < count; index += 1) asks[index] = bytes.readInt32BE(at + index * 4)
    at += count * 4
    rounds.push(asks)
  }
  if (rounds.length !== frameCount || at !== bytes.length) throw new SessionEnded('ASKS is malformed')
  return rounds
}

/** Cuts one message into a part per frame. @throws SessionEnded when the lengths do not add up. */
export const splitParts = (bytes: Buffer, lengths: readonly number[]): Buffer[] => {
  let at = 0
  const parts = lengths.map((length) => bytes.subarray(at, (at += length)))
  if (at !== bytes.length) throw new SessionEnded('a message about the frames of a block has the wrong length')
  return parts
}

export const parityBytes = (count: number): number => (count + 7) >> 3

/** Authentication key a link keeps in store. A block without key uses some and brings none: with the rests between such blocks
 *  (station-worker.ts) this lasts for hours while somebody listens. */
const RESERVE_BYTES = 32 * 1024
/** The most of one block: pads of 170 blocks and a hash key of their own. */
const REPLENISH_BYTES_MAX = TAG_BYTES + 170 * PAD_BYTES_PER_BLOCK
const REPLENISH_BYTES_MIN = TAG_BYTES + 4 * PAD_BYTES_PER_BLOCK

/** How much of a block's key is kept to authenticate later blocks: nothing while there is enough, never more than a quarter.
 *  Whole bytes. Alice decides. */
export const replenishBytesOf = (segments: readonly PadSegment[], lengthBits: number): number => {
  const leftBytes = segments.reduce((sum, { sizeBytes, nextByte }) => sum + Math.max(0, sizeBytes - nextByte), 0)
  if (leftBytes >= RESERVE_BYTES) return 0
  const bytes = Math.min(REPLENISH_BYTES_MAX, lengthBits >> 5)
  return bytes < REPLENISH_BYTES_MIN ? 0 : bytes
}

export const isReplenishmentPossible = (bytes: number, lengthBits: number): boolean =>
  bytes === 0 || (bytes >= REPLENISH_BYTES_MIN && bytes <= REPLENISH_BYTES_MAX && bytes <= lengthBits >> 5)

export interface Verified {
  readonly key: SiftedKey
  readonly counts: Required<BlockCounts>
  readonly leakBits: number
  readonly length: KeyLength
}

/** Privacy amplification. The sifted key is zeroed.
 *  @returns the key for the pool and, first in the secret, what is kept to authenticate later blocks. */
export const makeKey = (
  { key, length }: Pick<Verified, 'key' | 'length'>,
  seed: Uint8Array,
  replenishBytes: number,
): { readonly key: Uint8Array<ArrayBuffer>; readonly pads: SecretBytes | undefined } => {
  const outputBits = length.lengthBits & ~7
  const secret = amplify({ bits: key.bits, bitCount: key.bitCount, outputBits, seed })
  key.bits.fill(0)
  const pads = replenishBytes > 0 ? SecretBytes.take(secret.subarray(0, replenishBytes)) : undefined
  const own = new Uint8Array(secret.length - replenishBytes)
  own.set(secret.subarray(replenishBytes))
  secret.fill(0)
  return { key: own, pads }
}

/** Keeps key for later tags, under the block's name at both ends. */
export const replenish = async (
  pads: SecretBytes,
  deviceBlock: string,
  ledger: Pick<AuthenticationLedger, 'add'>,
  segments: PadSegment[],
): Promise<void> => {
  const sizeBytes = pads.lengthBytes
  await ledger.add(deviceBlock, pads)
  segments.push({ segmentId: deviceBlock, sizeBytes, nextByte: TAG_BYTES })
}

export const toDistilled = (
  verified: Verified,
  made: { readonly deviceBlock: string; readonly key: Uint8Array<ArrayBuffer>; readonly replenishBytes: number },
  profile: Bb84Profile,
  conversation: BlockConversation,
): DistilledBlock => {
  const { counts, length, leakBits } = verified
  const statement: SecurityStatement = {
    ...counts,
    vacuumEvents: length.sX0,
    singlePhotonEvents: length.sX1,
    phaseErrorRate: length.phi,
    leakBits,
    lengthBits: length.lengthBits & ~7,
    replenishBits: made.replenishBytes * 8,
    tagBits: TAGS_PER_BLOCK * TAG_BYTES * 8,
    epsilonSecrecy: profile.epsilonSecrecy,
    epsilonCorrectness: profile.epsilonCorrectness,
    epsilonAuthentication: TAGS_PER_BLOCK * 2 ** forgeryBoundLog2(conversation.longestTranscriptBytes()),
  }
  return { deviceBlock: made.deviceBlock, qber: qberOf(counts), key: made.key, statement }
}
