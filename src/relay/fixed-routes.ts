/** Ways that an operator wrote down (`relay.routes`), and others for where none is written. */
import type { KmeId } from '../kernel/identifiers.ts'
import type { RouteFinder, RouteRequest } from '../topology/topology.ts'

export interface FixedRoute {
  readonly to: KmeId
  /** The KMEs in between, in order. */
  readonly via: readonly KmeId[]
}

const isAllowed = ({ avoid = [], only, maxHops = Infinity }: RouteRequest, path: readonly KmeId[]): boolean => {
  const between = path.slice(1, -1)
  return path.length - 1 <= maxHops && between.every((node) => !avoid.includes(node) && only?.includes(node) !== false)
}

/** The first `count` of the paths that have no KME in between in common, in order. */
const disjoint = (paths: readonly (readonly KmeId[])[], count: number): readonly (readonly KmeId[])[] | undefined => {
  if (count === 0) return []
  for (const [i, path] of paths.entries()) {
    const others = paths.slice(i + 1).filter((other) => !other.slice(1, -1).some((node) => path.slice(1, -1).includes(node)))
    const rest = disjoint(others, count - 1)
    if (rest !== undefined) return [path, ...rest]
  }
  return undefined
}

/** @param otherwise asked for KMEs that no route is written for. */
export const createFixedRoutes = (kmeId: KmeId, fixed: readonly FixedRoute[], otherwise?: RouteFinder): RouteFinder => ({
  routes: (request) => {
    const written = fixed.filter(({ to }) => to === request.to)
    if (request.from !== kmeId || written.length === 0) return otherwise?.routes(request) ?? []
    const paths = written.map(({ to, via }) => [kmeId, ...via, to]).filter((path) => isAllowed(request, path))
    return request.disjointPaths === undefined ? paths : (disjoint(paths, request.disjointPaths) ?? [])
  },
})
