/** Says whether a call to another KME is worth trying. One failed call opens it; while it is open nothing is claimed for that
 *  peer, so a peer that is away costs no keys. Only an answered greeting closes it again, and greetings back off, so a
 *  flapping peer causes no storm. */
import type { Clock } from './clock.ts'
import type { Logger } from './log.ts'

const FIRST_RETRY_MS = 200
const LAST_RETRY_MS = 3000
const QUIET_MS = 2000
/** So soon a closed breaker that was opened by a call is noticed. */
const LOOK_MS = 500

export interface BreakerStatus {
  /** Whether a call is worth trying. */
  readonly available: boolean
  /** Milliseconds since the last answer; undefined before the first. */
  readonly lastAnswerAgeMs: number | undefined
  readonly failuresInARow: number
}

export interface CircuitBreaker {
  isClosed(): boolean
  answered(): void
  failed(reason: string): void
  status(): BreakerStatus
  /** Greets the peer until `signal` aborts: soon and ever more slowly while open, now and then while closed. */
  watch(signal: AbortSignal): Promise<void>
}

export const createCircuitBreaker = (parts: {
  greet: () => Promise<void>
  clock: Clock
  log: Logger
  peer: string
  /** How long a closed breaker trusts its last answer before it asks again. */
  quietMs?: number
}): CircuitBreaker => {
  const { clock, log, peer, quietMs: trustedMs = QUIET_MS } = parts
  let closed = false
  let failures = 0
  let lastAnswerMs: number | undefined
  let lastReason: string | undefined

  const answered = (): void => {
    lastAnswerMs = clock.monotonicMs()
  }
  const failed = (reason: string): void => {
    failures += 1
    if (closed || reason !== lastReason) log.warn({ peer, reason }, 'peer KME does not answer')
    closed = false
    lastReason = reason
  }
  return {
    isClosed: () => closed,
    answered,
    failed,
    status: () => ({
      available: closed,
      lastAnswerAgeMs: lastAnswerMs === undefined ? undefined : clock.monotonicMs() - lastAnswerMs,
      failuresInARow: failures,
    }),
    watch: async (signal) => {
      let retryMs = FIRST_RETRY_MS
      while (!signal.aborted) {
        const quietMs = lastAnswerMs === undefined ? Infinity : clock.monotonicMs() - lastAnswerMs
        if (!closed || quietMs >= trustedMs) {
          try {
            await parts.greet()
            answered()
            if (!closed) log.info({ peer }, 'peer KME answers')
            closed = true
            failures = 0
            lastReason = undefined
            retryMs = FIRST_RETRY_MS
          } catch (error) {
            if (signal.aborted) return
            failed((error as Error).message)
          }
        }
        await clock.sleep(closed ? LOOK_MS : retryMs, signal)
        if (!closed) retryMs = Math.min(LAST_RETRY_MS, retryMs * 2)
      }
    },
  }
}
