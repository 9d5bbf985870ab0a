/** TopologyStore in PostgreSQL: one row per KME, changed by conditional statements, so that no process of this KME puts an older
 *  statement over a newer one and a restart never goes back. Each change is told to the other processes. */
import type { Database, Row } from '../database/database.ts'
import { Internal } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import { readSignedStatement, writeSignedStatement } from '../peer/wire.ts'
import type { StoredStatement, TopologyStore } from './topology-store.ts'

interface StatementRow extends Row {
  readonly kme_id: KmeId
  /** BIGINT comes as text. */
  readonly sequence: string
  readonly signed: unknown
}

const PUT = `
WITH put AS (
  INSERT INTO topology_statement AS t (kme_id, sequence, signed, updated_at) VALUES ($1, $2::bigint, $3::jsonb, now())
  ON CONFLICT (kme_id) DO UPDATE SET sequence = excluded.sequence, signed = excluded.signed, updated_at = now()
  WHERE t.sequence < excluded.sequence RETURNING 1
)
SELECT pg_notify('kme_changes', 'topology') FROM put`

// The row is locked from here to the end of the transaction: two processes never get one number.
const NEXT_SEQUENCE = `
INSERT INTO topology_statement AS t (kme_id, sequence, signed, updated_at) VALUES ($1, $2::bigint, 'null', now())
ON CONFLICT (kme_id) DO UPDATE
SET sequence = CASE WHEN t.sequence >= $3::bigint THEN excluded.sequence ELSE greatest(t.sequence + 1, excluded.sequence) END
RETURNING sequence`

const FILL = `
WITH filled AS (UPDATE topology_statement SET signed = $2::jsonb, updated_at = now() WHERE kme_id = $1 RETURNING 1)
SELECT pg_notify('kme_changes', 'topology') FROM filled`

const READ_OTHERS = `
SELECT t.kme_id, t.sequence, t.signed FROM topology_statement t
LEFT JOIN unnest($1::text[], $2::bigint[]) AS known(kme_id, sequence) ON known.kme_id = t.kme_id
WHERE known.sequence IS DISTINCT FROM t.sequence ORDER BY t.kme_id`

export const createTopologyStore = (database: Database): TopologyStore => {
  const readOthersThan = async (known: ReadonlyMap<KmeId, number>): Promise<readonly StoredStatement[]> =>
    (await database.query<StatementRow>(READ_OTHERS, [[...known.keys()], [...known.values()]])).flatMap(toStored)
  return {
    readAll: () => readOthersThan(new Map()),
    readOthersThan,
    put: async ({ kmeId, sequence, signed }) => {
      const rows = await database.query(PUT, [kmeId, sequence, JSON.stringify(writeSignedStatement(signed))])
      return rows.length > 0
    },
    putNext: (kmeId, { atLeast, atMost }, make) =>
      database.transaction(async (statements) => {
        const [row] = await statements.query<StatementRow>(NEXT_SEQUENCE, [kmeId, atLeast, atMost])
        const sequence = Number(row?.sequence)
        const signed = attempt(() => make(sequence))
        await statements.query(FILL, [kmeId, JSON.stringify(writeSignedStatement(signed))])
        return { kmeId, sequence, signed }
      }),
    remove: async (kmeIds) => {
      await database.query('DELETE FROM topology_statement WHERE kme_id = ANY($1::text[])', [kmeIds])
    },
  }
}

/** Nothing was committed: the error of a kind that says so keeps the connection. */
const attempt = <T>(work: () => T): T => {
  try {
    return work()
  } catch (error) {
    throw new Internal({ cause: error })
  }
}

/** A row that somebody spoiled is as good as none: the KME will state its links again. */
const toStored = ({ kme_id: kmeId, sequence, signed }: StatementRow): readonly StoredStatement[] => {
  try {
    return [{ kmeId, sequence: Number(sequence), signed: readSignedStatement(signed) }]
  } catch {
    return []
  }
}
