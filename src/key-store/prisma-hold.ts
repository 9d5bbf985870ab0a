/** The holding KME's side: keys another KME assigned are kept for the slave SAEs here, or voided for ever. */
import { timingSafeEqual } from 'node:crypto'
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import { repeatOnContention, sqlState, violatedConstraint } from '../database/database.ts'
import { createBatching } from '../kernel/batching.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import { assignmentTag } from './commitment.ts'
import type { Assignment, HoldAnswer, KeyStore, UnitRun } from './key-store.ts'
import type { AssignmentState } from './key-states.ts'
import { appendAudit, type BlockParts } from './prisma-blocks.ts'
import { joinUnits, unitsPerKey } from './prisma-open-blocks.ts'
import {
  assignmentRow,
  blockIdsOf,
  insertAssignments,
  insertKeys,
  keyColumns,
  materialOf,
  separable,
  unitCountIn,
} from './prisma-issue.ts'
import { masksOf, OverlappingUnits } from './unit-bits.ts'

interface HoldRequest {
  readonly peerKmeId: KmeId
  readonly assignment: Assignment
}

/** SQL: takes units the peer issues and that are free; a block of another peer does not match. */
const HOLD = `
WITH taken AS (
  UPDATE key_block b SET taken = b.taken | m.mask
  FROM unnest($1::uuid[], $2::text[]::varbit[], $3::text[]) AS m(block_id, mask, peer)
  WHERE b.block_id = m.block_id AND b.state = 'AVAILABLE' AND b.peer_kme_id = m.peer AND length(b.taken) = length(m.mask)
    AND bit_count(b.taken & m.mask) = 0 AND bit_count(b.mine & m.mask) = 0
  RETURNING 1
),
held AS (${insertAssignments(4)}),
keys AS (${insertKeys(5)}),
audited AS (${insertAudit(8)})
SELECT must((SELECT count(*) FROM taken) = cardinality($1::uuid[]), 'hold')`

export const holdMethods = (parts: BlockParts): Pick<KeyStore, 'hold' | 'voidAssignment'> => {
  const { database, reader, unitSizeBits } = parts

  const holdTogether = createBatching<HoldRequest, undefined>({
    itemsMax: 128,
    lanes: 1,
    separable,
    work: async (requests) => {
      const assignments = requests.map((request) => request.assignment)
      const blocks = await reader.open(blockIdsOf(assignments))
      const peerOfBlock = new Map<BlockId, KmeId>()
      for (const { assignment, peerKmeId } of requests) {
        for (const { blockId } of assignment.units) {
          // One block cannot belong to two peers; on their own, the database refuses the wrong one.
          if ((peerOfBlock.get(blockId) ?? peerKmeId) !== peerKmeId) throw new OverlappingUnits()
          peerOfBlock.set(blockId, peerKmeId)
        }
      }
      const { blockIds, masks } = masksOf(
        assignments.flatMap((assignment) => assignment.units),
        unitCountIn(blocks),
      )
      await repeatOnContention(() =>
        database.query(HOLD, [
          blockIds,
          masks,
          blockIds.map((blockId) => peerOfBlock.get(blockId)),
          JSON.stringify(
            requests.map((request) =>
              assignmentRow('holder', request.peerKmeId, request.assignment, { lifeS: request.assignment.ttlS, ended: false }),
            ),
          ),
          ...keyColumns(assignments),
          ...auditColumns(requests.map(heldEvent)),
        ]),
      )
      return requests.map(() => undefined)
    },
  })

  /** The same call may come again when our answer was lost: equal content is answered as before, other content refused. */
  const answerRepeated = async (peerKmeId: KmeId, assignment: Assignment, confirmation: Buffer): Promise<HoldAnswer> => {
    const rows = await database.query<{ state: AssignmentState; same: boolean }>(
      `SELECT a.state, a.role = 'holder' AND a.peer_kme_id = $2 AND a.master_sae_id = $3 AND a.slave_sae_ids = $4::text[] AND a.size_bits = $5
         AND a.units = $6::text::jsonb
         AND (SELECT array_agg(k.key_id ORDER BY k.position) FROM assigned_key k WHERE k.aid = a.aid) = $7::uuid[] AS same
       FROM assignment a WHERE a.aid = $1`,
      [
        assignment.aid,
        peerKmeId,
        assignment.masterSaeId,
        assignment.slaveSaeIds,
        assignment.sizeBits,
        JSON.stringify(assignment.units),
        assignment.keyIds,
      ],
    )
    const known = rows[0]
    if (known === undefined) return { outcome: 'refused', reason: 'units-unavailable' }
    if (known.state === 'VOIDED') return { outcome: 'refused', reason: 'aid-voided' }
    return known.same && known.state === 'ISSUED'
      ? { outcome: 'held', confirmation }
      : { outcome: 'refused', reason: 'aid-in-use' }
  }

  return {
    hold: async (peerKmeId, assignment, commitment): Promise<HoldAnswer> => {
      const request = materialOf(assignment)
      const unitCount = assignment.units.reduce((sum, run) => sum + run.units.length, 0)
      if (unitCount !== unitsPerKey(assignment.sizeBits, unitSizeBits) * assignment.keyIds.length) {
        return { outcome: 'refused', reason: 'units-unavailable' }
      }
      const sealed = await reader.sealedUnits([request])
      const blockIds = assignment.units.map((run) => run.blockId)
      const blocks = await reader.open(blockIds)
      const first = blocks.get(blockIds[0] as BlockId)
      const known = assignment.units.every(({ blockId, units }) => {
        const block = blocks.get(blockId)
        return block !== undefined && units.every((unit) => unit < block.unitCount)
      })
      if (first === undefined || !known) {
        return { outcome: 'refused', reason: 'units-unavailable' }
      }
      let confirmation: Buffer
      const material = joinUnits(blocks, request, sealed)
      try {
        const expected = assignmentTag(first.tagKey, 'offer', assignment, material.bytes)
        if (expected.length !== commitment.length || !timingSafeEqual(expected, commitment)) {
          return { outcome: 'refused', reason: 'different' }
        }
        confirmation = assignmentTag(first.tagKey, 'confirm', assignment, material.bytes)
      } finally {
        material.bytes.wipe()
      }
      try {
        await holdTogether({ peerKmeId, assignment })
        return { outcome: 'held', confirmation }
      } catch (error) {
        if (error instanceof OverlappingUnits || error instanceof RangeError)
          return { outcome: 'refused', reason: 'units-unavailable' }
        const constraint = violatedConstraint(error)
        if (constraint === 'assigned_key_pkey' || constraint === 'assignment_pkey' || sqlState(error) === 'KM001') {
          const answer = await answerRepeated(peerKmeId, assignment, confirmation)
          return constraint === 'assigned_key_pkey' && answer.outcome === 'refused' && answer.reason === 'units-unavailable'
            ? { outcome: 'refused', reason: 'key-id-in-use' }
            : answer
        }
        throw error
      }
    },

    voidAssignment: (peerKmeId, aid) =>
      database.transaction(async (statements) => {
        const voided = (freedTheirs: number) => ({ outcome: 'voided', freedTheirs }) as const
        // A tombstone: an assignment with this ID that is still on its way will be refused for ever.
        const tombstones = await statements.query(
          `INSERT INTO assignment (aid, role, peer_kme_id, state, master_sae_id, slave_sae_ids, size_bits, key_count, units, fetched, expires_at, ended_at)
           VALUES ($1, 'holder', $2, 'VOIDED', '', '{}', 0, 0, '[]', ''::varbit, now(), now()) ON CONFLICT DO NOTHING RETURNING 1`,
          [aid, peerKmeId],
        )
        const audit = (outcome: 'done' | 'refused'): Promise<unknown> =>
          appendAudit(statements, [{ event: 'key.voided', actor: `kme:${peerKmeId}`, outcome, subject: { aid } }])
        if (tombstones.length === 1) {
          await audit('done')
          return voided(0)
        }
        const rows = await statements.query<HeldRow>(
          `SELECT role, peer_kme_id, state, bit_count(fetched)::int AS fetched, units FROM assignment WHERE aid = $1 FOR UPDATE`,
          [aid],
        )
        const held = rows[0] as HeldRow
        if (held.role !== 'holder' || held.peer_kme_id !== peerKmeId) {
          await audit('refused')
          return { outcome: 'released' }
        }
        if (held.state === 'VOIDED') return voided(0)
        if (held.state !== 'ISSUED' || held.fetched > 0) {
          await audit('refused')
          return { outcome: 'released' }
        }
        await statements.query(`UPDATE assignment SET state = 'VOIDED', ended_at = now() WHERE aid = $1`, [aid])
        await statements.query(`DELETE FROM assigned_key WHERE aid = $1`, [aid])
        const blocks = await reader.open(held.units.map((run) => run.blockId))
        const { blockIds, masks } = masksOf(held.units, unitCountIn(blocks))
        await statements.query(
          `UPDATE key_block b SET taken = b.taken & ~m.mask
           FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask) WHERE b.block_id = m.block_id`,
          [blockIds, masks],
        )
        await audit('done')
        return voided(held.units.reduce((sum, run) => sum + run.units.length, 0))
      }),
  }
}

interface HeldRow extends Record<string, unknown> {
  role: string
  peer_kme_id: KmeId
  state: AssignmentState
  fetched: number
  units: UnitRun[]
}

const heldEvent = ({ peerKmeId, assignment }: HoldRequest): AuditEvent => ({
  event: 'key.held',
  actor: `kme:${peerKmeId}`,
  outcome: 'done',
  subject: {
    aid: assignment.aid,
    master: assignment.masterSaeId,
    slaves: assignment.slaveSaeIds,
    sizeBits: assignment.sizeBits,
    keyIds: assignment.keyIds,
  },
})
