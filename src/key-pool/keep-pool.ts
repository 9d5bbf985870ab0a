/** Keeps the pool what it should be: what the key store says. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { KeyStore } from '../key-store/key-store.ts'
import type { KeyPool } from './key-pool.ts'

export interface KeepPoolParts {
  readonly pool: KeyPool
  readonly store: Pick<KeyStore, 'availableUnits' | 'counts'>
  readonly clock: Clock
  readonly log: Logger
}

const LOOK_MS = 250
/** Between two comparisons of the pool with the store. */
const COMPARE_INTERVAL_MS = 15_000
/** So many comparisons in a row may find far too few units before the pool is rebuilt under traffic. */
const SHORT_LOOKS_MAX = 4
const FAR_UNITS = 1000

/** Rebuilds the pool when it came into doubt, in every process, until `signal` aborts. */
export const rebuildWhenInDoubt = async ({ pool, store, clock, log }: KeepPoolParts, signal: AbortSignal): Promise<void> => {
  let failed = false
  while (!signal.aborted) {
    try {
      if (pool.needsRebuild()) {
        await pool.rebuild(store.availableUnits())
        failed = false
      }
    } catch (error) {
      // Once, not each time.
      if (!failed) log.warn({ error }, 'the pool could not be rebuilt; trying again')
      failed = true
    }
    await clock.sleep(LOOK_MS, signal)
  }
}

/** Finds out what nobody noticed, until `signal` aborts. Under traffic pool and store always differ by what is on its way: the pool
 *  comes into doubt when they differ and neither moved since the last look, or when it is far too short again and again. */
export const comparePool = async ({ pool, store, clock, log }: KeepPoolParts, signal: AbortSignal): Promise<void> => {
  let last = new Map<KmeId, { numbers: string; shortLooks: number }>()
  while (!signal.aborted) {
    await clock.sleep(COMPARE_INTERVAL_MS, signal)
    if (signal.aborted) return
    try {
      const look: typeof last = new Map()
      for (const { peerKmeId, unitsMine, unitsTheirs } of await store.counts()) {
        const { mine, theirs } = await pool.level(peerKmeId)
        if (mine === unitsMine && theirs === unitsTheirs) continue
        const before = last.get(peerKmeId)
        const numbers = [mine, theirs, unitsMine, unitsTheirs].join(' ')
        const isShort = unitsMine - mine > Math.max(FAR_UNITS, unitsMine / 10)
        const shortLooks = isShort ? (before?.shortLooks ?? 0) + 1 : 0
        if (before?.numbers === numbers || shortLooks >= SHORT_LOOKS_MAX) {
          log.warn({ peerKmeId, mine, theirs, unitsMine, unitsTheirs }, 'the pool does not hold what the key store holds')
          pool.doubt(peerKmeId)
        } else look.set(peerKmeId, { numbers, shortLooks })
      }
      last = look
    } catch (error) {
      log.warn({ error }, 'pool and key store could not be compared; trying again')
    }
  }
}
