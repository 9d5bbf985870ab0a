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

export interface BackOffOptions {
  readonly firstMs: number
  readonly longestMs: number
  readonly random: Random
}

/** Milliseconds to wait after so many failures in a row, 1 or more, where the count is kept elsewhere. */
export const waitAfter = (failuresInARow: number, { firstMs, longestMs, random }: BackOffOptions): number => {
  // Exponents beyond this reach any longest wait.
  const wholeMs = Math.min(longestMs, firstMs * 2 ** Math.min(failuresInARow - 1, 30))
  return Math.round(Math.max(firstMs, wholeMs * (0.5 + drawUniform(random) / 2)))
}

export const createBackOff = (options: BackOffOptions): BackOff => {
  let failuresInARow = 0
  return {
    get failuresInARow() {
      return failuresInARow
    },
    failed: () => {
      failuresInARow += 1
      return waitAfter(failuresInARow, options)
    },
    succeeded: () => {
      failuresInARow = 0
    },
  }
}
