/** Upkeep of the store: what waits past its time ends, its units with it, and keys of used-up blocks leave memory. */
import type { AssignmentId } from '../kernel/identifiers.ts'
import type { KeyStore, UnitRun } from './key-store.ts'
import { appendAudit, finishUnits, type BlockParts } from './prisma-blocks.ts'
import { unitCountIn } from './prisma-issue.ts'
import { masksOf } from './unit-bits.ts'

export const expireMethods = ({ database, reader }: BlockParts): Pick<KeyStore, 'expire'> => ({
  expire: async () => {
    const ended = await database.transaction(async (statements) => {
      const rows = await statements.query<{ aid: AssignmentId; role: string; key_count: number; units: UnitRun[] }>(
        `UPDATE assignment a SET ended_at = now(), state = CASE WHEN a.role = 'issuer' THEN a.state ELSE 'EXPIRED' END
         WHERE a.aid IN (SELECT aid FROM assignment WHERE expires_at <= now() AND ended_at IS NULL LIMIT 500 FOR UPDATE SKIP LOCKED)
         RETURNING a.aid, a.role, a.key_count, a.units`,
      )
      const expired = rows.filter((row) => row.role !== 'issuer')
      const blocks = await reader.open(rows.flatMap((row) => row.units.map((run) => run.blockId)))
      const known = rows.flatMap((row) => row.units).filter((run) => blocks.has(run.blockId))
      const { blockIds, masks } = masksOf(known, unitCountIn(blocks))
      await statements.query(finishUnits(1, 2), [blockIds, masks])
      await appendAudit(
        statements,
        expired.map((row) => ({
          event: 'key.expired',
          actor: 'system',
          outcome: 'done',
          subject: { aid: row.aid, keys: row.key_count },
        })),
      )
      return { expiredKeys: expired.reduce((sum, row) => sum + row.key_count, 0) }
    })
    await reader.forgetDestroyed()
    return ended
  },
})
