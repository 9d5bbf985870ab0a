/** The demo's PostgreSQL: started with the databases of its KMEs, and started again should it die. */
import { appendFileSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../embedded-postgres/embedded-postgres.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import { replacePrivate } from '../pki/certificate-files.ts'
import type { Random } from '../kernel/random.ts'
import { databaseOf, postgresPort, type DemoFiles, type KmeName } from './layout.ts'

export interface KeptPostgres {
  pid(): number | undefined
  /** Starts it again when it is gone, until `signal` aborts. */
  watch(signal: AbortSignal): Promise<void>
  stop(): Promise<void>
}

const LOOK_INTERVAL_MS = 1000

/** Also writes the file with the URL of each KME's database. */
export const startPostgres = async (
  files: DemoFiles,
  basePort: number,
  kmes: readonly KmeName[],
  parts: { readonly clock: Clock; readonly random: Random; readonly say: (text: string) => void; readonly onChange: () => void },
): Promise<KeptPostgres> => {
  const port = postgresPort(basePort)
  const start = async (): Promise<EmbeddedPostgres> => {
    const started = await startEmbeddedPostgres({
      directory: files.postgres,
      port,
      durable: true,
      log: fileLog(files.log('postgres')),
    })
    parts.onChange()
    return started
  }
  let server = await start()
  try {
    for (const kme of kmes) {
      await server.createDatabase(databaseOf(kme))
      await replacePrivate(files.databaseUrl(kme), `${server.url(databaseOf(kme))}\n`, parts.random)
    }
  } catch (error) {
    await server.stop()
    throw error
  }

  return {
    pid: () => {
      try {
        const pid = Number.parseInt(readFileSync(join(files.postgres, 'data', 'postmaster.pid'), 'utf8'), 10)
        return pid > 0 ? pid : undefined
      } catch {
        return undefined
      }
    },
    watch: async (signal) => {
      while (!signal.aborted) {
        await parts.clock.sleep(LOOK_INTERVAL_MS, signal)
        if (signal.aborted || (await accepts(port))) continue
        parts.say('PostgreSQL has died; starting it again')
        try {
          await server.stop()
          server = await start()
        } catch (error) {
          parts.say(`PostgreSQL does not start: ${(error as Error).message}`)
        }
      }
    },
    stop: () => server.stop(),
  }
}

/** The server's own log goes to a file like the logs of the children. */
const fileLog = (file: string): Logger => {
  const write = (fields: object): void =>
    appendFileSync(file, `${'line' in fields ? String(fields.line) : JSON.stringify(fields)}\n`)
  const log: Logger = { debug: write, info: write, warn: write, error: write, slice: () => log }
  return log
}

const accepts = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
