/** Eve with a notebook: records everything that goes over the classical channel of a BB84 link and works out what it says about the key.
 *  She knows what is public (the profile, docs/bb84.md) and nothing else. Every byte must have a meaning she knows: what does not parse to
 *  the end is an error. */
import { firstAsks, maskOf } from '../../src/bb84/cascade/cascade-asks.ts'
import { cascadePlan, type CascadePlan } from '../../src/bb84/cascade/cascade-plan.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { decodeClicks } from '../../src/bb84/sifting.ts'
import type { MessageType } from '../../src/link/drivers/bb84/classical-wire.ts'
import { messageTap, type MessageHandler } from './message-tap.ts'
import { createParitySpan, maskOfIndices } from './parity-rank.ts'
import type { Role } from './simulated-link.ts'

interface Said {
  readonly from: Role
  readonly type: MessageType
  readonly payload: Buffer
}

/** One parity that Alice gave: the sum of these bits of a frame of her key. */
export interface DisclosedParity {
  readonly frame: number
  readonly mask: Uint32Array
  readonly value: number
}

export interface Click {
  readonly burst: number
  readonly slot: number
  readonly bobBasis: number
}

/** What the wire says about one block, in order. */
export interface AuditedBlock {
  readonly deviceBlock: string
  readonly clicks: readonly Click[]
  /** From REVEAL. `key`: the clicks both ends took in basis X, which are the bits of the key. */
  readonly revealed: {
    readonly bases: readonly number[]
    readonly intensities: readonly number[]
    readonly zValues: readonly number[]
    readonly key: readonly number[]
  }
  readonly frames: readonly { readonly plan: CascadePlan; readonly firstBit: number }[]
  readonly cascadeSeed: Buffer
  readonly parities: readonly DisclosedParity[]
  /** Tags of frames by round. */
  readonly frameTags: readonly { readonly hashKey: Buffer; readonly frames: readonly number[]; readonly tags: Buffer }[]
  readonly verification: { readonly hashKey: Buffer; readonly tag: Buffer }
  readonly amplificationSeed: Buffer
  /** How many independent parities of the key the wire holds, all frames together. */
  readonly rank: () => number
  /** Bits of tags over key bits. */
  readonly tagBits: number
}

export interface Auditor {
  readonly tap: (from: Role, chunk: Buffer) => Buffer | undefined
  /** Blocks begun. */
  readonly blocks: readonly number[]
  /** @throws Error when a byte of the block has no known meaning. */
  audit(block: number): AuditedBlock
}

/** @param then what happens to a message once it is written down. */
export const createAuditor = (
  profile: Bb84Profile,
  slotsPerBurst: number,
  then: MessageHandler = (_, { bytes }) => [bytes],
): Auditor => {
  const heard = new Map<number, Said[]>()
  return {
    tap: messageTap((from, message) => {
      const { block, type, payload } = message
      heard.set(block, [...(heard.get(block) ?? []), { from, type, payload }])
      return then(from, message)
    }),
    get blocks() {
      return [...heard.keys()].filter((block) => block !== 0)
    },
    audit: (block) => auditBlock(heard.get(block) ?? [], profile, slotsPerBurst),
  }
}

const FRAME_BITS_MAX = 65_536

const auditBlock = (said: readonly Said[], profile: Bb84Profile, slotsPerBurst: number): AuditedBlock => {
  let at = 0
  const peek = (): string => `${said[at]?.from} ${said[at]?.type}`
  const take = (from: Role, type: MessageType): Buffer => {
    if (peek() !== `${from} ${type}`) throw new Error(`${from} ${type} was due, and there was ${peek()}`)
    return (said[at++] as Said).payload
  }

  const start = JSON.parse(take('alice', 'block-start').toString()) as { deviceBlock: string; firstBurst: number; bursts: number }
  const startMembers = ['bursts', 'deviceBlock', 'firstBurst', 'fromByte', 'segmentId']
  if (Object.keys(start).sort().join() !== startMembers.join()) throw new Error('BLOCK-START says something unknown')
  if (take('bob', 'block-accept').length > 0) throw new Error('BLOCK-ACCEPT says something')

  const clicks: Click[] = []
  for (let burst = start.firstBurst; burst < start.firstBurst + start.bursts; burst += 1) {
    const { slots, bases } = decodeClicks(take('bob', 'clicks'), slotsPerBurst)
    slots.forEach((slot, index) => clicks.push({ burst, slot, bobBasis: ((bases[index >> 3] as number) >> (index & 7)) & 1 }))
  }
  if (take('bob', 'tag').length !== 16) throw new Error('a tag has another length')

  const revealed = readReveal(take('alice', 'reveal'), clicks)
  const counts = take('bob', 'counts')
  if (counts.length !== 4 * profile.intensities.length) throw new Error('COUNTS has another length')
  const wrong = profile.intensities.reduce((sum, _, index) => sum + counts.readUInt32BE(4 * index), 0)
  const qber = (wrong + 1) / (revealed.zValues.length + 2)

  const keyBits = revealed.key.length
  const frameCount = Math.ceil(keyBits / FRAME_BITS_MAX)
  const frames = Array.from({ length: frameCount }, (_, index) => {
    const firstBit = Math.floor((index * keyBits) / frameCount)
    return { plan: cascadePlan(Math.floor(((index + 1) * keyBits) / frameCount) - firstBit, qber), firstBit }
  })

  const parities: DisclosedParity[] = []
  const first = take('alice', 'frames')
  const cascadeSeed = first.subarray(0, 16)
  const note = (bytes: Buffer, asked: readonly (readonly number[])[]): void => {
    let from = 0
    asked.forEach((asks, frame) => {
      const { plan } = frames[frame] as { plan: CascadePlan }
      const packed = bytes.subarray(from, (from += Math.ceil(asks.length / 8)))
      asks.forEach((ask, index) => {
        const mask = maskOfIndices(maskOf(ask, plan, cascadeSeed), plan.frameBits)
        parities.push({ frame, mask, value: ((packed[index >> 3] as number) >> (index & 7)) & 1 })
      })
      const spare = asks.length & 7
      if (spare !== 0 && (packed.at(-1) as number) >> spare !== 0) throw new Error('a spare bit of the parities is set')
    })
    if (from !== bytes.length) throw new Error('parities nobody asked for')
  }
  note(
    first.subarray(16),
    frames.map(({ plan }) => [...firstAsks(plan)]),
  )

  const frameTags: { hashKey: Buffer; frames: number[]; tags: Buffer }[] = []
  for (let open = frames.map((_, index) => index); open.length > 0;) {
    for (;;) {
      const asked = readAsks(take('bob', 'asks'), frameCount)
      if (asked.every((asks) => asks.length === 0)) break
      note(take('alice', 'parities'), asked)
    }
    const said = take('alice', 'frame-tags')
    if (said.length !== 16 + 4 * open.length) throw new Error('FRAME-TAGS has another length')
    frameTags.push({ hashKey: said.subarray(0, 16), frames: open, tags: said.subarray(16) })
    const result = take('bob', 'frame-result')
    if (result.length !== open.length) throw new Error('FRAME-RESULT has another length')
    open = open.filter((_, index) => result[index] === 0)
  }

  const verify = take('alice', 'verify')
  if (verify.length !== 32) throw new Error('VERIFY has another length')
  const verified = take('bob', 'verified')
  if (verified.length !== 4 + 4 * profile.intensities.length) throw new Error('VERIFIED has another length')
  const amplify = take('alice', 'amplify')
  const headBytes = 8 + verified.length + counts.length
  if (amplify.length !== headBytes + Math.ceil((keyBits - 1) / 8)) throw new Error('AMPLIFY has another length')
  const repeated = Buffer.concat([verified.subarray(0, 4), counts, verified.subarray(4)])
  if (!amplify.subarray(8, headBytes).equals(repeated)) throw new Error('AMPLIFY does not repeat what Bob counted')
  if (take('alice', 'tag').length !== 16 || take('bob', 'tag').length !== 16) throw new Error('a tag has another length')
  if (at !== said.length) throw new Error(`after the end of the block: ${peek()}`)

  return {
    deviceBlock: start.deviceBlock,
    clicks,
    revealed,
    frames,
    cascadeSeed,
    parities,
    frameTags,
    verification: { hashKey: verify.subarray(0, 16), tag: verify.subarray(16) },
    amplificationSeed: amplify.subarray(headBytes),
    rank: () => {
      const spans = frames.map(({ plan }) => createParitySpan(plan.frameBits))
      for (const { frame, mask } of parities) spans[frame]?.add(mask)
      return spans.reduce((sum, { rank }) => sum + rank, 0)
    },
    tagBits: frameTags.reduce((sum, { tags }) => sum + tags.length * 8, verify.length * 8 - 128),
  }
}

/** Bases of all clicks, then two bits of intensity for each click in the same basis, then the value of each in basis Z. */
const readReveal = (bytes: Buffer, clicks: readonly Click[]): AuditedBlock['revealed'] => {
  let byte = 0
  const read = (count: number, bitsEach: number): number[] => {
    const part = bytes.subarray(byte, (byte += Math.ceil((count * bitsEach) / 8)))
    const bitOf = (index: number): number => ((part[index >> 3] as number) >> (index & 7)) & 1
    for (let spare = count * bitsEach; spare < part.length * 8; spare += 1) if (bitOf(spare) === 1) throw new Error('a spare bit')
    return Array.from({ length: count }, (_, index) =>
      bitsEach === 1 ? bitOf(index) : bitOf(index * 2) + 2 * bitOf(index * 2 + 1),
    )
  }
  const bases = read(clicks.length, 1)
  const matched = clicks.flatMap(({ bobBasis }, index) => (bases[index] === bobBasis ? [index] : []))
  const intensities = read(matched.length, 2)
  const zValues = read(matched.filter((index) => bases[index] === 1).length, 1)
  if (byte !== bytes.length) throw new Error('REVEAL says more than bases, intensities and values of basis Z')
  return { bases, intensities, zValues, key: matched.filter((index) => bases[index] === 0) }
}

const readAsks = (bytes: Buffer, frameCount: number): number[][] => {
  let at = 0
  const asked = Array.from({ length: frameCount }, () => {
    const count = bytes.readUInt16BE(at)
    at += 2 + count * 4
    return Array.from({ length: count }, (_, index) => bytes.readUInt32BE(at - 4 * (count - index)))
  })
  if (at !== bytes.length) throw new Error('ASKS says something unknown')
  return asked
}
