/** `kme start` and `kme config check`: run one KME from its configuration file. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Command } from 'commander'
import { loadConfig } from '../config/config.ts'
import { databaseUrl, redisUrl } from '../config/environment.ts'
import { readPassphrase } from '../config/secrets.ts'
import { createLogger } from '../kernel/log.ts'

const DEFAULT_CONFIG = 'kme.yaml'

/** The version in package.json. */
export const readVersion = (): string =>
  (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version

export const addStartCommand = (program: Command): void => {
  program
    .command('start')
    .description('Run one KME in the foreground until SIGTERM or SIGINT')
    .option('-c, --config <file>', 'configuration file', DEFAULT_CONFIG)
    .option('--stop-with-parent', 'stop when standard input ends, as it does when the program that started this one dies')
    .action(async ({ config: file, stopWithParent = false }: { config: string; stopWithParent?: boolean }) => {
      const stop = new AbortController()
      const askToStop = (): void => stop.abort()
      // First of all: a signal must not kill it half way, without the record of its stop.
      process.on('SIGTERM', askToStop)
      process.on('SIGINT', askToStop)
      // Loaded here, so that the other commands do without a whole KME in memory.
      const { compose } = await import('../compose.ts')
      const config = loadConfig(file)
      const log = createLogger(config.log.level, { kme: config.kme.id })
      if (stopWithParent) {
        // Not the reason to stay alive when the start fails.
        if (process.stdin instanceof Socket) process.stdin.unref()
        process.stdin.on('close', askToStop).resume()
      }
      using passphrase = readPassphrase(config)
      const kme = await compose({
        config,
        databaseUrl: databaseUrl(config),
        redisUrl: redisUrl(config),
        passphrase,
        version: readVersion(),
        log,
      })
      if (!stop.signal.aborted) {
        // The one line that says the listeners are open; programs that start a KME wait for it.
        console.log(JSON.stringify({ event: 'listening', kmeId: kme.kmeId, ...kme.ports }))
        await once(stop.signal, 'abort')
      }
      await kme.stop()
    })

  program
    .command('config')
    .description('Work with the configuration file')
    .command('check')
    .description('List every mistake of a configuration file; exit status 1 when there is one')
    .option('-c, --config <file>', 'configuration file', DEFAULT_CONFIG)
    .action(({ config: file }: { config: string }) => {
      const config = loadConfig(file)
      console.log(
        `${file} is fine: KME ${config.kme.id}, ${config.peers.length} peers, ${config.links.length} links, ${config.saes.length} SAEs`,
      )
    })
}
