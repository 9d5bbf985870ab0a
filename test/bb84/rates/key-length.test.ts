import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { binaryEntropy } from '../../../src/bb84/binary-entropy.ts'
import type { BlockCounts, KeyLengthParameters } from '../../../src/bb84/key-length.ts'
import { keyLength, keyLengthOneDecoy, keyLengthSinglePhoton, keyLengthTwoDecoys } from '../../../src/bb84/key-length.ts'
import { vectorFile } from './vector-file.ts'

interface LimVectors {
  readonly parameters: KeyLengthParameters
  readonly golden: readonly (BlockCounts & {
    readonly leakBits: number
    readonly sX0: number
    readonly sX1: number
    readonly phi: number
    readonly lengthBits: number
    readonly unclippedFloor: number
  })[]
}
type RandomRow = KeyLengthParameters &
  BlockCounts & {
    readonly leakBits: number
    readonly sX0: number
    readonly sX1: number
    readonly phi: number
    readonly unclippedBits: number
    readonly lengthBits: number
  }
interface TomamichelVectors {
  readonly golden: {
    readonly keyBits: number
    readonly testBits: number
    readonly errorRate: number
    readonly leakBits: number
    readonly epsilonSecrecy: number
    readonly epsilonCorrectness: number
    readonly margin: number
    readonly lengthBits: number
  }
  readonly bestSplit: {
    readonly efficiencyF: number
    readonly epsilonSecrecy: number
    readonly epsilonCorrectness: number
    readonly errorRates: readonly number[]
    readonly rows: readonly { readonly sifted: number; readonly keyPerSiftedBit: readonly number[] }[]
  }
  readonly asymptoticThresholds: readonly { readonly efficiencyF: number; readonly errorRate: number }[]
}

const lim = vectorFile('lim-2014.json') as LimVectors
const tomamichel = vectorFile('tomamichel-2012.json') as TomamichelVectors
const golden = lim.golden[0]!
const oneDecoy: KeyLengthParameters = { ...lim.parameters, intensities: [0.5, 0.15], intensityProbabilities: [0.7, 0.3] }
const oneDecoyCounts = { nX: [6_500_000, 850_000], nZ: [720_000, 94_000], mZ: [7_900, 1_050], mX: [71_500, 9_500] }

const relative = (value: number, expected: number) => Math.abs(value - expected) / Math.max(1, Math.abs(expected))

describe('the key length with two decoys (Lim 2014)', () => {
  it.each(lim.golden)('is exact to the bit: $lengthBits', (row) => {
    const length = keyLengthTwoDecoys(row, row.leakBits, lim.parameters)
    expect(length.lengthBits).toBe(row.lengthBits)
    expect(Math.floor(length.unclippedBits)).toBe(row.unclippedFloor)
    expect(relative(length.sX0, row.sX0)).toBeLessThan(1e-9)
    expect(relative(length.sX1, row.sX1)).toBeLessThan(1e-9)
    expect(length.phi).toBeCloseTo(row.phi, 9)
  })

  it('agrees with a second implementation, in Python, on 1,000 random tables of counts', () => {
    const rows = vectorFile('lim-2014-random.json') as readonly RandomRow[]
    expect(rows).toHaveLength(1000)
    expect(rows.filter((row) => row.lengthBits > 0).length).toBeGreaterThan(400)
    for (const row of rows) {
      const length = keyLength(row, row, row.leakBits)
      expect(length.lengthBits).toBe(row.lengthBits)
      expect(relative(length.sX0, row.sX0)).toBeLessThan(1e-9)
      expect(relative(length.sX1, row.sX1)).toBeLessThan(1e-9)
      expect(Math.abs(length.phi - row.phi)).toBeLessThan(1e-12)
    }
  })

  it('falls by exactly the bits disclosed', () => {
    const more = keyLengthTwoDecoys(golden, golden.leakBits + 4711, lim.parameters)
    expect(more.lengthBits).toBe(golden.lengthBits - 4711)
  })

  it('grows with the block more than in proportion', () => {
    const times10 = (counts: readonly number[]) => counts.map((count) => count * 10)
    const larger = { nX: times10(golden.nX), nZ: times10(golden.nZ), mZ: times10(golden.mZ) }
    const length = keyLengthTwoDecoys(larger, 10 * golden.leakBits, lim.parameters)
    expect(length.lengthBits).toBeGreaterThan(10 * golden.lengthBits)
  })

  it('takes an error rate of a half where the test proves nothing', () => {
    const phi = (counts: Partial<BlockCounts>) => keyLengthTwoDecoys({ ...golden, ...counts }, 0, lim.parameters).phi
    expect(phi({ nZ: [0, 0, 0], mZ: [0, 0, 0] })).toBe(0.5)
    // Fewer errors of the decoy than of the vacuum by more than chance: not an error rate of zero.
    expect(phi({ nZ: [720_000, 45_000, 45_000], mZ: [7_900, 0, 45_000] })).toBe(0.5)
    expect(phi({ mZ: golden.nZ })).toBe(0.5)
  })

  it('does not take a test without errors for a link without errors', () => {
    const { phi } = keyLengthTwoDecoys({ ...golden, mZ: [0, 0, 0] }, 0, lim.parameters)
    expect(phi).toBeGreaterThan(1 / golden.nZ[0]!)
    expect(phi).toBeLessThan(1e-3)
  })

  it('is zero under photon-number splitting, which changes the decoys alone', () => {
    const attacked = { ...golden, nX: [6_500_000, 60_000, 100], nZ: [720_000, 6_700, 11], mZ: [7_900, 100, 5] }
    const length = keyLengthTwoDecoys(attacked, golden.leakBits, lim.parameters)
    expect(length).toMatchObject({ sX1: 0, lengthBits: 0 })
  })
})

describe('the key length with one decoy (Rusca 2018)', () => {
  it('gives key, less of it the more errors the key basis had', () => {
    const length = keyLengthOneDecoy(oneDecoyCounts, 656_875, oneDecoy)
    expect(length.lengthBits).toBeGreaterThan(1_000_000)
    const noisier = keyLengthOneDecoy({ ...oneDecoyCounts, mX: [715_000, 95_000] }, 656_875, oneDecoy)
    expect(noisier.sX1).toBeLessThan(length.sX1)
    expect(noisier.lengthBits).toBeLessThan(length.lengthBits)
  })

  it('refuses to guess the errors of the key basis', () => {
    const { nX, nZ, mZ } = oneDecoyCounts
    expect(() => keyLengthOneDecoy({ nX, nZ, mZ }, 0, oneDecoy)).toThrow(/mX/)
  })
})

describe('the key length of a link', () => {
  it('takes the formula that fits the intensities', () => {
    expect(keyLength(lim.parameters, golden, golden.leakBits)).toEqual(
      keyLengthTwoDecoys(golden, golden.leakBits, lim.parameters),
    )
    expect(keyLength(oneDecoy, oneDecoyCounts, 1000)).toEqual(keyLengthOneDecoy(oneDecoyCounts, 1000, oneDecoy))
  })

  it('refuses weak pulses without decoy states', () => {
    const none = { ...lim.parameters, intensities: [0.5], intensityProbabilities: [1] }
    expect(() => keyLength(none, { nX: [1e6], nZ: [1e5], mZ: [1e3] }, 0)).toThrow(
      'weak pulses without decoy states are not secure',
    )
  })

  it.each<readonly [string, Partial<BlockCounts>, number]>([
    ['more errors than events', { mZ: [720_001, 0, 0] }, 0],
    ['a negative count', { nX: [-1, 0, 0] }, 0],
    ['a count that is no number', { nX: [Number.NaN, 0, 0] }, 0],
    ['a count missing', { nZ: [1, 2] }, 0],
    ['a leak that is no number', {}, Number.NaN],
    ['a negative leak', {}, -1],
  ])('refuses impossible input: %s', (_, counts, leakBits) => {
    expect(() => keyLength(lim.parameters, { ...golden, ...counts }, leakBits)).toThrow(RangeError)
  })

  it('never exceeds the block, nor falls below zero, whatever was counted', () => {
    const count = fc.integer({ min: 0, max: 10_000_000 })
    const table = fc.tuple(count, count, count)
    const possible = fc.record({ nX: table, nZ: table, mX: table, mZ: table, leakBits: fc.integer({ min: 0, max: 1_000_000 }) })
    fc.assert(
      fc.property(possible, fc.boolean(), ({ nX, nZ, mX, mZ, leakBits }, two) => {
        const cut = (counts: readonly number[]) => counts.slice(0, two ? 3 : 2)
        const least = (a: readonly number[], b: readonly number[]) => a.map((value, k) => Math.min(value, b[k]!))
        const counts = { nX: cut(nX), nZ: cut(nZ), mX: cut(least(mX, nX)), mZ: cut(least(mZ, nZ)) }
        const all = counts.nX.reduce((sum, value) => sum + value, 0)
        const length = keyLength(two ? lim.parameters : oneDecoy, counts, leakBits)
        expect(Number.isSafeInteger(length.lengthBits)).toBe(true)
        expect(length.lengthBits).toBeGreaterThanOrEqual(0)
        expect(length.lengthBits).toBeLessThanOrEqual(Math.max(0, all - leakBits))
        expect(length.phi).toBeGreaterThan(0)
        expect(length.phi).toBeLessThanOrEqual(0.5)
      }),
      { numRuns: 1_000 },
    )
  })
})

describe('the key length of single photons (Tomamichel 2012)', () => {
  it('is exact to the bit', () => {
    const { margin, lengthBits, ...block } = tomamichel.golden
    const length = keyLengthSinglePhoton(block)
    expect(length.lengthBits).toBe(lengthBits)
    expect(length.phi - block.errorRate).toBeCloseTo(margin, 11)
  })

  it('gives the published share of key at the best split', () => {
    const { efficiencyF, errorRates, rows, ...epsilons } = tomamichel.bestSplit
    for (const { sifted, keyPerSiftedBit } of rows) {
      errorRates.forEach((errorRate, column) => {
        const shares = Array.from({ length: 240 }, (_, step) => {
          const testBits = Math.round(sifted * (0.005 + 0.0025 * step))
          const keyBits = sifted - testBits
          const leakBits = efficiencyF * keyBits * binaryEntropy(errorRate)
          return keyLengthSinglePhoton({ keyBits, testBits, errorRate, leakBits, ...epsilons }).lengthBits / sifted
        })
        expect(Math.abs(Math.max(...shares) - keyPerSiftedBit[column]!)).toBeLessThan(0.001)
      })
    }
  })

  it.each(tomamichel.asymptoticThresholds)('ends at an error rate of $errorRate for f = $efficiencyF', (row) => {
    const share = (errorRate: number) => 1 - (1 + row.efficiencyF) * binaryEntropy(errorRate)
    expect(share(row.errorRate - 1e-5)).toBeGreaterThan(0)
    expect(share(row.errorRate + 1e-5)).toBeLessThan(0)
    const bits = 1e15
    const leakBits = row.efficiencyF * bits * binaryEntropy(row.errorRate + 1e-4)
    const block = { keyBits: bits, testBits: bits, leakBits, epsilonSecrecy: 1e-10, epsilonCorrectness: 1e-15 }
    expect(keyLengthSinglePhoton({ ...block, errorRate: row.errorRate + 1e-4 }).lengthBits).toBe(0)
    expect(keyLengthSinglePhoton({ ...block, errorRate: row.errorRate - 2e-4 }).lengthBits).toBeGreaterThan(0)
  })

  it('gives nothing without a test', () => {
    expect(keyLengthSinglePhoton({ ...tomamichel.golden, testBits: 0 })).toEqual({ lengthBits: 0, unclippedBits: 0, phi: 0.5 })
  })
})
