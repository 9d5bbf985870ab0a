/** `kme doctor`: looks at everything a KME needs and says, for each thing, whether it is fine, what is wrong and what to do. It
 *  changes nothing, goes on after a failure, and never hangs. */
import type { Command } from 'commander'
import { ConfigError, loadConfig, type Config } from '../config/config.ts'
import type { Clock } from '../kernel/clock.ts'
import { checkCertificates, checkRevocationLists } from './doctor/check-certificates.ts'
import { checkDatabase } from './doctor/check-database.ts'
import { checkFiles } from './doctor/check-files.ts'
import { checkLinks } from './doctor/check-links.ts'
import { checkPeers } from './doctor/check-peers.ts'
import { checkPorts } from './doctor/check-ports.ts'
import { runChecks, type Check, type Finding, type Level } from './doctor/check.ts'
import { toJson, wholeNumber } from './terminal.ts'

export interface DoctorCommandParts {
  readonly clock: Clock
}

interface DoctorOptions {
  readonly config: string
  readonly deadlineMs: number
  readonly json?: boolean
}

/** Every check makes a few network operations, one after the other. */
const LIMIT_IN_DEADLINES = 8

/** Adds `doctor` to the program. */
export const addDoctorCommand = (program: Command, { clock }: DoctorCommandParts): void => {
  program
    .command('doctor')
    .description('find what keeps a KME from working: configuration, files, certificates, database, clock, ports, peers, devices')
    .option('-c, --config <file>', 'configuration file', 'kme.yaml')
    .option('--deadline-ms <ms>', 'how long one network operation may take', wholeNumber(1, 60_000), 3000)
    .option('--json', 'JSON for programs')
    .addHelpText('after', '\nExit status: 0 when nothing failed, 1 when something did. Run it as the user that runs the KME.')
    .action(async (options: DoctorOptions) => {
      const findings = await examine(options.config, clock, options.deadlineMs)
      console.log(options.json === true ? toJson({ ...countLevels(findings), findings }) : describe(findings))
      if (findings.some(({ level }) => level === 'fail')) process.exitCode = 1
    })
}

/** Runs every check on a configuration file. */
export const examine = async (file: string, clock: Clock, deadlineMs: number): Promise<Finding[]> => {
  let config: Config
  try {
    config = loadConfig(file)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.faults.map((what) => ({
      check: 'config',
      level: 'fail',
      what,
      todo: `correct ${file}; the other checks need it`,
    }))
  }
  const parts = { config, clock, deadlineMs }
  const running = Promise.withResolvers<boolean>()
  const checks: Check[] = [
    { name: 'config', run: (report) => report('ok', `${file} is fine: KME ${config.kme.id}`) },
    { name: 'files', run: (report) => checkFiles(parts, report) },
    { name: 'certificates', run: (report) => checkCertificates(parts, report) },
    { name: 'revocation lists', run: (report) => checkRevocationLists(parts, report) },
    { name: 'database', run: (report) => checkDatabase(parts, report) },
    {
      name: 'ports',
      run: async (report) => {
        try {
          running.resolve(await checkPorts(parts, report))
        } finally {
          // Counts only when the line above failed.
          running.resolve(false)
        }
      },
    },
    { name: 'peers', run: (report) => checkPeers(parts, report) },
    { name: 'links', run: async (report) => checkLinks(parts, await running.promise, report) },
  ]
  return runChecks(checks, clock, deadlineMs * LIMIT_IN_DEADLINES)
}

const MARKS: Readonly<Record<Level, string>> = { ok: 'ok  ', warn: 'WARN', fail: 'FAIL' }

const countLevels = (findings: readonly Finding[]): Record<Level, number> => {
  const count = (wanted: Level): number => findings.filter(({ level }) => level === wanted).length
  return { ok: count('ok'), warn: count('warn'), fail: count('fail') }
}

const describe = (findings: readonly Finding[]): string => {
  const width = Math.max(...findings.map(({ check }) => check.length))
  const lines = findings.flatMap(({ check, level, what, todo }) => [
    `${MARKS[level]}  ${check.padEnd(width)}  ${what}`,
    ...(todo === undefined ? [] : [`      ${' '.repeat(width)}  -> ${todo}`]),
  ])
  const { ok, warn, fail } = countLevels(findings)
  return [...lines, '', `${ok} ok, ${warn} warnings, ${fail} failed`].join('\n')
}
