/** How a pool is judged from its readings. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import {
  flowBetween,
  nextHealth,
  retryAfterS,
  type PoolHealth,
  type PoolMarks,
  type PoolReading,
} from '../../src/key-pool/pool-health.ts'

const MARKS: PoolMarks = { criticalWatermark: 25, lowWatermark: 100, highWatermark: 1000 }

/** Readings one second apart. */
const judge = (readings: readonly Partial<PoolReading>[], marks = MARKS): PoolHealth[] => {
  const healths: PoolHealth[] = []
  readings.forEach((reading, i) => {
    const whole = { atMs: i * 1000, level: 500, offeredTotal: 0, takenTotal: 0, refusedTotal: 0, ...reading }
    healths.push(nextHealth(healths.at(-1), whole, marks))
  })
  return healths
}
const statesOf = (levels: readonly number[], marks = MARKS): string[] =>
  judge(
    levels.map((level) => ({ level })),
    marks,
  ).map(({ state }) => state)
/** Keys flow evenly for some seconds; in the end the pool holds 500 or more. */
const flowing = (refillPerS: number, takenPerS: number, seconds = 60): PoolHealth => {
  const level = (s: number): number => 500 + Math.max(0, takenPerS - refillPerS) * seconds + s * (refillPerS - takenPerS)
  return judge(Array.from({ length: seconds + 1 }, (_, s) => ({ takenTotal: s * takenPerS, level: level(s) }))).at(-1)!
}

describe('the state of a pool', () => {
  it('follows the marks down and leaves each state 20 % above its mark', () => {
    expect(statesOf([500, 100, 99, 119, 120, 99, 24, 25, 29, 30, 119, 120])).toEqual([
      ...['healthy', 'healthy', 'low', 'low', 'healthy', 'low'],
      ...['critical', 'critical', 'critical', 'low', 'low', 'healthy'],
    ])
  })

  it('is exhausted at nothing and not any more with the first key', () => {
    expect(statesOf([500, 0, 0, 1, 0, 29, 500])).toEqual([
      ...['healthy', 'exhausted', 'exhausted', 'critical', 'exhausted', 'critical', 'healthy'],
    ])
  })

  it('can always be healthy again when the pool is full', () => {
    const close = { criticalWatermark: 98, lowWatermark: 99, highWatermark: 100 }
    expect(statesOf([50, 98, 99, 100], close)).toEqual(['critical', 'critical', 'low', 'healthy'])
  })

  it('knows only exhausted and healthy where a pool is too small for marks', () => {
    const none = { criticalWatermark: 0, lowWatermark: 0, highWatermark: 5 }
    expect(statesOf([0, 1, 5, 0], none)).toEqual(['exhausted', 'healthy', 'healthy', 'exhausted'])
  })

  it('does not flap while the level wobbles between a mark and 20 % above', () => {
    const marksAndWobble = fc
      .tuple(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 2, max: 5 }), fc.integer({ min: 2, max: 20 }))
      .chain(([criticalWatermark, lowFactor, highFactor]) => {
        const lowWatermark = criticalWatermark * lowFactor
        const marks = { criticalWatermark, lowWatermark, highWatermark: lowWatermark * highFactor }
        const mark = fc.constantFrom(criticalWatermark, lowWatermark)
        const levels = mark.chain((at) =>
          fc.array(fc.integer({ min: at, max: Math.max(at, Math.ceil(at * 1.2) - 1) }), { minLength: 2, maxLength: 50 }),
        )
        return fc.tuple(fc.constant(marks), levels, fc.constantFrom('healthy', 'low', 'critical', 'exhausted'))
      })
    fc.assert(
      fc.property(marksAndWobble, ([marks, levels, from]) => {
        const start = {
          healthy: marks.highWatermark,
          low: marks.lowWatermark - 1,
          critical: marks.criticalWatermark - 1,
          exhausted: 0,
        }[from]
        const [, ...states] = statesOf([start, ...levels], marks)
        expect(new Set(states).size).toBe(1)
      }),
    )
  })

  it('is never better than the level allows', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 60 }), (levels) => {
        statesOf(levels).forEach((state, i) => {
          const level = levels[i]!
          if (level === 0) expect(state).toBe('exhausted')
          else if (level < 25) expect(state).toBe('critical')
          else if (level < 100) expect(['critical', 'low']).toContain(state)
          else if (level >= 120) expect(state).toBe('healthy')
        })
      }),
    )
  })
})

describe('the rates of a pool', () => {
  it('are those of an even flow from the first seconds on', () => {
    for (const seconds of [1, 3, 60]) {
      const health = flowing(7, 20, seconds)
      expect(health.refillKeysPerS).toBeCloseTo(7)
      expect(health.consumptionKeysPerS).toBeCloseTo(20)
    }
  })

  it('are half forgotten after ten seconds', () => {
    const before = flowing(100, 0, 200)
    const { reading } = before.memory
    const after = nextHealth(before, { ...reading, atMs: reading.atMs + 10_000 }, MARKS)
    expect(after.refillKeysPerS).toBeCloseTo(50, 3)
  })

  it('do not depend on how often the pool is read', () => {
    const seldom = judge([{}, { atMs: 4000, level: 540 }, { atMs: 8000, level: 580 }]).at(-1)!
    const often = flowing(10, 0, 8)
    expect(seldom.refillKeysPerS).toBeCloseTo(often.refillKeysPerS)
  })

  it('say when the pool is empty, and nothing while it is not emptying', () => {
    expect(flowing(0, 10, 30).timeToEmptyS).toBeCloseTo(50)
    expect(flowing(5, 10, 30).timeToEmptyS).toBeCloseTo(100)
    expect(flowing(10, 10).timeToEmptyS).toBeUndefined()
    expect(flowing(20, 10).timeToEmptyS).toBeUndefined()
    expect(judge([{ level: 5 }, { level: 0 }]).at(-1)!.timeToEmptyS).toBe(0)
  })

  it('know what the other end uses as well, and do not take a loan for a refill', () => {
    const usedThere = judge(Array.from({ length: 31 }, (_, s) => ({ level: 1100 - 20 * s, takenTotal: 5 * s }))).at(-1)!
    expect(usedThere.refillKeysPerS).toBe(0)
    expect(usedThere.timeToEmptyS).toBeCloseTo(25)
    expect(usedThere.consumptionKeysPerS).toBeCloseTo(5)
    const lent = judge(Array.from({ length: 31 }, (_, s) => ({ level: 500, offeredTotal: 128 * s }))).at(-1)!
    expect(lent).toMatchObject({ refillKeysPerS: 0, consumptionKeysPerS: 0, timeToEmptyS: undefined })
  })

  it('forget nothing and learn nothing when the pool is set up anew', () => {
    const before = flowing(8, 10)
    const { reading } = before.memory
    const anew = { ...reading, atMs: reading.atMs + 1000, takenTotal: 0, level: 90_000 }
    expect(nextHealth(before, anew, MARKS).consumptionKeysPerS).toBeCloseTo(10)
    expect(nextHealth(before, anew, MARKS).refillKeysPerS).toBeCloseTo(8)
  })

  it('are never negative nor endless, whatever the totals do', () => {
    const total = fc.nat({ max: 1_000_000 })
    const reading = fc.record({ offeredTotal: total, takenTotal: total, refusedTotal: total, level: fc.nat({ max: 2000 }) })
    fc.assert(
      fc.property(fc.array(reading, { minLength: 1, maxLength: 40 }), (readings) => {
        for (const { refillKeysPerS, consumptionKeysPerS, timeToEmptyS } of judge(readings)) {
          expect(refillKeysPerS).toBeGreaterThanOrEqual(0)
          expect(consumptionKeysPerS).toBeGreaterThanOrEqual(0)
          expect(Number.isFinite(refillKeysPerS + consumptionKeysPerS + (timeToEmptyS ?? 0))).toBe(true)
        }
      }),
    )
  })
})

describe('what flowed between two readings', () => {
  const totals = (offeredTotal: number, takenTotal: number, refusedTotal = 0) => ({ offeredTotal, takenTotal, refusedTotal })

  it('is the difference of the totals, less what was given back', () => {
    expect(flowBetween(totals(100, 50, 3), totals(130, 48, 5))).toEqual({ offered: 30, taken: -2, refused: 2 })
  })

  it('is what was counted anew when the pool was set up again', () => {
    expect(flowBetween(totals(100, 50, 3), totals(20, 4))).toEqual({ offered: 20, taken: 4, refused: 0 })
    expect(flowBetween(totals(0, 500), totals(0, 3))).toEqual({ offered: 0, taken: 3, refused: 0 })
  })
})

describe('Retry-After', () => {
  it('is when the missing keys will have come in, between a second and a minute', () => {
    const health = flowing(8, 100)
    expect([1, 8, 9, 80, 479, 10_000].map((missing) => retryAfterS(health, missing))).toEqual([1, 1, 2, 10, 60, 60])
  })

  it('grows with a shortage that nothing relieves', () => {
    const dry = (seconds: number): PoolHealth =>
      judge(Array.from({ length: seconds + 1 }, (_, s) => ({ level: s === 0 ? 500 : 0 }))).at(-1)!
    expect([1, 2, 3, 20, 600].map((seconds) => retryAfterS(dry(seconds), 1))).toEqual([2, 2, 3, 20, 60])
  })

  it('is short for a pool that was full a moment ago, or that nobody has looked at yet', () => {
    expect(retryAfterS(flowing(0, 0, 600), 1)).toBe(2)
    expect(retryAfterS(undefined, 1)).toBe(2)
    expect(retryAfterS(judge([{ level: 0 }]).at(-1), 1)).toBe(2)
  })

  it('is never shorter for more keys, nor for a slower refill', () => {
    const count = fc.integer({ min: 1, max: 100_000 })
    const perS = fc.double({ min: 0.01, max: 10_000, noNaN: true })
    fc.assert(
      fc.property(count, count, perS, perS, (one, other, slowKeysPerS, moreKeysPerS) => {
        const [fewer, more] = [Math.min(one, other), Math.max(one, other)]
        const [slow, fast] = [flowing(slowKeysPerS, 0, 3), flowing(slowKeysPerS + moreKeysPerS, 0, 3)]
        expect(retryAfterS(slow, fewer)).toBeLessThanOrEqual(retryAfterS(slow, more))
        expect(retryAfterS(fast, more)).toBeLessThanOrEqual(retryAfterS(slow, more))
        expect(retryAfterS(slow, more)).toBeGreaterThanOrEqual(1)
        expect(retryAfterS(slow, more)).toBeLessThanOrEqual(60)
      }),
    )
  })
})
