/** Rows and SQL that the issuing and the holding side of an assignment share. */
import type { Keyring } from '../custody/custody.ts'
import { isContention, outcomeUnknown, sqlState } from '../database/database.ts'
import type { AssignmentId, BlockId, KeyId, KmeId } from '../kernel/identifiers.ts'
import { openDifference, type DifferencePlace, type SealedDifference } from './difference.ts'
import type { Assignment, RelayPolicy } from './key-store.ts'
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
  difference, difference_dek, difference_term, request_id, relay_policy, expires_at, ended_at)
SELECT t.aid, t.role, t.peer, 'ISSUED', t.master, t.slaves, t.size_bits, t.key_count, t.units,
  coalesce(t.fetched, repeat('0', t.key_count * cardinality(t.slaves)))::varbit,
  decode(t.difference, 'base64'), decode(t.difference_dek, 'base64'), t.difference_term,
  t.request_id, t.relay_policy, now() + t.life_s * interval '1 second', CASE WHEN t.ended THEN now() END
FROM jsonb_to_recordset($${parameter}::text::jsonb) AS t(aid uuid, role text, peer text, master text, slaves text[], size_bits int,
  key_count int, units jsonb, fetched text, difference text, difference_dek text, difference_term int, request_id uuid, relay_policy jsonb,
  life_s int, ended boolean)
ORDER BY t.master, t.request_id`

/** SQL: key IDs of assignments. */
export const insertKeys = (first: number): string => `
INSERT INTO assigned_key (key_id, aid, position)
SELECT * FROM unnest($${first}::uuid[], $${first + 1}::uuid[], $${first + 2}::smallint[])`

export type AssignmentRole = 'issuer' | 'holder' | 'local'

/** One element for insertAssignments().
 *  @param more.fetched the bits of `fetched`; none is set if left out. */
export const assignmentRow = (
  role: AssignmentRole,
  peerKmeId: KmeId,
  assignment: Assignment,
  more: {
    lifeS: number
    ended: boolean
    requestId?: string | undefined
    relay?: RelayPolicy | undefined
    fetched?: string
    difference?: SealedDifference | undefined
  },
): object => ({
  aid: assignment.aid,
  role,
  peer: peerKmeId,
  master: assignment.masterSaeId,
  slaves: assignment.slaveSaeIds,
  size_bits: assignment.sizeBits,
  key_count: assignment.keyIds.length,
  units: assignment.units,
  fetched: more.fetched ?? null,
  difference: more.difference?.sealed.toString('base64') ?? null,
  difference_dek: more.difference?.wrappedDek.toString('base64') ?? null,
  difference_term: more.difference?.term ?? null,
  request_id: more.requestId ?? null,
  relay_policy: more.relay ?? null,
  life_s: more.lifeS,
  ended: more.ended,
})

/** A copy's difference as it stands in a row of `assignment`. */
export interface DifferenceColumns extends Record<string, unknown> {
  difference: Buffer | null
  difference_dek: Buffer | null
  difference_term: number | null
}

/** SQL: the columns of DifferenceColumns. */
export const differenceColumns = (table: string): string =>
  `${table}.difference, ${table}.difference_dek, ${table}.difference_term`

/** SQL: an assignment that ended has no difference. */
export const NO_DIFFERENCE = 'difference = NULL, difference_dek = NULL, difference_term = NULL'

/** @returns undefined when the units of the assignment are its keys. @throws KeyDataAccess. */
export const readDifference = (keyring: Keyring, place: DifferencePlace, row: DifferenceColumns): Buffer | undefined =>
  row.difference === null
    ? undefined
    : openDifference(keyring, place, {
        term: row.difference_term as number,
        wrappedDek: row.difference_dek as Buffer,
        sealed: row.difference,
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
