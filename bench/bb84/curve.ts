/** `npm run bb84:curve`: secret key over distance. At each distance a link is tuned by the analysis and blocks are distilled over it;
 *  the result is a table and a picture with the analytic curves and published points beside (docs/bb84.md).
 *  The randomness of a block comes from its name: the same program writes the same files again. */
import { Command, InvalidArgumentError } from 'commander'
import { PROFILE_NAMES, profileNamed } from '../../src/bb84/profile.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { analyticCurve, keyRateCurve, writeKeyRateCurve, type SimulatedPoint } from './key-rate-curve.ts'
import { simulatePoint } from './simulated-point.ts'

interface Flags {
  readonly profile: string
  readonly runs: number
  readonly quick: boolean
  readonly out?: string
}

const DISTANCES_KM = [5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 100]
const BLOCK_BITS = 1_000_000
const QUICK = { distancesKm: [5, 25, 50], blockBits: 200_000, runs: 1 }

const number = (text: string): number => {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > 100) throw new InvalidArgumentError('a whole number from 1 to 100')
  return value
}

const run = async (flags: Flags): Promise<void> => {
  const distancesKm = flags.quick ? QUICK.distancesKm : DISTANCES_KM
  const runs = flags.quick ? QUICK.runs : flags.runs
  const device = profileNamed(flags.profile, { blockBits: flags.quick ? QUICK.blockBits : BLOCK_BITS })
  const beganMs = systemClock.monotonicMs()
  const simulated: SimulatedPoint[] = []
  console.log(`${device.name}, blocks of ${device.blockBits} sifted bits, ${runs} per distance\n`)
  console.log('  km   run     pulses     QBER       f   secret bits   of expected   deviations  Mpulse/s')
  for (const { distanceKm, profile } of analyticCurve(device, distancesKm)) {
    for (let which = 1; which <= runs; which += 1) {
      const startMs = systemClock.monotonicMs()
      const point = await simulatePoint(profile, `key rate ${profile.name} ${distanceKm} km, run ${which}`)
      simulated.push(point)
      console.log(lineOf(point, which, systemClock.monotonicMs() - startMs))
    }
  }
  const path = flags.out ?? (flags.quick ? 'bb84-key-rate-quick' : 'docs/bb84-key-rate')
  const files = await writeKeyRateCurve(path, keyRateCurve(device, simulated))
  console.log(`\n${files.join(' and ')} written after ${((systemClock.monotonicMs() - beganMs) / 1000).toFixed(0)} s`)
}

const lineOf = (point: SimulatedPoint, which: number, tookMs: number): string => {
  const { distanceKm, pulses, qber, efficiencyF, secretBitsPerPulse, expectedBitsPerPulse, deviationBitsPerPulse } = point
  return [
    String(distanceKm).padStart(4),
    String(which).padStart(5),
    pulses.toExponential(3).padStart(11),
    `${(qber * 100).toFixed(2)} %`.padStart(8),
    efficiencyF.toFixed(4).padStart(7),
    String(Math.round(secretBitsPerPulse * pulses)).padStart(13),
    `${((100 * secretBitsPerPulse) / expectedBitsPerPulse).toFixed(1)} %`.padStart(13),
    ((secretBitsPerPulse - expectedBitsPerPulse) / deviationBitsPerPulse).toFixed(2).padStart(12),
    (pulses / tookMs / 1000).toFixed(0).padStart(9),
  ].join(' ')
}

const program = new Command('bb84:curve')
  .description(
    'Distils blocks over emulated BB84 links of growing length, each tuned for its length, and writes the key rate as CSV and SVG\n' +
      'with the analytic curves and published points. About 6 minutes; needs no database.',
  )
  .option('--profile <name>', `devices of the link: ${PROFILE_NAMES.join(', ')}`, 'lab-2014')
  .option('--runs <n>', 'blocks per distance', number, 3)
  .option('--quick', 'three distances, small blocks, one of each: some seconds; the files go to bb84-key-rate-quick.*', false)
  .option('--out <path>', 'where the files go, without .csv and .svg (default: docs/bb84-key-rate)')
  .action(run)

try {
  await program.parseAsync()
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 1
}
