/** One KME as several processes of this machine that share its listeners: the primary, which starts workers, starts those that end
 *  again, and stops them all, and the worker's side of the talk between them.
 *  Holds: the primary has no key, no passphrase and no database connection; a worker stops when the primary is gone. */
import cluster, { type Worker } from 'node:cluster'
import { once } from 'node:events'
import { aggregateMetrics } from '../admin/aggregate-metrics.ts'
import type { MetricsPage, MetricValues, OwnMetrics } from '../admin/admin.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'

/** What a worker that stands tells, as one line of JSON. */
export type ListeningLine = Readonly<Record<string, string | number>>

type FromWorker =
  | { readonly kme: 'listening'; readonly line: ListeningLine }
  /** Somebody scrapes this worker. */
  | { readonly kme: 'scrape'; readonly scrape: number }
  | { readonly kme: 'values'; readonly collection: number; readonly values: MetricValues }

type FromPrimary =
  | { readonly kme: 'collect'; readonly collection: number }
  | { readonly kme: 'page'; readonly scrape: number; readonly text: string }

export interface RunWorkersOptions {
  readonly count: number
  readonly clock: Clock
  readonly log: Logger
  /** Once, when all workers listen. */
  readonly onListening: (line: ListeningLine) => void
}

const PAUSE_MIN_MS = 250
const PAUSE_MAX_MS = 10_000
/** After a run of this length the next pause is short again. */
const STABLE_MS = 20_000
/** Longer than a worker's own stop may take, shorter than the ten seconds a KME has. */
const STOP_DEADLINE_MS = 9500
/** A worker that is frozen or busy does not hold up a scrape; its figures are missing then. */
const COLLECT_DEADLINE_MS = 1000
const PAGE_DEADLINE_MS = 2000

/** Tells a worker its number, from 1; a worker that takes another's place has its number. */
const NUMBER_VARIABLE = 'KME_WORKER'

/** The number of this worker; undefined in a process that is none. */
export const workerNumber = (): string | undefined => (cluster.isWorker ? process.env[NUMBER_VARIABLE] : undefined)

/** The primary: keeps `count` workers running until `signal` aborts, then stops them.
 *  @throws Error when a worker ends before it ever listened. */
export const runWorkers = async (options: RunWorkersOptions, signal: AbortSignal): Promise<void> => {
  const { count, clock, log } = options
  // What the listeners share is inherited; standard input is the primary's to watch.
  cluster.setupPrimary({ args: process.argv.slice(2), stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const failed = new AbortController()
  const over = AbortSignal.any([signal, failed.signal])
  const workers = new Map<number, Worker>()
  const listening = new Set<number>()
  const collect = collector(() => [...workers.values()].filter((worker) => worker.isConnected()), clock)

  const hear = (number: number, worker: Worker, message: FromWorker): void => {
    if (message.kme === 'values') return collect.add(worker, message.collection, message.values)
    if (message.kme === 'scrape') {
      void collect.page().then((text) => {
        const answer: FromPrimary = { kme: 'page', scrape: message.scrape, text }
        if (worker.isConnected()) worker.send(answer)
      })
      return
    }
    const before = listening.size
    listening.add(number)
    if (before < count && listening.size === count) options.onListening(message.line)
  }

  const runOnce = async (number: number): Promise<string> => {
    const worker = cluster.fork({ [NUMBER_VARIABLE]: String(number) })
    const ended = once(worker, 'exit') as Promise<[number | null, string | null]>
    workers.set(number, worker)
    worker.on('message', (message: FromWorker) => hear(number, worker, message))
    worker.on('error', (error) => log.warn({ worker: number, error }, 'a worker cannot be reached'))
    const exited = new AbortController()
    const stopping = stopOnAbort(worker, exited.signal)
    const [status, killedBy] = await ended
    workers.delete(number)
    exited.abort()
    await stopping
    return killedBy ?? `exit status ${status ?? 'unknown'}`
  }

  const stopOnAbort = async (worker: Worker, exited: AbortSignal): Promise<void> => {
    if (!over.aborted) await once(over, 'abort', { signal: exited }).catch(() => undefined)
    if (exited.aborted) return
    worker.process.kill('SIGTERM')
    await clock.sleep(STOP_DEADLINE_MS, exited)
    if (!exited.aborted) worker.process.kill('SIGKILL')
  }

  const keepRunning = async (number: number): Promise<void> => {
    let pauseMs = PAUSE_MIN_MS
    while (!over.aborted) {
      const startedMs = clock.monotonicMs()
      const how = await runOnce(number)
      if (over.aborted) return
      if (!listening.has(number)) {
        failed.abort()
        throw new Error(`worker ${number} did not start: ${how}`)
      }
      if (clock.monotonicMs() - startedMs > STABLE_MS) pauseMs = PAUSE_MIN_MS
      log.error({ worker: number, how, restartInMs: pauseMs }, 'a worker ended; starting it again')
      await clock.sleep(pauseMs, over)
      pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS)
    }
  }

  const outcomes = await Promise.allSettled(Array.from({ length: count }, (_, index) => keepRunning(index + 1)))
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
}

/** Asks all workers for their metrics and adds them up. */
const collector = (reachable: () => readonly Worker[], clock: Clock) => {
  const waiting = new Map<
    number,
    { readonly missing: Set<Worker>; readonly got: MetricValues[]; readonly full: AbortController }
  >()
  let last = 0
  return {
    add: (worker: Worker, collection: number, values: MetricValues): void => {
      const entry = waiting.get(collection)
      if (entry?.missing.delete(worker) !== true) return
      entry.got.push(values)
      if (entry.missing.size === 0) entry.full.abort()
    },
    page: async (): Promise<string> => {
      const collection = (last += 1)
      const asked = reachable()
      const entry = { missing: new Set(asked), got: [], full: new AbortController() }
      waiting.set(collection, entry)
      const question: FromPrimary = { kme: 'collect', collection }
      for (const worker of asked) worker.send(question)
      await clock.sleep(COLLECT_DEADLINE_MS, entry.full.signal)
      waiting.delete(collection)
      return aggregateMetrics(entry.got)
    },
  }
}

export interface WorkerSide {
  listening(line: ListeningLine): void
  /** The page of all workers, for a scrape that reaches this one. */
  shareMetrics(own: OwnMetrics): MetricsPage
  /** Lets go of the primary, so that this process can end. */
  leave(): void
}

/** The worker's end of the talk. @param askToStop is called when the primary is gone. */
export const talkToPrimary = (clock: Clock, askToStop: () => void): WorkerSide => {
  const pages = new Map<number, (text: string) => void>()
  let own: OwnMetrics | undefined
  let last = 0
  const send = (message: FromWorker): void => {
    if (process.connected) process.send?.(message)
  }
  const leave = (): void => {
    // Otherwise Node.js would end this process in the middle of its stop.
    if (cluster.worker) cluster.worker.exitedAfterDisconnect = true
    if (process.connected) process.disconnect()
  }
  cluster.worker?.once('disconnect', () => {
    leave()
    askToStop()
  })
  process.on('message', (message: FromPrimary) => {
    if (message.kme === 'page') pages.get(message.scrape)?.(message.text)
    else if (message.kme === 'collect') {
      const { collection } = message
      void own?.values().then((values) => send({ kme: 'values', collection, values }))
    }
  })
  return {
    listening: (line) => send({ kme: 'listening', line }),
    leave,
    shareMetrics: (metrics) => {
      own = metrics
      return {
        contentType: metrics.contentType,
        text: async () => {
          const scrape = (last += 1)
          const answered = new AbortController()
          let page: string | undefined
          pages.set(scrape, (text) => {
            page = text
            answered.abort()
          })
          send({ kme: 'scrape', scrape })
          await clock.sleep(PAGE_DEADLINE_MS, answered.signal)
          pages.delete(scrape)
          return page ?? metrics.text()
        },
      }
    },
  }
}
