/** One block of a link, distilled by the stations and the channel of the product in this process, beside what the analysis expects of it. */
import { binaryEntropy } from '../../src/bb84/binary-entropy.ts'
import { expectedBlock, type ExpectationOptions, type ExpectedBlock } from '../../src/bb84/expected-rate.ts'
import { expectedDetection } from '../../src/bb84/detection-model.ts'
import { keyLength, type BlockCounts } from '../../src/bb84/key-length.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { seededStreams } from '../../test/bb84/seeded-random.ts'
import { runSimulatedLink } from '../../test/bb84-link/simulated-link.ts'
import { ASSUMED_EFFICIENCY_F, type SimulatedPoint } from './key-rate-curve.ts'

const SLOTS_PER_BURST = 2 ** 18
const UNPACED_HZ = 1e10

/** The profile as fast as the machine goes: the same physics of every slot, only sooner. */
export const unpaced = (profile: Bb84Profile): Bb84Profile => ({
  ...profile,
  pulseRateHz: UNPACED_HZ,
  // Dead time is a number of slots.
  receiver: { ...profile.receiver, deadTimeNs: (profile.receiver.deadTimeNs * profile.pulseRateHz) / UNPACED_HZ },
})

/** Pulses a station sends for a block: whole bursts. */
export const pulsesOfBlock = (profile: Bb84Profile, slotsPerBurst: number): number =>
  Math.ceil(expectedBlock(profile, ASSUMED_EFFICIENCY_F).pulses / slotsPerBurst) * slotsPerBurst

/** What is expected of so many pulses: `expectedBlock` is for so many sifted bits.
 *  @param intercepted fraction of the pulses that Eve intercepts and resends. */
export const expectedOfPulses = (profile: Bb84Profile, pulses: number, efficiencyF: number, intercepted = 0): ExpectedBlock => {
  const options: ExpectationOptions = { receiverModel: (link) => expectedDetection(link, intercepted).matched }
  const sifted = (pulses * profile.blockBits) / expectedBlock(profile, efficiencyF, options).pulses
  return expectedBlock({ ...profile, blockBits: sifted }, efficiencyF, options)
}

/** Standard deviation of the key length of a block, to first order: what chance does to each count, times what the length makes of it.
 *  Counts are independent of each other but for afterpulses, which come in clusters and add (1 + p) / (1 - p). */
export const lengthDeviation = (profile: Bb84Profile, { counts }: ExpectedBlock, efficiencyF: number): number => {
  const { afterpulseProbability } = profile.receiver
  const lengthOf = (changed: Required<BlockCounts>): number => {
    const [sifted, wrong] = [changed.nX, changed.mX].map((each) => each.reduce((sum, count) => sum + count, 0)) as [
      number,
      number,
    ]
    return keyLength(profile, changed, efficiencyF * sifted * binaryEntropy(wrong / sifted)).unclippedBits
  }
  const middle = lengthOf(counts)
  let variance = 0
  for (const [all, wrong] of [
    ['nX', 'mX'],
    ['nZ', 'mZ'],
  ] as const) {
    counts[all].forEach((count, k) => {
      const wrongCount = counts[wrong][k]!
      for (const [kind, mean] of [
        ['wrong', wrongCount],
        ['right', count - wrongCount],
      ] as const) {
        const step = Math.sqrt(mean)
        const added = (counted: readonly number[]): number[] =>
          counted.map((value, index) => (index === k ? value + step : value))
        const changed = { ...counts, [all]: added(counts[all]), ...(kind === 'wrong' && { [wrong]: added(counts[wrong]) }) }
        variance += (lengthOf(changed) - middle) ** 2
      }
    })
  }
  return Math.sqrt((variance * (1 + afterpulseProbability)) / (1 - afterpulseProbability))
}

export interface PointOptions {
  /** Fraction of the pulses that Eve intercepts and resends; 0 unless given. */
  readonly intercepted?: number
  readonly slotsPerBurst?: number
}

/** Distils one block. @param seed the same one gives the same block. @throws Error when it gives no key. */
export const simulatePoint = async (
  profile: Bb84Profile,
  seed: string,
  { intercepted = 0, slotsPerBurst = SLOTS_PER_BURST }: PointOptions = {},
): Promise<SimulatedPoint> => {
  const { delivered, events, failures } = await runSimulatedLink({
    profile: unpaced(profile),
    blocks: 1,
    slotsPerBurst,
    eve: { attack: 'intercept', fraction: intercepted },
    streams: (owner) => seededStreams(`${seed} ${owner}`),
  })
  const [block] = delivered.alice
  if (block === undefined) {
    const reasons = events.map((event) => ('reason' in event ? event.reason : ''))
    throw new Error(`no key: ${[failures.alice?.message, failures.bob?.message, ...reasons].filter(Boolean).join('; ')}`)
  }
  const { statement, qber } = block
  const siftedBits = statement.nX.reduce((sum, count) => sum + count, 0)
  const efficiencyF = statement.leakBits / (siftedBits * binaryEntropy(qber))
  const pulses = pulsesOfBlock(profile, slotsPerBurst)
  const expected = expectedOfPulses(profile, pulses, efficiencyF, intercepted)
  return {
    distanceKm: profile.distanceKm,
    secretBitsPerPulse: statement.lengthBits / pulses,
    blockBits: profile.blockBits,
    pulses,
    qber,
    efficiencyF,
    expectedBitsPerPulse: expected.secretBitsPerPulse * (expected.pulses / pulses),
    deviationBitsPerPulse: lengthDeviation(profile, expected, efficiencyF) / pulses,
  }
}
