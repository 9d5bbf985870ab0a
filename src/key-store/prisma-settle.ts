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
  /** Back to AVAILABLE from one state, with the units that are free again in the pool. */
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

    unsettled: async (of = 'all') => {
      // A request that finishes while this reads must not look like one that was left behind.
      const before = new Set(working)
      const rows = await database.query<{
        aid: AssignmentId
        peer_kme_id: KmeId
        units: UnitRun[]
        claimed_at: Date
        state: ReservationState
      }>(
        // Some of each peer: what waits for one that is away must not hide what can be settled with others.
        `SELECT aid, peer_kme_id, units, claimed_at, state
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
