/** ETSI GS QKD 020 on HTTP. The last place of the answering side that knows requests and responses.
 *  Holds: only neighbours get through; what is refused in the words of the standard stands in the audit log. */
import type { ServerResponse } from 'node:http'
import type { Express, Request, Response } from 'express'
import type { AuditLog } from '../audit/audit.ts'
import { only, type Handler } from '../http/api-app.ts'
import { callerKme, requireKme } from '../http/caller.ts'
import { bearsName, type CertificateFacts } from '../http/client-identity.ts'
import { INTERWORKING_CONTENT_TYPE, interworkingProblem } from '../http/interworking-problem.ts'
import { announcesBody, readSecretJson } from '../http/request-body.ts'
import type { Clock } from '../kernel/clock.ts'
import { BadRequest, Unauthorized } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Neighbour } from './interworking.ts'
import { Refusal } from './refusal.ts'
import type { Served, ServeNeighbour } from './serve-neighbour.ts'
import { interworkingPaths, VERSIONS, writeAcks } from './wire.ts'

/** More than the 1024 keys of usual sizes, or the acknowledgements, of one request. */
export const INTERWORKING_BODY_BYTES_MAX = 4 * 1024 * 1024

export interface InterworkingRoutesParts {
  readonly serve: ServeNeighbour
  readonly neighbours: readonly Neighbour[]
  readonly isRevoked: (serial: string, issuer: string) => boolean
  /** Counts a request. @throws Unavailable when they are too many for now. */
  readonly admitRequest: (caller: Neighbour) => Promise<void>
  readonly audit: AuditLog
  /** An acknowledgement waits to be posted. */
  readonly wake: () => void
  readonly clock: Clock
}

/** Registers the routes, for neighbours only. */
export const mountInterworkingApi = (app: Express, parts: InterworkingRoutesParts): void => {
  const { serve, neighbours, wake, clock } = parts
  /** A certificate that bears the names of two neighbours is that of neither. */
  const identify = (facts: CertificateFacts): KmeId | undefined => {
    const [only, ...others] = neighbours.filter(({ certificate }) => facts.clientAuth && bearsName(facts, certificate))
    return others.length === 0 ? only?.kmeId : undefined
  }
  app.use(requireKme({ identify, isAdmitted: (_id, facts) => !parts.isRevoked(facts.serialNumber, facts.issuer), clock }))

  const caller = (request: Request): Neighbour => {
    const { kmeId } = callerKme(request)
    const neighbour = neighbours.find((one) => one.kmeId === kmeId)
    if (neighbour === undefined) throw new Unauthorized('not a neighbour')
    return neighbour
  }
  const answer = (response: Response, served: Served): void => {
    if (served !== 'taken') return send(response, 200, JSON.stringify(writeAcks(served.acks)))
    // Not before the answer is out: it would be the acknowledgement of a request whose sender is not sure yet that it arrived.
    response.once('finish', wake)
    send(response, 202, '')
  }

  /** Hands a request of a neighbour to `serve`. Other errors than refusals are the application's to answer. */
  const forNeighbours =
    (call: string, serve: (caller: Neighbour, request: Request, response: Response) => Promise<void> | void): Handler =>
    async (request, response) => {
      const neighbour = caller(request)
      await parts.admitRequest(neighbour)
      try {
        await serve(neighbour, request, response)
      } catch (error) {
        if (!(error instanceof Refusal || error instanceof BadRequest)) throw error
        // A connection that broke was nobody's mistake.
        if (request.socket.destroyed) throw error
        const subject =
          error instanceof Refusal
            ? { call, reason: error.problem, details: error.details }
            : { call, reason: 'invalid-parameter' }
        await parts.audit.append({ event: 'peer.refused', actor: `kme:${neighbour.kmeId}`, outcome: 'refused', subject })
        if (!(error instanceof Refusal)) throw error
        send(response, error.status, interworkingProblem(error.status, error.problem, error.details))
      }
    }

  only(app, interworkingPaths.versions, {
    get: forNeighbours('versions', (_caller, request, response) => {
      if (announcesBody(request)) throw new BadRequest()
      send(response, 200, JSON.stringify(VERSIONS))
    }),
  })
  only(app, interworkingPaths.keys, {
    post: forNeighbours('ext_keys', async (neighbour, request, response) => {
      answer(response, await serve.keys(neighbour, await readSecretJson(request, INTERWORKING_BODY_BYTES_MAX)))
    }),
  })
  only(app, interworkingPaths.ack, {
    post: forNeighbours('ack', async (neighbour, request, response) => {
      await serve.ack(neighbour, await readSecretJson(request, INTERWORKING_BODY_BYTES_MAX))
      send(response, 200, '')
    }),
  })
  only(app, interworkingPaths.void, {
    post: forNeighbours('void', async (neighbour, request, response) => {
      answer(response, await serve.void(neighbour, await readSecretJson(request, INTERWORKING_BODY_BYTES_MAX)))
    }),
  })
}

const send = (response: ServerResponse, status: number, body: string): void => {
  const headers = ['Cache-Control', 'no-store', 'Content-Length', String(Buffer.byteLength(body))]
  if (body !== '') headers.push('Content-Type', INTERWORKING_CONTENT_TYPE)
  response.writeHead(status, headers)
  response.end(body)
}
