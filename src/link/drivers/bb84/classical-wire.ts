/** Messages of the classical channel between the two stations of a BB84 link (docs/bb84.md), as bytes: a pure encoder and an
 *  incremental decoder. Everything here is public by nature; what must hold is that nobody changes it unnoticed, which
 *  block-conversation.ts sees to.
 *  A message: length of what follows (u32), type (u8), block number (u32, 0 for the session), payload. */

export const WIRE_VERSION = 2
/** A whole message. The seed of privacy amplification is the longest: one bit per sifted bit. */
export const MAX_MESSAGE_BYTES = 8 * 1024 * 1024
const HEADER_BYTES = 9

const TYPE_CODES = {
  hello: 1,
  keepalive: 2,
  'block-start': 3,
  'block-accept': 4,
  clicks: 5,
  tag: 6,
  reveal: 7,
  counts: 8,
  frames: 9,
  asks: 10,
  parities: 11,
  'frame-tags': 12,
  'frame-result': 13,
  verify: 14,
  verified: 15,
  amplify: 16,
  abort: 17,
} as const

export type MessageType = keyof typeof TYPE_CODES

const TYPES = new Map<number, MessageType>(Object.entries(TYPE_CODES).map(([type, code]) => [code, type as MessageType]))

export interface ClassicalMessage {
  readonly type: MessageType
  /** 0: about the session. */
  readonly block: number
  readonly payload: Buffer
  /** The whole message as it went over the wire: what is authenticated. */
  readonly bytes: Buffer
}

/** The bytes are no message, or a message was not allowed where it came. */
export class WireError extends Error {
  override readonly name = 'WireError'
}

export const encodeMessage = (type: MessageType, block: number, payload: Uint8Array): Buffer => {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length)
  bytes.writeUInt32BE(HEADER_BYTES - 4 + payload.length, 0)
  bytes.writeUInt8(TYPE_CODES[type], 4)
  bytes.writeUInt32BE(block, 5)
  bytes.set(payload, HEADER_BYTES)
  return bytes
}

export interface MessageDecoder {
  /** Yields the messages that `chunk` completes. @throws WireError at the first byte that cannot be part of one. */
  push(chunk: Buffer): Iterable<ClassicalMessage>
}

export const createMessageDecoder = (): MessageDecoder => {
  let waiting: Buffer[] = []
  let waitingBytes = 0
  let neededBytes = HEADER_BYTES

  const take = (): Buffer => {
    const bytes = waiting.length === 1 ? (waiting[0] as Buffer) : Buffer.concat(waiting)
    waiting = []
    return bytes
  }

  return {
    *push(chunk) {
      waiting.push(chunk)
      waitingBytes += chunk.length
      if (waitingBytes < neededBytes) return
      let bytes = take()
      for (;;) {
        if (bytes.length < HEADER_BYTES) {
          neededBytes = HEADER_BYTES
          break
        }
        const messageBytes = 4 + bytes.readUInt32BE(0)
        if (messageBytes < HEADER_BYTES || messageBytes > MAX_MESSAGE_BYTES)
          throw new WireError('a message has an impossible length')
        const type = TYPES.get(bytes.readUInt8(4))
        if (type === undefined) throw new WireError('a message is of an unknown type')
        if (bytes.length < messageBytes) {
          neededBytes = messageBytes
          break
        }
        const message = bytes.subarray(0, messageBytes)
        bytes = bytes.subarray(messageBytes)
        yield { type, block: message.readUInt32BE(5), payload: message.subarray(HEADER_BYTES), bytes: message }
      }
      waiting = bytes.length > 0 ? [bytes] : []
      waitingBytes = bytes.length
    },
  }
}
