import { describe, expect, it } from '@jest/globals'
import { profileNamed } from '../../src/bb84/profile.ts'
import {
  basisAt,
  basisOf,
  createBasisChoice,
  createPulseSource,
  intensityOf,
  pulseAt,
  toPulse,
  valueOf,
} from '../../src/bb84/pulse-source.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { chiSquareTail, deviations, lagOneDeviations } from '../quantum-channel/statistics.ts'
import { seededRandom } from './seeded-random.ts'

const SIGMAS = 4.9
const SLOTS = 2 ** 20

describe('pulse source', () => {
  it.each(['lab-2014', 'metro'])('draws every field of a %s pulse with its probability, independently of the others', (name) => {
    const profile = profileNamed(name)
    const pulses = createPulseSource(profile).burst(SLOTS, seededRandom(`pulses ${name}`))
    expect(pulses).toHaveLength(SLOTS / 2)
    const counts = new Float64Array(16)
    const values: number[] = []
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const pulse = pulseAt(pulses, slot)
      counts[pulse]! += 1
      values.push(valueOf(pulse))
    }
    let chiSquare = 0
    let kinds = 0
    counts.forEach((count, pulse) => {
      const basis = basisOf(pulse) === 0 ? profile.keyBasisProbability : 1 - profile.keyBasisProbability
      const chance = (basis * (profile.intensityProbabilities[intensityOf(pulse)] ?? 0)) / 2
      expect(deviations(count, SLOTS, chance)).toBeLessThan(SIGMAS)
      if (chance === 0) return
      chiSquare += (count - SLOTS * chance) ** 2 / (SLOTS * chance)
      kinds += 1
    })
    expect(kinds).toBe(12)
    expect(chiSquareTail(chiSquare, kinds - 1)).toBeGreaterThan(1e-4)
    expect(Math.abs(lagOneDeviations(values))).toBeLessThan(SIGMAS)
  })

  it('draws a profile with one decoy and never an intensity it has not', () => {
    const profile = { intensityProbabilities: [200 / 256, 56 / 256], keyBasisProbability: 0.5 }
    const pulses = createPulseSource(profile).burst(4_096, seededRandom('one decoy'))
    const seen = new Set(Array.from({ length: 4_096 }, (_, slot) => intensityOf(pulseAt(pulses, slot))))
    expect([...seen].sort()).toEqual([0, 1])
  })

  it('refuses probabilities that random bits cannot draw exactly', () => {
    const thirds = [1 / 3, 1 / 3, 1 / 3]
    expect(() => createPulseSource({ intensityProbabilities: thirds, keyBasisProbability: 0.5 })).toThrow('multiple of 1/256')
    expect(() => createPulseSource({ intensityProbabilities: [0.5], keyBasisProbability: 0.5 })).toThrow('add up to 1')
    expect(() => createBasisChoice({ keyBasisProbability: 0.7 })).toThrow('multiple of 1/128')
  })

  it('draws anew for every burst, and the same from the same random bytes', () => {
    const source = createPulseSource(profileNamed('metro'))
    const random = seededRandom('twice')
    const first = source.burst(1_000, random)
    expect(source.burst(1_000, random)).not.toEqual(first)
    expect(source.burst(1_000, seededRandom('twice'))).toEqual(first)
    expect(source.burst(1_000, systemRandom)).not.toEqual(source.burst(1_000, systemRandom))
  })

  it('leaves nothing beyond the last slot', () => {
    const source = createPulseSource({ intensityProbabilities: [0.5, 0.5], keyBasisProbability: 0.5 })
    const choice = createBasisChoice({ keyBasisProbability: 1 / 128 })
    for (const slots of [1, 7, 9, 31, 33, 1_001]) {
      const pulses = source.burst(slots, seededRandom(`end ${slots}`))
      expect(pulses).toHaveLength(Math.ceil(slots / 2))
      expect(pulseAt(pulses, slots)).toBe(0)
      const bases = choice.burst(slots, seededRandom(`end ${slots}`))
      expect(bases).toHaveLength(Math.ceil(slots / 8))
      for (let slot = slots; slot < 8 * bases.length; slot += 1) expect(basisAt(bases, slot)).toBe(0)
    }
  })

  it('packs the even slot into the low nibble, value first, then basis, then intensity', () => {
    expect(toPulse(1, 1, 2)).toBe(0b1011)
    expect([valueOf(0b1011), basisOf(0b1011), intensityOf(0b1011)]).toEqual([1, 1, 2])
    const pulses = Uint8Array.of(0x2b, 0x90)
    expect([0, 1, 2, 3].map((slot) => pulseAt(pulses, slot))).toEqual([0xb, 0x2, 0x0, 0x9])
    expect([0, 7, 8, 9].map((slot) => basisAt(Uint8Array.of(0x80, 0x02), slot))).toEqual([0, 1, 0, 1])
  })
})

describe('basis choice', () => {
  it.each([1, 24, 30, 64, 77, 127])('chooses the test basis in %i of 128 slots, whatever it chose before', (testSteps) => {
    const bases = createBasisChoice({ keyBasisProbability: 1 - testSteps / 128 }).burst(SLOTS, seededRandom(`bases ${testSteps}`))
    expect(bases).toHaveLength(SLOTS / 8)
    const byPosition = new Float64Array(32)
    let tests = 0
    let pairs = 0
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const basis = basisAt(bases, slot)
      tests += basis
      byPosition[slot & 31]! += basis
      if (slot > 0 && basis === 1 && basisAt(bases, slot - 1) === 1) pairs += 1
    }
    const chance = testSteps / 128
    expect(deviations(tests, SLOTS, chance)).toBeLessThan(SIGMAS)
    expect(deviations(pairs, SLOTS - 1, chance ** 2, 3)).toBeLessThan(SIGMAS)
    const trials = SLOTS / 32
    const chiSquare = byPosition.reduce(
      (sum, count) => sum + (count - trials * chance) ** 2 / (trials * chance * (1 - chance)),
      0,
    )
    expect(chiSquareTail(chiSquare, 32)).toBeGreaterThan(1e-4)
  })
})
