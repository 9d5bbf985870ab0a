import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { runStatement } from '../setup/run-statement.ts'

/** PostgreSQL as in production. */
export const startDatabase = async () => {
  const directory = mkdtempSync(join(tmpdir(), 'openkme-scale-'))
  const server = await startEmbeddedPostgres({ directory, durable: true })
  return {
    pid: Number.parseInt(readFileSync(join(directory, 'data', 'postmaster.pid'), 'utf8'), 10),
    createDatabase: async (name: string) => {
      await server.createDatabase(name)
      const url = server.url(name)
      await applyMigrations(url)
      return { url, drop: () => Promise.resolve() }
    },
    /** How many transactions were ended because they waited for each other, so far. */
    deadlocks: async (): Promise<number> => {
      const sql = 'SELECT coalesce(sum(deadlocks), 0)::int AS deadlocks FROM pg_stat_database'
      const [row] = await runStatement<{ deadlocks: number }>(server.url('postgres'), sql)
      return row!.deadlocks
    },
    [Symbol.asyncDispose]: async () => {
      await server.stop()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
