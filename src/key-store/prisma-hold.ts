/** The holding KME's side: keys another KME assigned are kept for the slave SAEs here, or voided for ever. */
import { timingSafeEqual } from 'node:crypto'
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import { repeatOnContention, sqlState, violatedConstraint } from '../database/database.ts'
import { KeyDataAccess } from '../kernel/errors.ts'
import { createBatching } from '../kernel/batching.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import { assignmentTag } from './commitment.ts'
import { applyDifference, sealDifference } from './difference.ts'
import { isFallback, type Assignment, type HoldAnswer, type KeyMaterial, type KeyStore, type UnitRun } from './key-store.ts'
import type { AssignmentState } from './key-states.ts'
import { appendAudit, blocksAreLocked, countPoolUnits, finishUnits, masksIn, type BlockParts } from './prisma-blocks.ts'
import { joinUnits, unitsPerKey, type OpenBlock, type OpenBlocks, type SealedUnits } from './prisma-open-blocks.ts'
import {
  assignmentRow,
  LANES,
  blockIdsOf,
  differenceColumns,
  insertAssignments,
  insertKeys,
  keyColumns,
  materialOf,
  NO_DIFFERENCE,
  readDifference,
  separable,
  unitCountIn,
  type DifferenceColumns,
} from './prisma-assignment-rows.ts'
import { masksOf, OverlappingUnits, unitsIn } from './unit-bits.ts'

interface HoldRequest {
  readonly peerKmeId: KmeId
  readonly assignment: Assignment
  readonly commitment: Buffer
  readonly difference: Buffer | undefined
}

/** SQL: takes units the peer issues and that are free; a block of another peer does not match. */
const HOLD = `
WITH taken AS (
  UPDATE key_block b SET taken = b.taken | m.mask
  FROM unnest($1::uuid[], $2::text[]::varbit[], $3::text[]) AS m(block_id, mask, peer)
  WHERE b.block_id = m.block_id AND b.state = 'AVAILABLE' AND b.peer_kme_id = m.peer AND length(b.taken) = length(m.mask)
    AND bit_count(b.taken & m.mask) = 0 AND bit_count(b.mine & m.mask) = 0 AND ${blocksAreLocked(1)}
  RETURNING 1
),
held AS (${insertAssignments(4)}),
keys AS (${insertKeys(5)}),
audited AS (${insertAudit(8)})
SELECT must((SELECT count(*) FROM taken) = cardinality($1::uuid[]), 'hold')`

const UNITS_UNAVAILABLE: HoldAnswer = { outcome: 'refused', reason: 'units-unavailable' }

export interface HoldParts extends BlockParts {
  /** Whether keys of the fallback source may be shared with this peer. */
  readonly acceptsFallback: (peerKmeId: KmeId) => boolean
}

export const holdMethods = (parts: HoldParts): Pick<KeyStore, 'hold' | 'retire' | 'voidAssignment'> => {
  const { database, reader, keyring, kmeId, unitSizeBits } = parts

  /** Compares bytes: what this KME would answer if the units are free, or why it refuses. */
  const judge = (request: HoldRequest, blocks: OpenBlocks, sealed: SealedUnits): HoldAnswer => {
    const { assignment, commitment, difference } = request
    const first = blocks.get(assignment.units[0]?.blockId as BlockId) as OpenBlock
    const fallbackUnits = countFallbackUnits(assignment, blocks)
    if (fallbackUnits > 0 && !parts.acceptsFallback(request.peerKmeId)) return UNITS_UNAVAILABLE
    let material: KeyMaterial
    try {
      material = joinUnits(blocks, materialOf(assignment), sealed)
    } catch (error) {
      if (error instanceof KeyDataAccess) return UNITS_UNAVAILABLE
      throw error
    }
    try {
      if (difference !== undefined) applyDifference(material.bytes, difference, assignment.sizeBits / 8, positionsOf(assignment))
      const expected = assignmentTag(first.tagKey, 'offer', assignment, material.bytes)
      if (expected.length !== commitment.length || !timingSafeEqual(expected, commitment)) {
        return { outcome: 'refused', reason: 'different' }
      }
      const confirmation = assignmentTag(first.tagKey, 'confirm', assignment, material.bytes)
      return { outcome: 'held', confirmation, ...(fallbackUnits > 0 && { fallbackUnits }) }
    } finally {
      material.bytes.wipe()
    }
  }

  /** Whether every unit exists, and as many as the keys take, and a difference is of all keys. */
  const isWellFormed = ({ assignment, difference }: HoldRequest, blocks: OpenBlocks): boolean =>
    (difference === undefined || difference.length === (assignment.sizeBits / 8) * assignment.keyIds.length) &&
    assignment.units.every(({ blockId, units }) => units.every((unit) => unit < (blocks.get(blockId)?.unitCount ?? 0))) &&
    assignment.units.reduce((sum, run) => sum + run.units.length, 0) ===
      unitsPerKey(assignment.sizeBits, unitSizeBits) * assignment.keyIds.length

  const commit = async (requests: readonly HoldRequest[], blocks: OpenBlocks): Promise<void> => {
    const assignments = requests.map((request) => request.assignment)
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
          requests.map(({ peerKmeId, assignment, difference }) =>
            assignmentRow('holder', peerKmeId, assignment, {
              lifeS: assignment.ttlS,
              ended: false,
              difference: difference && sealDifference(keyring, { kmeId, aid: assignment.aid }, difference),
            }),
          ),
        ),
        ...keyColumns(assignments),
        ...auditColumns(requests.map((request) => heldEvent(request, countFallbackUnits(request.assignment, blocks) > 0))),
      ]),
    )
  }

  const holdTogether = createBatching<HoldRequest, HoldAnswer>({
    itemsMax: 128,
    lanes: LANES,
    separable,
    work: async (requests) => {
      const blockIds = blockIdsOf(requests.map((request) => request.assignment))
      const known = await reader.open(blockIds)
      const wellFormed = requests.filter((request) => isWellFormed(request, known))
      const sealed = await reader.sealedUnits(wellFormed.map((request) => materialOf(request.assignment)))
      const blocks = await reader.open(blockIds)
      const answers = requests.map((request) =>
        isWellFormed(request, blocks) ? judge(request, blocks, sealed) : UNITS_UNAVAILABLE,
      )
      const equal = requests.filter((_, i) => answers[i]?.outcome === 'held')
      if (equal.length === 0) return answers
      try {
        await commit(equal, blocks)
        return answers
      } catch (error) {
        // Together with others the culprit is not known; the batch is repeated one by one.
        if (requests.length > 1) throw error
        return [await explain(requests[0] as HoldRequest, answers[0] as HoldAnswer, error)]
      }
    },
  })

  /** Why one assignment was not stored. */
  const explain = async (request: HoldRequest, answer: HoldAnswer, error: unknown): Promise<HoldAnswer> => {
    if (error instanceof OverlappingUnits) return UNITS_UNAVAILABLE
    const constraint = violatedConstraint(error)
    if (constraint !== 'assigned_key_pkey' && constraint !== 'assignment_pkey' && sqlState(error) !== 'KM001') throw error
    const repeated = await answerRepeated(request, answer)
    if (repeated !== UNITS_UNAVAILABLE) return repeated
    if (constraint === 'assigned_key_pkey') return { outcome: 'refused', reason: 'key-id-in-use' }
    const pending = await database.query(
      `SELECT 1 FROM key_block WHERE block_id = ANY($1::uuid[]) AND state = 'INGESTED' LIMIT 1`,
      [blockIdsOf([request.assignment])],
    )
    return pending.length === 1 ? { outcome: 'refused', reason: 'block-pending' } : UNITS_UNAVAILABLE
  }

  /** The same call may come again when our answer was lost: equal content is answered as before, other content refused. */
  const answerRepeated = async ({ peerKmeId, assignment, difference }: HoldRequest, answer: HoldAnswer): Promise<HoldAnswer> => {
    const rows = await database.query<{ state: AssignmentState; same: boolean } & DifferenceColumns>(
      `SELECT a.state, ${differenceColumns('a')}, a.role = 'holder' AND a.peer_kme_id = $2 AND a.master_sae_id = $3 AND a.slave_sae_ids = $4::text[] AND a.size_bits = $5
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
    if (known === undefined) return UNITS_UNAVAILABLE
    if (known.state === 'VOIDED') return { outcome: 'refused', reason: 'aid-voided' }
    const held = readDifference(keyring, { kmeId, aid: assignment.aid }, known)
    const sameKeys = held === undefined ? difference === undefined : difference?.equals(held) === true
    return known.same && sameKeys && known.state === 'ISSUED' ? answer : { outcome: 'refused', reason: 'aid-in-use' }
  }

  return {
    hold: (peerKmeId, assignment, commitment, difference) => holdTogether({ peerKmeId, assignment, commitment, difference }),

    retire: (peerKmeId, units) =>
      database.transaction(async (statements) => {
        const { blockIds, masks } = await masksIn(statements, units)
        const rows = await statements.query<{ block_id: BlockId; free: string }>(
          `UPDATE key_block b SET taken = b.taken | (m.mask & ~b.mine)
           FROM (SELECT t.block_id, t.mask & ~k.taken & ~k.mine AS mask
             FROM unnest($1::uuid[], $2::text[]::varbit[]) AS t(block_id, mask) JOIN key_block k USING (block_id)
             WHERE k.peer_kme_id = $3 AND k.state IN ('INGESTED', 'AVAILABLE')) m
           WHERE b.block_id = m.block_id AND bit_count(m.mask) > 0 RETURNING b.block_id, m.mask::text AS free`,
          [blockIds, masks, peerKmeId],
        )
        await statements.query(finishUnits(1, 2), [rows.map((row) => row.block_id), rows.map((row) => row.free)])
        const free = rows.map((row) => ({ blockId: row.block_id, units: unitsIn(row.free) }))
        const count = free.reduce((sum, run) => sum + run.units.length, 0)
        if (count > 0) {
          await appendAudit(statements, [
            { event: 'key.burnt', actor: `kme:${peerKmeId}`, outcome: 'done', subject: { units: count } },
          ])
        }
        return countPoolUnits(statements, free)
      }),

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
          return { outcome: 'released', isForeign: true }
        }
        if (held.state === 'VOIDED') return voided(0)
        if (held.state !== 'ISSUED' || held.fetched > 0) {
          await audit('refused')
          return { outcome: 'released' }
        }
        await statements.query(`UPDATE assignment SET state = 'VOIDED', ended_at = now(), ${NO_DIFFERENCE} WHERE aid = $1`, [aid])
        await statements.query(`DELETE FROM assigned_key WHERE aid = $1`, [aid])
        const { blockIds, masks } = await masksIn(statements, held.units)
        await statements.query(
          `UPDATE key_block b SET taken = b.taken & ~m.mask
           FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask) WHERE b.block_id = m.block_id`,
          [blockIds, masks],
        )
        await audit('done')
        return voided(await countPoolUnits(statements, held.units))
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

const positionsOf = ({ keyIds }: Assignment): number[] => keyIds.map((_, position) => position)

const countFallbackUnits = ({ units }: Assignment, blocks: OpenBlocks): number =>
  units.reduce((sum, run) => sum + (isFallback(blocks.get(run.blockId)?.place.linkId ?? '') ? run.units.length : 0), 0)

const heldEvent = ({ peerKmeId, assignment }: HoldRequest, fromFallback: boolean): AuditEvent => ({
  event: 'key.held',
  actor: `kme:${peerKmeId}`,
  outcome: 'done',
  subject: {
    aid: assignment.aid,
    master: assignment.masterSaeId,
    slaves: assignment.slaveSaeIds,
    sizeBits: assignment.sizeBits,
    keyIds: assignment.keyIds,
    ...(fromFallback && { source: 'fallback' }),
  },
})
