/** Reads the key pools once a second in every process of a KME and keeps in memory how each is doing, for whoever has to
 *  say so at once: a refused SAE, an operator, Prometheus. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { KeyPool, PoolLevel, PoolMarks, PoolReport, PoolWatch } from './key-pool.ts'
import { nextHealth, retryAfterS } from './pool-health.ts'

export interface WatchPoolsParts {
  readonly kmeId: KmeId
  readonly pool: KeyPool
  /** Pools that are watched even while nothing ever came into them. */
  readonly expected: readonly KmeId[]
  readonly marksOf: (peerKmeId: KmeId) => PoolMarks
  /** Keys a KME keeps for its own masters: Infinity where nothing is borrowed of it. */
  readonly lendFloorKeys: (peerKmeId: KmeId) => number
  readonly clock: Clock
  readonly log: Logger
}

export interface RunningPoolWatch extends PoolWatch {
  /** Reads until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

const INTERVAL_MS = 1000

export const createPoolWatch = (parts: WatchPoolsParts): RunningPoolWatch => {
  const { kmeId, pool, clock } = parts
  let reports: ReadonlyMap<KmeId, PoolReport> = new Map()
  let reading: Promise<readonly PoolReport[]> | undefined
  const listeners = new Set<() => void>()

  const readLevels = async (): Promise<readonly PoolLevel[]> => {
    const levels = await pool.levels()
    const missing = parts.expected.filter((id) => !levels.some(({ peerKmeId }) => peerKmeId === id))
    return [...levels, ...(await Promise.all(missing.map((id) => pool.level(id))))]
  }
  const report = (level: PoolLevel, atMs: number): PoolReport => {
    const { peerKmeId, mine, theirs } = level
    const marks = parts.marksOf(peerKmeId)
    const borrowable = peerKmeId === kmeId ? 0 : Math.max(0, theirs - parts.lendFloorKeys(peerKmeId))
    const before = reports.get(peerKmeId)?.health
    return { level, borrowable, marks, health: nextHealth(before, { ...level, atMs, level: mine + borrowable }, marks) }
  }
  const readAll = async (): Promise<readonly PoolReport[]> => {
    const levels = await readLevels()
    const atMs = clock.monotonicMs()
    reports = new Map(levels.map((level) => [level.peerKmeId, report(level, atMs)]))
    return [...reports.values()]
  }
  const read = (): Promise<readonly PoolReport[]> => {
    reading ??= readAll().finally(() => (reading = undefined))
    return reading
  }

  return {
    read,
    reports: () => [...reports.values()],
    report: (peerKmeId) => reports.get(peerKmeId),
    retryAfterS: (peerKmeId, missingKeys) => retryAfterS(reports.get(peerKmeId)?.health, missingKeys),
    onReading: (listener) => {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    run: async (signal) => {
      let isRead = true
      while (!signal.aborted) {
        try {
          await read()
          for (const listener of listeners) listener()
          isRead = true
        } catch (error) {
          // Once, not each second.
          if (isRead) parts.log.warn({ error }, 'the key pools cannot be read; trying again')
          isRead = false
        }
        await clock.sleep(INTERVAL_MS, signal)
      }
    },
  }
}
