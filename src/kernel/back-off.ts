/** When to try again what failed: sooner at first, then ever more seldom, and never all at the same moment. */
import { drawUniform, type Random } from './random.ts'

export interface BackOff {
  /** Since the last success. */
  readonly failuresInARow: number
  /** Notes a failure. @returns milliseconds to wait before the next try: doubled each time up to the longest wait, and
   *  of that a random part, at least half. */
  failed(): number
  succeeded(): void
}

export const createBackOff = (options: {
  readonly firstMs: number
  readonly longestMs: number
  readonly random: Random
}): BackOff => {
  let failuresInARow = 0
  return {
    get failuresInARow() {
      return failuresInARow
    },
    failed: () => {
      // Exponents beyond this reach any longest wait.
      const waitMs = Math.min(options.longestMs, options.firstMs * 2 ** Math.min(failuresInARow, 30))
      failuresInARow += 1
      return Math.max(options.firstMs, waitMs * (0.5 + drawUniform(options.random) / 2))
    },
    succeeded: () => {
      failuresInARow = 0
    },
  }
}
