import { readFileSync } from 'node:fs'
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { createTranscriptHash, forgeryBoundLog2, frameTag, sameTag, verificationTag } from '../../src/bb84/universal-hash.ts'
import { drawUniform, systemRandom } from '../../src/kernel/random.ts'

interface Vector {
  readonly r: string
  readonly s: string
  readonly message: string
  readonly tag: string
}

const { vectors } = JSON.parse(readFileSync(new URL('../vectors/rfc8439-poly1305.json', import.meta.url), 'utf8')) as {
  vectors: readonly Vector[]
}

const tagOf = (hashKey: Uint8Array, pad: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array => {
  const hash = createTranscriptHash(hashKey, pad)
  for (const part of parts) hash.update(part)
  return hash.digest()
}

const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'))
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** The definition, in whole numbers. */
const byDefinition = (hashKey: Uint8Array, pad: Uint8Array, message: Uint8Array): Uint8Array => {
  const number = (bytes: Uint8Array): bigint => bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n)
  const r = number(hashKey) & 0x0ffffffc0ffffffc0ffffffc0fffffffn
  let sum = 0n
  for (let from = 0; from < message.length; from += 16) {
    const block = message.subarray(from, from + 16)
    sum = ((sum + number(block) + (1n << BigInt(8 * block.length))) * r) % ((1n << 130n) - 5n)
  }
  const tag = sum + number(pad)
  return Uint8Array.from({ length: 16 }, (_, i) => Number((tag >> BigInt(8 * i)) & 0xffn))
}

const sixteen = fc.uint8Array({ minLength: 16, maxLength: 16 })
const message = fc.uint8Array({ minLength: 1, maxLength: 200 })

const flipped = (bytes: Uint8Array, bit: number): Uint8Array => {
  const changed = bytes.slice()
  changed[bit >> 3]! ^= 1 << (bit & 7)
  return changed
}

describe('universal hash', () => {
  it.each([1, 2, 64])(
    'tells bits that differ in %i places from what they should be, under every one of 500 keys',
    (wrongBits) => {
      const bits = systemRandom.fill(new Uint8Array(100_000 / 8))
      for (let round = 0; round < 500; round += 1) {
        const places = new Set<number>()
        while (places.size < wrongBits) places.add(Math.floor(drawUniform(systemRandom) * bits.length * 8))
        const left = [...places].reduce(flipped, bits)
        const hashKey = systemRandom.fill(new Uint8Array(16))
        expect(sameTag(verificationTag(hashKey, bits), verificationTag(hashKey, bits.slice()))).toBe(true)
        expect(sameTag(verificationTag(hashKey, bits), verificationTag(hashKey, left))).toBe(false)
      }
    },
  )

  it.each(vectors)('agrees with RFC 8439: tag $tag', ({ r, s, message, tag }) => {
    expect(toHex(tagOf(fromHex(r), fromHex(s), fromHex(message)))).toBe(tag)
  })

  it('agrees with its definition in whole numbers, however the transcript is cut', () => {
    fc.assert(
      fc.property(sixteen, sixteen, message, fc.array(fc.nat(200)), (hashKey, pad, bytes, cuts) => {
        const places = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length]
        const parts = places.slice(1).map((end, i) => bytes.subarray(places[i], end))
        expect(tagOf(hashKey, pad, ...parts)).toEqual(byDefinition(hashKey, pad, bytes))
      }),
    )
  })

  it('changes the tag with every single bit of the transcript, the pad and the free bits of the hash key', () => {
    const hashKey = fromHex(vectors[0]!.r)
    const pad = fromHex(vectors[0]!.s)
    const bytes = fromHex(vectors[0]!.message)
    const tag = toHex(tagOf(hashKey, pad, bytes))
    for (let bit = 0; bit < bytes.length * 8; bit += 1) expect(toHex(tagOf(hashKey, pad, flipped(bytes, bit)))).not.toBe(tag)
    for (let bit = 0; bit < 128; bit += 1) expect(toHex(tagOf(hashKey, flipped(pad, bit), bytes))).not.toBe(tag)
    const keyBits = Array.from({ length: 128 }, (_, bit) => toHex(tagOf(flipped(hashKey, bit), pad, bytes)) !== tag)
    expect(keyBits.filter((matters) => matters)).toHaveLength(106)
  })

  it('tells a transcript from the same with zero bytes behind it', () => {
    const hashKey = fromHex(vectors[0]!.r)
    fc.assert(
      fc.property(message, fc.integer({ min: 1, max: 40 }), (bytes, zeros) => {
        const longer = new Uint8Array(bytes.length + zeros)
        longer.set(bytes)
        expect(verificationTag(hashKey, longer)).not.toEqual(verificationTag(hashKey, bytes))
      }),
    )
  })

  it('bounds forgery by 8 ceil(length/16) / 2^106', () => {
    expect(forgeryBoundLog2(2 ** 24)).toBe(-83)
    expect(forgeryBoundLog2(17)).toBe(-102)
    expect(2 ** forgeryBoundLog2(1_000)).toBeCloseTo((8 * 63) / 2 ** 106, 40)
    expect(2 ** forgeryBoundLog2(1_000)).toBeGreaterThan(0)
  })

  it('gives a digest once, and refuses keys of another length', () => {
    const hash = createTranscriptHash(new Uint8Array(16), new Uint8Array(16))
    hash.digest()
    expect(() => hash.digest()).toThrow()
    expect(() => createTranscriptHash(new Uint8Array(15), new Uint8Array(16))).toThrow('16 bytes')
    expect(() => createTranscriptHash(new Uint8Array(16), new Uint8Array(17))).toThrow('16 bytes')
  })

  it('leaves the keys it was lent as they were', () => {
    const hashKey = Uint8Array.from({ length: 16 }, (_, i) => i)
    const pad = Uint8Array.from({ length: 16 }, (_, i) => 255 - i)
    tagOf(hashKey, pad, new Uint8Array(3))
    expect([hashKey[5], pad[5]]).toEqual([5, 250])
  })

  it('verifies with the unmasked hash, and tells frames apart by 32 bits of it', () => {
    fc.assert(
      fc.property(sixteen, message, (hashKey, bits) => {
        expect(verificationTag(hashKey, bits)).toEqual(byDefinition(hashKey, new Uint8Array(16), bits))
        const placed = new Uint8Array(16 + bits.length)
        placed.set([0xff, 0xee, 0xdd, 0xcc])
        placed.set(bits, 16)
        const whole = byDefinition(hashKey, new Uint8Array(16), placed)
        expect(frameTag(hashKey, 0xccddeeff, bits)).toBe(Buffer.from(whole).readUInt32LE(0))
      }),
    )
  })

  it('compares tags', () => {
    const tag = fromHex(vectors[0]!.tag)
    expect(sameTag(tag, tag.slice())).toBe(true)
    for (let bit = 0; bit < 128; bit += 1) expect(sameTag(tag, flipped(tag, bit))).toBe(false)
    expect(sameTag(tag, tag.subarray(0, 8))).toBe(false)
  })
})
