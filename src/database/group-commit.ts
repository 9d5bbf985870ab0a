/** Group commit: all items waiting in one turn of the event loop, or while a commit is in flight, go to PostgreSQL
 *  together as one statement. Under load the cost of a commit is shared; at rest an item waits for nobody. */

export interface GroupCommitOptions<Item, Result> {
  /** Commits all items in one statement or none of them; results in the order of the items. */
  readonly commit: (items: readonly Item[]) => Promise<readonly Result[]>
  /** Whether a failed commit of several items may be tried item by item, so that one bad item does not fail the others. */
  readonly separable: (error: unknown) => boolean
  readonly itemsMax: number
  /** Commits in flight at once. */
  readonly lanes: number
}

interface Waiting<Item, Result> {
  readonly item: Item
  readonly resolve: (result: Result) => void
  readonly reject: (error: unknown) => void
}

export const createGroupCommit = <Item, Result>(options: GroupCommitOptions<Item, Result>): ((item: Item) => Promise<Result>) => {
  const queue: Waiting<Item, Result>[] = []
  let busyLanes = 0
  let scheduled = false

  const commitAll = async (batch: readonly Waiting<Item, Result>[]): Promise<void> => {
    try {
      const results = await options.commit(batch.map((waiting) => waiting.item))
      batch.forEach((waiting, i) => waiting.resolve(results[i] as Result))
    } catch (error) {
      if (batch.length > 1 && options.separable(error)) {
        for (const waiting of batch) await commitAll([waiting])
      } else {
        for (const waiting of batch) waiting.reject(error)
      }
    }
  }
  const drain = async (): Promise<void> => {
    busyLanes += 1
    while (queue.length > 0) await commitAll(queue.splice(0, options.itemsMax))
    busyLanes -= 1
  }
  return (item) =>
    new Promise((resolve, reject) => {
      queue.push({ item, resolve, reject })
      if (scheduled || busyLanes >= options.lanes) return
      scheduled = true
      setImmediate(() => {
        scheduled = false
        if (queue.length > 0 && busyLanes < options.lanes) void drain()
      })
    })
}
