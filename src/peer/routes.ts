/** What every message of the KME-to-KME API goes through: sessions and their seals; and the greeting: who we are and whether we speak
 *  alike. */
import type { Express } from 'express'
import { only } from '../http/api-app.ts'
import { callerKme } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { SessionServer } from './session-server.ts'
import { PEER_PROTOCOL, peerPaths, type Hello } from './wire.ts'

/** Mount it before all other routes: what it does not let through reaches none of them. */
export const mountSessions = (app: Express, sessions: SessionServer): void => {
  app.use(async (request, response, next) => {
    const opensSession = request.method === 'POST' && request.url === peerPaths.sessions
    if (!opensSession) await sessions.admit(request, response, callerKme(request))
    next()
  })
  only(app, peerPaths.sessions, {
    post: async (request, response) => sendJson(response, await sessions.open(request, response, callerKme(request))),
  })
}

export const mountHello = (app: Express, parts: { kmeId: KmeId; unitSizeBits: number }): void => {
  const hello: Hello = { protocol: PEER_PROTOCOL, kmeId: parts.kmeId, unitSizeBits: parts.unitSizeBits }
  only(app, peerPaths.hello, { get: (_request, response) => sendJson(response, hello) })
}
