/** PostgreSQL: one connection pool, a Prisma client over it for ordinary queries, and plain parameterised SQL for the
 *  statements that decide about keys. */
import type { Socket } from 'node:net'
import { PrismaPg } from '@prisma/adapter-pg'
import pg from 'pg'
import { PrismaClient } from '../generated/prisma/client.ts'
import { systemClock, type Clock } from '../kernel/clock.ts'
import { KmeError, Unavailable } from '../kernel/errors.ts'
import { drawUniform, systemRandom } from '../kernel/random.ts'

export type Row = Record<string, unknown>

export interface Statements {
  /** Runs one statement. Statements are prepared once per connection. */
  query<T extends Row>(sql: string, parameters?: readonly unknown[]): Promise<T[]>
}

export interface Database extends Statements, AsyncDisposable {
  readonly prisma: PrismaClient
  /** Several statements, all or none. Repeated a few times when PostgreSQL reports a deadlock or serialisation failure. */
  transaction<T>(work: (statements: Statements) => Promise<T>): Promise<T>
  /** True when a trivial query is answered. */
  answers(): Promise<boolean>
  /** Hears the NOTIFYs of a channel until `signal` aborts, on a connection of its own that is made again when it was lost.
   *  Notices sent while there was none are lost, so ask now and then as well.
   *  @param onNotice gets the payload; undefined after each connecting, when something may have been missed. */
  listen(channel: string, onNotice: (payload: string | undefined) => void, signal: AbortSignal): Promise<void>
}

export interface DatabaseOptions {
  readonly url: string
  readonly connections: number
  /** How long to wait for a connection: that one of the pool is free, or that the server lets a new one in. */
  readonly connectDeadlineMs: number
  readonly onError: (error: Error) => void
  readonly clock?: Clock
}

/** Classes of errors that may be the last words of a server or of a connection: connection, resources, shutdown, system, internal. A
 *  server that cannot write its log says "disk full" or "i/o error", dies, and may find the transaction committed when it is back. */
const UNKNOWN_CLASSES = ['08', '53', '57P', '58', 'XX']

/** Errors after which the outcome of a statement is not known: the connection went away under it. */
export const outcomeUnknown = (error: unknown): boolean => {
  if (error instanceof pg.DatabaseError) return UNKNOWN_CLASSES.some((known) => error.code?.startsWith(known) === true)
  return !(error instanceof KmeError)
}

/** SQLSTATE of an error of PostgreSQL, undefined for others. */
export const sqlState = (error: unknown): string | undefined => (error instanceof pg.DatabaseError ? error.code : undefined)

/** The constraint an error of PostgreSQL names. */
export const violatedConstraint = (error: unknown): string | undefined =>
  error instanceof pg.DatabaseError ? error.constraint : undefined

const READ_ONLY = '25006'
const TIMED_OUT = '57014'
const REPEATABLE = new Set(['40001', '40P01', '55P03'])
const REPEATS_MAX = 5
/** Whoever has waited so long, for a lock say, does not begin anew. */
const REPEAT_WITHIN_MS = 1000
const REPEAT_PAUSE_MS = 10

/** Whether PostgreSQL gave up for want of time or because of others, and not for what the statement says. */
export const isContention = (error: unknown): boolean => REPEATABLE.has(sqlState(error) ?? '') || sqlState(error) === TIMED_OUT

/** Runs `work` again when PostgreSQL says that only bad timing was wrong with it: a few times, each after a longer pause that is
 *  never the same for two. */
export const repeatOnContention = async <T>(work: () => Promise<T>, clock = systemClock, random = systemRandom): Promise<T> => {
  const startMs = clock.monotonicMs()
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (!REPEATABLE.has(sqlState(error) ?? '') || attempt >= REPEATS_MAX) throw error
      if (clock.monotonicMs() - startMs > REPEAT_WITHIN_MS) throw error
      await clock.sleep(REPEAT_PAUSE_MS * 2 ** attempt * drawUniform(random))
    }
  }
}

/** For so long a KME that starts tries to connect: the machine may be busy with starting much else. */
const FIRST_ANSWER_DEADLINE_MS = 15_000
const FIRST_ANSWER_PAUSE_MS = 250

/** Waits until the database answers for the first time, or long enough; whoever uses it next finds out why it does not. */
export const untilItAnswers = async (database: Pick<Database, 'answers'>, clock: Clock): Promise<void> => {
  const untilMs = clock.monotonicMs() + FIRST_ANSWER_DEADLINE_MS
  while (!(await database.answers()) && clock.monotonicMs() < untilMs) await clock.sleep(FIRST_ANSWER_PAUSE_MS)
}

const QUERY_DEADLINE_MS = 6000

const RECONNECT_MIN_MS = 250
const RECONNECT_MAX_MS = 5000
/** A listening connection says nothing by itself; asking finds out that it is dead. */
const LISTENING_CHECK_MS = 10_000
/** How long to wait for the end of a connection that may be dead. */
const END_DEADLINE_MS = 500

const SESSION_SETTINGS = [
  // Nothing waits for ever.
  'statement_timeout=5000',
  'lock_timeout=1500',
  'idle_in_transaction_session_timeout=10000',
  // A commit is durable when it is answered, whatever the server's default is.
  'synchronous_commit=on',
  // Every statement finds its rows by key. Plans are made once and always go by the index, also those that were made while
  // the tables were still small; planning anew for each call cost more than the call.
  'plan_cache_mode=force_generic_plan',
  'enable_seqscan=off',
  'enable_hashjoin=off',
  'enable_mergejoin=off',
  'jit=off',
]

/** A server that takes no writes is a standby, or was made one: what it knows may be old, and "not found" from it would be a lie. */
const refuseReadOnly = async (client: pg.PoolClient): Promise<void> => {
  const { rows } = await client.query<{ off: boolean }>(`SELECT current_setting('transaction_read_only') = 'off' AS off`)
  if (rows[0]?.off !== true) throw new Error('this PostgreSQL server takes no writes: a standby, or set to read only')
}

export const openDatabase = (options: DatabaseOptions): Database => {
  const pool = new pg.Pool({
    connectionString: options.url,
    max: options.connections,
    connectionTimeoutMillis: options.connectDeadlineMs,
    // The server bounds its own work below; this bounds the wait for a server that has gone silent.
    query_timeout: QUERY_DEADLINE_MS,
    options: SESSION_SETTINGS.map((setting) => `-c ${setting}`).join(' '),
    keepAlive: true,
    verify: (client, done) => {
      refuseReadOnly(client).then(() => done(), done)
    },
  })
  // Each connection tells of its own loss, also between two statements of a transaction, when the pool does not listen: an
  // error nobody hears would end the process. The statement that comes next fails by itself.
  const open = new Set<pg.PoolClient>()
  pool.on('connect', (client) => {
    open.add(client)
    client.on('error', options.onError)
  })
  pool.on('remove', (client) => open.delete(client))
  pool.on('error', () => undefined)
  const prisma = new PrismaClient({ adapter: new PrismaPg(pool) })

  const names = new Map<string, string>()
  const nameOf = (sql: string): string => {
    let name = names.get(sql)
    if (name === undefined) names.set(sql, (name = `s${names.size}`))
    return name
  }
  const run = async <T extends Row>(
    client: pg.Pool | pg.PoolClient,
    sql: string,
    parameters: readonly unknown[],
  ): Promise<T[]> => {
    const result = await client.query<T>({ name: nameOf(sql), text: sql, values: parameters as unknown[] })
    return result.rows
  }
  const acquire = async (): Promise<pg.PoolClient> => {
    try {
      return await pool.connect()
    } catch (error) {
      // Nothing was sent, so the outcome is known.
      throw new Unavailable(1, { cause: error })
    }
  }
  const withClient = async <T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> => {
    const client = await acquire()
    let broken: Error | undefined
    try {
      return await work(client)
    } catch (error) {
      // One that takes no writes any more is of no use either: the next one may lead to a server that does.
      if (outcomeUnknown(error) || sqlState(error) === READ_ONLY) broken = error as Error
      throw error
    } finally {
      client.release(broken)
    }
  }

  const clock = options.clock ?? systemClock
  /** Until the connection is lost or `signal` aborts. @throws when it cannot be made. */
  const listenOnce = async (
    channel: string,
    onNotice: (payload: string | undefined) => void,
    signal: AbortSignal,
  ): Promise<void> => {
    const client = new pg.Client({
      connectionString: options.url,
      connectionTimeoutMillis: options.connectDeadlineMs,
      query_timeout: QUERY_DEADLINE_MS,
      keepAlive: true,
    })
    const lost = new AbortController()
    const over = AbortSignal.any([signal, lost.signal])
    client.on('error', () => lost.abort())
    client.on('end', () => lost.abort())
    client.on('notification', ({ payload }) => onNotice(payload))
    try {
      await client.connect()
      await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`)
      onNotice(undefined)
      while (!over.aborted) {
        await clock.sleep(LISTENING_CHECK_MS, over)
        if (!over.aborted) await client.query('SELECT 1')
      }
    } finally {
      const ended = new AbortController()
      const end = client.end().then(
        () => ended.abort(),
        () => ended.abort(),
      )
      await Promise.race([end, clock.sleep(END_DEADLINE_MS, ended.signal)])
    }
  }

  return {
    prisma,
    query: (sql, parameters = []) => withClient((client) => run(client, sql, parameters)),
    transaction: (work) =>
      repeatOnContention(() =>
        withClient(async (client) => {
          await client.query('BEGIN')
          try {
            const result = await work({ query: (sql, parameters = []) => run(client, sql, parameters) })
            await client.query('COMMIT')
            return result
          } catch (error) {
            if (!outcomeUnknown(error)) await client.query('ROLLBACK')
            throw error
          }
        }),
      ),
    answers: async () => {
      try {
        await pool.query('SELECT 1')
        return true
      } catch {
        return false
      }
    },
    listen: async (channel, onNotice, signal) => {
      let pauseMs = RECONNECT_MIN_MS
      const heard = (payload: string | undefined): void => {
        pauseMs = RECONNECT_MIN_MS
        onNotice(payload)
      }
      while (!signal.aborted) {
        try {
          await listenOnce(channel, heard, signal)
          if (!signal.aborted) options.onError(new Error(`the connection that listens to ${channel} was lost`))
        } catch (error) {
          if (!signal.aborted) options.onError(error as Error)
        }
        await clock.sleep(pauseMs, signal)
        pauseMs = Math.min(2 * pauseMs, RECONNECT_MAX_MS)
      }
    },
    [Symbol.asyncDispose]: async () => {
      const ended = new AbortController()
      const end = async (): Promise<void> => {
        await prisma.$disconnect()
        await pool.end()
        ended.abort()
      }
      await Promise.race([end(), clock.sleep(END_DEADLINE_MS, ended.signal)])
      // A server that is silent does not close its side, and the connections would keep this process from ending.
      for (const client of open) (client as unknown as { connection: { stream: Socket } }).connection.stream.destroy()
    },
  }
}
