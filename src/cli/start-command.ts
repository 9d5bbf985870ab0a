/** `kme start` and `kme config check`: run one KME from its configuration file, as one process or as several. */
import cluster from 'node:cluster'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Command } from 'commander'
import { ConfigError, loadConfig, type Config } from '../config/config.ts'
import { databaseUrl, redisUrl } from '../config/environment.ts'
import { readPassphrase } from '../config/secrets.ts'
import { systemClock } from '../kernel/clock.ts'
import { createLogger } from '../kernel/log.ts'
import { readAuthenticationKeys } from './doctor/check-files.ts'
import { wholeNumber } from './terminal.ts'
import { runWorkers, talkToPrimary, workerNumber, type ListeningLine } from './workers.ts'

const DEFAULT_CONFIG = 'kme.yaml'
const WORKERS_MAX = 64

/** The version in package.json. */
export const readVersion = (): string =>
  (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version

interface StartOptions {
  readonly config: string
  readonly workers: number
  readonly stopWithParent?: boolean
}

/** The one line that says the listeners are open; programs that start a KME wait for it. */
const sayListening = (line: ListeningLine): void => console.log(JSON.stringify(line))

/** One process of a KME, until `stop` aborts. */
const runKme = async (config: Config, stop: AbortController): Promise<void> => {
  // Loaded here, so that the other commands and the primary do without a whole KME in memory.
  const { compose } = await import('../compose.ts')
  const number = workerNumber()
  const log = createLogger(config.log.level, { kme: config.kme.id, ...(number !== undefined && { worker: number }) })
  const primary = cluster.isWorker ? talkToPrimary(systemClock, () => stop.abort()) : undefined
  try {
    using passphrase = readPassphrase(config)
    const kme = await compose({
      config,
      databaseUrl: databaseUrl(config),
      redisUrl: redisUrl(config),
      passphrase,
      version: readVersion(),
      log,
      ...(primary !== undefined && { shareMetrics: primary.shareMetrics }),
      onFailure: () => {
        process.exitCode = 1
        stop.abort()
      },
    })
    if (!stop.signal.aborted) {
      const line = { event: 'listening', kmeId: kme.kmeId, ...kme.ports }
      if (primary === undefined) sayListening(line)
      else primary.listening(line)
      await once(stop.signal, 'abort')
    }
    await kme.stop()
  } finally {
    primary?.leave()
  }
}

export const addStartCommand = (program: Command): void => {
  program
    .command('start')
    .description('Run one KME in the foreground until SIGTERM or SIGINT')
    .option('-c, --config <file>', 'configuration file', DEFAULT_CONFIG)
    .option('-w, --workers <n>', `processes that share the listeners, 1 to ${WORKERS_MAX}`, wholeNumber(1, WORKERS_MAX), 1)
    .option('--stop-with-parent', 'stop when standard input ends, as it does when the program that started this one dies')
    .action(async ({ config: file, workers, stopWithParent = false }: StartOptions) => {
      const stop = new AbortController()
      const askToStop = (): void => stop.abort()
      // First of all: a signal must not kill it half way, without the record of its stop.
      process.on('SIGTERM', askToStop)
      process.on('SIGINT', askToStop)
      const config = loadConfig(file)
      if (cluster.isWorker) return runKme(config, stop)
      if (stopWithParent) {
        // Not the reason to stay alive when the start fails.
        if (process.stdin instanceof Socket) process.stdin.unref()
        process.stdin.on('close', askToStop).resume()
      }
      if (workers === 1) return runKme(config, stop)
      if (redisUrl(config) === undefined) {
        throw new Error('several workers share their pools in Redis: set REDIS_URL or redis.urlFile, or start without --workers')
      }
      const log = createLogger(config.log.level, { kme: config.kme.id })
      const onListening = (line: ListeningLine): void => sayListening({ ...line, workers })
      await runWorkers({ count: workers, clock: systemClock, log, onListening }, stop.signal)
    })

  program
    .command('config')
    .description('Work with the configuration file')
    .command('check')
    .description('List every mistake of a configuration file; exit status 1 when there is one')
    .option('-c, --config <file>', 'configuration file', DEFAULT_CONFIG)
    .action(async ({ config: file }: { config: string }) => {
      const config = loadConfig(file)
      const keys = await readAuthenticationKeys(config)
      const faults = keys.flatMap(({ setting, fault }) => (fault === undefined ? [] : [`${setting}: ${fault}`]))
      if (faults.length > 0) throw new ConfigError(file, faults)
      console.log(
        `${file} is fine: KME ${config.kme.id}, ${config.peers.length} peers, ${config.links.length} links, ${config.saes.length} SAEs`,
      )
    })
}
