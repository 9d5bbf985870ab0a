/** Keeps key pools from running empty: when one runs low, asks whatever could bring keys for it, the pool that would be empty
 *  first before the others (reliability: I11). One process of a KME does it at a time; an operator's wish is met by every one.
 *  Holds: a source that fails is asked again, ever more seldom, and an administrator hears of it after the third time. */
import type { Alarms } from '../alarms/alarms.ts'
import type { AuditLog } from '../audit/audit.ts'
import { createBackOff, type BackOff } from '../kernel/back-off.ts'
import type { Clock } from '../kernel/clock.ts'
import { NotFound } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { PoolCeilings, PoolReport, PoolWatch } from '../key-pool/key-pool.ts'
import type { Replenisher, ReplenishSource, SourceReport } from './link.ts'

export interface ReplenishPoolsParts {
  readonly watch: PoolWatch
  readonly ceilings: PoolCeilings
  readonly sources: readonly ReplenishSource[]
  readonly alarms: Alarms
  readonly audit: Pick<AuditLog, 'append'>
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface RunningReplenisher extends Replenisher {
  /** Replenishes what runs low, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

interface Asked {
  readonly source: ReplenishSource
  readonly backOff: BackOff
  nextTryAtMs: number
}

const INTERVAL_MS = 1000
const FIRST_WAIT_MS = 1000
const LONGEST_WAIT_MS = 60_000
const ALARM_AFTER_FAILURES = 3
/** Pools whose sources are asked at the same moment; the others wait for their turn. */
const POOLS_AT_ONCE = 4

export const createReplenisher = (parts: ReplenishPoolsParts): RunningReplenisher => {
  const { watch, ceilings, alarms, clock, log } = parts
  const all: readonly Asked[] = parts.sources.map((source) => ({
    source,
    backOff: createBackOff({ firstMs: FIRST_WAIT_MS, longestMs: LONGEST_WAIT_MS, random: parts.random }),
    nextTryAtMs: 0,
  }))
  const busy = new Set<KmeId>()
  /** Whether the alarm of a pool is raised, as far as this process knows: another one may have raised it. */
  const alarmed = new Map<KmeId, boolean>()

  const sourcesOf = (peerKmeId: KmeId): readonly Asked[] => all.filter(({ source }) => source.peerKmeId === peerKmeId)
  const tryAgainNow = (peerKmeId: KmeId): void => {
    for (const asked of sourcesOf(peerKmeId)) {
      asked.nextTryAtMs = 0
      asked.backOff.succeeded()
    }
  }
  ceilings.onAsk(tryAgainNow)

  const clearAlarm = (peerKmeId: KmeId): void => {
    if (alarmed.get(peerKmeId) === false) return
    alarmed.set(peerKmeId, false)
    alarms.clear(`pool.replenish:${peerKmeId}`)
  }
  const raiseAlarm = (peerKmeId: KmeId, { source, backOff }: Asked, reason: string): void => {
    alarmed.set(peerKmeId, true)
    alarms.raise(
      `pool.replenish:${peerKmeId}`,
      'warning',
      `The key pool shared with ${peerKmeId} runs low, and ${source.name} failed ${backOff.failuresInARow} times in a row: ` +
        `${reason}. It is tried again at least once a minute; kme pool replenish ${peerKmeId} tries at once.`,
      { peerKmeId, source: source.name },
    )
  }

  const ask = async (asked: Asked, report: PoolReport): Promise<SourceReport> => {
    const { source, backOff } = asked
    const { peerKmeId } = source
    try {
      const done = await source.replenish({ ...report, ceilingKeys: ceilings.ceilingKeys(peerKmeId) })
      backOff.succeeded()
      if (sourcesOf(peerKmeId).every((one) => one.backOff.failuresInARow < ALARM_AFTER_FAILURES)) clearAlarm(peerKmeId)
      return { source: source.name, ...done }
    } catch (error) {
      const reason = error instanceof Error ? error.message : 'unknown reason'
      asked.nextTryAtMs = clock.monotonicMs() + backOff.failed()
      log.warn(
        { peerKmeId, source: source.name, failuresInARow: backOff.failuresInARow, error },
        'a key pool was not replenished',
      )
      if (backOff.failuresInARow === ALARM_AFTER_FAILURES) raiseAlarm(peerKmeId, asked, reason)
      return { source: source.name, outcome: 'failed', reason }
    }
  }

  const replenish = async (report: PoolReport): Promise<void> => {
    const { peerKmeId } = report.level
    busy.add(peerKmeId)
    try {
      const due = sourcesOf(peerKmeId).filter(({ nextTryAtMs }) => clock.monotonicMs() >= nextTryAtMs)
      await Promise.all(due.map((asked) => ask(asked, report)))
    } finally {
      busy.delete(peerKmeId)
    }
  }

  return {
    replenishNow: async (peerKmeId, keys, actor) => {
      const report = (await watch.read()).find(({ level }) => level.peerKmeId === peerKmeId)
      if (report === undefined) throw new NotFound('there is no pool for this KME')
      const ceilingKeys = Math.max(report.marks.highWatermark, keys ?? 0)
      await ceilings.ask(peerKmeId, ceilingKeys)
      await parts.audit.append({ event: 'pool.replenish', actor, outcome: 'done', subject: { peerKmeId, ceilingKeys } })
      return { ceilingKeys, sources: await Promise.all(sourcesOf(peerKmeId).map((asked) => ask(asked, report))) }
    },
    run: async (signal) => {
      alarmed.clear()
      while (!signal.aborted) {
        const reports = watch.reports()
        for (const report of reports) if (!isInNeed(report)) clearAlarm(report.level.peerKmeId)
        for (const report of mostUrgentFirst(reports.filter(isInNeed))) {
          if (busy.size >= POOLS_AT_ONCE) break
          if (!busy.has(report.level.peerKmeId)) void replenish(report)
        }
        await clock.sleep(INTERVAL_MS, signal)
      }
    },
  }
}

/** Also with plenty at the other end: a loan made before it is needed costs no request the way there and back. */
const isInNeed = ({ level, marks, health }: PoolReport): boolean => health.state !== 'healthy' || level.mine < marks.lowWatermark

const mostUrgentFirst = (reports: readonly PoolReport[]): PoolReport[] => {
  const urgency = ({ health }: PoolReport): number => health.timeToEmptyS ?? Infinity
  const fill = ({ health, marks }: PoolReport): number => health.level / Math.max(1, marks.lowWatermark)
  return [...reports].sort((one, other) =>
    urgency(one) === urgency(other) ? fill(one) - fill(other) : urgency(one) - urgency(other),
  )
}
