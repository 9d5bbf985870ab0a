/** Frames of the device protocol (docs/device-protocol.md) as bytes: a pure encoder and an incremental decoder.
 *  Holds: any split of a byte stream decodes to the same frames and the same refusal; the length is checked before
 *  memory is taken for it; key bytes leave here only as SecretBytes, and every byte the decoder has read is zeroed. */
import { crc32 } from 'node:zlib'
import { SecretBytes } from '../../kernel/secret-bytes.ts'

export const PROTOCOL_VERSION = 1
/** A whole frame, header and checksum included. */
export const MAX_FRAME_BYTES = 1_048_576
const MAGIC = Buffer.from('QKDF', 'latin1')
const HEADER_BYTES = 10
const CHECKSUM_BYTES = 4
const MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - HEADER_BYTES - CHECKSUM_BYTES
const MAX_NAME_BYTES = 64
const MAX_REASON_BYTES = 255
const BLOCK_FIXED_BYTES = 13
/** The most key bytes one BLOCK carries whatever its block ID. */
export const MAX_KEY_BYTES = MAX_PAYLOAD_BYTES - BLOCK_FIXED_BYTES - MAX_NAME_BYTES
const QBER_UNIT = 1_000_000
const QBER_UNKNOWN = 0xffffffff

/** First frame of both sides. */
export interface HelloFrame {
  readonly type: 'hello'
  /** The device's run, 1 to 64 characters; the driver repeats it. */
  readonly runId: string
  /** The link the sender believes to be on; empty when it does not know. */
  readonly linkName: string
  /** Who is speaking, for people; may be empty. */
  readonly name: string
  /** From a device: the first sequence number it never sent. From a driver: the first one it has not stored. */
  readonly resumeFrom: number
}

export interface BlockFrame {
  readonly type: 'block'
  readonly sequence: number
  /** 1 to 64 printable ASCII characters. */
  readonly deviceBlock: string
  /** 0 to 1, or undefined when the device does not say. */
  readonly qber: number | undefined
  readonly key: SecretBytes
}

export type Frame =
  | HelloFrame
  | BlockFrame
  | { readonly type: 'credit'; readonly blocks: number }
  | { readonly type: 'ack'; readonly sequence: number }
  | { readonly type: 'error'; readonly reason: string }
  | { readonly type: 'keepalive' }

const TYPE_CODES = { hello: 1, credit: 2, block: 3, ack: 4, error: 5, keepalive: 6 } as const satisfies Record<
  Frame['type'],
  number
>
const TYPES = new Map<number, Frame['type']>(Object.entries(TYPE_CODES).map(([type, code]) => [code, type as Frame['type']]))

/** The bytes are not a frame, or a frame was not allowed where it came. The text never holds key bytes. */
export class FrameError extends Error {
  override readonly name = 'FrameError'
}

/** @returns the frame's bytes. Those of a BLOCK hold the key: the caller zeroes them once they are sent.
 *  @throws FrameError when a field is outside its limits. */
export const encodeFrame = (frame: Frame): Buffer => {
  const payloadBytes = payloadLength(frame)
  if (payloadBytes > MAX_PAYLOAD_BYTES) throw new FrameError(`a frame holds at most ${MAX_FRAME_BYTES} bytes`)
  const bytes = Buffer.allocUnsafeSlow(HEADER_BYTES + payloadBytes + CHECKSUM_BYTES)
  MAGIC.copy(bytes)
  bytes.writeUInt8(PROTOCOL_VERSION, 4)
  bytes.writeUInt8(TYPE_CODES[frame.type], 5)
  bytes.writeUInt32BE(payloadBytes, 6)
  writePayload(frame, bytes.subarray(HEADER_BYTES, HEADER_BYTES + payloadBytes))
  const checked = bytes.subarray(0, HEADER_BYTES + payloadBytes)
  bytes.writeUInt32BE(crc32(checked), checked.length)
  return bytes
}

const payloadLength = (frame: Frame): number => {
  switch (frame.type) {
    case 'hello':
      return 8 + 3 + frame.runId.length + frame.linkName.length + frame.name.length
    case 'block':
      return BLOCK_FIXED_BYTES + frame.deviceBlock.length + frame.key.lengthBytes
    case 'credit':
      return 4
    case 'ack':
      return 8
    case 'error':
      return frame.reason.length
    case 'keepalive':
      return 0
  }
}

const writePayload = (frame: Frame, payload: Buffer): void => {
  switch (frame.type) {
    case 'hello': {
      writeSequence(payload, 0, frame.resumeFrom)
      let offset = writeName(payload, 8, frame.runId, 1)
      offset = writeName(payload, offset, frame.linkName, 0)
      writeName(payload, offset, frame.name, 0)
      return
    }
    case 'block': {
      writeSequence(payload, 0, frame.sequence)
      payload.writeUInt32BE(frame.qber === undefined ? QBER_UNKNOWN : toMillionths(frame.qber), 8)
      const offset = writeName(payload, 12, frame.deviceBlock, 1)
      if (frame.key.lengthBytes === 0) throw new FrameError('a block holds at least one key byte')
      frame.key.use((key) => key.copy(payload, offset))
      return
    }
    case 'credit':
      payload.writeUInt32BE(frame.blocks, 0)
      return
    case 'ack':
      writeSequence(payload, 0, frame.sequence)
      return
    case 'error':
      if (frame.reason.length > MAX_REASON_BYTES) throw new FrameError('the reason is too long')
      writeText(payload, 0, frame.reason)
      return
    case 'keepalive':
  }
}

const toMillionths = (qber: number): number => {
  if (!(qber >= 0 && qber <= 1)) throw new FrameError('QBER is not between 0 and 1')
  return Math.round(qber * QBER_UNIT)
}

const writeSequence = (payload: Buffer, offset: number, sequence: number): void => {
  if (!Number.isSafeInteger(sequence) || sequence < 1) throw new FrameError('a sequence number is 1 to 2^53-1')
  payload.writeBigUInt64BE(BigInt(sequence), offset)
}

const writeName = (payload: Buffer, offset: number, name: string, minBytes: number): number => {
  if (name.length < minBytes || name.length > MAX_NAME_BYTES) throw new FrameError('a name is too short or too long')
  payload.writeUInt8(name.length, offset)
  return writeText(payload, offset + 1, name)
}

const PRINTABLE = /^[\x20-\x7e]*$/

const writeText = (payload: Buffer, offset: number, text: string): number => {
  if (!PRINTABLE.test(text)) throw new FrameError('a text is not printable ASCII')
  return offset + payload.write(text, offset, 'latin1')
}

export interface FrameDecoder {
  /** Takes over `chunk`, which is zeroed, and yields the frames it completes. Run it to its end.
   *  The keys of the frames it yields belong to the caller.
   *  @throws FrameError at the first byte that cannot be part of a frame; the decoder is of no use afterwards. */
  push(chunk: Buffer): Iterable<Frame>
  /** Zeroes what was read of an unfinished frame. */
  wipe(): void
}

export const createFrameDecoder = (): FrameDecoder => {
  const header = Buffer.alloc(HEADER_BYTES)
  let headerFilled = 0
  let body: Buffer | undefined
  let bodyFilled = 0

  const wipe = (): void => {
    body?.fill(0)
    body = undefined
    headerFilled = 0
    bodyFilled = 0
  }

  function* push(chunk: Buffer): Generator<Frame, void, undefined> {
    let offset = 0
    try {
      while (offset < chunk.length) {
        if (body === undefined) {
          const copied = chunk.copy(header, headerFilled, offset)
          offset += copied
          headerFilled += copied
          if (headerFilled === HEADER_BYTES) body = Buffer.allocUnsafeSlow(checkedPayloadBytes(header) + CHECKSUM_BYTES)
          continue
        }
        const copied = chunk.copy(body, bodyFilled, offset)
        offset += copied
        bodyFilled += copied
        if (bodyFilled < body.length) continue
        let frame: Frame
        try {
          frame = readFrame(header, body)
        } finally {
          wipe()
        }
        yield frame
      }
    } finally {
      chunk.fill(0)
    }
  }

  return { push, wipe }
}

const checkedPayloadBytes = (header: Buffer): number => {
  if (!header.subarray(0, MAGIC.length).equals(MAGIC)) throw new FrameError('not a frame: wrong first bytes')
  if (header.readUInt8(4) !== PROTOCOL_VERSION) throw new FrameError(`unknown protocol version ${header.readUInt8(4)}`)
  if (!TYPES.has(header.readUInt8(5))) throw new FrameError(`unknown frame type ${header.readUInt8(5)}`)
  const payloadBytes = header.readUInt32BE(6)
  if (payloadBytes > MAX_PAYLOAD_BYTES) throw new FrameError(`frame too long: ${payloadBytes} bytes of payload`)
  return payloadBytes
}

const readFrame = (header: Buffer, body: Buffer): Frame => {
  const payload = body.subarray(0, body.length - CHECKSUM_BYTES)
  if (crc32(payload, crc32(header)) !== body.readUInt32BE(payload.length)) throw new FrameError('wrong checksum')
  const type = TYPES.get(header.readUInt8(5))
  switch (type) {
    case 'hello': {
      const runId = readName(payload, 8, 1)
      const linkName = readName(payload, runId.end, 0)
      const name = readName(payload, linkName.end, 0)
      requireLength(payload, name.end)
      return {
        type,
        runId: runId.text,
        linkName: linkName.text,
        name: name.text,
        resumeFrom: readSequence(payload),
      }
    }
    case 'block': {
      const deviceBlock = readName(payload, 12, 1)
      if (payload.length === deviceBlock.end) throw new FrameError('block without key bytes')
      const millionths = payload.readUInt32BE(8)
      if (millionths > QBER_UNIT && millionths !== QBER_UNKNOWN) throw new FrameError('QBER above 1')
      return {
        type,
        sequence: readSequence(payload),
        deviceBlock: deviceBlock.text,
        qber: millionths === QBER_UNKNOWN ? undefined : millionths / QBER_UNIT,
        key: SecretBytes.take(payload.subarray(deviceBlock.end)),
      }
    }
    case 'credit':
      requireLength(payload, 4)
      return { type, blocks: payload.readUInt32BE(0) }
    case 'ack':
      requireLength(payload, 8)
      return { type, sequence: readSequence(payload) }
    case 'error':
      if (payload.length > MAX_REASON_BYTES) throw new FrameError('the reason is too long')
      return { type, reason: readText(payload) }
    case 'keepalive':
      requireLength(payload, 0)
      return { type }
    case undefined:
      throw new FrameError('unknown frame type')
  }
}

const requireLength = (payload: Buffer, lengthBytes: number): void => {
  if (payload.length !== lengthBytes) throw new FrameError('wrong length of payload')
}

const readSequence = (payload: Buffer): number => {
  const sequence = Number(payload.readBigUInt64BE(0))
  if (!Number.isSafeInteger(sequence) || sequence < 1) throw new FrameError('a sequence number is 1 to 2^53-1')
  return sequence
}

const readName = (payload: Buffer, offset: number, minBytes: number): { readonly text: string; readonly end: number } => {
  const lengthBytes = payload[offset]
  if (lengthBytes === undefined || offset + 1 + lengthBytes > payload.length) throw new FrameError('payload too short')
  if (lengthBytes < minBytes || lengthBytes > MAX_NAME_BYTES) throw new FrameError('a name is too short or too long')
  const end = offset + 1 + lengthBytes
  return { text: readText(payload.subarray(offset + 1, end)), end }
}

const readText = (bytes: Buffer): string => {
  if (!bytes.every((byte) => byte >= 0x20 && byte <= 0x7e)) throw new FrameError('a text is not printable ASCII')
  return bytes.toString('latin1')
}
