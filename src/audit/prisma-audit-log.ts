/** AuditLog in PostgreSQL. The table refuses UPDATE, DELETE and TRUNCATE. */
import type { Database } from '../database/database.ts'
import { auditColumns, insertAudit, type AuditEventName, type AuditLog } from './audit.ts'

export const createAuditLog = (database: Database): AuditLog => ({
  append: async ({ event, actor, outcome, subject }) => {
    await database.query(insertAudit(1), auditColumns([{ event, actor, outcome, subject }]))
  },
  page: async ({ before, event, actor, limit }) => {
    const rows = await database.prisma.auditRecord.findMany({
      where: {
        ...(before !== undefined && { seq: { lt: BigInt(before) } }),
        ...(event !== undefined && { event }),
        ...(actor !== undefined && { actor }),
      },
      orderBy: { seq: 'desc' },
      take: limit + 1,
    })
    const records = rows.slice(0, limit).map((row) => ({
      seq: row.seq.toString(),
      at: row.at,
      event: row.event as AuditEventName,
      actor: row.actor,
      outcome: row.outcome as 'done' | 'refused' | 'failed',
      subject: row.subject as Record<string, unknown>,
    }))
    return { records, nextBefore: rows.length > limit ? records.at(-1)?.seq : undefined }
  },
})
