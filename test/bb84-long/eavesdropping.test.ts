/** Eve on the fibre over thousands of blocks, and how often an honest link is taken for one with Eve. The figures are printed. */
import { afterAll, describe, expect, it } from '@jest/globals'
import { simulatePoint } from '../../bench/bb84/simulated-point.ts'
import type { SimulatedPoint } from '../../bench/bb84/key-rate-curve.ts'
import { expectedBlock } from '../../src/bb84/expected-rate.ts'
import { keyLengthTwoDecoys } from '../../src/bb84/key-length.ts'
import { profileNamed } from '../../src/bb84/profile.ts'
import { BASIS_X, BASIS_Z } from '../../src/bb84/pulse-source.ts'
import { expectedQber, qberDeviations, runManyBlocks, tuned } from '../bb84-link/many-blocks.ts'
import { cellOf, deviations, expectedOf, run } from '../quantum-channel/statistics.ts'

const SIGMAS = 4.9
const LONG_MS = 7_200_000
const percent = (share: number): string => `${(100 * share).toFixed(3)} %`

const figures: Record<string, unknown>[] = []
afterAll(() => {
  // eslint-disable-next-line no-console -- the figures are what this suite is run for
  console.table(figures)
})

describe('intercept and resend', () => {
  it.each([
    ['metro', 0.2, 1_000],
    ['metro', 0.25, 1_000],
    ['lab-2014', 0.2, 1_000],
    ['lab-2014', 0.25, 200],
  ])(
    'of %s blocks of 10^5 bits with a fraction of %d leaves not one bit in %d',
    async (name, fraction, blocks) => {
      const profile = tuned(name, 5, 100_000)
      const attacked = await runManyBlocks(profile, blocks, { attack: 'intercept', fraction }, `long ${name} ${fraction}`)
      const sigmas = qberDeviations(profile, attacked, fraction)
      figures.push({
        link: `${name}, 5 km, 1e5`,
        Eve: `intercepts ${fraction}`,
        blocks,
        'key bits': attacked.keyBits,
        QBER: percent(attacked.qber),
        expected: percent(expectedQber(profile, fraction)),
        deviations: sigmas.toFixed(2),
      })
      expect(attacked).toMatchObject({ blocks, aborted: blocks, keyBits: 0, failures: [] })
      expect(Math.abs(sigmas)).toBeLessThan(SIGMAS)
    },
    LONG_MS,
  )

  it.each([0, 0.02, 0.05])(
    'with a fraction of %d leaves as much key as the analysis says, within 10 %%',
    async (intercepted) => {
      const profile = tuned('lab-2014', 25, 1_000_000)
      const points: SimulatedPoint[] = []
      for (let block = 1; block <= 3; block += 1) {
        points.push(await simulatePoint(profile, `long interception of ${intercepted}, block ${block}`, { intercepted }))
      }
      const mean = (of: 'secretBitsPerPulse' | 'expectedBitsPerPulse' | 'qber'): number =>
        points.reduce((sum, point) => sum + point[of], 0) / points.length
      const ratio = mean('secretBitsPerPulse') / mean('expectedBitsPerPulse')
      const sigmas = qberDeviations(profile, { blocks: 3, qber: mean('qber'), aborted: 0, keyBits: 0, failures: [] }, intercepted)
      figures.push({
        link: 'lab-2014, 25 km, 1e6',
        Eve: `intercepts ${intercepted}`,
        blocks: points.length,
        'key bits': `${percent(ratio)} of expected`,
        QBER: percent(mean('qber')),
        expected: percent(expectedQber(profile, intercepted)),
        deviations: sigmas.toFixed(2),
      })
      expect(Math.abs(ratio - 1)).toBeLessThan(0.1)
      expect(Math.abs(sigmas)).toBeLessThan(SIGMAS)
    },
    LONG_MS,
  )
})

it(
  'an honest link gives up no block in 3,000: fewer than one in a thousand, with 95 % confidence',
  async () => {
    const blocks = 3_000
    const profile = tuned('metro', 5, 100_000)
    const honest = await runManyBlocks(profile, blocks, { attack: 'off' }, 'long honest')
    const sigmas = qberDeviations(profile, honest, 0)
    figures.push({
      link: 'metro, 5 km, 1e5',
      Eve: 'off',
      blocks,
      'key bits': honest.keyBits,
      QBER: percent(honest.qber),
      expected: percent(expectedQber(profile, 0)),
      deviations: sigmas.toFixed(2),
      aborted: honest.aborted,
    })
    expect(honest).toMatchObject({ blocks, aborted: 0, failures: [] })
    expect(Math.abs(sigmas)).toBeLessThan(SIGMAS)
  },
  LONG_MS,
)

describe('photon-number splitting', () => {
  it.each([20, 40, 60])(
    'at %d km leaves gain and error rate of the signal as they were, and proves no single photon',
    (distanceKm) => {
      const profile = profileNamed('gys', { distanceKm })
      const pulses = 1_000_000_000
      const { cells } = run(profile, pulses, `long split ${distanceKm}`, { eve: { attack: 'split' }, countSent: false })
      const honest = expectedOf(profile, profile.intensities[0]!, true)
      const signal = cellOf(cells, BASIS_X, BASIS_X, 0)
      const ofGain = deviations(signal.clicks, signal.sent, honest.gain)
      const ofErrors = deviations(signal.wrong + signal.both / 2, signal.sent, honest.errorGain)
      const counts = (basis: number, of: 'clicks' | 'wrong'): number[] =>
        profile.intensities.map((_, k) => cellOf(cells, basis, basis, k)[of])
      const seen = { nX: counts(BASIS_X, 'clicks'), nZ: counts(BASIS_Z, 'clicks'), mZ: counts(BASIS_Z, 'wrong') }
      const { sX1, lengthBits } = keyLengthTwoDecoys(seen, 0, profile)
      figures.push({
        link: `gys, ${distanceKm} km`,
        Eve: 'splits',
        blocks: `${pulses} pulses`,
        'key bits': lengthBits,
        QBER: percent((signal.wrong + signal.both / 2) / signal.clicks),
        expected: percent(honest.errorGain / honest.gain),
        deviations: `gain ${ofGain.toFixed(2)}, errors ${ofErrors.toFixed(2)}`,
      })
      expect(ofGain).toBeLessThan(SIGMAS)
      expect(ofErrors).toBeLessThan(SIGMAS)
      expect([sX1, lengthBits]).toEqual([0, 0])
    },
    LONG_MS,
  )

  it(
    'gives not one bit in 200 blocks',
    async () => {
      const profile = tuned('gys', 20, 100_000)
      expect(expectedBlock(profile, 1.05).keyLength.lengthBits).toBeGreaterThan(10_000)
      const attacked = await runManyBlocks(profile, 200, { attack: 'split' }, 'long split')
      figures.push({
        link: 'gys, 20 km, 1e5',
        Eve: 'splits',
        blocks: attacked.blocks,
        'key bits': attacked.keyBits,
        QBER: percent(attacked.qber),
        expected: percent(expectedQber(profile, 0)),
      })
      expect(attacked).toMatchObject({ blocks: 200, aborted: 200, keyBits: 0, failures: [] })
    },
    LONG_MS,
  )
})
