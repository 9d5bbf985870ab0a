/** The devices of the published figures, and the best rates our formulas find for them. */
import { expectedBlock, firstOrderReceiver, optimise } from '../../../src/bb84/expected-rate.ts'
import type { Bb84Profile } from '../../../src/bb84/profile.ts'
import { profileNamed } from '../../../src/bb84/profile.ts'
import { lastDigit, vectorFile } from './vector-file.ts'

interface LimVectors {
  readonly publishedDevice: {
    readonly attenuationDbPerKm: number
    readonly efficiency: number
    readonly darkCountProbability: number
    readonly afterpulseProbability: number
    readonly misalignment: number
    readonly weakestIntensity: number
    readonly efficiencyF: number
    readonly epsilonPerBit: number
    readonly epsilonCorrectness: number
    readonly distancesKm: readonly number[]
    readonly rows: readonly { readonly blockBits: number; readonly rates: readonly number[] }[]
  }
  readonly intercepted: {
    readonly distanceKm: number
    readonly efficiencyF: number
    readonly fractions: readonly number[]
    readonly rows: readonly {
      readonly afterpulseProbability: number
      readonly blockBits: number
      readonly keyPerSiftedBit: readonly number[]
    }[]
  }
  readonly chernoffBound: {
    readonly distanceKm: number
    readonly pulses: number
    readonly intensities: readonly number[]
    readonly intensityProbabilities: readonly number[]
    readonly rate: number
  }
}
interface RuscaVectors {
  readonly device: {
    readonly pulseRateHz: number
    readonly efficiency: number
    readonly darkCountProbability: number
    readonly misalignment: number
    readonly deadTimeNs: number
    readonly efficiencyF: number
    readonly epsilonSecrecy: number
    readonly epsilonCorrectness: number
  }
  readonly lossesDb: readonly number[]
  readonly rows: readonly { readonly blockBits: number; readonly secretBitsPerSecond: readonly number[] }[]
}

export const lim = vectorFile('lim-2014.json') as LimVectors
export const rusca = vectorFile('rusca-2018.json') as RuscaVectors
const { publishedDevice } = lim
export const firstOrder = { receiverModel: firstOrderReceiver }

/** Lim's link; any distance and block size. */
export const published: Bb84Profile = {
  ...profileNamed('lab-2014'),
  attenuationDbPerKm: publishedDevice.attenuationDbPerKm,
  receiver: {
    efficiency: publishedDevice.efficiency,
    darkCountProbability: publishedDevice.darkCountProbability,
    afterpulseProbability: publishedDevice.afterpulseProbability,
    deadTimeNs: 0,
  },
  misalignment: publishedDevice.misalignment,
  intensities: [0.43, 0.2, publishedDevice.weakestIntensity],
  epsilonCorrectness: publishedDevice.epsilonCorrectness,
}

/** Secret bits per pulse of Lim's link with the best source. */
export const bestOfLim = (blockBits: number, distanceKm: number): number => {
  const options = { ...firstOrder, epsilonPerBit: publishedDevice.epsilonPerBit }
  const profile = optimise({ ...published, blockBits, distanceKm }, publishedDevice.efficiencyF, options)
  return expectedBlock(profile, publishedDevice.efficiencyF, options).secretBitsPerPulse
}

/** Whether it is the printed rate, to three digits or as many as were printed. */
export const isLimsRate = (blockBits: number, distanceKm: number, printed: number): boolean => {
  const found = bestOfLim(blockBits, distanceKm)
  // At 1e4 bits and 130 km what can be found of the tiny feasible set depends on the search.
  if (blockBits === 1e4 && distanceKm >= 130) return found < 5e-10
  return Math.abs(found - printed) <= 0.6 * lastDigit(printed, printed < 1e-6 ? 2 : 3)
}

/** Secret bits per second of Rusca's link with the best source. */
export const bestOfRusca = (blockBits: number, lossDb: number): number => {
  const { device } = rusca
  const profile: Bb84Profile = {
    ...published,
    pulseRateHz: device.pulseRateHz,
    distanceKm: lossDb / published.attenuationDbPerKm,
    receiver: {
      efficiency: device.efficiency,
      darkCountProbability: device.darkCountProbability,
      afterpulseProbability: 0,
      deadTimeNs: device.deadTimeNs,
    },
    misalignment: device.misalignment,
    intensities: [0.5, 0.2],
    intensityProbabilities: [0.5, 0.5],
    blockBits,
    epsilonSecrecy: device.epsilonSecrecy,
    epsilonCorrectness: device.epsilonCorrectness,
  }
  return expectedBlock(optimise(profile, device.efficiencyF), device.efficiencyF).secretBitsPerSecond
}

/** Whether it is the printed rate, to half a per cent or as exact as it was printed. */
export const isRuscasRate = (blockBits: number, lossDb: number, printed: number): boolean =>
  Math.abs(bestOfRusca(blockBits, lossDb) - printed) <= (printed < 1 ? 0.05 : 0.006 * printed)
