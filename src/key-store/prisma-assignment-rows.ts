/** Rows and SQL that the issuing and the holding side of an assignment share. */
import { isContention, outcomeUnknown, sqlState } from '../database/database.ts'
import type { AssignmentId, BlockId, KeyId, KmeId } from '../kernel/identifiers.ts'
import type { Assignment } from './key-store.ts'
import type { MaterialRequest, OpenBlocks } from './prisma-open-blocks.ts'
import { OverlappingUnits } from './unit-bits.ts'

/** Batches of one kind under way at once: while one waits for the disk, the next is being prepared. */
export const LANES = 2

/** Whether a statement over several requests may be repeated request by request: one of them may be what was wrong with it. One that
 *  waited in vain would wait again for each of them. */
export const separable = (error: unknown): boolean =>
  error instanceof OverlappingUnits ||
  error instanceof RangeError ||
  (sqlState(error) !== undefined && !outcomeUnknown(error) && !isContention(error))

/** SQL: assignments from one JSON array. Those of requests with equal IDs, which two processes may be asked at once, wait for each other
 *  in one order. */
export const insertAssignments = (parameter: number): string => `
INSERT INTO assignment (aid, role, peer_kme_id, state, master_sae_id, slave_sae_ids, size_bits, key_count, units, fetched,
  request_id, expires_at, ended_at)
SELECT t.aid, t.role, t.peer, 'ISSUED', t.master, t.slaves, t.size_bits, t.key_count, t.units,
  repeat('0', t.key_count * cardinality(t.slaves))::varbit, t.request_id, now() + t.life_s * interval '1 second',
  CASE WHEN t.ended THEN now() END
FROM jsonb_to_recordset($${parameter}::text::jsonb) AS t(aid uuid, role text, peer text, master text, slaves text[], size_bits int,
  key_count int, units jsonb, request_id uuid, life_s int, ended boolean)
ORDER BY t.master, t.request_id`

/** SQL: key IDs of assignments. */
export const insertKeys = (first: number): string => `
INSERT INTO assigned_key (key_id, aid, position)
SELECT * FROM unnest($${first}::uuid[], $${first + 1}::uuid[], $${first + 2}::smallint[])`

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
