/** The three methods of ETSI GS QKD 014, clause 5, on HTTP. The last place that knows requests and responses. */
import type { Express, Request, Response } from 'express'
import { only } from '../http/api-app.ts'
import { callerSae } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import { announcesBody, readJsonObject } from '../http/request-body.ts'
import { parseQuery, pathSegment } from '../http/request-target.ts'
import { BadRequest } from '../kernel/errors.ts'
import type { SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { DeliveryLimits } from './delivery.ts'
import type { AdmitRequest } from './admit-request.ts'
import type { GetKeyWithKeyIds } from './get-key-with-key-ids.ts'
import type { GetKey } from './get-key.ts'
import type { makeGetStatus } from './get-status.ts'
import { sendKeyContainer, toKeyContainer, type DeliveredKeys } from './key-container.ts'
import { parseKeyIdQuery, parseKeyIds, parseKeyQuery, parseKeyRequest, type KeyRequest } from './key-request.ts'

export interface DeliveryRoutesParts {
  readonly getStatus: ReturnType<typeof makeGetStatus>
  readonly getKey: GetKey
  readonly getKeyWithKeyIds: GetKeyWithKeyIds
  readonly admitRequest: AdmitRequest
  readonly limits: DeliveryLimits
  readonly log: Logger
  /** Counts keys for metrics. */
  readonly onDelivered: (method: 'enc_keys' | 'dec_keys', keyCount: number, fallbackKeyCount: number) => void
}

/** /api/v1/keys/{SAE ID}/...: the segment that names the other SAE. */
const SAE_SEGMENT = 3

export const mountDeliveryApi = (app: Express, parts: DeliveryRoutesParts): void => {
  const { limits, log } = parts

  const refuseBody = (request: Request): void => {
    if (announcesBody(request)) throw new BadRequest()
  }
  const deliver = (request: Request, response: Response, method: 'enc_keys' | 'dec_keys', delivered: DeliveredKeys): void => {
    const { saeId } = callerSae(request)
    const keyCount = delivered.keys.length
    parts.onDelivered(method, keyCount, delivered.keys.filter((key) => key.fromFallback).length)
    sendKeyContainer(response, toKeyContainer(delivered), () =>
      log.warn({ saeId, method, keyCount }, 'delivery unconfirmed: the connection closed before the keys were sent'),
    )
  }

  // The form of a request is judged first, so that what is malformed counts against no quota.
  const getKey = (caller: SaeId, slave: string, wanted: KeyRequest): Promise<DeliveredKeys> => {
    const slaves = [slave, ...wanted.additionalSlaveSaeIds]
    const keyCount = wanted.number * Math.ceil(wanted.sizeBits / limits.keySizeBits)
    return parts.admitRequest({ caller, slaves, keyCount }, () => parts.getKey(caller, slave, wanted))
  }
  const getKeyWithKeyIds: GetKeyWithKeyIds = (caller, master, keyIds) =>
    parts.admitRequest({ caller, slaves: [], keyCount: 0 }, () => parts.getKeyWithKeyIds(caller, master, keyIds))

  only(app, '/api/v1/keys/:slaveSaeId/status', {
    get: async (request, response) => {
      refuseBody(request)
      const slave = pathSegment(request, SAE_SEGMENT)
      if (parseQuery(request).size > 0) throw new BadRequest([{ reason: 'status takes no parameters' }])
      const caller = callerSae(request).saeId
      sendJson(response, await parts.admitRequest({ caller, slaves: [slave], keyCount: 0 }, () => parts.getStatus(caller, slave)))
    },
  })

  only(app, '/api/v1/keys/:slaveSaeId/enc_keys', {
    get: async (request, response) => {
      refuseBody(request)
      const slave = pathSegment(request, SAE_SEGMENT)
      const wanted = parseKeyQuery(parseQuery(request), limits)
      deliver(request, response, 'enc_keys', await getKey(callerSae(request).saeId, slave, wanted))
    },
    post: async (request, response) => {
      const slave = pathSegment(request, SAE_SEGMENT)
      if (parseQuery(request).size > 0) throw new BadRequest([{ reason: 'POST takes its parameters in the body' }])
      const wanted = parseKeyRequest(await readJsonObject(request), limits)
      deliver(request, response, 'enc_keys', await getKey(callerSae(request).saeId, slave, wanted))
    },
  })

  only(app, '/api/v1/keys/:masterSaeId/dec_keys', {
    get: async (request, response) => {
      refuseBody(request)
      const master = pathSegment(request, SAE_SEGMENT)
      const keyIds = parseKeyIdQuery(parseQuery(request))
      deliver(request, response, 'dec_keys', await getKeyWithKeyIds(callerSae(request).saeId, master, keyIds))
    },
    post: async (request, response) => {
      const master = pathSegment(request, SAE_SEGMENT)
      if (parseQuery(request).size > 0) throw new BadRequest([{ reason: 'POST takes its parameters in the body' }])
      const keyIds = parseKeyIds(await readJsonObject(request), limits)
      deliver(request, response, 'dec_keys', await getKeyWithKeyIds(callerSae(request).saeId, master, keyIds))
    },
  })
}
