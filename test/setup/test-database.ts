/** A database of its own for each test file, cloned from the migrated template that start-stack.ts made. */
import { randomUUID } from 'node:crypto'
import pg from 'pg'

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

const testStack = (): { server: string; prefix: string } => {
  const server = process.env['TEST_STACK_DATABASE_URL']
  const prefix = process.env['TEST_STACK_PREFIX']
  if (server === undefined || prefix === undefined)
    throw new Error('The test stack is not running: run tests with "npm test -- FILE".')
  return { server, prefix }
}

const create = async (server: string, prefix: string, template: string): Promise<TestDatabase> => {
  const name = `${prefix}_${randomUUID().slice(0, 8)}`
  await execute(server, `CREATE DATABASE ${pg.escapeIdentifier(name)} TEMPLATE ${pg.escapeIdentifier(template)}`)
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
  const found = await execute(server, 'SELECT datname FROM pg_database WHERE starts_with(datname, $1)', [prefix])
  for (const { datname } of found.rows as { datname: string }[]) {
    await execute(server, `DROP DATABASE IF EXISTS ${pg.escapeIdentifier(datname)} WITH (FORCE)`)
  }
}

const execute = async (server: string, sql: string, values: unknown[] = []): Promise<pg.QueryResult> => {
  const client = new pg.Client({ connectionString: server })
  await client.connect()
  try {
    return await client.query(sql, values)
  } finally {
    await client.end()
  }
}
