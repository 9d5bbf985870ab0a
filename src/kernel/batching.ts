/** Work done together: all items waiting in one turn of the event loop, or while a batch is under way, go in one batch.
 *  Used for commits to the database and calls to a peer: under load their cost is shared, at rest an item waits for nobody. */

export interface BatchingOptions<Item, Result> {
  /** Does all items or none of them; results in the order of the items. */
  readonly work: (items: readonly Item[]) => Promise<readonly Result[]>
  /** Whether a failed batch may be tried item by item, so that one bad item does not fail the others. */
  readonly separable: (error: unknown) => boolean
  readonly itemsMax: number
  /** Batches under way at once. */
  readonly lanes: number
}

interface Waiting<Item, Result> {
  readonly item: Item
  readonly resolve: (result: Result) => void
  readonly reject: (error: unknown) => void
}

export const createBatching = <Item, Result>(options: BatchingOptions<Item, Result>): ((item: Item) => Promise<Result>) => {
  const queue: Waiting<Item, Result>[] = []
  let busyLanes = 0
  let scheduled = false

  const workAll = async (batch: readonly Waiting<Item, Result>[]): Promise<void> => {
    try {
      const results = await options.work(batch.map((waiting) => waiting.item))
      batch.forEach((waiting, i) => waiting.resolve(results[i] as Result))
    } catch (error) {
      if (batch.length > 1 && options.separable(error)) {
        for (const waiting of batch) await workAll([waiting])
      } else {
        for (const waiting of batch) waiting.reject(error)
      }
    }
  }
  const drain = async (): Promise<void> => {
    busyLanes += 1
    while (queue.length > 0) await workAll(queue.splice(0, options.itemsMax))
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
