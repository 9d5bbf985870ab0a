/** Many blocks of one link, summed up: how many gave a key, how much, and at what error rate of the sifted key. */
import { expectedDetection } from '../../src/bb84/detection-model.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import type { Eve } from '../../src/quantum-channel/quantum-channel.ts'
import { analyticCurve } from '../../bench/bb84/key-rate-curve.ts'
import { unpaced } from '../../bench/bb84/simulated-point.ts'
import { seededStreams } from '../bb84/seeded-random.ts'
import { profileNamed } from '../../src/bb84/profile.ts'
import { pairedLedgers, ROLES, runSimulatedLink } from './simulated-link.ts'

export interface ManyBlocks {
  readonly blocks: number
  /** Blocks that gave no key, by what both ends reported. */
  readonly aborted: number
  /** Bits handed to the pools or kept for authentication, of both ends. */
  readonly keyBits: number
  /** Mean over the blocks of the error rate Bob found in his sifted key. */
  readonly qber: number
  /** Why sessions ended that should not have. */
  readonly failures: readonly string[]
}

const BLOCKS_PER_SESSION = 100
/** Enough authentication key for a session in which no block brings any. */
const PRE_SHARED_BYTES = 16 + 48 * (BLOCKS_PER_SESSION + 1)

/** A named profile tuned by the analysis to its distance and to blocks of so many sifted bits. */
export const tuned = (name: string, distanceKm: number, blockBits: number): Bb84Profile =>
  analyticCurve(profileNamed(name, { blockBits }), [distanceKm])[0]!.profile

export const runManyBlocks = async (profile: Bb84Profile, blocks: number, eve: Eve, seed: string): Promise<ManyBlocks> => {
  const rates: number[] = []
  const failures: string[] = []
  let aborted = 0
  let keyBits = 0
  for (let session = 0; session * BLOCKS_PER_SESSION < blocks; session += 1) {
    const outcome = await runSimulatedLink({
      profile: unpaced(profile),
      blocks: Math.min(BLOCKS_PER_SESSION, blocks - session * BLOCKS_PER_SESSION),
      slotsPerBurst: 2 ** 18,
      eve,
      streams: (owner) => seededStreams(`${seed} ${session} ${owner}`),
      ledgers: await pairedLedgers(PRE_SHARED_BYTES),
    })
    for (const role of ROLES) {
      const reason = outcome.failures[role]?.message
      if (reason !== undefined) failures.push(`${role}: ${reason}`)
      for (const { key, statement } of outcome.delivered[role]) keyBits += key.length * 8 + statement.replenishBits
    }
    for (const { qber } of outcome.delivered.bob) rates.push(qber)
    for (const event of outcome.events) {
      if (event.role !== 'bob' || event.kind !== 'no-key') continue
      aborted += 1
      rates.push(event.qber)
    }
  }
  return { blocks: rates.length, aborted, keyBits, qber: rates.reduce((sum, rate) => sum + rate, 0) / rates.length, failures }
}

/** Error rate of the sifted key when a fraction of the pulses is intercepted: e + p (1/4 - e/2) of what comes from Alice, one half of what
 *  does not. */
export const expectedQber = (profile: Bb84Profile, intercepted: number): number => {
  const { matched } = expectedDetection(profile, intercepted)
  const mean = (of: 'gain' | 'errorGain'): number =>
    matched.reduce((sum, each, k) => sum + profile.intensityProbabilities[k]! * each[of], 0)
  return mean('errorGain') / mean('gain')
}

/** How far a mean error rate is from the expected one, in standard deviations of so many blocks. Afterpulses come in clusters. */
export const qberDeviations = (profile: Bb84Profile, { qber, blocks }: ManyBlocks, intercepted: number): number => {
  const expected = expectedQber(profile, intercepted)
  const { afterpulseProbability } = profile.receiver
  const spread = (1 + afterpulseProbability) / (1 - afterpulseProbability)
  return (qber - expected) / Math.sqrt((spread * expected * (1 - expected)) / (blocks * profile.blockBits))
}
