/** Cascade between two ends: equal keys, counted parities; and what becomes of an end whose peer does not keep to it. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { askOf, passOfAsk } from '../../../src/bb84/cascade/cascade-asks.ts'
import { cascadePlan } from '../../../src/bb84/cascade/cascade-plan.ts'
import { createCorrector } from '../../../src/bb84/cascade/corrector.ts'
import { createResponder } from '../../../src/bb84/cascade/responder.ts'
import { ContradictoryParities } from '../../../src/bb84/cascade/searched-pass.ts'
import { streamOf } from '../../../src/bb84/cascade/xoshiro.ts'
import { bytesOfNumber, finish, noisyFrame, reconcile, start } from './reconcile.ts'

const SEED = bytesOfNumber(1)

describe('a frame', () => {
  it.each([
    [64, 0.05],
    [1_000, 0.02],
    [16_384, 0.01],
    [16_384, 0.11],
    [16_384, 0.25],
    [62_500, 0.03],
    [100_003, 0.05],
  ])('of %i bits with %f errors ends equal, with the same count at both ends', (bitCount, qber) => {
    const { alice, bob, errors } = noisyFrame(bitCount, qber, 1)
    const { responder, corrector, asks } = reconcile(alice, bob, cascadePlan(bitCount, qber), SEED)
    expect(Buffer.from(corrector.corrected()).equals(alice)).toBe(true)
    expect(corrector.correctedBits).toBe(errors)
    expect(corrector.disclosedBits).toBe(asks.length)
    expect(responder.disclosedBits).toBe(asks.length)
    expect(new Set(asks).size).toBe(asks.length)
  })

  it('without errors costs its first parities and one round', () => {
    const { alice } = noisyFrame(4_096, 0.01, 1)
    const { corrector } = reconcile(alice, alice, cascadePlan(4_096, 0.01), SEED)
    // Blocks of 128, 512 and 2,048 bits, each last one but the first implied, and eleven halves.
    expect(corrector.disclosedBits).toBe(32 + 7 + 1 + 11)
    expect(corrector.roundCount).toBe(1)
  })

  it('asks in a round for parities of one pass', () => {
    const { alice, bob } = noisyFrame(16_384, 0.03, 5)
    const { corrector, responder } = start(alice, bob, cascadePlan(16_384, 0.03), SEED)
    for (let asks = corrector.asks(); asks.length > 0; asks = corrector.asks()) {
      expect(new Set([...asks].map(passOfAsk)).size).toBe(1)
      corrector.take(responder.answer(asks))
    }
    expect(Buffer.from(corrector.corrected()).equals(alice)).toBe(true)
  })

  it('longer than those of the table asks in a round for parities of its first two passes when it would ask for few', () => {
    const { alice, bob } = noisyFrame(65_536, 0.02, 6)
    const plan = cascadePlan(65_536, 0.02)
    const { corrector, responder } = start(alice, bob, plan, SEED)
    const together: number[] = []
    let before = Infinity
    for (let asks = corrector.asks(); asks.length > 0; asks = corrector.asks()) {
      const passes = new Set([...asks].map(passOfAsk))
      if (passes.size > 1) {
        expect([...passes].toSorted()).toEqual([0, 1])
        together.push(before)
      }
      before = asks.length
      corrector.take(responder.answer(asks))
    }
    expect(together.length).toBeGreaterThan(100)
    expect(Math.max(...together)).toBeLessThan(plan.togetherAsks)
    expect(Buffer.from(corrector.corrected()).equals(alice)).toBe(true)
  })

  it('of any length, error rate and seed ends equal, if not at once then after an extension', () => {
    const frames = fc.record({
      frameBits: fc.integer({ min: 64, max: 5_000 }),
      qber: fc.double({ min: 0, max: 0.3, noNaN: true }),
      guess: fc.double({ min: 0, max: 0.5, noNaN: true }),
      noise: fc.nat(),
      shuffle: fc.nat(),
      togetherAsks: fc.constantFrom(0, 5, Infinity),
    })
    fc.assert(
      fc.property(frames, ({ frameBits, qber, guess, noise, shuffle, togetherAsks }) => {
        const { alice, bob, errors } = noisyFrame(frameBits, qber, noise)
        const plan = { ...cascadePlan(frameBits, guess), togetherAsks }
        const run = reconcile(alice, bob, plan, bytesOfNumber(shuffle))
        if (run.corrector.correctedBits !== errors) {
          expect(Buffer.from(run.corrector.corrected()).equals(alice)).toBe(false)
          run.corrector.extend(40)
          finish(run)
        }
        expect(Buffer.from(run.corrector.corrected()).equals(alice)).toBe(true)
        expect(run.corrector.disclosedBits).toBe(run.asks.length)
        expect(run.responder.disclosedBits).toBe(run.asks.length)
      }),
      { numRuns: 150 },
    )
  })
})

it('frames of one block, of two lengths and under one seed, end equal in lockstep', () => {
  const frames = [5_000, 5_001, 5_000, 5_001, 5_000].map((bitCount, index) => {
    const { alice, bob } = noisyFrame(bitCount, 0.02, index)
    const plan = cascadePlan(bitCount, 0.02)
    const responder = createResponder({ bits: alice, bitCount, plan, seed: SEED })
    const corrector = createCorrector({ bits: bob, bitCount, plan, seed: SEED })
    corrector.take(responder.firstParities())
    return { alice, responder, corrector }
  })
  let rounds = 1
  for (let open = frames; (open = open.filter(({ corrector }) => corrector.asks().length > 0)).length > 0; rounds++) {
    const wanted = open.map(({ corrector }) => corrector.asks())
    const answers = open.map(({ responder }, index) => responder.answer(wanted[index]!))
    open.forEach(({ corrector }, index) => corrector.take(answers[index]!))
  }
  for (const { alice, corrector } of frames) expect(Buffer.from(corrector.corrected()).equals(alice)).toBe(true)
  expect(Math.max(...frames.map(({ corrector }) => corrector.roundCount))).toBe(rounds)
})

describe('an extension', () => {
  /** A plan without halves leaves errors in every other frame or so. */
  const unfinished = (): { run: ReturnType<typeof reconcile>; alice: Uint8Array } => {
    const plan = { ...cascadePlan(4_096, 0.04), halves: 0 }
    for (let noise = 0; noise < 100; noise++) {
      const { alice, bob, errors } = noisyFrame(4_096, 0.04, noise)
      const run = reconcile(alice, bob, plan, SEED)
      if (run.corrector.correctedBits < errors) return { run, alice }
    }
    throw new Error('no frame has errors left')
  }

  it('finds the errors that the plan left, and counts its parities at both ends', () => {
    const { run, alice } = unfinished()
    const before = run.corrector.disclosedBits
    expect(Buffer.from(run.corrector.corrected()).equals(alice)).toBe(false)
    run.corrector.extend(20)
    expect(run.corrector.asks().length).toBe(20)
    finish(run)
    expect(Buffer.from(run.corrector.corrected()).equals(alice)).toBe(true)
    expect(run.corrector.disclosedBits).toBeGreaterThan(before + 20)
    expect(run.responder.disclosedBits).toBe(run.corrector.disclosedBits)
  })

  it('can follow another, until the passes are used up', () => {
    const { alice, bob } = noisyFrame(1_024, 0.02, 1)
    const run = reconcile(alice, bob, cascadePlan(1_024, 0.02), SEED)
    run.corrector.extend(25)
    finish(run)
    run.corrector.extend(25)
    finish(run)
    expect(() => run.corrector.extend(1)).toThrow(RangeError)
    expect(Buffer.from(run.corrector.corrected()).equals(alice)).toBe(true)
  })

  it('is refused before the frame is finished', () => {
    const { bob } = noisyFrame(1_024, 0.02, 1)
    const corrector = createCorrector({ bits: bob, bitCount: 1_024, plan: cascadePlan(1_024, 0.02), seed: SEED })
    expect(() => corrector.extend(1)).toThrow('not finished')
  })
})

describe('Alice', () => {
  const plan = cascadePlan(1_000, 0.02)
  const { alice } = noisyFrame(1_000, 0.02, 1)
  const options = { bits: alice, bitCount: 1_000, plan, seed: SEED }

  it.each([
    ['position 0', askOf(0, 0)],
    ['a position after the end', askOf(1, 1_001)],
    ['a pass that cannot be', askOf(64, 1)],
    ['a negative number', -1],
    ['the largest number', 0x7fffffff],
  ])('refuses %s and gives nothing', (_, ask) => {
    const responder = createResponder(options)
    expect(() => responder.answer(Int32Array.of(askOf(0, 1), ask))).toThrow(RangeError)
    expect(responder.disclosedBits).toBe(0)
  })

  it('answers any number with a parity or a RangeError', () => {
    const responder = createResponder(options)
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })), (asks) => {
        try {
          expect(responder.answer(Int32Array.from(asks)).length).toBe(Math.ceil(asks.length / 8))
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError)
        }
      }),
    )
  })

  it('keeps her own copy of the bits, and gives nothing once it is wiped', () => {
    const bits = alice.slice()
    const responder = createResponder({ ...options, bits })
    bits.fill(0)
    expect(responder.firstParities()).toEqual(createResponder(options).firstParities())
    responder.wipe()
    expect(() => responder.firstParities()).toThrow('wiped')
    expect(() => responder.answer(Int32Array.of(askOf(0, 1)))).toThrow('wiped')
  })
})

describe('Bob', () => {
  const plan = cascadePlan(1_000, 0.05)
  const { alice, bob } = noisyFrame(1_000, 0.05, 1)
  const options = { bits: bob, bitCount: 1_000, plan, seed: SEED }

  it('refuses more or fewer parities than he asked for', () => {
    const corrector = createCorrector(options)
    const bytes = (corrector.asks().length + 7) >>> 3
    expect(() => corrector.take(new Uint8Array(bytes - 1))).toThrow(RangeError)
    expect(() => corrector.take(new Uint8Array(bytes + 1))).toThrow(RangeError)
    expect(corrector.disclosedBits).toBe(0)
  })

  it('refuses parities when he has asked for none', () => {
    const { corrector } = reconcile(alice, bob, plan, SEED)
    expect(() => corrector.take(new Uint8Array(0))).toThrow('finished')
  })

  it.each([0, Infinity])(
    'ends, or sees the contradiction, whatever parities he is given, with togetherAsks %d',
    (togetherAsks) => {
      let contradictions = 0
      for (let lie = 0; lie < 200; lie++) {
        const next = streamOf(bytesOfNumber(lie), 1, 64)
        const corrector = createCorrector({ ...options, plan: { ...plan, togetherAsks } })
        try {
          for (let asks = corrector.asks(); asks.length > 0; asks = corrector.asks()) {
            corrector.take(Uint8Array.from({ length: (asks.length + 7) >>> 3 }, next))
            expect(corrector.disclosedBits).toBeLessThanOrEqual(14 * 1_000)
          }
        } catch (error) {
          expect(error).toBeInstanceOf(ContradictoryParities)
          contradictions++
        }
      }
      expect(contradictions).toBeGreaterThan(0)
    },
  )

  it('leaves the bits he was given alone, and gives nothing once he is wiped', () => {
    const before = bob.slice()
    const { corrector } = reconcile(alice, bob, plan, SEED)
    expect(bob).toEqual(before)
    corrector.wipe()
    expect(() => corrector.corrected()).toThrow('wiped')
    expect(() => corrector.extend(1)).toThrow('wiped')
    expect(corrector.asks().length).toBe(0)
  })
})

describe('a plan', () => {
  it.each([
    [0.005, [256, 1024, 4096]],
    [0.01, [128, 512, 4096]],
    [0.02, [64, 512, 4096]],
    [0.03, [32, 512, 4096]],
    [0.04, [32, 256, 4096]],
    [0.05, [16, 256, 4096]],
    [0.06, [16, 256, 4096]],
    [0.07, [16, 256, 4096]],
    [0.08, [8, 256, 4096]],
    [0.09, [8, 256, 4096]],
    [0.1, [8, 256, 4096]],
    [0.11, [8, 256, 4096]],
  ])('for 2^14 bits at %f is the row of table 3, 14 passes', (qber, blockBits) => {
    expect(cascadePlan(2 ** 14, qber)).toEqual({ frameBits: 2 ** 14, blockBits, halves: 11, togetherAsks: 0 })
  })

  it('is refused for frames and error rates that cannot be', () => {
    for (const frameBits of [63, 2 ** 20 + 1, 100.5, Number.NaN]) expect(() => cascadePlan(frameBits, 0.02)).toThrow(RangeError)
    for (const qber of [-0.01, 0.51, Number.NaN]) expect(() => cascadePlan(1_000, qber)).toThrow(RangeError)
  })

  it.each([
    ['a plan for another length', { bitCount: 999 }],
    ['too few bits', { bits: new Uint8Array(124) }],
    ['a short seed', { seed: new Uint8Array(8) }],
  ])('and a frame that do not fit are refused: %s', (_, fault) => {
    const options = { bits: new Uint8Array(125), bitCount: 1_000, plan: cascadePlan(1_000, 0.02), seed: SEED, ...fault }
    expect(() => createResponder(options)).toThrow(RangeError)
    expect(() => createCorrector(options)).toThrow(RangeError)
  })

  it('and a frame with a spare bit set are refused', () => {
    const options = { bits: new Uint8Array(126).fill(255), bitCount: 1_001, plan: cascadePlan(1_001, 0.02), seed: SEED }
    expect(() => createResponder(options)).toThrow('spare bit')
  })
})
