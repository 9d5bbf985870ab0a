/** Runs once before all tests (jest globalSetup): one PostgreSQL server for the run, and in it a template database with every
 *  migration applied, from which each test file clones its own. TEST_DATABASE_URL names a server to use instead of the embedded one;
 *  its user must be allowed to create databases. */
import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { databaseUrl, dropDatabases } from './test-database.ts'
import { runStatement } from './run-statement.ts'

declare global {
  /** Set here, called by stop-stack.ts: both run in jest's own process. */
  var stopTestStack: (() => Promise<void>) | undefined
}

const startStack = async (): Promise<void> => {
  const server = await startServer()
  // The names of this run's databases begin with this, so that runs on a shared server do not meet.
  const prefix = `kme_test_${randomUUID().slice(0, 8)}`
  globalThis.stopTestStack = async () => {
    await dropDatabases(server.url, prefix)
    await server.stop()
  }
  try {
    const template = `${prefix}_template`
    await runStatement(server.url, `CREATE DATABASE ${pg.escapeIdentifier(template)}`)
    await applyMigrations(databaseUrl(server.url, template))
  } catch (error) {
    await globalThis.stopTestStack()
    throw error
  }
  process.env['TEST_STACK_DATABASE_URL'] = server.url
  process.env['TEST_STACK_PREFIX'] = prefix
}

const startServer = async (): Promise<{ url: string; stop(): Promise<void> }> => {
  const given = process.env['TEST_DATABASE_URL']
  if (given !== undefined) return { url: given, stop: () => Promise.resolve() }
  const directory = await mkdtemp(join(tmpdir(), 'openkme-test-'))
  const server = await startEmbeddedPostgres({ directory, durable: false })
  const stop = async (): Promise<void> => {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
  return { url: server.url('postgres'), stop }
}

export default startStack
