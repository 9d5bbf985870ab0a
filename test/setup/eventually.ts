import { systemClock } from '../../src/kernel/clock.ts'

/** Long: how soon something happens is no promise unless a test says so. */
const PATIENCE_MS = 150_000

/** Looks until it sees something true, and returns that. @throws Error after the deadline. */
export const eventually = async <T>(
  what: string,
  look: () => Promise<T> | T,
  deadlineMs = PATIENCE_MS,
): Promise<NonNullable<T>> => {
  const startMs = systemClock.monotonicMs()
  for (;;) {
    const seen = await look()
    if (seen) return seen
    if (systemClock.monotonicMs() - startMs > deadlineMs) throw new Error(`did not happen in time: ${what}`)
    await systemClock.sleep(25)
  }
}
