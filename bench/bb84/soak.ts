/** `npm run soak:bb84`: one BB84 link of three processes for a long time, and whether it slows down or grows.
 *  Exit status: 0 all is well, 129 the link lost what it must keep (a rate, memory that is flat, blocks). */
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, InvalidArgumentError } from 'commander'
import type { LinkFigures, LinkRole } from './link-of-processes.ts'
import { LINK_ROLES } from './link-of-processes.ts'
import { describeLink, LINK_PLANS, measurementOf, startLink, type LinkPlan } from './measure-link.ts'

interface Flags {
  readonly minutes: number
  readonly profile: string
}

const EXIT_VIOLATION = 129
const REPORT_INTERVAL_MS = 15_000
/** Memory settles in the first part; what counts is the median of the part after it against that of the last. */
const PARTS = 4
const GROWTH_MAX = 1.15
const LEAST_BITS_PER_SECOND: Readonly<Record<string, number>> = { 'lab-2014': 95_000, metro: 1_000_000 }
const LEAST_PULSES_PER_SECOND: Readonly<Record<string, number>> = { 'lab-2014': 99_000_000 }

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN

const growthOf = (samples: readonly LinkFigures[], role: LinkRole): number => {
  const size = Math.floor(samples.length / PARTS)
  const of = (part: readonly LinkFigures[]): number => median(part.map(({ rssBytes }) => rssBytes[role]))
  return of(samples.slice(-size)) / of(samples.slice(size, 2 * size))
}

const soak = async (plan: LinkPlan, minutes: number): Promise<readonly string[]> => {
  await using cleanUp = new AsyncDisposableStack()
  const link = await startLink(plan, cleanUp)
  const samples = [await link.figures()]
  const first = samples[0]!
  let reported = first
  while (samples.at(-1)!.atMs - first.atMs < minutes * 60_000) {
    await sleep(Math.min(REPORT_INTERVAL_MS, minutes * 3_000) / 5)
    const now = await link.figures()
    samples.push(now)
    if (now.atMs - reported.atMs < REPORT_INTERVAL_MS) continue
    console.log(describeLink(measurementOf(plan, reported, now)))
    reported = now
  }
  const whole = measurementOf(plan, first, samples.at(-1)!)
  console.log(`\nIn all: ${describeLink(whole)}`)
  const growth = LINK_ROLES.map((role) => [role, growthOf(samples, role)] as const)
  console.log(
    `Memory, median of the last quarter over that of the second: ${growth.map(([r, g]) => `${r} ${g.toFixed(3)}`).join(', ')}`,
  )
  const least = LEAST_BITS_PER_SECOND[plan.profile] ?? 0
  const leastPulses = LEAST_PULSES_PER_SECOND[plan.profile] ?? 0
  return [
    ...(whole.secretBitsPerSecond < least ? [`less than ${least} secret bits per second`] : []),
    ...(whole.pulsesPerSecond < leastPulses ? [`less than ${leastPulses} pulses per second`] : []),
    ...(whole.mishaps > 0 ? [`${whole.mishaps} blocks without key, lost bursts or broken connections`] : []),
    ...growth
      .filter(([, factor]) => factor > GROWTH_MAX)
      .map(([role, factor]) => `${role} grew by a factor of ${factor.toFixed(2)}`),
  ]
}

const minutes = (text: string): number => {
  const value = Number(text)
  if (!(value >= 0.5 && value <= 10_000)) throw new InvalidArgumentError('0.5 to 10000')
  return value
}

const run = async (flags: Flags): Promise<void> => {
  const plan = LINK_PLANS.find(({ profile }) => profile === flags.profile)
  if (plan === undefined) throw new Error(`the links are ${LINK_PLANS.map(({ profile }) => profile).join(', ')}`)
  const violations = await soak(plan, flags.minutes)
  for (const violation of violations) console.error(`BROKEN: ${violation}`)
  if (violations.length > 0) process.exitCode = EXIT_VIOLATION
}

const program = new Command('soak:bb84')
  .description(
    'Runs one BB84 link as three processes and watches key rate and memory. Run it on a machine that does nothing else.',
  )
  .option('--minutes <n>', 'how long', minutes, 10)
  .option('--profile <name>', `which link: ${LINK_PLANS.map(({ profile }) => profile).join(', ')}`, 'lab-2014')
  .action(run)

try {
  await program.parseAsync()
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 1
}
