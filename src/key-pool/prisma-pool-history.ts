/** The history of the key pools in PostgreSQL: buckets of 10 seconds for two days, of 10 minutes for months.
 *  Holds: what flowed is counted from the running totals last written, so a restart of the writer counts nothing twice and
 *  leaves nothing out; a change of state and its audit record are written together. */
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import type { Database, Statements } from '../database/database.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { HistoryPoint, PoolHistory, PoolReport, PoolState } from './key-pool.ts'
import { flowBetween } from './pool-health.ts'

const FINE_S = 10
const COARSE_S = 600
const FINE_KEPT_S = 48 * 3600
const DAY_S = 86_400
/** More points than a screen is wide help nobody. */
const HISTORY_POINTS_MAX = 500
/** Pieces small enough that nothing waits for them. */
const PRUNED_AT_ONCE = 1000

export interface RecordedPools extends PoolHistory {
  /** Adds a reading of the pools. */
  record(reports: readonly PoolReport[], nowMs: number): Promise<void>
  /** Removes a piece of what is past its time. @returns whether there may be more. */
  prune(nowMs: number): Promise<boolean>
}

export const createPoolHistory = (parts: { readonly database: Database; readonly historyDays: number }): RecordedPools => {
  const { database } = parts
  return {
    record: (reports, nowMs) =>
      database.transaction(async (statements) => {
        const known = await readRecords(
          statements,
          reports.map(({ level }) => level.peerKmeId),
        )
        const flows = reports.map(({ level }) => flowBetween(known.get(level.peerKmeId)?.totals ?? NO_TOTALS, level))
        const levels = reports.map(({ level }) => level)
        await statements.query(ADD_TO_BUCKETS, [
          levels.map(({ peerKmeId }) => peerKmeId),
          levels.map(({ mine }) => mine),
          levels.map(({ theirs }) => theirs),
          flows.map(({ offered }) => offered),
          flows.map(({ taken }) => taken),
          flows.map(({ refused }) => refused),
          nowMs,
        ])
        await statements.query(WRITE_RECORDS, [
          levels.map(({ peerKmeId }) => peerKmeId),
          reports.map(({ health }) => health.state),
          levels.map(({ offeredTotal }) => offeredTotal),
          levels.map(({ takenTotal }) => takenTotal),
          levels.map(({ refusedTotal }) => refusedTotal),
          nowMs,
        ])
        const changes = reports.flatMap((report) => describeChange(known.get(report.level.peerKmeId)?.state, report))
        if (changes.length > 0) await statements.query(insertAudit(1), auditColumns(changes))
      }),
    prune: async (nowMs) => {
      const counts = await Promise.all(
        [
          { widthS: FINE_S, keptS: FINE_KEPT_S },
          { widthS: COARSE_S, keptS: parts.historyDays * DAY_S },
        ].map(async ({ widthS, keptS }) => {
          const [row] = await database.query<{ count: number }>(PRUNE, [widthS, nowMs - keptS * 1000, PRUNED_AT_ONCE])
          return row?.count ?? 0
        }),
      )
      return counts.some((count) => count === PRUNED_AT_ONCE)
    },
    read: async ({ peerKmeId, nowMs, ...query }) => {
      const earliestMs = nowMs - parts.historyDays * DAY_S * 1000
      const [fromMs, toMs] = [Math.max(query.fromMs, earliestMs), Math.min(query.toMs, nowMs + FINE_S * 1000)]
      const isFine = fromMs >= nowMs - FINE_KEPT_S * 1000 && toMs - fromMs <= FINE_S * 1000 * HISTORY_POINTS_MAX * 6
      const storedS = isFine ? FINE_S : COARSE_S
      // Points begin at whole multiples of their length, so two more than fill the span touch it.
      const bucketS = storedS * Math.max(1, Math.ceil((toMs - fromMs) / 1000 / storedS / (HISTORY_POINTS_MAX - 2)))
      const points = await database.query<Record<keyof HistoryPoint, number>>(READ, [peerKmeId, storedS, fromMs, toMs, bucketS])
      return { bucketS, points }
    },
  }
}

const NO_TOTALS = { offeredTotal: 0, takenTotal: 0, refusedTotal: 0 }

const readRecords = async (statements: Statements, peers: readonly KmeId[]) => {
  const rows = await statements.query<{ peer: KmeId; state: PoolState; offered: number; taken: number; refused: number }>(
    READ_RECORDS,
    [peers],
  )
  return new Map(
    rows.map(({ peer, state, offered, taken, refused }) => [
      peer,
      { state, totals: { offeredTotal: offered, takenTotal: taken, refusedTotal: refused } },
    ]),
  )
}

const describeChange = (before: PoolState | undefined, { level, health }: PoolReport): AuditEvent[] =>
  before === undefined || before === health.state
    ? []
    : [
        {
          event: 'pool.state',
          actor: 'system',
          outcome: 'done',
          subject: { peerKmeId: level.peerKmeId, before, state: health.state, keys: health.level },
        },
      ]

const READ_RECORDS = `
SELECT peer_kme_id AS peer, state, offered_total::float8 AS offered, taken_total::float8 AS taken, refused_total::float8 AS refused
FROM pool_record WHERE peer_kme_id = ANY($1::text[]) ORDER BY peer_kme_id FOR UPDATE`

const WRITE_RECORDS = `
INSERT INTO pool_record (peer_kme_id, state, offered_total, taken_total, refused_total, at)
SELECT peer, state, offered, taken, refused, to_timestamp($6::float8 / 1000)
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS seen(peer, state, offered, taken, refused)
ON CONFLICT (peer_kme_id) DO UPDATE SET state = excluded.state, offered_total = excluded.offered_total,
  taken_total = excluded.taken_total, refused_total = excluded.refused_total, at = excluded.at`

// What is given back may have been taken in the bucket before: a bucket is never less than nothing.
const ADD_TO_BUCKETS = `
INSERT INTO pool_history AS h
  (peer_kme_id, width_s, from_at, mine_min, mine_last, theirs_min, theirs_last, offered, taken, refused)
SELECT peer, width_s, to_timestamp(floor($7::float8 / 1000 / width_s) * width_s), mine, mine, theirs, theirs,
  offered, greatest(0, taken), refused
FROM unnest($1::text[], $2::int[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[])
  AS seen(peer, mine, theirs, offered, taken, refused), (VALUES (${FINE_S}), (${COARSE_S})) AS widths(width_s)
ON CONFLICT (peer_kme_id, width_s, from_at) DO UPDATE SET
  mine_min = least(h.mine_min, excluded.mine_min), mine_last = excluded.mine_last,
  theirs_min = least(h.theirs_min, excluded.theirs_min), theirs_last = excluded.theirs_last,
  offered = h.offered + excluded.offered, taken = h.taken + excluded.taken, refused = h.refused + excluded.refused`

const PRUNE = `
WITH gone AS (
  DELETE FROM pool_history WHERE (peer_kme_id, width_s, from_at) IN (
    SELECT peer_kme_id, width_s, from_at FROM pool_history
    WHERE width_s = $1 AND from_at < to_timestamp($2::float8 / 1000) ORDER BY from_at LIMIT $3)
  RETURNING 1)
SELECT count(*)::int AS count FROM gone`

const READ = `
SELECT (floor(extract(epoch FROM from_at) / $5::int) * $5::int * 1000)::float8 AS "fromMs",
  min(mine_min) AS "mineMin", (array_agg(mine_last ORDER BY from_at DESC))[1] AS "mineLast",
  min(theirs_min) AS "theirsMin", (array_agg(theirs_last ORDER BY from_at DESC))[1] AS "theirsLast",
  sum(offered)::float8 AS offered, sum(taken)::float8 AS taken, sum(refused)::float8 AS refused
FROM pool_history
WHERE peer_kme_id = $1 AND width_s = $2 AND from_at > to_timestamp($3::float8 / 1000) - make_interval(secs => $2::int)
  AND from_at < to_timestamp($4::float8 / 1000)
GROUP BY 1 ORDER BY 1`
