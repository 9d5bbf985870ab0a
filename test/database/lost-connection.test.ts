import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { untilItAnswers, type Database } from '../../src/database/database.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import { timeLimitMs } from '../setup/time-limit.ts'
import { startTcpProxy } from '../setup/tcp-proxy.ts'
import { createTestDatabase, openTestDatabase, type TestDatabase } from '../setup/test-database.ts'

let testDatabase: TestDatabase
let database: Database
let heardOf = (_error: Error): void => undefined

beforeAll(async () => {
  testDatabase = await createTestDatabase()
  database = openTestDatabase(testDatabase.url, 4, { onError: (error) => heardOf(error) })
})

afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await testDatabase.drop()
})

it('a connection that dies between two statements of a transaction rolls it back and ends nothing else', async () => {
  await database.query('CREATE TABLE mark (name TEXT)')
  const torn = database.transaction(async (statements) => {
    await statements.query(`INSERT INTO mark VALUES ('torn')`)
    const [own] = await statements.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')
    // The server says that it closes the connection while nobody waits for an answer on it.
    const lost = new Promise<Error>((resolve) => (heardOf = resolve))
    await database.query('SELECT pg_terminate_backend($1)', [own?.pid])
    expect((await lost).message).toMatch('terminating connection')
    await statements.query(`INSERT INTO mark VALUES ('after')`)
  })
  await expect(torn).rejects.toThrow()
  expect(await database.query('SELECT name FROM mark')).toEqual([])
})

it('a database that has gone silent keeps nobody from stopping: its connections are closed without its answer', async () => {
  const url = new URL(testDatabase.url)
  const proxy = await startTcpProxy(Number(url.port))
  url.port = String(proxy.port)
  const silenced = openTestDatabase(url.href, 2)
  await silenced.query('SELECT 1')
  const sockets = (): number => process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length
  const before = sockets()
  proxy.blackHole()
  // On its way when the KME is stopped.
  const unanswered = silenced.query('SELECT 2').then(
    () => 'answered',
    () => 'lost',
  )
  await new Promise(setImmediate)
  const over = new AbortController()
  const late = systemClock.sleep(timeLimitMs(4000), over.signal).then(() => 'late')
  await expect(Promise.race([silenced[Symbol.asyncDispose]().then(() => 'disposed'), late])).resolves.toBe('disposed')
  await expect(Promise.race([unanswered, late])).resolves.toBe('lost')
  expect(sockets()).toBeLessThan(before)
  over.abort()
  await proxy.stop()
})

describe('a KME that starts', () => {
  /** A clock that jumps where others would sleep. */
  const jumping = (): Clock & { readonly sleptMs: number } => {
    let sleptMs = 0
    return {
      ...systemClock,
      monotonicMs: () => sleptMs,
      sleep: (ms) => {
        sleptMs += ms
        return Promise.resolve()
      },
      get sleptMs() {
        return sleptMs
      },
    }
  }

  it('tries again when the database does not answer in time, and goes on as soon as it does', async () => {
    const answers = [false, false, true, true]
    await untilItAnswers({ answers: () => Promise.resolve(answers.shift()!) }, jumping())
    expect(answers).toEqual([true])
    const clock = jumping()
    await untilItAnswers(database, clock)
    expect(clock.sleptMs).toBe(0)
  })

  it('leaves it after a quarter of a minute to whoever asks next to find out why', async () => {
    const clock = jumping()
    await untilItAnswers({ answers: () => Promise.resolve(false) }, clock)
    expect(clock.sleptMs).toBe(15_000)
  })
})
