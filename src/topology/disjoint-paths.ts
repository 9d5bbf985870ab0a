/** Ways without a node in common, as a flow of least cost: each node carries one way, each link costs one hop. Found by augmenting
 *  along cheapest paths, which may take back links of ways found before (Bhandari's, that is Suurballe's, method).
 *  Holds: k ways are found whenever there are k, and they have the fewest hops in all that k ways can have. */

/** @param neighbours of each node, in order. @param count how many ways.
 *  @returns lists of nodes, the shortest first; undefined when there are not so many. */
export const disjointPaths = (
  neighbours: readonly (readonly number[])[],
  from: number,
  to: number,
  count: number,
): readonly (readonly number[])[] | undefined => {
  // Each node is two: 2n where ways come in, 2n + 1 where they go out. An arc and its way back stand side by side.
  const heads: number[] = []
  const costs: number[] = []
  const room: number[] = []
  const arcsOf: number[][] = neighbours.flatMap(() => [[], []])
  const addArc = (tail: number, head: number, cost: number): void => {
    arcsOf[tail]!.push(heads.length)
    heads.push(head)
    costs.push(cost)
    room.push(1)
    arcsOf[head]!.push(heads.length)
    heads.push(tail)
    costs.push(-cost)
    room.push(0)
  }
  neighbours.forEach((others, node) => {
    addArc(2 * node, 2 * node + 1, 0)
    for (const other of others) addArc(2 * node + 1, 2 * other, 1)
  })
  const source = 2 * from + 1
  const sink = 2 * to

  /** Cheapest way in what is left (Bellman and Ford, with a queue). @returns the arc that leads to each node on it. */
  const cheapest = (): readonly number[] | undefined => {
    const cost = arcsOf.map(() => Infinity)
    const arcTo = arcsOf.map(() => -1)
    const isWaiting = arcsOf.map(() => false)
    cost[source] = 0
    const queue = [source]
    for (let i = 0; i < queue.length; i += 1) {
      const node = queue[i]!
      isWaiting[node] = false
      for (const arc of arcsOf[node]!) {
        const head = heads[arc]!
        if (room[arc] === 0 || cost[node]! + costs[arc]! >= cost[head]!) continue
        cost[head] = cost[node]! + costs[arc]!
        arcTo[head] = arc
        if (!isWaiting[head]) queue.push(head)
        isWaiting[head] = true
      }
    }
    return cost[sink] === Infinity ? undefined : arcTo
  }

  for (let found = 0; found < count; found += 1) {
    const arcTo = cheapest()
    if (arcTo === undefined) return undefined
    for (let node = sink; node !== source;) {
      const arc = arcTo[node]!
      room[arc]! -= 1
      room[arc ^ 1]! += 1
      node = heads[arc ^ 1]!
    }
  }

  /** Follows what flows: arcs that are full and lead from one node of the network to another. */
  const nextOf = (node: number): readonly number[] =>
    arcsOf[2 * node + 1]!.filter((arc) => costs[arc] === 1 && room[arc] === 0).map((arc) => heads[arc]! / 2)
  return nextOf(from)
    .map((first) => {
      const path = [from]
      for (let node = first; node !== to; node = nextOf(node)[0]!) path.push(node)
      return [...path, to]
    })
    .sort(compareWays)
}

/** Fewest hops first, of these the first by node. */
export const compareWays = (one: readonly number[], other: readonly number[]): number => {
  if (one.length !== other.length) return one.length - other.length
  const i = one.findIndex((node, at) => node !== other[at])
  return i < 0 ? 0 : one[i]! - other[i]!
}
