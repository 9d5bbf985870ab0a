import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import type { HealthAlarm } from '../../../src/bb84/health-tests.ts'
import { createHealthTest, proportionCutoff, repetitionCutoff, WINDOW_BITS } from '../../../src/bb84/health-tests.ts'
import { timeLimitMs } from '../../setup/time-limit.ts'
import { vectorFile } from '../rates/vector-file.ts'
import { biasedBits, goodBits, pack } from './faulty-streams.ts'

interface CutoffVectors {
  readonly alphaExponents: readonly number[]
  readonly rows: readonly (readonly number[])[]
}
const cutoffs = vectorFile('health-cutoffs.json') as CutoffVectors

const alarmOf = (bits: Uint8Array, bitCount: number): HealthAlarm | undefined => createHealthTest().examine(bits, bitCount)

describe('the cutoffs of SP 800-90B', () => {
  it.each(cutoffs.rows)('are exact for %d bits per sample in a window of %d', (entropyBits, windowSamples, ...expected) => {
    const computed = cutoffs.alphaExponents.flatMap((exponent) => [
      repetitionCutoff(entropyBits, exponent),
      proportionCutoff(windowSamples, entropyBits, exponent),
    ])
    expect(computed).toEqual(expected)
  })
})

describe('the health tests of a bit stream', () => {
  it('raise no alarm in ten million good bits', () => {
    const test = createHealthTest()
    const next = goodBits(1)
    for (let block = 0; block < 10; block++) test.examine(next(1_000_000), 1_000_000)
    expect(test.alarm).toBeUndefined()
  })

  it.each([0, 1])('find a bit stuck at %d within 41 bits, wherever it starts', (stuck) => {
    for (let start = 0; start < 200; start += 7) {
      const good = goodBits(start + 1)(start + 1)
      const bits = pack(start + 64, (index) =>
        index >= start ? stuck : index === start - 1 ? 1 - stuck : (good[index >> 3]! >> (index & 7)) & 1,
      )
      expect(alarmOf(bits, start + 64)).toEqual({ failed: 'repetition', atBit: start + 41, observed: 41, cutoff: 41 })
      expect(alarmOf(bits, start + 40)).toBeUndefined()
    }
  })

  it.each([0.65, 0.35])('find a share of ones of %d within five windows', (share) => {
    const runs = 400
    let found = 0
    for (let run = 0; run < runs; run++) {
      const alarm = alarmOf(biasedBits(run, 5 * WINDOW_BITS, share), 5 * WINDOW_BITS)
      if (alarm?.failed === 'proportion') found += 1
    }
    expect(found / runs).toBeGreaterThanOrEqual(0.995)
  })

  it.each([
    [2, 0b01],
    [3, 0b011],
    [4, 0b0011],
    [5, 0b01101],
    [6, 0b001011],
    [7, 0b0010111],
    [8, 0b00101101],
  ])('find a pattern of period %d in the first window', (period, pattern) => {
    const bits = pack(WINDOW_BITS, (index) => (pattern >> (index % period)) & 1)
    expect(alarmOf(bits, WINDOW_BITS)).toMatchObject({ atBit: WINDOW_BITS })
  })

  it('name the lag of a period-2 pattern, which has no runs and no bias', () => {
    const bits = pack(WINDOW_BITS, (index) => index & 1)
    // The first bit has no predecessor and is compared with a zero.
    expect(alarmOf(bits, WINDOW_BITS)).toEqual({ failed: 'serial', atBit: 1024, observed: 1023, cutoff: 625, lag: 1 })
  })

  it('find bits that repeat the one before too often, although half of them are ones', () => {
    const fresh = biasedBits(3, 20 * WINDOW_BITS, 0.3)
    let bit = 0
    const bits = pack(20 * WINDOW_BITS, (index) => (bit ^= (fresh[index >> 3]! >> (index & 7)) & 1))
    expect(alarmOf(bits, 20 * WINDOW_BITS)).toMatchObject({ failed: 'serial', lag: 1 })
  })

  it('keep their alarm when the stream recovers', () => {
    const test = createHealthTest()
    const alarm = test.examine(new Uint8Array(8), 64)
    expect(alarm).toMatchObject({ failed: 'repetition', atBit: 41 })
    expect(test.examine(goodBits(2)(4096), 4096)).toBe(alarm)
    expect(test.alarm).toBe(alarm)
  })

  it('do not depend on how the stream is cut', () => {
    const streams = fc.record({
      seed: fc.nat({ max: 1_000_000 }),
      share: fc.constantFrom(0.1, 0.2, 0.4, 0.5, 0.62, 0.85),
      fault: fc.constantFrom('bias', 'repeats'),
      cuts: fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 12 }),
    })
    let alarms = 0
    fc.assert(
      fc.property(streams, ({ seed, share, fault, cuts }) => {
        const length = cuts.reduce((sum, cut) => sum + cut, 0)
        const drawn = biasedBits(seed, length, share)
        let bit = 0
        const bitAt = (index: number) => (drawn[index >> 3]! >> (index & 7)) & 1
        const stream = fault === 'bias' ? bitAt : (index: number) => (bit ^= bitAt(index))
        const bits = pack(length, stream)
        const inStream = (index: number) => (bits[index >> 3]! >> (index & 7)) & 1

        const cutUp = createHealthTest()
        let from = 0
        for (const cut of cuts) {
          const start = from
          cutUp.examine(
            pack(cut, (index) => inStream(start + index)),
            cut,
          )
          from += cut
        }
        const oneByOne = createHealthTest()
        for (let index = 0; index < length; index++) oneByOne.examine(Uint8Array.of(inStream(index)), 1)

        expect(cutUp.alarm).toEqual(oneByOne.alarm)
        expect(alarmOf(bits, length)).toEqual(oneByOne.alarm)
        if (oneByOne.alarm !== undefined) alarms += 1
      }),
      { numRuns: 200 },
    )
    expect(alarms).toBeGreaterThan(30)
  })

  it('take less than a hundredth of a second of processor time per million bits', () => {
    const bits = goodBits(4)(1_000_000)
    const test = createHealthTest()
    for (let block = 0; block < 5; block++) test.examine(bits, 1_000_000)
    const before = process.cpuUsage()
    for (let block = 0; block < 20; block++) test.examine(bits, 1_000_000)
    const spent = process.cpuUsage(before)
    expect(test.alarm).toBeUndefined()
    expect((spent.user + spent.system) / 20).toBeLessThan(1000 * timeLimitMs(10))
  })
})
