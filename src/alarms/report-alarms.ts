/** Takes what the rest of the KME reports, logs it at once and writes it when PostgreSQL is there.
 *  Holds: reports of one alarm are written in their order, and the last of them is never lost while this process lives. */
import { outcomeUnknown, sqlState } from '../database/database.ts'
import type { Clock } from '../kernel/clock.ts'
import { Unavailable } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import type { AlarmDirectory, AlarmRecord, Alarms } from './alarms.ts'
import type { AlarmReport, AlarmStore } from './prisma-alarms.ts'

export interface ReportAlarmsParts {
  readonly store: AlarmStore
  readonly clock: Clock
  readonly log: Logger
  /** Counts notices nobody accepted for a day. */
  readonly onGivenUp: (noticeCount: number) => void
}

export interface RunningAlarms extends Alarms, AlarmDirectory {
  /** Writes reports until `signal` aborts, and what is left then once more. */
  run(signal: AbortSignal): Promise<void>
}

/** Reports kept while PostgreSQL is away. */
const KEPT_MAX = 1000
const READ_INTERVAL_MS = 2000
const RETRY_MS = 1000
const SWEEP_INTERVAL_MS = 60_000
const DAY_MS = 86_400_000
const SHOWN_FOR_MS = 7 * DAY_MS
const SHOWN_MAX = 1000

export const createAlarms = (parts: ReportAlarmsParts): RunningAlarms => {
  const { store, clock, log } = parts
  const queue: AlarmReport[] = []
  /** Raised by this process and not cleared since, so that a condition reported every second is logged once. */
  const raisedHere = new Set<string>()
  let active: readonly AlarmRecord[] = []
  let wakeUp = new AbortController()

  const add = (report: AlarmReport): void => {
    const last = queue.findLastIndex(({ name }) => name === report.name)
    if (queue[last]?.event === report.event) return
    if (queue.length >= KEPT_MAX) {
      if (last < 0) return log.error({ alarm: report.name }, 'too many alarms wait for the database; this one is only logged')
      // How it ends matters more than each step of the way.
      queue.splice(last, 1)
    }
    queue.push(report)
    wakeUp.abort()
  }

  const writeFirst = async (report: AlarmReport): Promise<void> => {
    try {
      await store.write(report)
    } catch (error) {
      if (!refusedForGood(error)) throw error
      log.error({ alarm: report.name, error }, 'the database takes no such alarm; it is only logged')
    }
    // A newer report may have taken its place.
    if (queue[0] === report) queue.shift()
  }
  const writeAll = async (): Promise<void> => {
    for (let report = queue[0]; report !== undefined; report = queue[0]) await writeFirst(report)
  }
  const readActive = async (): Promise<void> => {
    active = await store.active()
    const known = new Set([...active, ...queue].map(({ name }) => name))
    for (const name of raisedHere) if (!known.has(name)) raisedHere.delete(name)
  }
  const sweep = async (): Promise<void> => {
    const givenUp = await store.giveUp(clock.nowMs() - DAY_MS)
    for (const notice of givenUp) log.error({ ...notice }, 'a webhook did not accept a notice for a day; it was given up')
    if (givenUp.length > 0) parts.onGivenUp(givenUp.length)
    await store.forgetCleared(clock.nowMs() - SHOWN_FOR_MS)
  }

  return {
    raise: (name, severity, text, subject = {}) => {
      if (!raisedHere.has(name)) {
        raisedHere.add(name)
        const level = severity === 'critical' ? 'error' : 'warn'
        log[level]({ alarm: name, severity, text, subject }, 'alarm raised')
      }
      add({ event: 'raised', name, severity, text, subject: toJson(subject), atMs: clock.nowMs() })
    },
    clear: (name) => {
      if (raisedHere.delete(name) || active.some((alarm) => alarm.name === name)) log.info({ alarm: name }, 'alarm cleared')
      add({ event: 'cleared', name, atMs: clock.nowMs() })
    },
    active: () => active,
    list: async () => {
      const raised = (await store.active()).slice(0, SHOWN_MAX)
      if (raised.length === SHOWN_MAX) return raised
      return [...raised, ...(await store.clearedSince(clock.nowMs() - SHOWN_FOR_MS, SHOWN_MAX - raised.length))]
    },
    run: async (signal) => {
      let sweptMs = -Infinity
      let isAway = false
      while (!signal.aborted) {
        wakeUp = new AbortController()
        try {
          await writeAll()
          await readActive()
          if (clock.monotonicMs() - sweptMs >= SWEEP_INTERVAL_MS) {
            sweptMs = clock.monotonicMs()
            await sweep()
          }
          isAway = false
        } catch (error) {
          if (!isAway) log.warn({ error, kept: queue.length }, 'alarms could not be written; trying again')
          isAway = true
        }
        // While the database is away a new report is no reason to try earlier.
        if (isAway) await clock.sleep(RETRY_MS, signal)
        else if (!wakeUp.signal.aborted) await clock.sleep(READ_INTERVAL_MS, AbortSignal.any([signal, wakeUp.signal]))
      }
      await writeAll().catch((error: unknown) =>
        log.warn({ error, lost: queue.length }, 'alarms were not written before the stop'),
      )
    },
  }
}

/** The values themselves are refused (SQLSTATE classes 22 and 23), now and always. */
const refusedForGood = (error: unknown): boolean =>
  !(error instanceof Unavailable) && !outcomeUnknown(error) && /^2[23]/.test(sqlState(error) ?? '')

const toJson = (subject: Readonly<Record<string, unknown>>): string => {
  try {
    return JSON.stringify(subject)
  } catch {
    // A circle or a BigInt: the alarm matters more than what it carries.
    return '{}'
  }
}
