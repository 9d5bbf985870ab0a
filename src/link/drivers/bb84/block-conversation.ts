/** What the two stations say about one block, authenticated in the manner of Wegman and Carter: each direction is hashed as a whole
 *  under a recycled key of an almost Delta-universal family, and each tag is masked by a one-time pad of its own (Portmann,
 *  arXiv:1202.1229). Three tags per block: Bob's announcement of his clicks, before Alice reveals anything; all of Alice's
 *  messages; the rest of Bob's.
 *  Holds: whatever was changed, dropped, added or reordered in either direction, the HELLOs included, no tag fits. */
import { timingSafeEqual } from 'node:crypto'
import { createTranscriptHash, TAG_BYTES, type TranscriptHash } from '../../../bb84/universal-hash.ts'
import type { SecretBytes } from '../../../kernel/secret-bytes.ts'
import type { BlockChannel } from './classical-session.ts'
import type { MessageType } from './classical-wire.ts'

export const TAGS_PER_BLOCK = 3
export const PAD_BYTES_PER_BLOCK = TAGS_PER_BLOCK * TAG_BYTES

/** A tag does not fit: somebody changed what the stations said, or they do not hold the same authentication key. */
export class AuthenticationFailed extends Error {
  override readonly name = 'AuthenticationFailed'
}

export interface BlockConversation {
  readonly block: number
  send(type: MessageType, payload: Uint8Array): Promise<void>
  receive(type: MessageType): Promise<Buffer>
  /** Authenticates what this end sent since its last tag. */
  sendTag(): Promise<void>
  /** @throws AuthenticationFailed. */
  receiveTag(): Promise<void>
  /** Longest message sequence under one tag so far, for the bound on forgery. */
  longestTranscriptBytes(): number
  close(): void
}

interface Direction {
  /** What was said before the key was known. */
  early: Buffer[]
  hash: TranscriptHash | undefined
  hashedBytes: number
  pads: Buffer[]
}

/** @param context what both ends know of the session, first what Alice said. */
export interface ConversationParts {
  readonly channel: BlockChannel
  readonly role: 'alice' | 'bob'
  readonly context: readonly Buffer[]
}

export interface UnkeyedConversation extends BlockConversation {
  /** From here on everything said about the block is authenticated, including what was said before. Both secrets are wiped.
   *  @param hashKey of the segment. @param pads of the block: Bob's announcement, Alice, Bob's rest. */
  authenticate(hashKey: SecretBytes, pads: SecretBytes): void
}

export const converse = ({ channel, role, context }: ConversationParts): UnkeyedConversation => {
  const newDirection = (speaker: 'alice' | 'bob'): Direction => ({
    early: [Buffer.from(`openkme bb84 ${speaker} 1\n`, 'latin1'), ...context],
    hash: undefined,
    hashedBytes: 0,
    pads: [],
  })
  const own = newDirection(role)
  const others = newDirection(role === 'alice' ? 'bob' : 'alice')
  const hashKey = Buffer.alloc(TAG_BYTES)
  let longestBytes = 0

  const add = (direction: Direction, bytes: Buffer): void => {
    if (direction.hash === undefined) {
      direction.early.push(bytes)
      return
    }
    direction.hashedBytes += bytes.length
    longestBytes = Math.max(longestBytes, direction.hashedBytes)
    direction.hash.update(bytes)
  }
  const begin = (direction: Direction): void => {
    const pad = direction.pads.shift()
    if (pad === undefined) return
    direction.hash = createTranscriptHash(hashKey, pad)
    direction.hashedBytes = 0
    pad.fill(0)
    for (const bytes of direction.early.splice(0)) add(direction, bytes)
  }
  const tagOf = (direction: Direction): Uint8Array => {
    const tag = direction.hash?.digest()
    if (tag === undefined) throw new Error('there is no pad left for another tag')
    direction.hash = undefined
    return tag
  }

  return {
    block: channel.block,
    send: async (type, payload) => add(own, await channel.send(type, payload)),
    receive: async (type) => {
      const message = await channel.receive(type)
      add(others, message.bytes)
      return message.payload
    },
    sendTag: async () => {
      const sent = await channel.send('tag', tagOf(own))
      begin(own)
      add(own, sent)
    },
    receiveTag: async () => {
      const message = await channel.receive('tag')
      const expected = tagOf(others)
      if (message.payload.length !== expected.length || !timingSafeEqual(message.payload, expected)) {
        throw new AuthenticationFailed('what the other station said does not carry its tag')
      }
      begin(others)
      add(others, message.bytes)
    },
    longestTranscriptBytes: () => longestBytes,
    close: () => {
      channel.close()
      hashKey.fill(0)
      for (const pad of [...own.pads, ...others.pads]) pad.fill(0)
    },
    authenticate: (key, pads) => {
      key.use((bytes) => bytes.copy(hashKey))
      key.wipe()
      const [first, second, third] = [0, 1, 2].map((index) => {
        const pad = Buffer.alloc(TAG_BYTES)
        pads.use((bytes) => bytes.copy(pad, 0, index * TAG_BYTES))
        return pad
      }) as [Buffer, Buffer, Buffer]
      pads.wipe()
      const alice = role === 'alice' ? own : others
      const bob = role === 'alice' ? others : own
      bob.pads = [first, third]
      alice.pads = [second]
      begin(own)
      begin(others)
    },
  }
}
