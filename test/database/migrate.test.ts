/** The migration runner against a real server, with migrations of the test's own. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { appendFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { applyMigrations } from '../../src/database/migrate.ts'
import { createEmptyDatabase, createTestDatabase, type TestDatabase } from '../setup/test-database.ts'
import { runStatement } from '../setup/run-statement.ts'

let database: TestDatabase
let directory: string

const writeMigration = async (name: string, sql: string): Promise<void> => {
  await mkdir(join(directory, name), { recursive: true })
  await writeFile(join(directory, name, 'migration.sql'), sql)
}

const query = (sql: string): Promise<Record<string, unknown>[]> => runStatement(database.url, sql)

beforeEach(async () => {
  database = await createEmptyDatabase()
  directory = await mkdtemp(join(tmpdir(), 'openkme-migrations-'))
  await writeFile(join(directory, 'migration_lock.toml'), 'provider = "postgresql"\n')
  await writeMigration('0001_first', 'CREATE TABLE a (n int); INSERT INTO a VALUES (1);')
  await writeMigration('0002_second', 'ALTER TABLE a ADD COLUMN m int; CREATE TABLE b (n int);')
})

afterEach(async () => {
  await database.drop()
  await rm(directory, { recursive: true, force: true })
})

describe('applyMigrations', () => {
  it('applies every migration once, in the order of their names', async () => {
    await applyMigrations(database.url, directory)
    await applyMigrations(database.url, directory)
    expect(await query('SELECT n, m FROM a')).toEqual([{ n: 1, m: null }])
    expect(await query('SELECT migration_name, applied_steps_count, logs FROM _prisma_migrations ORDER BY started_at')).toEqual([
      { migration_name: '0001_first', applied_steps_count: 1, logs: null },
      { migration_name: '0002_second', applied_steps_count: 1, logs: null },
    ])
  })

  it('applies only what is new', async () => {
    await applyMigrations(database.url, directory)
    await writeMigration('0003_third', 'INSERT INTO a VALUES (3, 3);')
    await applyMigrations(database.url, directory)
    expect(await query('SELECT n FROM a ORDER BY n')).toEqual([{ n: 1 }, { n: 3 }])
  })

  it('lets processes that start together migrate one after the other', async () => {
    await Promise.all([1, 2, 3, 4].map(() => applyMigrations(database.url, directory)))
    expect(await query('SELECT count(*)::int AS count FROM _prisma_migrations')).toEqual([{ count: 2 }])
  })

  it('leaves nothing of a migration that fails, and keeps those before it', async () => {
    await writeMigration('0002_second', 'CREATE TABLE b (n int); INSERT INTO nowhere VALUES (1);')
    await expect(applyMigrations(database.url, directory)).rejects.toThrow(
      '0002_second failed: relation "nowhere" does not exist',
    )
    expect(await query("SELECT to_regclass('a') IS NOT NULL AS a, to_regclass('b') IS NOT NULL AS b")).toEqual([
      { a: true, b: false },
    ])
    expect(await query('SELECT migration_name FROM _prisma_migrations')).toEqual([{ migration_name: '0001_first' }])
  })

  it('refuses a migration that was changed after it had been applied', async () => {
    await applyMigrations(database.url, directory)
    await appendFile(join(directory, '0001_first', 'migration.sql'), '-- changed')
    await expect(applyMigrations(database.url, directory)).rejects.toThrow('0001_first was changed')
  })

  it('refuses a database that a newer version has migrated', async () => {
    await applyMigrations(database.url, directory)
    await rm(join(directory, '0002_second'), { recursive: true })
    await expect(applyMigrations(database.url, directory)).rejects.toThrow('0002_second, which this version does not know')
  })

  it('refuses to go on from a migration that Prisma left half-applied', async () => {
    await applyMigrations(database.url, directory)
    await query("UPDATE _prisma_migrations SET finished_at = NULL WHERE migration_name = '0002_second'")
    await expect(applyMigrations(database.url, directory)).rejects.toThrow('0002_second failed half-way')
  })

  it('finds nothing to do in a database cloned from the template', async () => {
    const clone = await createTestDatabase()
    try {
      await expect(applyMigrations(clone.url)).resolves.toBeUndefined()
    } finally {
      await clone.drop()
    }
  })
})
