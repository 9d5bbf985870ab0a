import { describe, expect, it } from '@jest/globals'
import { profileNamed } from '../../src/bb84/profile.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { basesBytes, pulsesBytes } from '../../src/bb84/pulse-source.ts'
import { createQuantumChannel } from '../../src/quantum-channel/channel.ts'
import { patternLaw } from '../../src/quantum-channel/click-law.ts'
import { EVE_OFF } from '../../src/quantum-channel/eve.ts'
import { seededRandom, seededStreams } from '../bb84/seeded-random.ts'
import { LINKS } from './links.ts'
import { cellOf, chiSquareTail, deviations, expectedOf, lagOneDeviations, run, thresholdDetectors } from './statistics.ts'

const SIGMAS = 4.9

describe('quantum channel', () => {
  describe.each(LINKS)('%s', (name, profile) => {
    const { cells, alice, bob, smallestGap } = run(profile, 2 ** 22, `short ${name}`)
    const spread = 1 + 2 * profile.receiver.afterpulseProbability

    it('clicks and errs per basis and intensity as two threshold detectors do', () => {
      let chiSquare = 0
      let freedom = 0
      for (const { aliceBasis, bobBasis, intensity, sent, clicks, wrong, both } of cells) {
        const mean = profile.intensities[intensity]
        if (mean === undefined) {
          expect(sent).toBe(0)
          continue
        }
        const expected = expectedOf(profile, mean, aliceBasis === bobBasis)
        expect(deviations(clicks, sent, expected.gain, spread)).toBeLessThan(SIGMAS)
        expect(deviations(wrong, sent, expected.wrong, spread)).toBeLessThan(SIGMAS)
        expect(deviations(both, sent, expected.both, spread)).toBeLessThan(SIGMAS)
        if (sent * expected.wrong < 25) continue
        chiSquare += deviations(clicks - wrong, sent, expected.gain - expected.wrong, spread) ** 2
        chiSquare += deviations(wrong, sent, expected.wrong, spread) ** 2
        freedom += 2
      }
      expect(freedom).toBeGreaterThanOrEqual(8)
      expect(chiSquareTail(chiSquare, freedom)).toBeGreaterThan(1e-4)
    })

    it('gives sifted bits that do not know their neighbours', () => {
      expect(alice.length).toBeGreaterThan(500)
      expect(Math.abs(lagOneDeviations(alice))).toBeLessThan(SIGMAS)
      expect(Math.abs(lagOneDeviations(bob))).toBeLessThan(SIGMAS)
    })

    it('never clicks within the dead time of a click', () => {
      const blind = Math.round(profile.receiver.deadTimeNs * 1e-9 * profile.pulseRateHz)
      expect(smallestGap).toBeGreaterThan(blind)
    })
  })

  it('has a law of its own patterns that is exact, dark counts and all', () => {
    for (const darkCountProbability of [0, 1e-3, 0.2]) {
      const profile = profileNamed('gys', { receiver: { darkCountProbability } })
      for (const [mean, basesAgree] of [
        [0.48, true],
        [0.48, false],
        [3, true],
        [0, true],
      ] as const) {
        const expected = thresholdDetectors(profile, mean, basesAgree)
        const { right, wrong, both } = patternLaw(profile, EVE_OFF, mean, basesAgree)
        expect(right + wrong + both).toBeCloseTo(expected.gain, 14)
        expect(wrong).toBeCloseTo(expected.wrong, 14)
        expect(both).toBeCloseTo(expected.both, 14)
      }
    }
  })

  it('has the gain and error rate of the GYS link at 20 km that two other samplers found', () => {
    const profile: Bb84Profile = {
      ...profileNamed('gys'),
      intensities: [0.48, 0.05, 0],
      intensityProbabilities: [0.6875, 0.1875, 0.125],
    }
    const shares = [0.7, 0.2, 0.1]
    const { cells } = run(profile, 2 ** 23, 'gys')
    let gain = 0
    let expectedGain = 0
    let errors = 0
    let sifted = 0
    shares.forEach((share, intensity) => {
      const all = cells.filter((cell) => cell.intensity === intensity)
      const agree = all.filter((cell) => cell.aliceBasis === cell.bobBasis)
      const total = (of: typeof all, what: 'sent' | 'clicks' | 'wrong' | 'both') => of.reduce((sum, cell) => sum + cell[what], 0)
      gain += (share * total(all, 'clicks')) / total(all, 'sent')
      errors += (share * (total(agree, 'wrong') + total(agree, 'both') / 2)) / total(agree, 'sent')
      sifted += (share * total(agree, 'clicks')) / total(agree, 'sent')
      expectedGain += share * thresholdDetectors(profile, profile.intensities[intensity]!, true).gain
    })
    expect(expectedGain).toBeCloseTo(0.0058976, 7)
    expect(Math.abs(gain / 0.0058976 - 1)).toBeLessThan(0.025)
    expect(Math.abs(errors / sifted - 0.0331)).toBeLessThan(0.0045)
  })

  it('spreads clicks evenly over the slots of a burst', () => {
    const profile = profileNamed('lab-2014', { receiver: { deadTimeNs: 50 } })
    const channel = createQuantumChannel({ profile })
    const streams = seededStreams('even')
    const slots = 4_096
    const bins = new Float64Array(16)
    const pulses = new Uint8Array(pulsesBytes(slots))
    let clicks = 0
    for (let burst = 0; burst < 2_000; burst += 1) {
      for (const slot of channel.transmit(pulses, new Uint8Array(basesBytes(slots)), slots, streams(`${burst}`)).slots) {
        bins[slot >> 8]! += 1
        clicks += 1
      }
    }
    const mean = clicks / bins.length
    expect(
      chiSquareTail(
        bins.reduce((sum, count) => sum + (count - mean) ** 2 / mean, 0),
        bins.length - 1,
      ),
    ).toBeGreaterThan(1e-4)
  })

  describe('with every slot clicking', () => {
    // 300 photons a pulse: no slot stays dark.
    const bright = (receiver: Partial<Bb84Profile['receiver']>): Bb84Profile => {
      const profile = profileNamed('metro', { distanceKm: 0, misalignment: 0, receiver: { darkCountProbability: 0 } })
      return { ...profile, intensities: [300, 0.1, 0], receiver: { ...profile.receiver, efficiency: 1, ...receiver } }
    }
    const zeros = (bytes: number) => new Uint8Array(bytes)
    const slotsOf = (profile: Bb84Profile, lengths: readonly number[]): number[] => {
      const channel = createQuantumChannel({ profile })
      let from = 0
      return lengths.flatMap((slots, burst) => {
        const { slots: found, patterns } = channel.transmit(
          zeros(pulsesBytes(slots)),
          zeros(basesBytes(slots)),
          slots,
          seededRandom(`bright ${burst}`),
        )
        expect([...patterns]).toEqual([...found].map(() => 1))
        const all = [...found].map((slot) => from + slot)
        from += slots
        return all
      })
    }

    it('is blind for the dead time and no longer, over the borders of bursts and through whole bursts', () => {
      expect(slotsOf(bright({}), [3, 2])).toEqual([0, 1, 2, 3, 4])
      expect(slotsOf(bright({ deadTimeNs: 70 }), [10, 4, 2, 30])).toEqual([0, 8, 16, 24, 32, 40])
      expect(slotsOf(bright({ deadTimeNs: 75 }), [20])).toEqual([0, 9, 18])
      expect(slotsOf(bright({ deadTimeNs: 200 }), [5, 5, 5, 5, 5])).toEqual([0, 21])
    })
  })

  it('fires an afterpulse in the first live slot after a click, in either detector, also in the next burst', () => {
    const base = profileNamed('metro', { receiver: { darkCountProbability: 0 }, misalignment: 0 })
    // One bright pulse, value 0, in the last slot of a burst; everything after it is dark.
    const profile: Bb84Profile = {
      ...base,
      intensities: [300, 0.1, 0],
      receiver: { ...base.receiver, afterpulseProbability: 0.5, deadTimeNs: 30 },
    }
    const dark = 0b1000
    const first = new Uint8Array(4).fill(dark | (dark << 4))
    first[3] = dark
    const second = new Uint8Array(4).fill(dark | (dark << 4))
    const seen = { none: 0, chain: 0, detector0: 0, detector1: 0 }
    for (let trial = 0; trial < 4_000; trial += 1) {
      const channel = createQuantumChannel({ profile })
      const streams = seededStreams(`after ${trial}`)
      expect([...channel.transmit(first, new Uint8Array(1), 8, streams('1')).slots]).toEqual([7])
      const { slots, patterns } = channel.transmit(second, new Uint8Array(1), 8, streams('2'))
      if (slots.length === 0) seen.none += 1
      else if (patterns[0] === 1) seen.detector0 += 1
      else seen.detector1 += 1
      expect([[], [3], [3, 7]]).toContainEqual([...slots])
      if (slots.length === 2) seen.chain += 1
    }
    expect(deviations(seen.none, 4_000, 0.5)).toBeLessThan(SIGMAS)
    expect(deviations(seen.detector0, 4_000, 0.25)).toBeLessThan(SIGMAS)
    expect(deviations(seen.detector1, 4_000, 0.25)).toBeLessThan(SIGMAS)
    expect(deviations(seen.chain, 4_000, 0.25)).toBeLessThan(SIGMAS)
  })

  it('repeats itself under the same random streams, and not under others', () => {
    const profile = profileNamed('lab-2014', { receiver: { deadTimeNs: 1_000 } })
    const first = run(profile, 2 ** 20, 'replay')
    expect(run(profile, 2 ** 20, 'replay')).toEqual(first)
    expect(run(profile, 2 ** 20, 'another').bob).not.toEqual(first.bob)
  })

  it('is dark without light and without noise', () => {
    const profile = { ...profileNamed('metro', { receiver: { darkCountProbability: 0 } }), intensities: [0, 0, 0] }
    expect(run(profile, 2 ** 16, 'dark').clicks).toBe(0)
  })

  it('tells clicks of both detectors and of the mismatched basis as they are', () => {
    const profile = profileNamed('metro', { distanceKm: 0 })
    const { cells } = run(profile, 2 ** 20, 'both')
    const crossed = cellOf(cells, 0, 1, 0)
    const expected = thresholdDetectors(profile, profile.intensities[0]!, false)
    expect(crossed.both).toBeGreaterThan(100)
    expect(deviations(crossed.both, crossed.sent, expected.both)).toBeLessThan(SIGMAS)
  })
})
