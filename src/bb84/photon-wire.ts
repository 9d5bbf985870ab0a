/** What a station and the quantum channel's emulator say to each other over TCP, as bytes: a pure encoder and an incremental decoder.
 *  It stands for the two ends of a fibre: Alice puts pulses in, Bob turns his modulator to a basis per slot and sees clicks.
 *
 *  A frame is a length (u32, of the payload), a type (u8) and the payload; integers are big-endian.
 *  - HELLO, from a station: JSON with protocolVersion, role, linkId, sessionId, slotsPerBurst and, from Alice, the intensities of
 *    her source. HELLO-OK (empty) or ERROR (text, after which the connection ends) come back.
 *  - PULSES, from Alice: u32 burst, u32 slots, nibbles (pulse-source.ts).
 *  - ARRIVAL, to Bob: u32 burst, u32 slots. He answers every one, in order, with BASES: u32 burst, packed bits.
 *  - CLICKS, to Bob: u32 burst, u32 count, as many u32 slots in ascending order, as many bytes of patterns (1: detector 0,
 *    2: detector 1, 3: both).
 *  Holds: any split of a byte stream decodes to the same frames and the same refusal; the length is checked against the type and
 *  against what is expected now before memory is taken for it. */
import { endianness } from 'node:os'
import { basesBytes, pulsesBytes } from './pulse-source.ts'

export const PROTOCOL_VERSION = 1
/** The most slots of a burst. */
export const MAX_SLOTS = 2 ** 22
const HEADER_BYTES = 5
const MAX_HELLO_BYTES = 4_096
const MAX_REASON_BYTES = 255
const MAX_NAME_LENGTH = 64
const MAX_INTENSITIES = 4
const CLICK_BYTES = 5

export type Role = 'alice' | 'bob'

export interface HelloFrame {
  readonly type: 'hello'
  readonly role: Role
  readonly linkId: string
  /** Alice and Bob are on the same light when they name the same session: 1 to 64 printable characters. */
  readonly sessionId: string
  /** No burst of the session is longer. */
  readonly slotsPerBurst: number
  /** Mean photons per pulse by index, strongest first; empty from Bob. */
  readonly intensities: readonly number[]
}

export interface PulsesFrame {
  readonly type: 'pulses'
  readonly burst: number
  readonly slots: number
  readonly pulses: Uint8Array
}

export interface ArrivalFrame {
  readonly type: 'arrival'
  readonly burst: number
  readonly slots: number
}

export interface BasesFrame {
  readonly type: 'bases'
  readonly burst: number
  readonly bases: Uint8Array
}

export interface ClicksFrame {
  readonly type: 'clicks'
  readonly burst: number
  /** Ascending. */
  readonly slots: Uint32Array
  readonly patterns: Uint8Array
}

export type PhotonFrame =
  | HelloFrame
  | { readonly type: 'hello-ok' }
  | { readonly type: 'error'; readonly reason: string }
  | PulsesFrame
  | ArrivalFrame
  | BasesFrame
  | ClicksFrame

export type PhotonFrameType = PhotonFrame['type']

const TYPE_CODES = {
  hello: 1,
  'hello-ok': 2,
  error: 3,
  pulses: 4,
  arrival: 5,
  bases: 6,
  clicks: 7,
} as const satisfies Record<PhotonFrameType, number>
const TYPES = new Map(Object.entries(TYPE_CODES).map(([type, code]) => [code as number, type as PhotonFrameType]))

const MAX_PAYLOAD_BYTES: Record<PhotonFrameType, number> = {
  hello: MAX_HELLO_BYTES,
  'hello-ok': 0,
  error: MAX_REASON_BYTES,
  pulses: 8 + pulsesBytes(MAX_SLOTS),
  arrival: 8,
  bases: 4 + basesBytes(MAX_SLOTS),
  clicks: 8 + CLICK_BYTES * MAX_SLOTS,
}

/** The bytes are not a frame, or a frame came that was not expected. The text holds nothing of the frame's content. */
export class PhotonFrameError extends Error {
  override readonly name = 'PhotonFrameError'
}

const requireThat = (holds: boolean, fault: string): void => {
  if (!holds) throw new PhotonFrameError(fault)
}

/** @throws PhotonFrameError when a field is outside its limits. */
export const encodePhotonFrame = (frame: PhotonFrame): Buffer => {
  switch (frame.type) {
    case 'hello': {
      const { type: _type, ...fields } = checkedHello(frame)
      const text = Buffer.from(JSON.stringify({ protocolVersion: PROTOCOL_VERSION, ...fields }))
      requireThat(text.length <= MAX_HELLO_BYTES, 'HELLO is too long')
      return framed(frame.type, text.length, (payload) => text.copy(payload))
    }
    case 'hello-ok':
      return framed(frame.type, 0, () => undefined)
    case 'error':
      requireThat(PRINTABLE.test(frame.reason) && frame.reason.length <= MAX_REASON_BYTES, 'the reason is no short plain text')
      return framed(frame.type, frame.reason.length, (payload) => payload.write(frame.reason, 'latin1'))
    case 'pulses':
      checkPulses(frame)
      return framed(frame.type, 8 + frame.pulses.length, (payload) => {
        payload.writeUInt32BE(frame.burst, 0)
        payload.writeUInt32BE(frame.slots, 4)
        payload.set(frame.pulses, 8)
      })
    case 'arrival':
      checkSlots(frame.slots)
      return framed(frame.type, 8, (payload) => {
        payload.writeUInt32BE(frame.burst, 0)
        payload.writeUInt32BE(frame.slots, 4)
      })
    case 'bases':
      checkBases(frame)
      return framed(frame.type, 4 + frame.bases.length, (payload) => {
        payload.writeUInt32BE(frame.burst, 0)
        payload.set(frame.bases, 4)
      })
    case 'clicks': {
      checkClicks(frame)
      const { burst, slots, patterns } = frame
      return framed(frame.type, 8 + CLICK_BYTES * slots.length, (payload) => {
        payload.writeUInt32BE(burst, 0)
        payload.writeUInt32BE(slots.length, 4)
        const slotBytes = payload.subarray(8, 8 + 4 * slots.length)
        slotBytes.set(new Uint8Array(slots.buffer, slots.byteOffset, slots.byteLength))
        if (HOST_IS_LITTLE_ENDIAN) slotBytes.swap32()
        payload.set(patterns, 8 + 4 * slots.length)
      })
    }
  }
}

const framed = (type: PhotonFrameType, payloadBytes: number, write: (payload: Buffer) => void): Buffer => {
  const bytes = Buffer.allocUnsafeSlow(HEADER_BYTES + payloadBytes)
  bytes.writeUInt32BE(payloadBytes, 0)
  bytes.writeUInt8(TYPE_CODES[type], 4)
  write(bytes.subarray(HEADER_BYTES))
  return bytes
}

/** Tens of thousands of slots are turned round at once instead of written one by one. */
const HOST_IS_LITTLE_ENDIAN = endianness() === 'LE'

export interface PhotonDecoder {
  /** Says what may come next; everything else is refused. */
  expect(types: readonly PhotonFrameType[]): void
  /** Yields the frames that `chunk` completes. Run it to its end. What the frames hold is memory of their own.
   *  @throws PhotonFrameError at the first byte that cannot be part of an expected frame; the decoder is of no use afterwards. */
  push(chunk: Uint8Array): Iterable<PhotonFrame>
}

export const createPhotonDecoder = (expected: readonly PhotonFrameType[]): PhotonDecoder => {
  let expectedTypes = expected
  const header = Buffer.alloc(HEADER_BYTES)
  let headerFilled = 0
  let type: PhotonFrameType | undefined
  let payload = Buffer.alloc(0)
  let payloadFilled = 0

  function* push(chunk: Uint8Array): Generator<PhotonFrame, void, undefined> {
    let offset = 0
    // A frame without payload is complete although the chunk has ended.
    while (offset < chunk.length || type !== undefined) {
      if (type === undefined) {
        const part = chunk.subarray(offset, offset + HEADER_BYTES - headerFilled)
        header.set(part, headerFilled)
        offset += part.length
        headerFilled += part.length
        if (headerFilled < HEADER_BYTES) return
        type = typeOf(header, expectedTypes)
        payload = Buffer.allocUnsafeSlow(header.readUInt32BE(0))
        payloadFilled = 0
      }
      const part = chunk.subarray(offset, offset + payload.length - payloadFilled)
      payload.set(part, payloadFilled)
      offset += part.length
      payloadFilled += part.length
      if (payloadFilled < payload.length) return
      const frame = readFrame(type, payload)
      type = undefined
      headerFilled = 0
      yield frame
    }
  }

  return {
    expect: (types) => {
      expectedTypes = types
    },
    push,
  }
}

const typeOf = (header: Buffer, expected: readonly PhotonFrameType[]): PhotonFrameType => {
  const type = TYPES.get(header.readUInt8(4))
  if (type === undefined) throw new PhotonFrameError('unknown type of frame')
  requireThat(expected.includes(type), `${type.toUpperCase()} is not expected here`)
  requireThat(header.readUInt32BE(0) <= MAX_PAYLOAD_BYTES[type], `${type.toUpperCase()} is too long`)
  return type
}

const readFrame = (type: PhotonFrameType, payload: Buffer): PhotonFrame => {
  switch (type) {
    case 'hello':
      return readHello(payload)
    case 'hello-ok':
      return { type }
    case 'error': {
      const reason = payload.toString('latin1')
      requireThat(PRINTABLE.test(reason), 'ERROR is no plain text')
      return { type, reason }
    }
    case 'pulses': {
      requireThat(payload.length >= 8, 'PULSES is too short')
      const frame = {
        type,
        burst: payload.readUInt32BE(0),
        slots: payload.readUInt32BE(4),
        pulses: payload.subarray(8),
      }
      checkPulses(frame)
      return frame
    }
    case 'arrival': {
      requireThat(payload.length === 8, 'ARRIVAL has the wrong length')
      const slots = payload.readUInt32BE(4)
      checkSlots(slots)
      return { type, burst: payload.readUInt32BE(0), slots }
    }
    case 'bases': {
      requireThat(payload.length >= 4, 'BASES is too short')
      const frame = { type, burst: payload.readUInt32BE(0), bases: payload.subarray(4) }
      checkBases(frame)
      return frame
    }
    case 'clicks': {
      requireThat(payload.length >= 8, 'CLICKS is too short')
      const count = payload.readUInt32BE(4)
      requireThat(payload.length === 8 + CLICK_BYTES * count, 'CLICKS has the wrong length')
      const slotBytes = payload.subarray(8, 8 + 4 * count)
      if (HOST_IS_LITTLE_ENDIAN) slotBytes.swap32()
      const slots = new Uint32Array(slotBytes.buffer, slotBytes.byteOffset, count)
      const frame = { type, burst: payload.readUInt32BE(0), slots, patterns: payload.subarray(8 + 4 * count) }
      checkClicks(frame)
      return frame
    }
  }
}

const checkSlots = (slots: number): void =>
  requireThat(Number.isInteger(slots) && slots >= 1 && slots <= MAX_SLOTS, `a burst has 1 to ${MAX_SLOTS} slots`)

const checkPulses = ({ slots, pulses }: Pick<PulsesFrame, 'slots' | 'pulses'>): void => {
  checkSlots(slots)
  requireThat(pulses.length === pulsesBytes(slots), 'PULSES has the wrong length')
  requireThat(slots % 2 === 0 || pulses[pulses.length - 1]! >> 4 === 0, 'PULSES has a pulse beyond its last slot')
}

const checkBases = ({ bases }: Pick<BasesFrame, 'bases'>): void =>
  requireThat(bases.length >= 1 && bases.length <= basesBytes(MAX_SLOTS), `a burst has 1 to ${MAX_SLOTS} slots`)

const checkClicks = ({ slots, patterns }: Pick<ClicksFrame, 'slots' | 'patterns'>): void => {
  requireThat(patterns.length === slots.length, 'CLICKS needs a pattern for every slot')
  let before = -1
  for (let index = 0; index < slots.length; index += 1) {
    const slot = slots[index]!
    if (slot <= before || slot >= MAX_SLOTS) throw new PhotonFrameError('the slots of CLICKS are not in ascending order')
    if (patterns[index]! < 1 || patterns[index]! > 3) throw new PhotonFrameError('a pattern is 1, 2 or 3')
    before = slot
  }
}

const PRINTABLE = /^[\x20-\x7e]*$/

const isName = (value: unknown): value is string =>
  typeof value === 'string' && value.length >= 1 && value.length <= MAX_NAME_LENGTH && PRINTABLE.test(value)

const checkedHello = ({ role, linkId, sessionId, slotsPerBurst, intensities }: HelloFrame): HelloFrame => {
  requireThat(isName(linkId), 'linkId is not 1 to 64 printable characters')
  requireThat(isName(sessionId), 'sessionId is not 1 to 64 printable characters')
  checkSlots(slotsPerBurst)
  const most = role === 'alice' ? MAX_INTENSITIES : 0
  const least = role === 'alice' ? 1 : 0
  requireThat(intensities.length >= least && intensities.length <= most, `${role} gives ${least} to ${most} intensities`)
  requireThat(
    intensities.every((mean, index) => mean >= 0 && mean <= (intensities[index - 1] ?? 100)),
    'the intensities are not photon numbers, strongest first',
  )
  return { type: 'hello', role, linkId, sessionId, slotsPerBurst, intensities }
}

const readHello = (payload: Buffer): HelloFrame => {
  let read: unknown
  try {
    read = JSON.parse(payload.toString('utf8'))
  } catch {
    throw new PhotonFrameError('HELLO is not JSON')
  }
  if (typeof read !== 'object' || read === null) throw new PhotonFrameError('HELLO is not an object')
  const { protocolVersion, role, linkId, sessionId, slotsPerBurst, intensities } = read as Partial<Record<string, unknown>>
  requireThat(protocolVersion === PROTOCOL_VERSION, 'HELLO has another protocol version')
  if (role !== 'alice' && role !== 'bob') throw new PhotonFrameError('HELLO has no role')
  if (!isName(linkId) || !isName(sessionId)) throw new PhotonFrameError('HELLO does not name its link and session')
  if (typeof slotsPerBurst !== 'number') throw new PhotonFrameError('HELLO has no slotsPerBurst')
  if (!Array.isArray(intensities) || !intensities.every((mean) => typeof mean === 'number')) {
    throw new PhotonFrameError('HELLO has no intensities')
  }
  return checkedHello({ type: 'hello', role, linkId, sessionId, slotsPerBurst, intensities })
}
