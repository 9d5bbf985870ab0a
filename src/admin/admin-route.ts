/** What one operation of the admin API is. Operations know no HTTP library: routes.ts authenticates, checks and answers. */
import type { Subscribe } from '../http/event-streams.ts'
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
  | { readonly json: object; readonly status?: 201 }
  | { readonly text: string; readonly contentType: string }
  /** Server-sent events until the token expires. */
  | { readonly events: Subscribe }

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

/** Reads exactly these members of a body; each reader answers undefined for a value it does not take, a missing one included.
 *  @throws BadRequest naming the members that are missing or wrong, never their values. */
export const readMembers = <T extends object>(
  body: Readonly<Record<string, unknown>>,
  readers: { readonly [Name in keyof T & string]: (value: unknown) => T[Name] | undefined },
): T => {
  const problems: Record<string, string>[] = []
  // The name of an unknown member is the caller's text as well, so it is not shown.
  if (Object.keys(body).some((name) => !Object.hasOwn(readers, name))) problems.push({ problem: 'unknown member' })
  const members: Partial<T> = {}
  for (const name of Object.keys(readers) as (keyof T & string)[]) {
    const value = readers[name](body[name])
    if (value === undefined) problems.push({ problem: `${name}: missing or not valid` })
    else members[name] = value
  }
  if (problems.length > 0) throw new BadRequest(problems)
  return members as T
}
