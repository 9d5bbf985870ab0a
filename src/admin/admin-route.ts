/** What one operation of the admin API is. Operations know no HTTP library: routes.ts authenticates, checks and answers. */
import type { z } from 'zod'
import { BadRequest } from '../kernel/errors.ts'
import type { Admin, AdminScope } from './admin.ts'

export interface AdminRequest {
  readonly admin: Admin
  /** The decoded path parameter of a path that has one. */
  readonly pathParameter: string
  /** Only the parameters the route lists. */
  readonly query: ReadonlyMap<string, string>
  /** The members of the body; empty when there is none. */
  readonly body: Readonly<Record<string, unknown>>
}

export type AdminAnswer =
  { readonly json: object; readonly status?: 201 } | { readonly text: string; readonly contentType: string }

export interface AdminRoute {
  readonly method: 'get' | 'post'
  /** At most one parameter, such as `/api/v1/saes/:saeId/enable`. */
  readonly path: string
  /** What the token must allow; `any` for an operation every valid token may use. */
  readonly scope: AdminScope | 'any'
  /** Query parameters the operation knows; any other is refused. */
  readonly query?: readonly string[]
  handle(request: AdminRequest): AdminAnswer | Promise<AdminAnswer>
}

/** How the audit log names the admin. */
export const actorOf = (admin: Admin): string => `admin:${admin.subject}`

/** @throws BadRequest naming the members that are missing, wrong or unknown, never their values. */
export const checked = <T>(schema: z.ZodType<T>, value: unknown): T => {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw new BadRequest(
    parsed.error.issues.map((issue): Record<string, string> =>
      // The name of an unknown member is the caller's text as well.
      issue.code === 'unrecognized_keys'
        ? { problem: 'unknown member' }
        : { problem: `${issue.path.join('.')}: missing or not valid` },
    ),
  )
}
