/** The network as this KME sees it now, for operators and for relaying. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { LinkStateDatabase } from './link-state-database.ts'
import { buildGraph, knownLinks, type NetworkGraph } from './network-graph.ts'
import { bestWaysFrom, createRouteFinder } from './routes.ts'
import type { KnownKme, KnownLink, LinkStateStatement, RouteFinder, TopologyDirectory } from './topology.ts'

/** Statements run out and certificates are revoked without anybody saying so. */
const GRAPH_TRUST_MS = 1000

interface Sight {
  readonly version: number
  readonly atMs: number
  readonly statements: readonly LinkStateStatement[]
  readonly links: readonly KnownLink[]
  readonly graph: NetworkGraph
  /** Found when somebody asks. */
  kmes?: readonly KnownKme[]
}

export const createTopologyView = (parts: {
  readonly kmeId: KmeId
  readonly database: Pick<LinkStateDatabase, 'current' | 'version'>
  readonly clock: Clock
}): TopologyDirectory & RouteFinder => {
  const { kmeId, database, clock } = parts
  let sight: Sight | undefined

  const look = (): Sight => {
    const version = database.version()
    const atMs = clock.monotonicMs()
    if (sight?.version !== version || atMs - sight.atMs >= GRAPH_TRUST_MS) {
      const statements = database.current()
      const links = knownLinks(statements)
      const kmeIds = statements.map((statement) => statement.kmeId)
      sight = { version, atMs, statements, links, graph: buildGraph(kmeIds, links) }
    }
    return sight
  }
  const finder = createRouteFinder(() => look().graph)
  const knownKmes = ({ statements, graph }: Sight): readonly KnownKme[] => {
    const ways = bestWaysFrom(graph, kmeId)
    return statements.map((statement) => ({
      kmeId: statement.kmeId,
      sequence: statement.sequence,
      issuedAtMs: statement.issuedAtMs,
      validUntilMs: statement.issuedAtMs + statement.validForS * 1000,
      route: statement.kmeId === kmeId ? [kmeId] : ways.get(statement.kmeId),
    }))
  }

  return {
    routes: finder.routes,
    links: () => look().links,
    kmes: () => {
      const now = look()
      now.kmes ??= knownKmes(now)
      return now.kmes
    },
  }
}
