/** `kme start` and `kme config check`: run one KME from its configuration file. */
import { readFileSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Command } from 'commander'
import { loadConfig } from '../config/config.ts'
import { databaseUrl } from '../config/environment.ts'
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
      // Loaded here, so that the other commands do without a whole KME in memory.
      const { compose } = await import('../compose.ts')
      const config = loadConfig(file)
      const log = createLogger(config.log.level, { kme: config.kme.id })
      const stop = Promise.withResolvers<void>()
      if (stopWithParent) {
        // Not the reason to stay alive when the start fails.
        if (process.stdin instanceof Socket) process.stdin.unref()
        process.stdin.on('close', () => stop.resolve()).resume()
      }
      using passphrase = readPassphrase(config)
      const kme = await compose({ config, databaseUrl: databaseUrl(config), passphrase, version: readVersion(), log })
      const { ports } = kme
      process.on('SIGTERM', () => stop.resolve())
      process.on('SIGINT', () => stop.resolve())
      // The one line that says the listeners are open; programs that start a KME wait for it.
      console.log(JSON.stringify({ event: 'listening', kmeId: kme.kmeId, ...ports }))
      await stop.promise
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
