/** A database of its own for each test file, cloned from the migrated template that start-stack.ts made. */
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { openDatabase, type Database, type DatabaseOptions } from '../../src/database/database.ts'
import { runStatement } from './run-statement.ts'
import { timeLimitMs } from './time-limit.ts'

export interface TestDatabase {
  readonly url: string
  /** Disconnects whoever is left and removes the database. */
  drop(): Promise<void>
}

/** Creates a database with every migration applied and no rows. */
export const createTestDatabase = (): Promise<TestDatabase> => {
  const { server, prefix } = testStack()
  return create(server, prefix, `${prefix}_template`)
}

/** Creates a database without any table, for tests of the migrations themselves. */
export const createEmptyDatabase = (): Promise<TestDatabase> => {
  const { server, prefix } = testStack()
  return create(server, prefix, 'template0')
}

/** As a KME opens it, but for its patience with a machine that may be busy. */
export const openTestDatabase = (url: string, connections: number, options: Partial<DatabaseOptions> = {}): Database =>
  openDatabase({ url, connections, connectDeadlineMs: timeLimitMs(2000), onError: () => undefined, ...options })

const testStack = (): { server: string; prefix: string } => {
  const server = process.env['TEST_STACK_DATABASE_URL']
  const prefix = process.env['TEST_STACK_PREFIX']
  if (server === undefined || prefix === undefined)
    throw new Error('The test stack is not running: run tests with "npm test -- FILE".')
  return { server, prefix }
}

const create = async (server: string, prefix: string, template: string): Promise<TestDatabase> => {
  const name = `${prefix}_${randomUUID().slice(0, 8)}`
  await runStatement(server, `CREATE DATABASE ${pg.escapeIdentifier(name)} TEMPLATE ${pg.escapeIdentifier(template)}`)
  return { url: databaseUrl(server, name), drop: () => dropDatabases(server, name) }
}

/** @returns the URL of another database on the same server. */
export const databaseUrl = (server: string, database: string): string => {
  const url = new URL(server)
  url.pathname = `/${database}`
  return url.href
}

/** Removes every database whose name begins with `prefix`. */
export const dropDatabases = async (server: string, prefix: string): Promise<void> => {
  const sql = 'SELECT datname FROM pg_database WHERE starts_with(datname, $1)'
  for (const { datname } of await runStatement<{ datname: string }>(server, sql, [prefix])) {
    await runStatement(server, `DROP DATABASE IF EXISTS ${pg.escapeIdentifier(datname)} WITH (FORCE)`)
  }
}

/** Makes a database refuse everybody, and lets them in again. */
export const databaseSwitch = (url: string) => {
  const name = new URL(url).pathname.slice(1)
  const server = databaseUrl(url, 'postgres')
  const allowConnections = (allow: boolean): Promise<unknown> =>
    runStatement(server, `ALTER DATABASE ${pg.escapeIdentifier(name)} ALLOW_CONNECTIONS ${allow}`)
  return {
    refuse: async (): Promise<void> => {
      await allowConnections(false)
      await runStatement(server, 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1', [name])
    },
    allow: async (): Promise<void> => {
      await allowConnections(true)
    },
  }
}
