/** `kme demo`: several KMEs on this machine, in one command. Reads KME_DEMO_DIR and KME_DEMO_PORT. */
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { prepareDemo, resetDemo, runDemo } from '../demo/demo.ts'
import { BASE_PORT_MAX, DEFAULT_BASE_PORT, DEFAULT_SHAPE, filesOf, layoutOf, SITES_MAX, type DemoLayout } from '../demo/layout.ts'
import { keptShape } from '../demo/kept-shape.ts'
import { systemClock } from '../kernel/clock.ts'
import { addDemoEveCommand } from './demo-eve-command.ts'
import { wholeNumber } from './terminal.ts'

const DEFAULT_DIRECTORY = '.kme/demo'

interface Flags {
  readonly reset?: boolean
  readonly prepareOnly?: boolean
  readonly containers?: boolean
  readonly sites?: number
  readonly ring?: boolean
}

export const addDemoCommand = (program: Command): void => {
  const demo = program
    .command('demo')
    .summary('run several KMEs on this machine to try everything')
    .description(
      'Runs a network of three KMEs in a line, or another, on 127.0.0.1 with emulated QKD links and a database of its own,\nuntil Ctrl-C.\n' +
        'Prints READY when keys can be fetched, and what to try. The next start goes on with the same keys.',
    )
    .option('--sites <number>', `KMEs, 2 to ${SITES_MAX} (default: as before, or 3)`, wholeNumber(2, SITES_MAX))
    .option('--ring', 'a link between the last KME and the first too: two disjoint ways between any two')
    .option('--reset', 'remove everything earlier starts left, then start')
    .option('--prepare-only', 'write certificates and configuration files, start nothing')
    .option('--containers', 'with --prepare-only: files for docker-compose.yml')
    .addHelpText(
      'after',
      `
Environment:
  KME_DEMO_DIR   directory of the demo (default ${DEFAULT_DIRECTORY})
  KME_DEMO_PORT  base port (default ${DEFAULT_BASE_PORT}). SAE APIs are at base +1 to +9, peer APIs at +11 to +19,
                 admin APIs at +21 to +29, PostgreSQL at +31, the links' channels at +41 and above`,
    )
    .action(async (flags: Flags) => {
      const { directory, basePort } = demoPlace()
      if (flags.containers === true && flags.prepareOnly !== true) throw new Error('--containers goes with --prepare-only')
      const layout = layoutFor(directory, flags)
      if (flags.reset === true) await resetDemo(directory)
      if (flags.prepareOnly === true) {
        await prepareDemo({ directory, basePort, layout, containers: flags.containers === true })
        console.log(`The files of the demo network are in ${directory}`)
      } else {
        await run(directory, basePort, layout)
      }
    })
  addDemoEveCommand(demo, demoPlace)
}

const demoPlace = () => ({
  directory: resolve(process.env['KME_DEMO_DIR'] || DEFAULT_DIRECTORY),
  basePort: parseBasePort(process.env['KME_DEMO_PORT'] || String(DEFAULT_BASE_PORT)),
})

/** As the options say; without any, as the directory has it. */
const layoutFor = (directory: string, { sites, ring, containers, reset }: Flags): DemoLayout => {
  const isShaped = sites !== undefined || ring !== undefined
  if (containers === true && isShaped)
    throw new Error('docker-compose.yml has three KMEs in a line: leave out --sites and --ring')
  if (isShaped) return layoutOf({ sites: sites ?? DEFAULT_SHAPE.sites, ring: ring === true })
  return layoutOf((reset === true ? undefined : keptShape(filesOf(directory))) ?? DEFAULT_SHAPE)
}

const run = async (directory: string, basePort: number, layout: DemoLayout): Promise<void> => {
  const stopping = new AbortController()
  // A second signal changes nothing: npm passes on what the terminal has sent already.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stopping.abort())
  // npm runs this in a shell and passes SIGTERM to the shell alone, which dies of it without telling us.
  if (process.env['npm_lifecycle_event'] !== undefined) void stopWithParent(stopping)
  process.stdout.on('error', () => {
    // Whoever read what the demo prints has gone; the demo goes on.
  })
  // It names the database of one KME; the demo's KMEs have their own.
  const { DATABASE_URL: _database, ...environment } = process.env
  try {
    await runDemo(
      {
        directory,
        basePort,
        layout,
        kme: [process.execPath, fileURLToPath(new URL('kme.ts', import.meta.url))],
        environment,
        say: (text) => console.log(text),
      },
      stopping.signal,
    )
  } finally {
    // Also when it was refused: whoever still watches for a stop would keep the process alive.
    stopping.abort()
  }
}

const PARENT_INTERVAL_MS = 250

/** Aborts `stopping` when the process that started this one is gone. */
const stopWithParent = async (stopping: AbortController): Promise<void> => {
  const parent = process.ppid
  while (!stopping.signal.aborted && process.ppid === parent) await systemClock.sleep(PARENT_INTERVAL_MS, stopping.signal)
  stopping.abort()
}

const parseBasePort = (text: string): number => {
  const port = /^\d+$/.test(text) ? Number(text) : NaN
  if (!(port >= 1 && port <= BASE_PORT_MAX)) throw new Error(`KME_DEMO_PORT must be a number from 1 to ${BASE_PORT_MAX}`)
  return port
}
