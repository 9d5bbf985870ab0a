import { describe, expect, it } from '@jest/globals'
import { createPhotonDecoder, encodePhotonFrame, MAX_SLOTS, PhotonFrameError } from '../../src/bb84/photon-wire.ts'
import type { HelloFrame, PhotonFrame, PhotonFrameType } from '../../src/bb84/photon-wire.ts'
import { seededRandom } from './seeded-random.ts'

const ALL: readonly PhotonFrameType[] = ['hello', 'hello-ok', 'error', 'pulses', 'arrival', 'bases', 'clicks']
const HELLO: HelloFrame = {
  type: 'hello',
  role: 'alice',
  linkId: 'A-B',
  sessionId: 'session 1',
  slotsPerBurst: 2 ** 18,
  intensities: [0.5, 0.1, 0.0002],
}
const FRAMES: readonly PhotonFrame[] = [
  HELLO,
  { ...HELLO, role: 'bob', intensities: [] },
  { type: 'hello-ok' },
  { type: 'error', reason: 'this fibre is link "B-C"' },
  { type: 'pulses', burst: 0, slots: 5, pulses: Uint8Array.of(0x12, 0x34, 0x05) },
  { type: 'pulses', burst: 0xffffffff, slots: 1, pulses: Uint8Array.of(0x0b) },
  { type: 'arrival', burst: 7, slots: MAX_SLOTS },
  { type: 'bases', burst: 8, bases: Uint8Array.of(1, 2, 3) },
  { type: 'clicks', burst: 9, slots: Uint32Array.of(0, 3, 70_000), patterns: Uint8Array.of(1, 2, 3) },
  { type: 'clicks', burst: 10, slots: new Uint32Array(0), patterns: new Uint8Array(0) },
  { type: 'hello-ok' },
]

/** Frames of different byte classes are equal when what they hold is. */
const plain = (frame: PhotonFrame) =>
  Object.fromEntries(
    Object.entries(frame).map(([name, value]) => [name, ArrayBuffer.isView(value) ? [...(value as Uint8Array)] : value]),
  )

const decode = (bytes: Uint8Array, expected = ALL, cut: () => number = () => bytes.length) => {
  const decoder = createPhotonDecoder(expected)
  const frames: PhotonFrame[] = []
  for (let offset = 0; offset < bytes.length;) {
    const length = Math.max(1, cut())
    // What a frame holds must not change with the memory that the chunk is in.
    const chunk = Buffer.from(bytes.subarray(offset, offset + length))
    frames.push(...decoder.push(chunk))
    chunk.fill(0)
    offset += length
  }
  return frames.map(plain)
}

const raw = (type: number, payload: Uint8Array, lengthBytes = payload.length): Buffer => {
  const header = Buffer.alloc(5)
  header.writeUInt32BE(lengthBytes, 0)
  header.writeUInt8(type, 4)
  return Buffer.concat([header, payload])
}
const u32 = (...values: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 4)
  values.forEach((value, index) => bytes.writeUInt32BE(value, 4 * index))
  return bytes
}

describe('photon wire', () => {
  const stream = Buffer.concat(FRAMES.map(encodePhotonFrame))

  it('reads back what it wrote, however the bytes are split', () => {
    const expected = FRAMES.map(plain)
    expect(decode(stream)).toEqual(expected)
    expect(decode(stream, ALL, () => 1)).toEqual(expected)
    const random = seededRandom('splits')
    for (let trial = 0; trial < 200; trial += 1) {
      expect(decode(stream, ALL, () => random.fill(new Uint8Array(1))[0]! >> (trial & 7))).toEqual(expected)
    }
  })

  it('yields a frame as soon as its last byte is there', () => {
    const decoder = createPhotonDecoder(ALL)
    expect([...decoder.push(stream.subarray(0, encodePhotonFrame(HELLO).length - 1))]).toEqual([])
    expect([...decoder.push(stream.subarray(encodePhotonFrame(HELLO).length - 1, encodePhotonFrame(HELLO).length))]).toEqual([
      HELLO,
    ])
    expect([...createPhotonDecoder(ALL).push(encodePhotonFrame({ type: 'hello-ok' }))]).toEqual([{ type: 'hello-ok' }])
  })

  it.each<readonly [string, Uint8Array, string]>([
    ['an unknown type', raw(9, Buffer.alloc(0)), 'unknown type'],
    ['type 0', raw(0, Buffer.alloc(0)), 'unknown type'],
    ['a HELLO of 4 GiB', raw(1, Buffer.alloc(0), 0xffffffff), 'HELLO is too long'],
    ['PULSES of 4 GiB', raw(4, Buffer.alloc(0), 0xffffffff), 'PULSES is too long'],
    ['PULSES of one byte too much', raw(4, Buffer.alloc(0), 9 + MAX_SLOTS / 2), 'PULSES is too long'],
    ['CLICKS of one click too many', raw(7, Buffer.alloc(0), 13 + 5 * MAX_SLOTS), 'CLICKS is too long'],
    ['HELLO-OK with content', raw(2, Buffer.alloc(1)), 'HELLO-OK is too long'],
    ['a HELLO that is no JSON', raw(1, Buffer.from('{')), 'not JSON'],
    ['a HELLO that is null', raw(1, Buffer.from('null')), 'not an object'],
    ['PULSES without slots', raw(4, u32(1, 0)), 'slots'],
    ['PULSES of a length that is not theirs', raw(4, Buffer.concat([u32(1, 4), Buffer.alloc(3)])), 'wrong length'],
    ['PULSES with a pulse too many', raw(4, Buffer.concat([u32(1, 3), Buffer.of(0x11, 0x11)])), 'beyond'],
    ['PULSES cut short', raw(4, Buffer.alloc(7)), 'too short'],
    ['ARRIVAL of too many slots', raw(5, u32(1, MAX_SLOTS + 1)), 'slots'],
    ['ARRIVAL cut short', raw(5, u32(1)), 'wrong length'],
    ['BASES without bases', raw(6, u32(1)), 'slots'],
    ['CLICKS of a count that is not theirs', raw(7, u32(1, 2)), 'wrong length'],
    ['CLICKS out of order', raw(7, Buffer.concat([u32(1, 2, 5, 5), Buffer.of(1, 1)])), 'ascending'],
    ['CLICKS without a detector', raw(7, Buffer.concat([u32(1, 1, 5), Buffer.of(0)])), 'pattern'],
    ['CLICKS of a third detector', raw(7, Buffer.concat([u32(1, 1, 5), Buffer.of(4)])), 'pattern'],
    ['an ERROR that is no plain text', raw(3, Buffer.of(10)), 'plain text'],
  ])('refuses %s, byte by byte too', (_what, bytes, reason) => {
    expect(() => decode(bytes)).toThrow(PhotonFrameError)
    expect(() => decode(bytes)).toThrow(reason)
    expect(() => decode(bytes, ALL, () => 1)).toThrow(reason)
  })

  it.each<readonly [string, Record<string, unknown>]>([
    ['another version', { protocolVersion: 2 }],
    ['no role', { role: 'eve' }],
    ['an empty session', { sessionId: '' }],
    ['a session of 65 characters', { sessionId: 'x'.repeat(65) }],
    ['a link that is a number', { linkId: 7 }],
    ['unprintable characters', { linkId: 'a\nb' }],
    ['half a slot', { slotsPerBurst: 0.5 }],
    ['more slots than a burst has', { slotsPerBurst: MAX_SLOTS + 1 }],
    ['no intensities', { intensities: [] }],
    ['Bob with intensities', { role: 'bob' }],
    ['too many intensities', { intensities: [5, 4, 3, 2, 1] }],
    ['weakest first', { intensities: [0.1, 0.5] }],
    ['negative light', { intensities: [0.5, -0.1] }],
    ['words for light', { intensities: ['bright'] }],
  ])('refuses a HELLO with %s', (_what, change) => {
    const { type: _type, ...fields } = HELLO
    const bytes = raw(1, Buffer.from(JSON.stringify({ protocolVersion: 1, ...fields, ...change })))
    expect(() => decode(bytes)).toThrow(PhotonFrameError)
  })

  it('refuses what is not expected now, before it takes memory for it', () => {
    expect(() => decode(raw(4, Buffer.alloc(0), 2 ** 20), ['hello'])).toThrow('PULSES is not expected')
    const decoder = createPhotonDecoder(['hello'])
    const both = Buffer.concat([encodePhotonFrame(HELLO), encodePhotonFrame(FRAMES[4]!)])
    const seen: string[] = []
    for (const frame of decoder.push(both)) {
      seen.push(frame.type)
      decoder.expect(['pulses'])
    }
    expect(seen).toEqual(['hello', 'pulses'])
  })

  it('does not write what it would not read', () => {
    expect(() => encodePhotonFrame({ ...HELLO, sessionId: '' })).toThrow(PhotonFrameError)
    expect(() => encodePhotonFrame({ type: 'error', reason: 'x'.repeat(256) })).toThrow(PhotonFrameError)
    expect(() => encodePhotonFrame({ type: 'pulses', burst: 1, slots: 4, pulses: new Uint8Array(1) })).toThrow(PhotonFrameError)
    expect(() => encodePhotonFrame({ type: 'clicks', burst: 1, slots: Uint32Array.of(1), patterns: new Uint8Array(0) })).toThrow(
      PhotonFrameError,
    )
  })
})
