import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { crc32 } from 'node:zlib'
import {
  createFrameDecoder,
  encodeFrame,
  FrameError,
  MAX_FRAME_BYTES,
  MAX_KEY_BYTES,
} from '../../src/link/drivers/frame-codec.ts'
import type { Frame } from '../../src/link/drivers/frame-codec.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'

/** A frame with its key as hex, so that frames can be compared. */
const plain = (frame: Frame): object =>
  frame.type === 'block' ? { ...frame, key: frame.key.use((key) => key.toString('hex')) } : frame

/** What a receiver sees: frames, then perhaps a refusal. */
const decodeAll = (chunks: readonly Buffer[]): { frames: object[]; refusal: string | undefined } => {
  const decoder = createFrameDecoder()
  const frames: object[] = []
  try {
    for (const chunk of chunks) for (const frame of decoder.push(Buffer.from(chunk))) frames.push(plain(frame))
    return { frames, refusal: undefined }
  } catch (error) {
    if (!(error instanceof FrameError)) throw error
    return { frames, refusal: error.message }
  }
}

const splitAt = (bytes: Buffer, cuts: readonly number[]): Buffer[] => {
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b)
  return [0, ...places].map((from, index) => bytes.subarray(from, places[index]))
}

const text = (minLength: number): fc.Arbitrary<string> => fc.string({ unit: 'grapheme-ascii', minLength, maxLength: 64 })
const sequence = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER })
const anyFrame: fc.Arbitrary<() => Frame> = fc.oneof(
  fc
    .record({ runId: text(1), linkName: text(0), name: text(0), resumeFrom: sequence })
    .map((fields) => (): Frame => ({ type: 'hello', ...fields })),
  fc
    .record({
      sequence,
      deviceBlock: text(1),
      qber: fc.option(
        fc.integer({ min: 0, max: 1_000_000 }).map((millionths) => millionths / 1_000_000),
        { nil: undefined },
      ),
      key: fc.uint8Array({ minLength: 1, maxLength: 300 }),
    })
    .map(({ key, ...fields }) => (): Frame => ({ type: 'block', ...fields, key: SecretBytes.adopt(Buffer.from(key)) })),
  fc.integer({ min: 0, max: 0xffffffff }).map((blocks) => (): Frame => ({ type: 'credit', blocks })),
  sequence.map((acknowledged) => (): Frame => ({ type: 'ack', sequence: acknowledged })),
  text(0).map((reason) => (): Frame => ({ type: 'error', reason })),
  fc.constant((): Frame => ({ type: 'keepalive' })),
)

const blockBytes = (): Buffer =>
  encodeFrame({
    type: 'block',
    sequence: 7,
    deviceBlock: 'b7',
    qber: 0.025,
    key: SecretBytes.adopt(Buffer.from('00112233', 'hex')),
  })

/** Puts a right checksum under changed bytes. */
const reseal = (bytes: Buffer): Buffer => {
  bytes.writeUInt32BE(crc32(bytes.subarray(0, -4)), bytes.length - 4)
  return bytes
}

const frameOf = (type: number, payload: Buffer): Buffer => {
  const header = Buffer.from([0x51, 0x4b, 0x44, 0x46, 1, type, 0, 0, 0, 0])
  header.writeUInt32BE(payload.length, 6)
  return reseal(Buffer.concat([header, payload, Buffer.alloc(4)]))
}

describe('frame codec', () => {
  it('has the byte layout that docs/device-protocol.md gives as its example', () => {
    expect(blockBytes().toString('hex')).toBe(
      '514b4446' + '01' + '03' + '00000013' + '0000000000000007' + '000061a8' + '02' + '6237' + '00112233' + 'f234179a',
    )
  })

  it('decodes what it encodes, however the bytes are split', () => {
    fc.assert(
      fc.property(fc.array(anyFrame, { maxLength: 6 }), fc.array(fc.nat(), { maxLength: 12 }), (makers, cuts) => {
        const expected = makers.map((make) => plain(make()))
        const bytes = Buffer.concat(makers.map((make) => encodeFrame(make())))
        expect(decodeAll(splitAt(bytes, cuts))).toEqual({ frames: expected, refusal: undefined })
        expect(decodeAll([...bytes].map((byte) => Buffer.from([byte])))).toEqual({ frames: expected, refusal: undefined })
      }),
      { numRuns: 150 },
    )
  })

  it('refuses the same damaged stream in the same way, however it is split', () => {
    fc.assert(
      fc.property(
        fc.array(anyFrame, { minLength: 1, maxLength: 4 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        fc.array(fc.nat(), { maxLength: 8 }),
        (makers, place, change, cuts) => {
          const bytes = Buffer.concat(makers.map((make) => encodeFrame(make())))
          const index = place % bytes.length
          bytes.writeUInt8(bytes.readUInt8(index) ^ change, index)
          const whole = decodeAll([bytes])
          expect(decodeAll(splitAt(bytes, cuts))).toEqual(whole)
          // A changed length may leave the decoder waiting; it never yields the damaged frame.
          expect(whole.frames.length).toBeLessThan(makers.length)
        },
      ),
      { numRuns: 200 },
    )
  })

  it('refuses any single wrong bit of a block', () => {
    const length = blockBytes().length
    for (let bit = 0; bit < length * 8; bit += 1) {
      const bytes = blockBytes()
      bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      expect(decodeAll([bytes]).frames).toEqual([])
    }
  })

  it.each([
    ['wrong first bytes', Buffer.from('GET / HTTP/1.1\r\n'), 'wrong first bytes'],
    ['unknown version', reseal(Buffer.from(blockBytes().fill(2, 4, 5))), 'unknown protocol version 2'],
    ['unknown type', frameOf(9, Buffer.alloc(0)), 'unknown frame type 9'],
    ['block without key', frameOf(3, Buffer.from('0000000000000001' + 'ffffffff' + '01' + '62', 'hex')), 'without key'],
    ['block with empty ID', frameOf(3, Buffer.from('0000000000000001' + 'ffffffff' + '00' + '62', 'hex')), 'too short'],
    ['block with ID past the end', frameOf(3, Buffer.from('0000000000000001' + 'ffffffff' + '40' + '62', 'hex')), 'too short'],
    [
      'block with unprintable ID',
      frameOf(3, Buffer.from('0000000000000001' + 'ffffffff' + '01' + '0a' + '00', 'hex')),
      'printable',
    ],
    ['QBER above 1', frameOf(3, Buffer.from('0000000000000001' + '000f4241' + '01' + '62' + '00', 'hex')), 'QBER'],
    ['sequence 0', frameOf(4, Buffer.alloc(8)), 'sequence number'],
    ['sequence above 2^53-1', frameOf(4, Buffer.alloc(8, 255)), 'sequence number'],
    ['ACK that is too short', frameOf(4, Buffer.alloc(3)), 'wrong length'],
    ['ACK that is too long', frameOf(4, Buffer.alloc(9)), 'wrong length'],
    ['empty BLOCK', frameOf(3, Buffer.alloc(0)), 'too short'],
    [
      'HELLO with bytes left over',
      frameOf(1, Buffer.from('0000000000000001' + '0161' + '00' + '00' + '00', 'hex')),
      'wrong length',
    ],
    ['KEEPALIVE with payload', frameOf(6, Buffer.alloc(1)), 'wrong length'],
  ])('refuses %s', (_what, bytes, refusal) => {
    expect(decodeAll([bytes])).toEqual({ frames: [], refusal: expect.stringContaining(refusal) })
  })

  it('refuses a frame that is too long from its header alone, before taking memory for it', () => {
    const header = Buffer.from('514b4446' + '01' + '03' + 'ffffffff', 'hex')
    const beforeBytes = process.memoryUsage().arrayBuffers
    expect(decodeAll([header]).refusal).toContain('too long')
    expect(process.memoryUsage().arrayBuffers - beforeBytes).toBeLessThan(MAX_FRAME_BYTES)
  })

  it('carries the longest block allowed and no longer one', () => {
    const make = (keyBytes: number): Buffer =>
      encodeFrame({
        type: 'block',
        sequence: 1,
        deviceBlock: 'x'.repeat(64),
        qber: undefined,
        key: SecretBytes.adopt(Buffer.alloc(keyBytes)),
      })
    expect(make(MAX_KEY_BYTES).length).toBe(MAX_FRAME_BYTES)
    expect(decodeAll([make(MAX_KEY_BYTES)]).frames).toHaveLength(1)
    expect(() => make(MAX_KEY_BYTES + 1)).toThrow(FrameError)
  })

  it('zeroes every byte it was given, also when it refuses them', () => {
    const good = blockBytes()
    expect([...createFrameDecoder().push(good)]).toHaveLength(1)
    expect(good.every((byte) => byte === 0)).toBe(true)
    const bad = blockBytes()
    bad.writeUInt8(bad.readUInt8(30) ^ 1, 30)
    expect(() => [...createFrameDecoder().push(bad)]).toThrow(FrameError)
    expect(bad.every((byte) => byte === 0)).toBe(true)
  })

  it('refuses to encode what it would not decode', () => {
    const key = SecretBytes.adopt(Buffer.alloc(1))
    const good = { type: 'block', sequence: 1, deviceBlock: 'x', qber: 0, key } as const
    expect(() => encodeFrame({ ...good, sequence: 0 })).toThrow(FrameError)
    expect(() => encodeFrame({ ...good, deviceBlock: '' })).toThrow(FrameError)
    expect(() => encodeFrame({ ...good, deviceBlock: 'x'.repeat(65) })).toThrow(FrameError)
    expect(() => encodeFrame({ ...good, deviceBlock: 'é' })).toThrow(FrameError)
    expect(() => encodeFrame({ ...good, qber: 1.1 })).toThrow(FrameError)
    expect(() => encodeFrame({ ...good, qber: NaN })).toThrow(FrameError)
    expect(() => encodeFrame({ ...good, key: SecretBytes.adopt(Buffer.alloc(0)) })).toThrow(FrameError)
  })
})
