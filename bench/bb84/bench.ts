/** `npm run bench:bb84`: what the BB84 link does per second, stage by stage and as three processes, in one run of some 90 seconds. */
import { cpus, loadavg } from 'node:os'
import Table from 'cli-table3'
import { Command, InvalidArgumentError } from 'commander'
import { benchCascade } from './bench-cascade.ts'
import { measurePhysics, measureRoundTrips } from './bench-physics.ts'
import { measurePrivacyAmplification } from './bench-privacy.ts'
import { describeLink, LINK_PLANS, measureLink } from './measure-link.ts'
import { measureWireReconciliation } from './reconciliation.ts'

interface Flags {
  readonly seconds: number
  readonly only?: string
}

const BITS_PER_CASCADE_POINT = 6_000_000
const WIRE = [
  { frames: 32, blocksAtOnce: 1, qber: 0.02, addedMs: 0 },
  { frames: 32, blocksAtOnce: 3, qber: 0.02, addedMs: 0 },
  { frames: 256, blocksAtOnce: 1, qber: 0.02, addedMs: 5 },
  { frames: 86, blocksAtOnce: 3, qber: 0.02, addedMs: 5 },
]
const WIRE_SECONDS = 4

const show = (title: string, head: readonly string[], rows: readonly (readonly (string | number)[])[]): void => {
  const table = new Table({ head: [...head], style: { head: [], border: [] } })
  table.push(...rows.map((row) => [...row]))
  console.log(`\n${title}\n${table.toString()}`)
}
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
const mega = (value: number, digits = 1): string => (value / 1e6).toFixed(digits)

const parts: Readonly<Record<string, (flags: Flags) => void | Promise<void>>> = {
  physics: async () => {
    const figures = measurePhysics().map(({ what, unit, perCpuSecond }) => [what, `${mega(perCpuSecond, 0)} M${unit}`])
    const roundTrips = await measureRoundTrips()
    show('Per second of CPU time, one thread', ['stage', 'does'], figures)
    console.log(`Words and answers on the classical channel, both ends in this process: ${roundTrips.toFixed(0)} per second`)
  },
  reconciliation: () =>
    show(
      'Cascade, both ends on one thread',
      ['frame bits', 'QBER', 'f', '+-', 'rounds', 'Mbit per CPU second', 'frames', 'unequal'],
      benchCascade(BITS_PER_CASCADE_POINT).map((point) => [
        point.frameBits,
        percent(point.qber),
        point.f.toFixed(4),
        point.fError.toFixed(4),
        point.rounds.toFixed(0),
        point.mbitPerCpuSecond.toFixed(1),
        point.frames,
        point.frameErrors,
      ]),
    ),
  wire: async () => {
    const rows: (string | number)[][] = []
    for (const point of WIRE) {
      const figures = await measureWireReconciliation(point, WIRE_SECONDS)
      rows.push([
        `${point.frames} of 65536`,
        point.blocksAtOnce,
        percent(point.qber),
        figures.roundTripMs.toFixed(2),
        figures.f.toFixed(4),
        figures.mbitPerSecond.toFixed(2),
        figures.mbitPerCpuSecond.toFixed(1),
        figures.blocks,
      ])
    }
    show(
      'Cascade between two processes, frames in lockstep, tags included',
      ['frames', 'blocks at once', 'QBER', 'round trip, ms', 'f', 'Mbit/s', 'Mbit per CPU second', 'blocks'],
      rows,
    )
  },
  privacy: () =>
    show(
      'Privacy amplification to a quarter, bits put in per second of CPU time, one thread',
      ['method', 'bits', 'Mbit/s', 'rounding error'],
      measurePrivacyAmplification(8).map(({ method, bitCount, megabitPerSecond, roundingError }) => [
        method,
        bitCount,
        megabitPerSecond.toFixed(1),
        roundingError.toExponential(1),
      ]),
    ),
  link: async ({ seconds }) => {
    console.log('\nAlice, Bob and the channel as three processes, TLS and tags included, authentication key in memory')
    for (const plan of LINK_PLANS) console.log(describeLink(await measureLink(plan, seconds)))
  },
}

const seconds = (text: string): number => {
  const value = Number(text)
  if (!(value >= 5 && value <= 3_600)) throw new InvalidArgumentError('5 to 3600')
  return value
}

const run = async (flags: Flags): Promise<void> => {
  const load = (): string => loadavg()[0]!.toFixed(1)
  const names = Object.keys(parts).filter((name) => name.includes(flags.only ?? ''))
  if (names.length === 0) throw new Error(`there is no such part; there are ${Object.keys(parts).join(', ')}`)
  console.log(`Node ${process.version}, ${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}, load before ${load()}`)
  for (const name of names) await parts[name]!(flags)
  console.log(`\nload after ${load()}: where others worked at the same time, figures as time passes are too low`)
}

const program = new Command('bench:bb84')
  .description('Measures the BB84 link: stages on one thread, reconciliation between processes, and secret bits end to end.')
  .option('--seconds <n>', 'for each of the two links', seconds, 15)
  .option('--only <part>', `one of ${Object.keys(parts).join(', ')}`)
  .action(run)

try {
  await program.parseAsync()
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 1
}
