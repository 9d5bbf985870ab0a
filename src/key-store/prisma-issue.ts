/** The issuing KME's side of a key's life: AVAILABLE -> RESERVED -> ISSUED, and the only two ways back. */
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import { outcomeUnknown, repeatOnContention, sqlState } from '../database/database.ts'
import { createBatching } from '../kernel/batching.ts'
import { Conflict, KeyDataAccess } from '../kernel/errors.ts'
import type { AssignmentId, BlockId, KeyId, KmeId, SaeId } from '../kernel/identifiers.ts'
import { assignmentTag } from './commitment.ts'
import type { ReservationState } from './key-states.ts'
import type { Assignment, Claim, ClaimRequest, Issue, KeyMaterial, KeyStore, UnitRun } from './key-store.ts'
import { appendAudit, finishUnits, masksIn, type BlockParts } from './prisma-blocks.ts'
import {
  joinUnits,
  SPANS,
  spanParameters,
  toSealedUnits,
  type MaterialRequest,
  type OpenBlocks,
  type SpanRow,
} from './prisma-open-blocks.ts'
import { masksOf, OverlappingUnits } from './unit-bits.ts'

type IssueMethods = Pick<
  KeyStore,
  | 'claim'
  | 'issue'
  | 'issueLocally'
  | 'priorIssue'
  | 'reopen'
  | 'markAborting'
  | 'unsettled'
  | 'giveBack'
  | 'burn'
  | 'forgetBurnt'
>

export interface IssueParts extends BlockParts {
  readonly retryWindowS: number
  /** This process; a reservation of another one that is gone must be settled by whoever finds it. */
  readonly processId: string
}

/** Batches of one kind under way at once: while one waits for the disk, the next is being prepared. */
export const LANES = 2

const ROW_COUNT_CHECK = 'KM001'
const UNIQUE_VIOLATION = '23505'

/** Whether a statement over several requests may be repeated request by request. */
export const separable = (error: unknown): boolean =>
  error instanceof OverlappingUnits || error instanceof RangeError || (sqlState(error) !== undefined && !outcomeUnknown(error))

/** The database, or the request itself, said that the units are not free. */
const isConflict = (error: unknown): boolean =>
  error instanceof OverlappingUnits || error instanceof RangeError || sqlState(error) === ROW_COUNT_CHECK

/** SQL: takes units that this KME issues and that are free; the caller checks that every block matched. */
const TAKE_MINE = `
UPDATE key_block b SET taken = b.taken | m.mask
FROM unnest($1::uuid[], $5::text[]::varbit[]) AS m(block_id, mask)
WHERE b.block_id = m.block_id AND b.state = 'AVAILABLE' AND length(b.taken) = length(m.mask)
  AND bit_count(b.taken & m.mask) = 0 AND bit_count(b.mine & m.mask) = bit_count(m.mask)
RETURNING 1`

// The claim itself need not be durable: it only has to hold while this server lives. If the server crashes and forgets it,
// the units look free again, but the peer, which holds them durably before anything is issued, refuses them for ever.
const CLAIM = `
WITH claimed AS (${TAKE_MINE}),
reserved AS (
  INSERT INTO reservation (aid, peer_kme_id, state, claimed_by, units)
  SELECT t.aid, t.peer, 'RESERVED', $6::uuid, t.units FROM unnest($7::uuid[], $8::text[], $9::text[]::jsonb[]) AS t(aid, peer, units)
)
SELECT must((SELECT count(*) FROM claimed) = cardinality($1::uuid[]), 'claim'), set_config('synchronous_commit', 'off', true), ${SPANS}`

/** SQL: assignments from one JSON array. */
const insertAssignments = (parameter: number): string => `
INSERT INTO assignment (aid, role, peer_kme_id, state, master_sae_id, slave_sae_ids, size_bits, key_count, units, fetched,
  request_id, expires_at, ended_at)
SELECT t.aid, t.role, t.peer, 'ISSUED', t.master, t.slaves, t.size_bits, t.key_count, t.units,
  repeat('0', t.key_count * cardinality(t.slaves))::varbit, t.request_id, now() + t.life_s * interval '1 second',
  CASE WHEN t.ended THEN now() END
FROM jsonb_to_recordset($${parameter}::text::jsonb) AS t(aid uuid, role text, peer text, master text, slaves text[], size_bits int,
  key_count int, units jsonb, request_id uuid, life_s int, ended boolean)`

/** SQL: key IDs of assignments. */
const insertKeys = (first: number): string => `
INSERT INTO assigned_key (key_id, aid, position)
SELECT * FROM unnest($${first}::uuid[], $${first + 1}::uuid[], $${first + 2}::smallint[])`

const ISSUE = `
WITH gone AS (
  DELETE FROM reservation r USING unnest($1::uuid[]) AS t(aid)
  WHERE r.aid = t.aid AND r.state = 'RESERVED' AND r.claimed_by = $2::uuid RETURNING 1
),
issued AS (${insertAssignments(3)}),
keys AS (${insertKeys(4)}),
finished AS (${finishUnits(7, 8)}),
audited AS (${insertAudit(9)})
SELECT must((SELECT count(*) FROM gone) = cardinality($1::uuid[]), 'issue')`

const ISSUE_LOCALLY = `
WITH claimed AS (${TAKE_MINE}),
issued AS (${insertAssignments(6)}),
keys AS (${insertKeys(7)}),
audited AS (${insertAudit(10)})
SELECT must((SELECT count(*) FROM claimed) = cardinality($1::uuid[]), 'claim'), ${SPANS}`

export type AssignmentRole = 'issuer' | 'holder' | 'local'

/** One element for insertAssignments(). */
export const assignmentRow = (
  role: AssignmentRole,
  peerKmeId: KmeId,
  assignment: Assignment,
  life: { lifeS: number; ended: boolean; requestId?: string | undefined },
): object => ({
  aid: assignment.aid,
  role,
  peer: peerKmeId,
  master: assignment.masterSaeId,
  slaves: assignment.slaveSaeIds,
  size_bits: assignment.sizeBits,
  key_count: assignment.keyIds.length,
  units: assignment.units,
  request_id: life.requestId ?? null,
  life_s: life.lifeS,
  ended: life.ended,
})

/** Parameters of insertKeys(). */
export const keyColumns = (assignments: readonly Assignment[]): [keyIds: KeyId[], aids: AssignmentId[], positions: number[]] => [
  assignments.flatMap((assignment) => assignment.keyIds),
  assignments.flatMap((assignment) => assignment.keyIds.map(() => assignment.aid)),
  assignments.flatMap((assignment) => assignment.keyIds.map((_, position) => position)),
]

export { insertAssignments, insertKeys }

export const materialOf = (assignment: Assignment): MaterialRequest => ({
  units: assignment.units,
  sizeBits: assignment.sizeBits,
  count: assignment.keyIds.length,
})

/** Units per block of open blocks; a block that did not open has none, so that naming it is refused. */
export const unitCountIn =
  (blocks: OpenBlocks) =>
  (blockId: BlockId): number =>
    blocks.get(blockId)?.unitCount ?? 0

export const blockIdsOf = (assignments: readonly Assignment[]): BlockId[] =>
  assignments.flatMap((assignment) => assignment.units.map((run) => run.blockId))

const issuedEvent = ({ peerKmeId, assignment }: Issue): AuditEvent => ({
  event: 'key.issued',
  actor: `sae:${assignment.masterSaeId}`,
  outcome: 'done',
  subject: {
    aid: assignment.aid,
    peerKmeId,
    slaves: assignment.slaveSaeIds,
    sizeBits: assignment.sizeBits,
    keyIds: assignment.keyIds,
  },
})

export const issueMethods = (parts: IssueParts): IssueMethods => {
  const { database, reader, processId, unitSizeBits } = parts
  /** Reservations a live request of this process is still working on. */
  const working = new Set<AssignmentId>()

  /** Key bytes per request, or why its units did not open. */
  const joinAll = (
    blocks: OpenBlocks,
    requests: readonly MaterialRequest[],
    rows: readonly SpanRow[],
  ): (KeyMaterial | Error)[] => {
    const sealed = toSealedUnits(rows)
    return requests.map((request) => {
      try {
        return joinUnits(blocks, request, sealed)
      } catch (error) {
        return error as Error
      }
    })
  }

  const claimTogether = createBatching<ClaimRequest, KeyMaterial | Error>({
    itemsMax: 128,
    lanes: LANES,
    separable,
    work: async (requests) => {
      const assignments = requests.map((request) => request.assignment)
      const blocks = await reader.open(blockIdsOf(assignments))
      const { blockIds, masks } = masksOf(
        assignments.flatMap((assignment) => assignment.units),
        unitCountIn(blocks),
      )
      const materials = assignments.map(materialOf)
      const rows = await repeatOnContention(() =>
        database.query<SpanRow>(CLAIM, [
          ...spanParameters(materials, unitSizeBits),
          masks,
          processId,
          assignments.map((assignment) => assignment.aid),
          requests.map((request) => request.peerKmeId),
          assignments.map((assignment) => JSON.stringify(assignment.units)),
        ]),
      )
      return joinAll(await reader.open(blockIds), materials, rows)
    },
  })

  const issueTogether = createBatching<Issue, undefined>({
    itemsMax: 128,
    lanes: LANES,
    separable,
    work: async (issues) => {
      const assignments = issues.map((issue) => issue.assignment)
      // Units of a request that may be repeated are needed until its retry window closes.
      const finished = issues.filter((issue) => issue.requestId === undefined).map((issue) => issue.assignment)
      const blocks = await reader.open(blockIdsOf(finished))
      const { blockIds, masks } = masksOf(
        finished.flatMap((assignment) => assignment.units),
        unitCountIn(blocks),
      )
      await repeatOnContention(() =>
        database.query(ISSUE, [
          assignments.map((assignment) => assignment.aid),
          processId,
          JSON.stringify(
            issues.map((issue) =>
              assignmentRow('issuer', issue.peerKmeId, issue.assignment, {
                lifeS: issue.retryWindowS,
                ended: issue.requestId === undefined,
                requestId: issue.requestId,
              }),
            ),
          ),
          ...keyColumns(assignments),
          blockIds,
          masks,
          ...auditColumns(issues.map(issuedEvent)),
        ]),
      )
      return issues.map(() => undefined)
    },
  })

  const issueLocallyTogether = createBatching<Issue, KeyMaterial | Error>({
    itemsMax: 128,
    lanes: LANES,
    separable,
    work: async (issues) => {
      const assignments = issues.map((issue) => issue.assignment)
      const blocks = await reader.open(blockIdsOf(assignments))
      const { blockIds, masks } = masksOf(
        assignments.flatMap((assignment) => assignment.units),
        unitCountIn(blocks),
      )
      const materials = assignments.map(materialOf)
      const rows = await repeatOnContention(() =>
        database.query<SpanRow>(ISSUE_LOCALLY, [
          ...spanParameters(materials, unitSizeBits),
          masks,
          JSON.stringify(
            issues.map((issue) =>
              assignmentRow('local', issue.peerKmeId, issue.assignment, {
                lifeS: issue.assignment.ttlS,
                ended: false,
                requestId: issue.requestId,
              }),
            ),
          ),
          ...keyColumns(assignments),
          ...auditColumns(issues.map(issuedEvent)),
        ]),
      )
      return joinAll(await reader.open(blockIds), materials, rows)
    },
  })

  /** Back to AVAILABLE from one state, with the units that are free again. */
  const freeReservation = (aid: AssignmentId, state: ReservationState, event: AuditEvent): Promise<readonly UnitRun[]> => {
    working.delete(aid)
    return database.transaction(async (statements) => {
      const rows = await statements.query<{ units: UnitRun[] }>(
        `DELETE FROM reservation WHERE aid = $1 AND state = $2 RETURNING units`,
        [aid, state],
      )
      const units = rows[0]?.units
      if (units === undefined) return []
      const { blockIds, masks } = await masksIn(statements, units)
      await statements.query(
        `UPDATE key_block b SET taken = b.taken & ~m.mask
         FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask) WHERE b.block_id = m.block_id`,
        [blockIds, masks],
      )
      await appendAudit(statements, [event])
      return units
    })
  }

  return {
    claim: async (request): Promise<Claim | 'conflict'> => {
      const { assignment } = request
      working.add(assignment.aid)
      try {
        const material = await claimTogether(request)
        if (material instanceof Error) throw material
        const first = assignment.units[0]?.blockId as BlockId
        const tagKey = (await reader.open([first])).get(first)?.tagKey
        if (tagKey === undefined) throw new KeyDataAccess()
        return {
          material,
          commitment: assignmentTag(tagKey, 'offer', assignment, material.bytes),
          expectedConfirmation: assignmentTag(tagKey, 'confirm', assignment, material.bytes),
        }
      } catch (error) {
        working.delete(assignment.aid)
        if (isConflict(error)) return 'conflict'
        throw error
      }
    },

    issue: async (issue) => {
      try {
        await issueTogether(issue)
      } catch (error) {
        if (sqlState(error) === ROW_COUNT_CHECK)
          throw new Conflict('the reservation is gone', undefined, undefined, { cause: error })
        if (sqlState(error) === UNIQUE_VIOLATION) {
          throw new Conflict('this identifier was used before', undefined, undefined, { cause: error })
        }
        throw error
      }
      working.delete(issue.assignment.aid)
    },

    issueLocally: async (issue) => {
      try {
        const material = await issueLocallyTogether(issue)
        if (material instanceof Error) throw material
        return material
      } catch (error) {
        if (isConflict(error)) return 'conflict'
        if (sqlState(error) === UNIQUE_VIOLATION) {
          throw new Conflict('this identifier was used before', undefined, undefined, { cause: error })
        }
        throw error
      }
    },

    priorIssue: async (masterSaeId, requestId) => {
      const rows = await database.query<PriorRow>(
        `SELECT a.aid, a.peer_kme_id, a.slave_sae_ids, a.size_bits, a.units, a.ended_at IS NOT NULL OR
           a.created_at + $3::int * interval '1 second' <= now() AS spent,
           (SELECT array_agg(k.key_id ORDER BY k.position) FROM assigned_key k WHERE k.aid = a.aid)::text[] AS key_ids
         FROM assignment a WHERE a.master_sae_id = $1 AND a.request_id = $2::uuid`,
        [masterSaeId, requestId, parts.retryWindowS],
      )
      const row = rows[0]
      if (row === undefined) return undefined
      if (row.spent) return 'spent'
      return {
        peerKmeId: row.peer_kme_id,
        assignment: {
          aid: row.aid,
          masterSaeId,
          slaveSaeIds: row.slave_sae_ids,
          sizeBits: row.size_bits,
          keyIds: row.key_ids,
          units: row.units,
          ttlS: 0,
        },
      }
    },

    reopen: async ({ assignment }) => {
      const request = materialOf(assignment)
      const sealed = await reader.sealedUnits([request])
      const blocks = await reader.open(assignment.units.map((run) => run.blockId))
      return sealed.size === 0 ? undefined : joinUnits(blocks, request, sealed)
    },

    markAborting: async (aid, reason) => {
      working.delete(aid)
      return database.transaction(async (statements) => {
        const rows = await statements.query<{ before: ReservationState }>(
          `UPDATE reservation r SET state = 'ABORTING'
           FROM (SELECT state AS before FROM reservation WHERE aid = $1 AND state IN ('RESERVED', 'ABORTING') FOR UPDATE) o
           WHERE r.aid = $1 RETURNING o.before`,
          [aid],
        )
        const before = rows[0]?.before
        if (before === undefined) {
          // An issue under way holds the row's lock until it is committed, so this sees it.
          const issued = await statements.query(`SELECT 1 FROM assignment WHERE aid = $1 AND role = 'issuer'`, [aid])
          return issued.length === 1 ? 'issued' : 'gone'
        }
        if (before === 'RESERVED') {
          await appendAudit(statements, [
            { event: 'key.unsettled', actor: 'system', outcome: 'failed', subject: { aid, reason } },
          ])
        }
        return 'aborting'
      })
    },

    unsettled: async () => {
      // A request that finishes while this reads must not look like one that was left behind.
      const before = new Set(working)
      const rows = await database.query<{
        aid: AssignmentId
        peer_kme_id: KmeId
        units: UnitRun[]
        claimed_at: Date
        state: ReservationState
      }>(`SELECT aid, peer_kme_id, units, claimed_at, state FROM reservation ORDER BY claimed_at LIMIT 1000`)
      return rows
        .filter((row) => row.state !== 'RESERVED' || !(before.has(row.aid) || working.has(row.aid)))
        .map((row) => ({
          aid: row.aid,
          state: row.state,
          peerKmeId: row.peer_kme_id,
          units: row.units,
          claimedAtMs: row.claimed_at.getTime(),
        }))
    },

    giveBack: (aid, rule) =>
      freeReservation(aid, rule === 'R1' ? 'RESERVED' : 'ABORTING', {
        event: 'key.returned',
        actor: 'system',
        outcome: 'done',
        subject: { aid, rule },
      }),

    burn: (aid, reason) => {
      working.delete(aid)
      return database.transaction(async (statements) => {
        const rows = await statements.query<{ units: UnitRun[] }>(
          `UPDATE reservation SET state = 'BURNT' WHERE aid = $1 AND state IN ('RESERVED', 'ABORTING') RETURNING units`,
          [aid],
        )
        const units = rows[0]?.units
        if (units === undefined) return 0
        const { blockIds, masks } = await masksIn(statements, units)
        await statements.query(finishUnits(1, 2), [blockIds, masks])
        await appendAudit(statements, [{ event: 'key.burnt', actor: 'system', outcome: 'done', subject: { aid, reason } }])
        return units.reduce((sum, run) => sum + run.units.length, 0)
      })
    },

    forgetBurnt: async (aid) => {
      await database.query(`DELETE FROM reservation WHERE aid = $1 AND state = 'BURNT'`, [aid])
    },
  }
}

interface PriorRow extends Record<string, unknown> {
  aid: AssignmentId
  peer_kme_id: KmeId
  slave_sae_ids: SaeId[]
  size_bits: number
  units: UnitRun[]
  spent: boolean
  key_ids: KeyId[]
}
