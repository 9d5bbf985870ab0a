/** The demo network on this machine (`npm start`): an embedded PostgreSQL, emulated quantum channels and KMEs, each a
 *  process of its own. What it is made of and where it is found is in layout.ts.
 *  Holds: a child that dies is started again and takes nobody down with it; a stop, or the death of the demo itself, leaves
 *  nothing running; nothing is lost between one start and the next. */
import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { systemClock, type Clock } from '../kernel/clock.ts'
import { systemRandom, type Random } from '../kernel/random.ts'
import { lockDirectory, refuseLocked } from './directory-lock.ts'
import { requireFreePorts } from './free-ports.ts'
import { startPostgres } from './kept-postgres.ts'
import { keepShape } from './kept-shape.ts'
import { PROFILE, pulseRateHz } from './kme-yaml.ts'
import { filesOf, linkPortsOf, type DemoFiles, type DemoLayout, type DemoLink } from './layout.ts'
import { nextSteps } from './next-steps.ts'
import { limitLog, makeDirectories, prepareFiles, renewFiles } from './prepare-files.ts'
import { findMissing } from './readiness.ts'
import { superviseProcess, type SupervisedProcess } from './supervised-process.ts'

export interface DemoOptions {
  /** Absolute. */
  readonly directory: string
  readonly basePort: number
  readonly layout: DemoLayout
  /** Node.js and the file of the `kme` command line. */
  readonly kme: readonly [string, ...string[]]
  /** Of the children. */
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Prints a line for people. */
  readonly say: (text: string) => void
  readonly clock?: Clock
  readonly random?: Random
}

const LOOK_INTERVAL_MS = 200
/** Of what is still missing. */
const SHOWN_MAX = 4
const READY_DEADLINE_MS = 300_000
const RENEW_INTERVAL_MS = 6 * 3_600_000
// A stop takes at most ten seconds: PostgreSQL, without clients by then, needs less than one.
const KME_STOP_DEADLINE_MS = 6000
const CHANNEL_STOP_DEADLINE_MS = 1000

/** Runs the network until `signal` aborts.
 *  @throws Error with a text that says what to do, when it cannot start; nothing is left running then. */
export const runDemo = async (options: DemoOptions, signal: AbortSignal): Promise<void> => {
  const { directory, basePort, layout, clock = systemClock, random = systemRandom } = options
  const files = filesOf(directory)
  const startedMs = clock.monotonicMs()
  const say = (text: string): void =>
    options.say(`[${((clock.monotonicMs() - startedMs) / 1000).toFixed(1).padStart(5)} s] ${text}`)

  await using cleanUp = new AsyncDisposableStack()
  cleanUp.use(await lockDirectory(directory, files.lock, random))
  await requireFreePorts(basePort, layout)
  await makeDirectories(files)
  await keepShape(files, layout.shape, random)
  await limitLog(files.log('postgres'))

  const pids = new Map<string, () => number | undefined>([['demo', () => process.pid]])
  cleanUp.defer(() => rm(files.pids, { force: true }))
  const onChange = (): void => writePids(files, pids)

  say(`certificates, configuration and PostgreSQL in ${directory}`)
  // Both to their end, whatever comes of the other: what was started must be stopped.
  const [prepared, started] = await Promise.allSettled([
    prepareFiles(files, { layout, basePort, containers: false }, { clock, random }),
    startPostgres(files, basePort, layout.kmes, { clock, random, say, onChange }),
  ])
  if (started.status === 'fulfilled') {
    const postgres = started.value
    pids.set('postgres', () => postgres.pid())
    const watching = new AbortController()
    const watched = postgres.watch(watching.signal)
    cleanUp.defer(async () => {
      watching.abort()
      await watched
      await postgres.stop()
    })
  }
  for (const result of [prepared, started]) if (result.status === 'rejected') throw result.reason
  if (signal.aborted) return

  const start = async (name: string, ...args: string[]): Promise<SupervisedProcess> => {
    const logFile = files.log(name)
    await limitLog(logFile)
    const child = superviseProcess({
      command: [...options.kme, ...args, '--stop-with-parent'],
      environment: options.environment,
      logFile,
      clock,
      onChange,
      onDied: (how, restartInMs) => say(`${name} ended (${how}); starting it again in ${restartInMs / 1000} s, log: ${logFile}`),
    })
    pids.set(name, () => child.pid())
    onChange()
    return child
  }

  say('quantum channels and KMEs')
  const channels: SupervisedProcess[] = []
  cleanUp.defer(() => stopAll(channels, CHANNEL_STOP_DEADLINE_MS))
  for (const link of layout.links) channels.push(await start(link.channel, ...channelArguments(link, layout, basePort)))
  const kmes: SupervisedProcess[] = []
  cleanUp.defer(() => stopAll(kmes, KME_STOP_DEADLINE_MS))
  for (const kme of layout.kmes) kmes.push(await start(kme, 'start', '--config', files.config(kme)))

  await waitUntilReady(files, basePort, layout, { say, clock }, signal)
  if (!signal.aborted) {
    say(`${kmes.length} KMEs serve, every pool has keys`)
    options.say('READY')
    options.say(nextSteps(files, basePort, layout))
  }
  while (!signal.aborted) {
    await clock.sleep(RENEW_INTERVAL_MS, signal)
    if (signal.aborted) break
    await renewFiles(files, { clock, random }).catch((error: unknown) =>
      say(`admin token and revocation lists were not renewed: ${(error as Error).message}`),
    )
  }
  say('stopping')
}

const stopAll = async (processes: readonly SupervisedProcess[], deadlineMs: number): Promise<void> => {
  await Promise.all(processes.map((one) => one.stop(deadlineMs)))
}

/** Makes the files of the network and starts nothing.
 *  @param options.containers for docker-compose.yml: listeners take every address, others are found by service names.
 *  @throws Error when a demo runs on the directory. */
export const prepareDemo = async (
  options: Pick<DemoOptions, 'directory' | 'basePort' | 'layout' | 'clock' | 'random'> & { readonly containers: boolean },
): Promise<void> => {
  const { directory, basePort, layout, containers, clock = systemClock, random = systemRandom } = options
  const files = filesOf(directory)
  await using _lock = await lockDirectory(directory, files.lock, random)
  await makeDirectories(files)
  await keepShape(files, layout.shape, random)
  await prepareFiles(files, { layout, basePort, containers }, { clock, random })
}

/** Removes everything in the demo's directory.
 *  @throws Error when a demo runs on it, or when it holds something else than a demo. */
export const resetDemo = async (directory: string): Promise<void> => {
  const files = filesOf(directory)
  if (!existsSync(directory)) return
  await refuseLocked(directory, files.lock)
  const isDemo = [files.pki, `${files.pki}.partial`, files.postgres, files.shape].some((path) => existsSync(path))
  if (!isDemo && readdirSync(directory).length > 0) {
    throw new Error(`${directory} does not hold a demo network, so it is not removed. Check KME_DEMO_DIR.`)
  }
  await rm(directory, { recursive: true })
}

const channelArguments = (link: DemoLink, layout: DemoLayout, basePort: number): string[] => {
  const { photons, control } = linkPortsOf(basePort, link)
  const ports = { 'port-a': photons[0], 'port-b': photons[1], 'control-port': control }
  const options = { ...ports, link: link.id, profile: PROFILE, 'pulse-rate': pulseRateHz(layout) }
  return ['channel-emulator', ...Object.entries(options).map(([name, value]) => `--${name}=${value}`)]
}

/** For scripts that want to stop one part: name and process ID of everything that runs. */
const writePids = (files: DemoFiles, pids: ReadonlyMap<string, () => number | undefined>): void => {
  const running = Object.fromEntries([...pids].flatMap(([name, pid]) => (pid() === undefined ? [] : [[name, pid()]])))
  // By rename: a reader sees a whole file.
  const partial = `${files.pids}.partial`
  writeFileSync(partial, `${JSON.stringify(running, undefined, 2)}\n`)
  renameSync(partial, files.pids)
}

const waitUntilReady = async (
  files: DemoFiles,
  basePort: number,
  layout: DemoLayout,
  { say, clock }: { readonly say: (text: string) => void; readonly clock: Clock },
  signal: AbortSignal,
): Promise<void> => {
  const deadlineMs = clock.monotonicMs() + READY_DEADLINE_MS
  let shown = ''
  while (!signal.aborted) {
    const all = await findMissing(files, basePort, layout)
    const missing = all.slice(0, SHOWN_MAX).join(', ') + (all.length > SHOWN_MAX ? ` and ${all.length - SHOWN_MAX} more` : '')
    if (missing === '') return
    if (clock.monotonicMs() > deadlineMs)
      throw new Error(`The demo network did not become ready: ${missing}. Logs: ${files.logs}`)
    if (missing !== shown) say(missing)
    shown = missing
    await clock.sleep(LOOK_INTERVAL_MS, signal)
  }
}
