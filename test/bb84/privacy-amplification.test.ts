import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { createFourierToeplitz } from '../../src/bb84/fourier-toeplitz.ts'
import { directToeplitz } from '../../src/bb84/direct-toeplitz.ts'
import { AMPLIFICATION_METHOD, amplify, createAmplify, MAX_BIT_COUNT, seedBytes } from '../../src/bb84/privacy-amplification.ts'
import type { ToeplitzProduct } from '../../src/bb84/toeplitz-product.ts'
import { createWasmToeplitz } from '../../src/bb84/wasm-toeplitz.ts'

const bitOf = (bytes: Uint8Array, i: number): number => (bytes[i >> 3]! >> (i & 7)) & 1

/** The definition, bit by bit. */
const bySum = (bits: Uint8Array, bitCount: number, outputBits: number, seed: Uint8Array): Uint8Array => {
  const k = bitCount - outputBits
  const key = new Uint8Array((outputBits + 7) >> 3)
  for (let i = 0; i < outputBits; i += 1) {
    let sum = bitOf(bits, k + i)
    for (let j = 0; j < k; j += 1) sum ^= bitOf(seed, i - j + k - 1) & bitOf(bits, j)
    key[i >> 3]! |= sum << (i & 7)
  }
  return key
}

/** Bytes that look random and are the same in every run. */
const bytesFrom = (start: number, count: number): Uint8Array => {
  let state = start
  return Uint8Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state >>> 24
  })
}

const lengths = fc
  .integer({ min: 0, max: 700 })
  .chain((bitCount) => fc.tuple(fc.constant(bitCount), fc.integer({ min: 0, max: bitCount })))
const tasks = lengths.chain(([bitCount, outputBits]) =>
  fc.record({
    bitCount: fc.constant(bitCount),
    outputBits: fc.constant(outputBits),
    bits: fc.uint8Array({ minLength: (bitCount + 7) >> 3, maxLength: ((bitCount + 7) >> 3) + 3 }),
    seed: fc.uint8Array({ minLength: seedBytes(bitCount), maxLength: seedBytes(bitCount) }),
  }),
)

const wasm = createWasmToeplitz()!

const ways: readonly (readonly [string, ToeplitzProduct])[] = [
  ['the transform in TypeScript', createFourierToeplitz()],
  ['the transform in WebAssembly', wasm],
  ['the definition, word by word', directToeplitz],
]

describe.each(ways)('privacy amplification by %s', (_name, product) => {
  const shorten = createAmplify(product)

  it('gives the direct sum to the bit, for all lengths', () => {
    fc.assert(
      fc.property(tasks, ({ bits, bitCount, outputBits, seed }) => {
        const key = shorten({ bits, bitCount, outputBits, seed })
        expect(key).toEqual(bySum(bits, bitCount, outputBits, seed))
      }),
      { numRuns: 300 },
    )
  })

  it('is two-universal: a pair of strings collides for exactly 2^-l of all seeds, or for none if only x2 differs (n = 6, l = 3)', () => {
    const keys = Array.from({ length: 32 }, (_s, seed) =>
      Array.from({ length: 64 }, (_x, bits) => {
        const key = shorten({ bits: Uint8Array.of(bits), bitCount: 6, outputBits: 3, seed: Uint8Array.of(seed) })
        return key[0]!
      }),
    )
    const sameX1 = (a: number, b: number): boolean => ((a ^ b) & 0b111) === 0
    for (let a = 0; a < 64; a += 1) {
      for (let b = 0; b < a; b += 1) {
        expect(keys.filter((ofSeed) => ofSeed[a] === ofSeed[b])).toHaveLength(sameX1(a, b) ? 0 : 32 / 2 ** 3)
      }
    }
  })
})

describe.each(ways.slice(0, 2))('privacy amplification by %s', (_name, product) => {
  it('agrees with the definition at the length of a real block, and is off a whole number by less than 1e-6', () => {
    for (const bitCount of [2 ** 14, 2 ** 15 + 77, 100_003]) {
      const outputBits = bitCount >> 2
      const task = {
        diagonals: bytesFrom(1, seedBytes(bitCount)),
        vector: bytesFrom(2, (bitCount + 7) >> 3),
        vectorBits: bitCount - outputBits,
        outputBits,
      }
      const exact = new Uint8Array((outputBits + 7) >> 3)
      const fast = exact.slice()
      directToeplitz.addTo(exact, task)
      expect(product.addTo(fast, task)).toBeLessThan(1e-6)
      expect(Buffer.compare(fast, exact)).toBe(0)
    }
  })

  it.each([2 ** 20, 2 ** 21])('is off a whole number by less than 1e-6 when all of %i bits are one', (bitCount) => {
    const ones = new Uint8Array(bitCount >> 3).fill(0xff)
    const outputBits = bitCount / 4 + 1
    const vectorBits = bitCount - outputBits
    const key = new Uint8Array((outputBits + 7) >> 3)
    expect(product.addTo(key, { diagonals: ones, vector: ones, vectorBits, outputBits })).toBeLessThan(1e-6)
    // Each sum is vectorBits, an odd number.
    expect(key.subarray(0, -1).every((byte) => byte === 0xff)).toBe(true)
  })

  it('leaves nothing in the work space for the next string', () => {
    const long = { bits: bytesFrom(3, 80), bitCount: 640, outputBits: 200, seed: bytesFrom(4, 80) }
    const short = { bits: bytesFrom(5, 66), bitCount: 521, outputBits: 5, seed: bytesFrom(6, 65) }
    const shorten = createAmplify(product)
    shorten(long)
    expect(shorten(short)).toEqual(bySum(short.bits, 521, 5, short.seed))
  })
})

describe('privacy amplification', () => {
  it('runs in WebAssembly here, and as exactly as any other way', () => {
    expect(AMPLIFICATION_METHOD).toBe('WebAssembly')
    const task = { bits: bytesFrom(9, 2 ** 17), bitCount: 2 ** 20, outputBits: 2 ** 18, seed: bytesFrom(10, 2 ** 17) }
    expect(Buffer.compare(amplify(task), createAmplify(createFourierToeplitz())(task))).toBe(0)
  })

  it('computes the key again from the definition when a sum is too far from a whole number', () => {
    const task = { bits: bytesFrom(7, 40), bitCount: 315, outputBits: 99, seed: bytesFrom(8, 40) }
    for (const distance of [1e-6, 0.49, Number.NaN]) {
      const inexact: ToeplitzProduct = {
        addTo: (output) => {
          output.fill(0x5a)
          return distance
        },
      }
      expect(createAmplify(inexact)(task)).toEqual(bySum(task.bits, 315, 99, task.seed))
    }
  })

  it('neither lengthens a string nor takes a seed or string of the wrong length', () => {
    const bits = new Uint8Array(2)
    const seed = new Uint8Array(2)
    expect(() => amplify({ bits, bitCount: 16, outputBits: 17, seed })).toThrow('only shortens')
    expect(() => amplify({ bits, bitCount: 16, outputBits: -1, seed })).toThrow('only shortens')
    expect(() => amplify({ bits, bitCount: 16, outputBits: 1.5, seed })).toThrow('only shortens')
    expect(() => amplify({ bits, bitCount: 16, outputBits: 8, seed: new Uint8Array(3) })).toThrow('has 2 bytes')
    expect(() => amplify({ bits, bitCount: 17, outputBits: 8, seed })).toThrow('as many as it is told')
    expect(() => amplify({ bits, bitCount: MAX_BIT_COUNT + 1, outputBits: 8, seed })).toThrow(RangeError)
  })

  it('needs n - 1 bits of seed', () => {
    expect([0, 1, 2, 9, 10, 2 ** 20].map(seedBytes)).toEqual([0, 0, 1, 1, 2, 131_072])
  })
})
