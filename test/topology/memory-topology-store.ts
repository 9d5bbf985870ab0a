/** A TopologyStore that forgets nothing and writes nowhere; several processes of one KME may share it. */
import type { KmeId } from '../../src/kernel/identifiers.ts'
import type { StoredStatement, TopologyStore } from '../../src/topology/topology-store.ts'

export const createMemoryTopologyStore = (): TopologyStore & { readonly rows: ReadonlyMap<KmeId, StoredStatement> } => {
  const rows = new Map<KmeId, StoredStatement>()
  return {
    rows,
    readAll: async () => [...rows.values()],
    readOthersThan: async (known) => [...rows.values()].filter(({ kmeId, sequence }) => known.get(kmeId) !== sequence),
    put: async (statement) => {
      if (statement.sequence <= (rows.get(statement.kmeId)?.sequence ?? 0)) return false
      rows.set(statement.kmeId, statement)
      return true
    },
    putNext: async (kmeId, { atLeast, atMost }, make) => {
      const last = rows.get(kmeId)?.sequence ?? 0
      const sequence = last >= atMost ? atLeast : Math.max(last + 1, atLeast)
      const stored = { kmeId, sequence, signed: make(sequence) }
      rows.set(kmeId, stored)
      return stored
    },
    remove: async (kmeIds) => kmeIds.forEach((kmeId) => rows.delete(kmeId)),
  }
}
