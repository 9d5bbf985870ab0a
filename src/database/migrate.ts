/** Applies the SQL files of prisma/migrations and records them in Prisma's own `_prisma_migrations` table, so that
 *  `prisma migrate deploy` and `prisma migrate status` stay usable on the same database.
 *
 *  Holds: each migration and its record commit together or not at all; two processes never migrate at the same time;
 *  an applied migration is never changed. A migration therefore must run inside a transaction (no CREATE INDEX CONCURRENTLY). */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { systemRandom } from '../kernel/random.ts'

/** Where the migrations of this program are. */
const MIGRATIONS = fileURLToPath(new URL('../../prisma/migrations', import.meta.url))

/** The advisory lock that Prisma's own migrate commands take. */
const PRISMA_MIGRATE_LOCK = 72707369

const CREATE_TABLE = `
  CREATE TABLE IF NOT EXISTS _prisma_migrations (
    id                  VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum            VARCHAR(64) NOT NULL,
    finished_at         TIMESTAMPTZ,
    migration_name      VARCHAR(255) NOT NULL,
    logs                TEXT,
    rolled_back_at      TIMESTAMPTZ,
    started_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
  )`

interface Migration {
  readonly name: string
  readonly sql: string
  readonly checksum: string
}

interface Applied {
  readonly migration_name: string
  readonly checksum: string
  readonly finished_at: Date | null
}

/** Brings the database at `url` up to date; does nothing when it is.
 *  @param directory holds one folder per migration, applied in the order of their names, each with a migration.sql.
 *  @throws Error when an applied migration was changed or is unknown here, when an earlier one failed half-way, or when one fails now
 *  (the database is then as it was before that migration). */
export const applyMigrations = async (url: string, directory = MIGRATIONS): Promise<void> => {
  const migrations = await readMigrations(directory)
  const client = new pg.Client({ connectionString: url })
  // A connection lost between two statements makes the next one fail; unheard, its error would end the process.
  client.on('error', () => undefined)
  await client.connect()
  try {
    await client.query('SELECT pg_advisory_lock($1)', [PRISMA_MIGRATE_LOCK])
    await client.query(CREATE_TABLE)
    const { rows } = await client.query<Applied>(
      'SELECT migration_name, checksum, finished_at FROM _prisma_migrations WHERE rolled_back_at IS NULL',
    )
    for (const migration of findMissing(migrations, rows)) await apply(client, migration)
  } finally {
    // Ends the session, and with it the lock.
    await client.end()
  }
}

const readMigrations = async (directory: string): Promise<Migration[]> => {
  const entries = await readdir(directory, { withFileTypes: true })
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name)
  return Promise.all(
    names.sort().map(async (name) => {
      const bytes = await readFile(join(directory, name, 'migration.sql'))
      return { name, sql: bytes.toString('utf8'), checksum: createHash('sha256').update(bytes).digest('hex') }
    }),
  )
}

const findMissing = (migrations: readonly Migration[], applied: readonly Applied[]): Migration[] => {
  const known = new Map(migrations.map((migration) => [migration.name, migration]))
  for (const row of applied) {
    const migration = known.get(row.migration_name)
    if (migration === undefined) {
      throw new Error(
        `The database has the migration ${row.migration_name}, which this version does not know. Run a newer version.`,
      )
    }
    if (row.finished_at === null) {
      throw new Error(
        `The migration ${row.migration_name} failed half-way. Repair the database and run "prisma migrate resolve".`,
      )
    }
    if (row.checksum !== migration.checksum) {
      throw new Error(`The migration ${row.migration_name} was changed after it had been applied. Restore its file.`)
    }
  }
  const done = new Set(applied.map((row) => row.migration_name))
  return migrations.filter((migration) => !done.has(migration.name))
}

const apply = async (client: pg.Client, migration: Migration): Promise<void> => {
  try {
    await client.query('BEGIN')
    await client.query(migration.sql)
    await client.query(
      `INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at, finished_at, applied_steps_count)
       VALUES ($1, $2, $3, now(), clock_timestamp(), 1)`,
      [systemRandom.uuid(), migration.checksum, migration.name],
    )
    await client.query('COMMIT')
  } catch (cause) {
    throw new Error(`The migration ${migration.name} failed: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    })
  }
}
