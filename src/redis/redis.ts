/** Redis, a server on its own, behind Sentinel, or a Cluster: one connection, scripts in Lua, and a breaker.
 *
 *  Holds: Redis decides nothing. A command is answered in a bounded time and never sent twice, because the first time may have
 *  been executed; what does not answer is left alone until a write of the watch succeeds. */
import { readFileSync } from 'node:fs'
import { Cluster, Redis } from 'ioredis'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import { parseRedisUrl, type RedisPlace } from './redis-url.ts'

export interface RedisScript {
  /** Its name among the functions of Redis, where scripts may not be sent. */
  readonly name: string
  readonly lua: string
}

/** Scripts as one library for FUNCTION LOAD, for a user that may not send scripts itself. */
export const toFunctionLibrary = (scripts: readonly RedisScript[]): string =>
  [
    '#!lua name=openkme',
    ...scripts.map(({ name, lua }) => `redis.register_function('${name}', function(KEYS, ARGV)\n${lua}\nend)\n`),
  ].join('\n')

/** Redis answered in time, but the script could not work with what it found. */
export class RedisContentError extends Error {
  constructor(cause: unknown) {
    super(`Redis holds something unusable: ${(cause as Error).message}`, { cause })
    this.name = 'RedisContentError'
  }
}

/** Redis did not answer, or refuses commands. Whether the script ran is not known. */
export class RedisAway extends Error {
  constructor(cause?: unknown) {
    super('Redis does not answer', { cause })
    this.name = 'RedisAway'
  }
}

export interface RedisConnection extends AsyncDisposable {
  /** For libraries that need the client itself. */
  readonly client: Redis | Cluster
  /** False while the part of Redis that holds `key` does not answer: do without it. */
  available(key: string): boolean
  /** Whether all of Redis that was asked for answers. */
  answers(): boolean
  /** Runs a script, once. Texts in its answer are buffers.
   *  @param keys all of one hash slot.
   *  @throws RedisAway, RedisContentError. */
  run(script: RedisScript, keys: readonly string[], args: readonly (string | number | Buffer)[]): Promise<unknown>
  /** Tries what did not answer again and again until `signal` aborts. */
  watch(signal: AbortSignal): Promise<void>
}

export interface RedisOptions {
  readonly url: string
  /** File with the authority of the servers' certificates, for rediss. */
  readonly ca?: string | undefined
  /** Functions loaded by an operator are called, no script is sent. */
  readonly useFunctions: boolean
  readonly commandDeadlineMs: number
  readonly clock: Clock
  readonly log: Logger
}

const WATCH_INTERVAL_MS = 200
const RETRY_FIRST_MS = 200
const RETRY_LAST_MS = 2000
const RECONNECT_LAST_MS = 1000

/** Answers that say that the server refuses to work, not that a script met something unusable. */
const REFUSALS =
  /^(NOAUTH|NOPERM|WRONGPASS|READONLY|MISCONF|OOM|LOADING|CLUSTERDOWN|TRYAGAIN|MASTERDOWN|NOREPLICAS|BUSY|UNKILLABLE|MOVED|ASK)\b|^ERR Function not found/

export const openRedis = (options: RedisOptions): RedisConnection => {
  const { clock, log } = options
  const client = connect(parseRedisUrl(options.url), options)
  let lastError: string | undefined
  client.on('error', (error: Error) => {
    // One line for each new reason; a server that is away says the same thing many times a second.
    if (error.message !== lastError) log.warn({ error }, 'Redis')
    lastError = error.message
  })

  /** What does not answer, by the key it was asked for. After a probe that went well one script is let through, and all is as it should
   *  be only when that has run: where probes are answered and scripts are not, one request at a time waits in vain. */
  const away = new Map<string, { retryMs: number; nextAtMs: number; phase: 'away' | 'probed' | 'trying' }>()
  const fail = (key: string, error: unknown): void => {
    const before = away.get(key)
    if (before === undefined) log.warn({ key, error }, 'Redis does not answer, or refuses; working without it')
    const retryMs = before === undefined ? RETRY_FIRST_MS : Math.min(RETRY_LAST_MS, before.retryMs * 2)
    away.set(key, { retryMs, nextAtMs: clock.monotonicMs() + retryMs, phase: 'away' })
  }
  const isAway = (key: string): boolean => (away.get(key)?.phase ?? 'probed') !== 'probed'

  const names = new Set<string>()
  const call = (script: RedisScript, keys: readonly string[], args: readonly (string | number | Buffer)[]): Promise<unknown> => {
    if (options.useFunctions) return client.callBuffer('FCALL', script.name, keys.length, ...keys, ...args)
    if (!names.has(script.name)) {
      // Sent by its hash; in full only when the server does not know it yet, and then nothing ran.
      client.defineCommand(script.name, { lua: script.lua })
      names.add(script.name)
    }
    const commands = client as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>
    return (commands[`${script.name}Buffer`] as (...args: unknown[]) => Promise<unknown>).call(
      client,
      keys.length,
      ...keys,
      ...args,
    )
  }

  return {
    client,
    available: (key) => !isAway(key) && client.status === 'ready',
    answers: () => away.size === 0 && client.status === 'ready',
    run: async (script, keys, args) => {
      const key = keys[0] as string
      if (isAway(key)) throw new RedisAway()
      const trial = away.get(key)
      if (trial !== undefined) trial.phase = 'trying'
      try {
        const answer = await call(script, keys, args)
        if (away.delete(key)) log.info({ key }, 'Redis answers')
        return answer
      } catch (error) {
        const answered = (error as Error).name === 'ReplyError' && !REFUSALS.test((error as Error).message)
        if (answered) {
          if (trial !== undefined) trial.phase = 'probed'
          throw new RedisContentError(error)
        }
        fail(key, error)
        throw new RedisAway(error)
      }
    },
    watch: async (signal) => {
      while (!signal.aborted) {
        // A client ends for good when word of a failover reaches it while it looks for the new primary.
        if (client.status === 'end') client.connect().catch((error: unknown) => log.warn({ error }, 'Redis'))
        for (const [key, state] of away) {
          if (state.phase !== 'away' || clock.monotonicMs() < state.nextAtMs) continue
          try {
            // A write, because a server that cannot store anything is of no use either.
            await client.set(`${key}:probe`, '1', 'PX', 1000)
            state.phase = 'probed'
            lastError = undefined
          } catch (error) {
            fail(key, error)
          }
        }
        await clock.sleep(WATCH_INTERVAL_MS, signal)
      }
    },
    [Symbol.asyncDispose]: () => {
      client.disconnect()
      return Promise.resolve()
    },
  }
}

const connect = (place: RedisPlace, options: RedisOptions): Redis | Cluster => {
  const tls = place.tls ? { tls: options.ca === undefined ? {} : { ca: readFileSync(options.ca) } } : {}
  const common = {
    ...tls,
    ...(place.username !== undefined && { username: place.username }),
    ...(place.password !== undefined && { password: place.password }),
    commandTimeout: options.commandDeadlineMs,
    connectTimeout: 2000,
    // A command is executed once or not at all, as far as this end can help it.
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    connectionName: 'openkme',
    disableClientInfo: true,
  }
  const retryStrategy = (attempt: number): number => Math.min(RECONNECT_LAST_MS, 50 * 2 ** Math.min(attempt, 10))
  if (place.kind === 'cluster') {
    return new Cluster([...place.hosts], {
      redisOptions: common,
      enableOfflineQueue: false,
      clusterRetryStrategy: retryStrategy,
      clusterNodeRetryStrategy: retryStrategy,
      // Sent again only when a node says that it did not execute the command.
      retryDelayOnFailover: 0,
      retryDelayOnClusterDown: 0,
      slotsRefreshTimeout: 1000,
      slotsRefreshInterval: 2000,
    })
  }
  // A replica that was the primary until now: look again who is.
  const reconnectOnError = (error: Error): boolean => error.message.startsWith('READONLY')
  if (place.kind === 'sentinel') {
    return new Redis({
      ...common,
      sentinels: [...place.hosts],
      name: place.name,
      db: place.db,
      retryStrategy,
      sentinelRetryStrategy: retryStrategy,
      reconnectOnError,
      ...(place.tls && { enableTLSForSentinelMode: true }),
      failoverDetector: true,
    })
  }
  const [only] = place.hosts
  return new Redis({ ...common, ...only, db: place.db, retryStrategy, reconnectOnError })
}
