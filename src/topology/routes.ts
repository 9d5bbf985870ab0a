/** RouteFinder over the network graph. Which way is best is decided by its weakest link first, then by its hops, then by names, so
 *  that the same network always gives the same answer. */
import type { KmeId } from '../kernel/identifiers.ts'
import { compareWays, disjointPaths } from './disjoint-paths.ts'
import type { NetworkGraph } from './network-graph.ts'
import type { RouteFinder, RouteRequest } from './topology.ts'

/** Most links of a way. */
export const HOPS_MAX = 16

type Way = readonly number[]

export const createRouteFinder = (graphNow: () => NetworkGraph): RouteFinder => ({
  routes: (request) => {
    const graph = graphNow()
    const from = graph.indexOf.get(request.from)
    const to = graph.indexOf.get(request.to)
    const hops = Math.min(request.maxHops ?? HOPS_MAX, HOPS_MAX)
    if (from === undefined || to === undefined || from === to) return []
    const search: Search = { graph, from, to, hops, mayPass: passable(graph, request) }
    const ways = request.disjointPaths === undefined ? bestWays(search) : disjointWays(search, request.disjointPaths)
    return ways.map((way) => way.map((node) => graph.kmeIds[node] as KmeId))
  },
})

interface Search {
  readonly graph: NetworkGraph
  readonly from: number
  readonly to: number
  /** Most links. */
  readonly hops: number
  /** Whether a node may be in between. */
  readonly mayPass: (node: number) => boolean
}

/** A link that must not be used, by its ends. */
type Without = readonly [number, number] | undefined

const passable = ({ kmeIds }: NetworkGraph, { avoid = [], only }: RouteRequest): ((node: number) => boolean) => {
  const avoided = new Set(avoid)
  const allowed = only && new Set(only)
  return (node) => {
    const kmeId = kmeIds[node]!
    return !avoided.has(kmeId) && (allowed === undefined || allowed.has(kmeId))
  }
}

/** The neighbours of a node by which a way may go on, over links of that grade or better. */
const stepsFrom = ({ graph, from, to, mayPass }: Search, node: number, grade: number, without: Without): readonly number[] =>
  graph.neighbours[node]!.filter(
    (next) =>
      next.grade >= grade &&
      (next.node === from || next.node === to || mayPass(next.node)) &&
      !(without?.includes(node) === true && without.includes(next.node)),
  ).map((next) => next.node)

/** Fewest hops over links of that grade or better; of several the first by names. */
const shortest = (search: Search, grade: number, without: Without): Way | undefined => {
  const { graph, from, to, hops } = search
  const distance = new Map([[to, 0]])
  const queue = [to]
  for (let i = 0; i < queue.length && !distance.has(from); i += 1) {
    const node = queue[i]!
    const next = distance.get(node)! + 1
    if (next > hops) break
    for (const step of stepsFrom(search, node, grade, without)) {
      if (distance.has(step)) continue
      distance.set(step, next)
      queue.push(step)
    }
  }
  if (!distance.has(from)) return undefined
  const way = [from]
  for (let node = from, left = distance.get(from)!; left > 0; left -= 1) {
    node = graph.neighbours[node]!.map((next) => next.node).find(
      (next) => distance.get(next) === left - 1 && stepsFrom(search, node, grade, without).includes(next),
    )!
    way.push(node)
  }
  return way
}

interface GradedWay {
  readonly way: Way
  /** Position of its weakest link among the grades: 0 is best. */
  readonly rank: number
}

/** What can be done with good links can be done with worse ones too: so the best grade is found by halving. */
const best = (search: Search, without?: Without): GradedWay | undefined => {
  const { grades } = search.graph
  let found: GradedWay | undefined
  let low = 0
  let high = grades.length - 1
  while (low <= high) {
    const rank = (low + high) >> 1
    const way = shortest(search, grades[rank]!, without)
    if (way === undefined) low = rank + 1
    else {
      found = { way, rank }
      high = rank - 1
    }
  }
  return found
}

/** The best way, and for each of its links the best one without it. */
const bestWays = (search: Search): readonly Way[] => {
  const first = best(search)
  if (first === undefined) return []
  const others = first.way.slice(1).flatMap((node, i) => best(search, [first.way[i]!, node]) ?? [])
  const different = new Map([first, ...others].map((graded) => [graded.way.join(), graded]))
  return [...different.values()]
    .sort((one, other) => one.rank - other.rank || compareWays(one.way, other.way))
    .map(({ way }) => way)
}

/** The best way to every node there is a way to, as `routes` finds it, in one go. */
export const bestWaysFrom = (graph: NetworkGraph, kmeId: KmeId): ReadonlyMap<KmeId, readonly KmeId[]> => {
  const ways = new Map<KmeId, readonly KmeId[]>()
  const from = graph.indexOf.get(kmeId)
  if (from === undefined) return ways
  for (const grade of graph.grades) {
    // Breadth first, neighbours in order: of the shortest ways to a node the first by names comes first.
    const found: Map<number, Way> = new Map([[from, [from]]])
    for (const [node, way] of found) {
      if (way.length > HOPS_MAX) break
      for (const next of graph.neighbours[node]!)
        if (next.grade >= grade && !found.has(next.node)) found.set(next.node, [...way, next.node])
    }
    for (const [node, way] of found) {
      const to = graph.kmeIds[node]!
      if (node !== from && !ways.has(to))
        ways.set(
          to,
          way.map((step) => graph.kmeIds[step]!),
        )
    }
  }
  return ways
}

/** With the best grade for which there are so many. Which of several sets has the shortest longest way nobody can tell in
 *  reasonable time: the limit of hops is held against the set with the fewest hops in all, for each grade. */
const disjointWays = (search: Search, count: number): readonly Way[] => {
  const { graph, from, to, hops } = search
  for (const grade of graph.grades) {
    const neighbours = graph.neighbours.map((_, node) =>
      node === from || node === to || search.mayPass(node) ? stepsFrom(search, node, grade, undefined) : [],
    )
    const ways = disjointPaths(neighbours, from, to, count)
    if (ways !== undefined && ways.every((way) => way.length - 1 <= hops)) return ways
  }
  return []
}
