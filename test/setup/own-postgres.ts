/** A PostgreSQL server of one test file or run, durable as in production, at a port that stays: to be stopped, killed and started. */
import { readFileSync } from 'node:fs'
import { appendFile, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { eventually } from './eventually.ts'
import { freePort } from './free-port.ts'
import { databaseUrl, type TestDatabase } from './test-database.ts'
import { runStatement } from './run-statement.ts'

export interface OwnPostgresOptions {
  /** An empty directory for the server; one of its own if left out. */
  readonly directory?: string
  /** A free port if left out. */
  readonly port?: number
  /** Lines for postgresql.conf. */
  readonly settings?: readonly string[]
  /** false turns fsync off; on if left out. */
  readonly durable?: boolean
  /** Where the KMEs find the server, when that is not its own port. */
  readonly reachedAt?: number
}

export type OwnPostgres = Awaited<ReturnType<typeof startOwnPostgres>>

export const startOwnPostgres = async (options: OwnPostgresOptions = {}) => {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'openkme-postgres-')))
  await mkdir(directory, { recursive: true })
  const settings = { directory, port: options.port ?? (await freePort()), durable: options.durable ?? true }
  let server = await startEmbeddedPostgres(settings)
  const dataDirectory = join(directory, 'data')
  const configure = (lines: readonly string[]): Promise<void> =>
    appendFile(join(dataDirectory, 'postgresql.conf'), lines.map((line) => `${line}\n`).join(''))
  if (options.settings !== undefined) {
    await server.stop()
    await configure(options.settings)
    server = await startEmbeddedPostgres(settings)
  }
  const postmasterPid = (): number => Number.parseInt(readFileSync(join(dataDirectory, 'postmaster.pid'), 'utf8'), 10)
  /** Rows, straight from the server and not by way of `reachedAt`. */
  const query = <T>(database: string, sql: string, parameters: unknown[] = []): Promise<T[]> =>
    runStatement<T>(server.url(database), sql, parameters)
  /** When the server last began to serve: at its start, or after it had recovered from the death of one of its processes. */
  const servesSince = async (): Promise<Date> => {
    const [row] = await query<{ at: Date }>(
      'postgres',
      `SELECT backend_start AS at FROM pg_stat_activity WHERE backend_type = 'checkpointer'`,
    )
    return row!.at
  }
  return {
    directory,
    dataDirectory,
    port: settings.port,
    /** Lines for postgresql.conf; read at the next start. */
    configure,
    postmasterPid,
    query,
    /** @returns the URL of a database, straight to the server. */
    url: (database: string): string => server.url(database),
    /** An empty database with every migration applied, for startNetwork(). */
    createDatabase: async (name: string): Promise<TestDatabase> => {
      await server.createDatabase(name)
      const direct = server.url(name)
      await applyMigrations(direct)
      const url = new URL(databaseUrl(direct, name))
      if (options.reachedAt !== undefined) url.port = String(options.reachedAt)
      // Goes with the whole server.
      return { url: url.href, drop: () => Promise.resolve() }
    },
    servesSince,
    /** Waits until the server has got over the death of one of its processes. @param before of servesSince(), before the death. */
    hasRecovered: (before: Date) =>
      eventually('PostgreSQL has recovered', async () => (await servesSince().catch(() => before)) > before),
    stop: () => server.stop(),
    /** kill -9 of the whole server. */
    kill: async (): Promise<void> => {
      process.kill(postmasterPid(), 'SIGKILL')
      await server.stop()
    },
    /** Every client is cut off and nothing is written back: the next start recovers from the log. */
    stopImmediately: async (): Promise<void> => {
      process.kill(postmasterPid(), 'SIGQUIT')
      await server.stop()
    },
    start: async (): Promise<void> => {
      server = await startEmbeddedPostgres(settings)
    },
    remove: async (): Promise<void> => {
      await server.stop()
      await rm(directory, { recursive: true, force: true })
    },
  }
}
