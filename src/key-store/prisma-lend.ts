/** Lending: units change their issuing KME. The lender takes them out of its own issue durably before it tells the
 *  borrower; a repeated loan ID is answered with the same units, so an answer that was lost loses nothing. */
import type { Database } from '../database/database.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import type { KeyStore, UnitRun } from './key-store.ts'
import type { BlockState } from './key-states.ts'
import { appendAudit, masksIn, OF_FALLBACK } from './prisma-blocks.ts'
import { unitsIn } from './unit-bits.ts'

const countUnits = (runs: readonly UnitRun[]): number => runs.reduce((sum, run) => sum + run.units.length, 0)

type LendMethods = Pick<KeyStore, 'loanGiven' | 'lend' | 'openLoan' | 'openLoans' | 'borrow'>

export const lendMethods = ({ database }: { database: Database }): LendMethods => ({
  loanGiven: async (peerKmeId, loanId) => {
    const rows = await database.query<{ units: UnitRun[] }>(
      `SELECT units FROM loan WHERE loan_id = $1 AND peer_kme_id = $2 AND role = 'lender'`,
      [loanId, peerKmeId],
    )
    return rows[0]?.units
  },

  lend: (peerKmeId, loanId, runs) =>
    database.transaction(async (statements) => {
      const { blockIds, masks } = await masksIn(statements, runs)
      await statements.query(
        `WITH lent AS (
           UPDATE key_block b SET mine = b.mine & ~m.mask
           FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask)
           WHERE b.block_id = m.block_id AND b.state = 'AVAILABLE' AND b.peer_kme_id = $3 AND NOT ${OF_FALLBACK}
             AND bit_count(b.taken & m.mask) = 0 AND bit_count(b.mine & m.mask) = bit_count(m.mask) RETURNING 1
         ), loan AS (
           INSERT INTO loan (loan_id, peer_kme_id, role, state, units) VALUES ($4, $3, 'lender', 'DONE', $5::text::jsonb)
         )
         SELECT must((SELECT count(*) FROM lent) = cardinality($1::uuid[]), 'lend')`,
        [blockIds, masks, peerKmeId, loanId, JSON.stringify(runs)],
      )
      await appendAudit(statements, [
        { event: 'units.lent', actor: `kme:${peerKmeId}`, outcome: 'done', subject: { loanId, units: countUnits(runs) } },
      ])
    }),

  openLoan: async (peerKmeId, loanId) => {
    await database.query(
      `INSERT INTO loan (loan_id, peer_kme_id, role, state, units) VALUES ($1, $2, 'borrower', 'OPEN', '[]')`,
      [loanId, peerKmeId],
    )
  },

  openLoans: async () => {
    const rows = await database.query<{ peer_kme_id: KmeId; loan_id: string; age_ms: number }>(
      `SELECT peer_kme_id, loan_id, (extract(epoch FROM now() - at) * 1000)::float8 AS age_ms
       FROM loan WHERE role = 'borrower' AND state = 'OPEN' ORDER BY at`,
    )
    return rows.map((row) => ({ peerKmeId: row.peer_kme_id, loanId: row.loan_id, ageMs: row.age_ms }))
  },

  borrow: (peerKmeId, loanId, runs) =>
    database.transaction(async (statements) => {
      const open = await statements.query(
        `UPDATE loan SET state = 'DONE', units = $3::text::jsonb
         WHERE loan_id = $1 AND peer_kme_id = $2 AND role = 'borrower' AND state = 'OPEN' RETURNING 1`,
        [loanId, peerKmeId, JSON.stringify(runs)],
      )
      if (open.length === 0) return undefined
      const { blockIds, masks } = await masksIn(statements, runs)
      // What cannot be used here, because its block is gone or the unit is taken, stays nobody's: it is never issued.
      const rows = await statements.query<{ block_id: BlockId; state: BlockState; gained: string }>(
        `UPDATE key_block b SET mine = b.mine | (m.mask & ~b.taken)
         FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask)
         WHERE b.block_id = m.block_id AND b.state IN ('INGESTED', 'AVAILABLE') AND b.peer_kme_id = $3 AND NOT ${OF_FALLBACK}
         RETURNING b.block_id, b.state, (m.mask & ~b.taken)::text AS gained`,
        [blockIds, masks, peerKmeId],
      )
      const gained = rows.map((row) => ({ state: row.state, run: { blockId: row.block_id, units: unitsIn(row.gained) } }))
      await appendAudit(statements, [
        {
          event: 'units.borrowed',
          actor: `kme:${peerKmeId}`,
          outcome: 'done',
          subject: { loanId, units: countUnits(gained.map(({ run }) => run)), lent: countUnits(runs) },
        },
      ])
      // Units of a block that is not released yet are offered with it.
      return gained.filter(({ state, run }) => state === 'AVAILABLE' && run.units.length > 0).map(({ run }) => run)
    }),
})
