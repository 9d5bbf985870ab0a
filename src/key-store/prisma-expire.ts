/** Upkeep of the store: what waits past its time ends, its units with it. */
import type { Database } from '../database/database.ts'
import type { AssignmentId } from '../kernel/identifiers.ts'
import type { KeyStore, UnitRun } from './key-store.ts'
import { NO_DIFFERENCE } from './prisma-assignment-rows.ts'
import { appendAudit, finishUnits, masksIn, type BlockParts } from './prisma-blocks.ts'

const ASSIGNMENTS_AT_ONCE = 500

export const expireMethods = ({ database, reader }: BlockParts): Pick<KeyStore, 'expire' | 'forgetDestroyed'> => ({
  expire: async () => {
    let expiredKeys = 0
    for (;;) {
      const ended = await expireSome(database)
      expiredKeys += ended.expiredKeys
      if (ended.assignments < ASSIGNMENTS_AT_ONCE) break
    }
    return { expiredKeys }
  },
  forgetDestroyed: reader.forgetDestroyed,
})

const expireSome = (database: Database): Promise<{ assignments: number; expiredKeys: number }> =>
  database.transaction(async (statements) => {
    const rows = await statements.query<{ aid: AssignmentId; role: string; key_count: number; units: UnitRun[] }>(
      `UPDATE assignment a SET ended_at = now(), state = CASE WHEN a.role = 'issuer' THEN a.state ELSE 'EXPIRED' END,
         ${NO_DIFFERENCE}
         WHERE a.aid IN (SELECT aid FROM assignment WHERE expires_at <= now() AND ended_at IS NULL LIMIT ${ASSIGNMENTS_AT_ONCE} FOR UPDATE SKIP LOCKED)
         RETURNING a.aid, a.role, a.key_count, a.units`,
    )
    const expired = rows.filter((row) => row.role !== 'issuer')
    const { blockIds, masks } = await masksIn(
      statements,
      rows.flatMap((row) => row.units),
    )
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
    return { assignments: rows.length, expiredKeys: expired.reduce((sum, row) => sum + row.key_count, 0) }
  })
