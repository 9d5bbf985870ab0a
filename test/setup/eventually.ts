import { systemClock } from '../../src/kernel/clock.ts'

/** Looks until it sees something true, and returns that. @throws Error after the deadline. */
export const eventually = async <T>(what: string, look: () => Promise<T> | T, deadlineMs = 60_000): Promise<NonNullable<T>> => {
  const startMs = systemClock.monotonicMs()
  for (;;) {
    const seen = await look()
    if (seen) return seen
    if (systemClock.monotonicMs() - startMs > deadlineMs) throw new Error(`did not happen in time: ${what}`)
    await systemClock.sleep(25)
  }
}
