/** Ends what waits past its time, and forgets what is gone, again and again. */
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import type { KeyStore } from './key-store.ts'

const INTERVAL_MS = 5000

/** Runs until `signal` aborts. @param parts.onExpired counts keys for metrics. */
export const expireKeys = async (
  parts: { store: KeyStore; clock: Clock; log: Logger; onExpired: (keyCount: number) => void },
  signal: AbortSignal,
): Promise<void> => {
  while (!signal.aborted) {
    await parts.clock.sleep(INTERVAL_MS, signal)
    if (signal.aborted) return
    try {
      parts.onExpired((await parts.store.expire()).expiredKeys)
    } catch (error) {
      parts.log.warn({ error }, 'expired keys could not be ended; trying again')
    }
  }
}

/** What one process uses up every other has in memory for a while: each process runs this until `signal` aborts. */
export const forgetDestroyedKeys = async (
  { store, clock, log }: { store: KeyStore; clock: Clock; log: Logger },
  signal: AbortSignal,
): Promise<void> => {
  while (!signal.aborted) {
    await clock.sleep(INTERVAL_MS, signal)
    if (signal.aborted) return
    try {
      await store.forgetDestroyed()
    } catch (error) {
      log.warn({ error }, 'keys of blocks that are used up could not be looked for; trying again')
    }
  }
}
