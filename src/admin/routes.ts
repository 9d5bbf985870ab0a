/** The admin API on Express: authenticates, checks the scope, refuses what an operation does not know, answers.
 *  Holds: only the two health paths work without a token, and an operation that names no scope stops the start. */
import type { Express, Request, Response } from 'express'
import type { AlarmDirectory } from '../alarms/alarms.ts'
import type { AuditLog } from '../audit/audit.ts'
import { nameCaller } from '../http/caller.ts'
import type { EventStreams } from '../http/event-streams.ts'
import { only, type Handler } from '../http/api-app.ts'
import { sendJson } from '../http/json-response.ts'
import { readJsonObject } from '../http/request-body.ts'
import { parseQuery, pathSegment } from '../http/request-target.ts'
import { BadRequest, Forbidden, Unauthorized } from '../kernel/errors.ts'
import { actorOf, type AdminAnswer, type AdminRoute } from './admin-route.ts'
import { parseAdminScope, type Admin, type MetricsPage, type Readiness, type TokenVerifier } from './admin.ts'
import { managePeersRoutes, type ManagePeersParts } from './manage-peers.ts'
import { manageSaesRoutes } from './manage-saes.ts'
import { readAuditRoutes } from './read-audit.ts'
import { showAlarmsRoutes } from './show-alarms.ts'
import { showCertificatesRoutes, type ShowCertificatesParts } from './show-certificates.ts'
import { showKmeRoutes, type ShowKmeParts } from './show-kme.ts'
import { showLinksRoutes } from './show-links.ts'
import { showPoolsRoutes, type ShowPoolsParts } from './show-pools.ts'
import { showTopologyRoutes, type ShowTopologyParts } from './show-topology.ts'
import type { SaeDirectory } from '../delivery/delivery.ts'

export interface AdminApiParts extends ShowKmeParts, ShowPoolsParts, ShowCertificatesParts, ShowTopologyParts, ManagePeersParts {
  readonly verifier: TokenVerifier
  readonly audit: AuditLog
  readonly alarms: AlarmDirectory
  readonly saes: SaeDirectory
  readonly metrics: MetricsPage
  readonly streams: EventStreams
}

/** Registers the whole admin API; pass it to `createApiApp` as `mount`, with errors as problems. */
export const mountAdminApi = (app: Pick<Express, 'route'>, parts: AdminApiParts): void => {
  mountAdminRoutes(app, parts, [
    ...showKmeRoutes(parts),
    ...showPoolsRoutes(parts),
    ...showLinksRoutes(parts),
    ...managePeersRoutes(parts),
    ...showTopologyRoutes(parts),
    ...manageSaesRoutes(parts),
    ...showCertificatesRoutes(parts),
    ...showAlarmsRoutes(parts),
    ...readAuditRoutes(parts),
    {
      method: 'get',
      path: '/metrics',
      scope: 'metrics:read',
      handle: async () => ({ text: await parts.metrics.text(), contentType: parts.metrics.contentType }),
    },
  ])
  mountHealth(app, parts.readiness)
}

type RouteParts = Pick<AdminApiParts, 'verifier' | 'audit' | 'streams'>

/** @throws Error for an operation without a scope, or one that is there twice: the KME must not start with either. */
export const mountAdminRoutes = (app: Pick<Express, 'route'>, parts: RouteParts, routes: readonly AdminRoute[]): void => {
  const paths = new Map<string, { get?: Handler; post?: Handler }>()
  for (const route of routes) {
    if (route.scope !== 'any' && parseAdminScope(route.scope) === undefined) {
      throw new Error(`the admin operation ${route.method} ${route.path} names no scope`)
    }
    const handlers = paths.get(route.path) ?? {}
    if (handlers[route.method] !== undefined) throw new Error(`the admin operation ${route.method} ${route.path} is there twice`)
    handlers[route.method] = handlerOf(route, parts)
    paths.set(route.path, handlers)
  }
  for (const [path, handlers] of paths) only(app, path, handlers)
}

const handlerOf = (route: AdminRoute, { verifier, audit, streams }: RouteParts): Handler => {
  const parameterAt = route.path.split('/').findIndex((segment) => segment.startsWith(':')) - 1
  return async (req, res) => {
    const admin = await verifier.verify(bearerToken(req))
    nameCaller(req, actorOf(admin))
    await checkScope(admin, route, audit)
    const query = parseQuery(req)
    for (const name of query.keys())
      if (!route.query?.includes(name)) throw new BadRequest([{ problem: 'unknown query parameter' }])
    const body = (await readJsonObject(req)) ?? {}
    const pathParameter = parameterAt < 0 ? '' : pathSegment(req, parameterAt)
    const answer = await route.handle({ admin, query, body, pathParameter })
    if ('events' in answer) streams.open(res, answer.events, admin.expiresAtS * 1000)
    else send(res, answer)
  }
}

const bearerToken = (req: Request): string => {
  const header = req.headers.authorization
  if (header === undefined) throw new Unauthorized('no token')
  const token = /^bearer +([A-Za-z0-9._~+/=-]+)$/i.exec(header)?.[1]
  if (token === undefined) throw new Unauthorized('the Authorization header holds no bearer token')
  return token
}

const checkScope = async (admin: Admin, route: AdminRoute, audit: AuditLog): Promise<void> => {
  if (route.scope === 'any' || admin.scopes.has(route.scope)) return
  await audit.append({
    event: 'admin.refused',
    actor: actorOf(admin),
    outcome: 'refused',
    subject: { method: route.method.toUpperCase(), route: route.path, missingScope: route.scope },
  })
  throw new Forbidden(`the token lacks the scope ${route.scope}`)
}

const LIVE = '/health/live'
const READY = '/health/ready'
/** What load balancers ask all the time. */
export const HEALTH_ROUTES: readonly string[] = [LIVE, READY]

const mountHealth = (app: Pick<Express, 'route'>, readiness: Readiness): void => {
  only(app, LIVE, { get: (_req, res) => sendHealth(res, []) })
  only(app, READY, {
    get: async (_req, res) => {
      const results = await readiness.results()
      sendHealth(
        res,
        results.filter((probe) => !probe.ok).map((probe) => probe.name),
      )
    },
  })
}

const sendHealth = (res: Response, failing: readonly string[]): void => {
  if (failing.length === 0) sendJson(res, { status: 'ok', failing })
  else sendJson(res, { status: 'failing', failing }, 503)
}

const send = (res: Response, answer: Exclude<AdminAnswer, { events: unknown }>): void => {
  if ('json' in answer) return sendJson(res, answer.json, answer.status)
  res.writeHead(200, {
    'Content-Type': answer.contentType,
    'Content-Length': Buffer.byteLength(answer.text),
    'Cache-Control': 'no-store',
  })
  res.end(answer.text)
}
