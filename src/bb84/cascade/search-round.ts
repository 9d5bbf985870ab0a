/** One round of binary searches: what is asked, and what Bob needs to read the answers. */

export interface SearchRound {
  readonly count: number
  /** Add a block from `start` to `end` (positions in the order of its pass) to be cut where `ask` says. */
  add(ask: number, start: number, end: number): void
  asks(): Int32Array
  ask(index: number): number
  start(index: number): number
  end(index: number): number
  clear(): void
  wipe(): void
}

const INITIAL = 256
const COLUMNS = 3

/** Columns of one growing array: ask, start, end. */
export const createSearchRound = (): SearchRound => {
  let rows = new Int32Array(COLUMNS * INITIAL)
  let count = 0
  let size = INITIAL
  return {
    get count() {
      return count
    },
    add: (ask, start, end) => {
      if (count === size) {
        const grown = new Int32Array(2 * COLUMNS * size)
        for (let column = 0; column < COLUMNS; column++)
          grown.set(rows.subarray(column * size, (column + 1) * size), 2 * column * size)
        rows.fill(0)
        rows = grown
        size *= 2
      }
      rows[count] = ask
      rows[size + count] = start
      rows[2 * size + count] = end
      count++
    },
    asks: () => rows.slice(0, count),
    ask: (index) => rows[index]!,
    start: (index) => rows[size + index]!,
    end: (index) => rows[2 * size + index]!,
    clear: () => {
      count = 0
    },
    wipe: () => {
      count = 0
      rows.fill(0)
    },
  }
}
