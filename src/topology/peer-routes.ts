/** The KME-to-KME API of the topology: statements that spread, and comparing what two KMEs know. */
import type { Express, Request } from 'express'
import { only } from '../http/api-app.ts'
import { callerKme } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import { readBody } from '../http/request-body.ts'
import { BadRequest } from '../kernel/errors.ts'
import { parsePeerBody, PEER_BODY_BYTES_MAX, peerPaths, readSequences, readStatements, writeDifference } from '../peer/wire.ts'
import type { Flooding } from './flood-topology.ts'

/** What is no such message at all is refused as a statement that cannot be read is: a record and an alarm say who sent it. */
const readCall = async <T>(request: Request, flooding: Flooding, read: (body: unknown) => T): Promise<T> => {
  const { kmeId } = callerKme(request)
  try {
    return read(parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX)))
  } catch (error) {
    // A body that broke off is no offence.
    if (error instanceof BadRequest && (request.complete || !request.destroyed)) await flooding.receive(kmeId, [undefined])
    throw error
  }
}

export const mountTopologyPeerApi = (app: Express, { flooding }: { readonly flooding: Flooding }): void => {
  only(app, peerPaths.statements, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      await flooding.receive(kmeId, await readCall(request, flooding, readStatements))
      sendJson(response, {})
    },
  })
  only(app, peerPaths.comparison, {
    post: async (request, response) => {
      sendJson(response, writeDifference(flooding.compare(await readCall(request, flooding, readSequences))))
    },
  })
}
