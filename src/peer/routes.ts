/** The greeting of the KME-to-KME API: who we are and whether we speak alike. */
import type { Express } from 'express'
import { only } from '../http/api-app.ts'
import { sendJson } from '../http/json-response.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import { PEER_PROTOCOL, peerPaths, type Hello } from './wire.ts'

export const mountHello = (app: Express, parts: { kmeId: KmeId; unitSizeBits: number }): void => {
  const hello: Hello = { protocol: PEER_PROTOCOL, kmeId: parts.kmeId, unitSizeBits: parts.unitSizeBits }
  only(app, peerPaths.hello, { get: (_request, response) => sendJson(response, hello) })
}
