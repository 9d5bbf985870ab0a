/** Writes down how the key pools are doing, and tells administrators when they run low. One process of a KME does it at a
 *  time. Holds: of the three alarms of a pool the one that fits is raised and no other, also after another process took over. */
import type { Alarms } from '../alarms/alarms.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { PoolReport, PoolState, PoolWatch } from './key-pool.ts'
import type { RecordedPools } from './prisma-pool-history.ts'

export interface RecordPoolsParts {
  readonly kmeId: KmeId
  readonly watch: PoolWatch
  readonly history: RecordedPools
  readonly alarms: Alarms
  readonly clock: Clock
  readonly log: Logger
}

const INTERVAL_MS = 1000
const PRUNE_INTERVAL_MS = 60_000
/** A pool that has just been set up is empty for a while, and nobody need be called for that. */
const FIRST_FILL_MS = 15_000
const ALARMING = ['low', 'critical', 'exhausted'] as const

/** Until `signal` aborts. */
export const recordPools = async (parts: RecordPoolsParts, signal: AbortSignal): Promise<void> => {
  const { watch, history, alarms, clock, log } = parts
  /** What this process last told; at first it does not know what the one before it told. */
  const told = new Map<KmeId, PoolState>()
  const startedMs = clock.monotonicMs()
  let pruneAtMs = startedMs
  let isWritten = true

  const tell = (report: PoolReport): void => {
    const { peerKmeId } = report.level
    const { state } = report.health
    // What the pool holds at first may still be on its way.
    const mayBeNew = !told.has(peerKmeId) && clock.monotonicMs() - startedMs < FIRST_FILL_MS
    if (state === 'exhausted' && mayBeNew) return
    if (told.get(peerKmeId) === state) return
    told.set(peerKmeId, state)
    for (const one of ALARMING) if (one !== state) alarms.clear(`pool.${one}:${peerKmeId}`)
    if (state === 'healthy') return
    alarms.raise(`pool.${state}:${peerKmeId}`, state === 'low' ? 'warning' : 'critical', describe(report, parts.kmeId), {
      peerKmeId,
      keys: report.health.level,
      timeToEmptyS: report.health.timeToEmptyS ?? null,
    })
  }

  while (!signal.aborted) {
    const reports = watch.reports()
    reports.forEach(tell)
    try {
      if (reports.length > 0) await history.record(reports, clock.nowMs())
      if (clock.monotonicMs() >= pruneAtMs && !(await history.prune(clock.nowMs()))) {
        pruneAtMs = clock.monotonicMs() + PRUNE_INTERVAL_MS
      }
      isWritten = true
    } catch (error) {
      // Nothing is lost: the next writing counts from the last one. Once, not each second.
      if (isWritten) log.warn({ error }, 'the history of the key pools cannot be written; trying again')
      isWritten = false
    }
    await clock.sleep(INTERVAL_MS, signal)
  }
}

/** One or two sentences for the administrator: how bad it is, how long it lasts, what to do. */
const describe = ({ level, marks, health }: PoolReport, kmeId: KmeId): string => {
  const { peerKmeId } = level
  const isLocal = peerKmeId === kmeId
  const pool = isLocal ? 'The pool of keys between SAEs of this KME' : `The key pool shared with ${peerKmeId}`
  const toDo = isLocal
    ? 'It fills itself: look for warnings of the slice "link" in the log, and at PostgreSQL.'
    : `Look at the links to it (kme link list) and at who takes the keys (kme audit list --event key.issued); ` +
      `kme pool replenish ${peerKmeId} asks every source now.`
  if (health.state === 'exhausted') return `${pool} is empty: SAEs get 503. ${toDo}`
  const mark = health.state === 'critical' ? marks.criticalWatermark : marks.lowWatermark
  const lasts =
    health.timeToEmptyS === undefined ? 'it is not emptying now' : `empty ${inWords(health.timeToEmptyS)} at the present rate`
  return `${pool} is ${health.state}: ${health.level} keys, the mark is ${mark}; ${lasts}. ${toDo}`
}

const inWords = (durationS: number): string => {
  if (durationS < 90) return `in about ${Math.max(1, Math.round(durationS))} s`
  if (durationS < 5400) return `in about ${Math.round(durationS / 60)} min`
  return `in about ${Math.round(durationS / 3600)} h`
}
