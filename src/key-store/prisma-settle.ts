/** Reservations whose request did not end in an issue: who may say what becomes of them, and the only two ways back. */
import type { AuditEvent } from '../audit/audit.ts'
import type { AssignmentId, BlockId, KmeId } from '../kernel/identifiers.ts'
import type { ReservationState } from './key-states.ts'
import type { KeyStore, UnitRun } from './key-store.ts'
import { appendAudit, finishUnits, masksIn, OF_FALLBACK, type BlockParts } from './prisma-blocks.ts'

type SettleMethods = Pick<KeyStore, 'markAborting' | 'unsettled' | 'giveBack' | 'burn' | 'forgetBurnt'>

/** A process that has not shown for so long that it is alive (in the table of the processes slice) is dead to the others. */
const DEAD_AFTER_S = 10

export interface SettleParts extends BlockParts {
  /** This process, as in `claimed_by`. */
  readonly processId: string
  /** Reservations that a live request of this process is still working on. */
  readonly working: Set<AssignmentId>
}

export const settleMethods = ({ database, processId, working }: SettleParts): SettleMethods => {
  /** Back to AVAILABLE by one of the two rules, with the units that are free again in the pool. */
  const freeReservation = (
    aid: AssignmentId,
    peerKmeId: KmeId,
    [rule, state]: ['R1', 'RESERVED'] | ['R2', 'ABORTING'],
  ): Promise<readonly UnitRun[]> => {
    working.delete(aid)
    const event: AuditEvent = { event: 'key.returned', actor: 'system', outcome: 'done', subject: { aid, peerKmeId, rule } }
    return database.transaction(async (statements) => {
      const rows = await statements.query<{ units: UnitRun[] }>(
        `DELETE FROM reservation WHERE aid = $1 AND peer_kme_id = $2 AND state = $3 AND (NOT pad OR $4 = 'R1') RETURNING units`,
        [aid, peerKmeId, state, rule],
      )
      const units = rows[0]?.units
      if (units === undefined) return []
      const { blockIds, masks } = await masksIn(statements, units)
      const freed = await statements.query<{ block_id: BlockId; of_fallback: boolean }>(
        `UPDATE key_block b SET taken = b.taken & ~m.mask
         FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask) WHERE b.block_id = m.block_id
         RETURNING b.block_id, ${OF_FALLBACK} AS of_fallback`,
        [blockIds, masks],
      )
      await appendAudit(statements, [event])
      const others = new Set(freed.filter((row) => row.of_fallback).map((row) => row.block_id))
      return units.filter((run) => !others.has(run.blockId))
    })
  }

  return {
    markAborting: async (aid, reason) => {
      working.delete(aid)
      return database.transaction(async (statements) => {
        const rows = await statements.query<{ before: ReservationState }>(
          `UPDATE reservation r SET state = 'ABORTING'
           FROM (SELECT aid, peer_kme_id, state AS before FROM reservation WHERE aid = $1 AND state IN ('RESERVED', 'ABORTING')
                 ORDER BY peer_kme_id FOR UPDATE) o
           WHERE r.aid = o.aid AND r.peer_kme_id = o.peer_kme_id RETURNING o.before`,
          [aid],
        )
        if (rows.length === 0) {
          // An issue under way holds the rows' locks until it is committed, so this sees it.
          const issued = await statements.query(`SELECT 1 FROM assignment WHERE aid = $1 AND role IN ('issuer', 'local')`, [aid])
          return issued.length === 1 ? 'issued' : 'gone'
        }
        if (rows.some(({ before }) => before === 'RESERVED')) {
          await appendAudit(statements, [
            { event: 'key.unsettled', actor: 'system', outcome: 'failed', subject: { aid, reason } },
          ])
        }
        return 'aborting'
      })
    },

    unsettled: async (of = 'all') => {
      // A request that finishes while this reads must not look like one that was left behind.
      const before = new Set(working)
      const rows = await database.query<{
        aid: AssignmentId
        peer_kme_id: KmeId
        units: UnitRun[]
        claimed_at: Date
        state: ReservationState
        pad: boolean
      }>(
        // Some of each peer: what waits for one that is away must not hide what can be settled with others.
        `SELECT aid, peer_kme_id, units, claimed_at, state, pad
         FROM (SELECT *, row_number() OVER (PARTITION BY peer_kme_id, state ORDER BY claimed_at) AS place FROM reservation
               WHERE CASE WHEN claimed_by = $1::uuid THEN $2::boolean ELSE $3::boolean AND NOT EXISTS (
                 SELECT 1 FROM kme_process p
                 WHERE p.process_id = claimed_by AND p.seen_at > now() - interval '${DEAD_AFTER_S} seconds') END) r
         WHERE place <= 500`,
        [processId, of !== 'dead', of !== 'own'],
      )
      return rows
        .filter((row) => row.state !== 'RESERVED' || !(before.has(row.aid) || working.has(row.aid)))
        .map((row) => ({
          aid: row.aid,
          state: row.state,
          peerKmeId: row.peer_kme_id,
          pad: row.pad,
          units: row.units,
          claimedAtMs: row.claimed_at.getTime(),
        }))
    },

    giveBack: (aid, peerKmeId, rule) => freeReservation(aid, peerKmeId, rule === 'R1' ? [rule, 'RESERVED'] : [rule, 'ABORTING']),

    burn: (aid, reason, peerKmeId) => {
      working.delete(aid)
      return database.transaction(async (statements) => {
        const rows = await statements.query<{ units: UnitRun[] }>(
          `UPDATE reservation SET state = 'BURNT'
           WHERE aid = $1 AND peer_kme_id = coalesce($2, peer_kme_id) AND state IN ('RESERVED', 'ABORTING') RETURNING units`,
          [aid, peerKmeId],
        )
        if (rows.length === 0) return 0
        const units = rows.flatMap((row) => row.units)
        const { blockIds, masks } = await masksIn(statements, units)
        await statements.query(finishUnits(1, 2), [blockIds, masks])
        const subject = { aid, reason, ...(peerKmeId !== undefined && { peerKmeId }) }
        await appendAudit(statements, [{ event: 'key.burnt', actor: 'system', outcome: 'done', subject }])
        return units.reduce((sum, run) => sum + run.units.length, 0)
      })
    },

    forgetBurnt: async (aid, peerKmeId) => {
      await database.query(`DELETE FROM reservation WHERE aid = $1 AND peer_kme_id = $2 AND state = 'BURNT'`, [aid, peerKmeId])
    },
  }
}
