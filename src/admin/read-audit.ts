/** Operation that reads the audit log page by page, newest first. */
import { z } from 'zod'
import type { AuditLog } from '../audit/audit.ts'
import type { components } from '../generated/admin.ts'
import { checked, type AdminRoute } from './admin-route.ts'

type Page = components['schemas']['AuditPage']

const DEFAULT_LIMIT = 100

const query = z.strictObject({
  before: z
    .string()
    .regex(/^[0-9]{1,18}$/)
    .optional(),
  event: z
    .string()
    .max(64)
    .regex(/^[a-z]+[.][a-z]+$/)
    .optional(),
  actor: z
    .string()
    .regex(/^[A-Za-z0-9._~:@!$'()*+/-]{1,128}$/)
    .optional(),
  limit: z
    .string()
    .regex(/^[1-9][0-9]{0,3}$/)
    .transform(Number)
    .pipe(z.int().max(1000))
    .optional(),
})

export const readAuditRoutes = ({ audit }: { readonly audit: AuditLog }): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/audit',
    scope: 'audit:read',
    query: ['before', 'event', 'actor', 'limit'],
    handle: async (request) => {
      const { before, event, actor, limit = DEFAULT_LIMIT } = checked(query, Object.fromEntries(request.query))
      const page = await audit.page({
        limit,
        ...(before !== undefined && { before }),
        ...(event !== undefined && { event }),
        ...(actor !== undefined && { actor }),
      })
      const json: Page = {
        records: page.records.map((record) => ({
          seq: record.seq,
          at: record.at.toISOString(),
          event: record.event,
          actor: record.actor,
          outcome: record.outcome,
          subject: { ...record.subject },
        })),
        nextBefore: page.nextBefore ?? null,
      }
      return { json }
    },
  },
]
