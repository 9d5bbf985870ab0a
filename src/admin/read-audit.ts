/** Operation that reads the audit log page by page, newest first. */
import type { AuditLog, AuditQuery } from '../audit/audit.ts'
import type { components } from '../generated/admin.ts'
import { BadRequest } from '../kernel/errors.ts'
import type { AdminRoute } from './admin-route.ts'

type Page = components['schemas']['AuditPage']

const DEFAULT_LIMIT = 100

const patterns = {
  before: /^[0-9]{1,18}$/,
  event: /^(?=.{1,64}$)[a-z]+[.][a-z]+$/,
  actor: /^[A-Za-z0-9._~:@!$'()*+/-]{1,128}$/,
  limit: /^([1-9][0-9]{0,2}|1000)$/,
}

export const readAuditRoutes = ({ audit }: { readonly audit: AuditLog }): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/audit',
    scope: 'audit:read',
    query: Object.keys(patterns),
    handle: async ({ query }) => {
      const page = await audit.page(readQuery(query))
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

const readQuery = (query: ReadonlyMap<string, string>): AuditQuery => {
  const read = (name: keyof typeof patterns): string | undefined => {
    const text = query.get(name)
    if (text === undefined || patterns[name].test(text)) return text
    throw new BadRequest([{ problem: `${name}: not valid` }])
  }
  const before = read('before')
  const event = read('event')
  const actor = read('actor')
  return {
    limit: Number(read('limit') ?? DEFAULT_LIMIT),
    ...(before !== undefined && { before }),
    ...(event !== undefined && { event }),
    ...(actor !== undefined && { actor }),
  }
}
