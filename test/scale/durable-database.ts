import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'

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
      const client = new pg.Client({ connectionString: server.url('postgres') })
      await client.connect()
      try {
        const { rows } = await client.query<{ deadlocks: number }>(
          'SELECT coalesce(sum(deadlocks), 0)::int AS deadlocks FROM pg_stat_database',
        )
        return rows[0]!.deadlocks
      } finally {
        await client.end()
      }
    },
    [Symbol.asyncDispose]: async () => {
      await server.stop()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
