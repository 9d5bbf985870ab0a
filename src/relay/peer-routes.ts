/** The KME-to-KME API of the relay: parcels, and whether one could be taken. */
import type { Express } from 'express'
import { only } from '../http/api-app.ts'
import { callerKme } from '../http/caller.ts'
import { sendJson } from '../http/json-response.ts'
import { readBody } from '../http/request-body.ts'
import { BadRequest } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import {
  parsePeerBody,
  PEER_BODY_BYTES_MAX,
  peerPaths,
  readRelayCheck,
  readRelayId,
  readRelayParcel,
  writeRelayAnswer,
} from '../peer/wire.ts'
import type { ParcelAcceptor } from './accept-parcel.ts'

const orUndefined = <T>(read: () => T): T | undefined => {
  try {
    return read()
  } catch (error) {
    if (error instanceof BadRequest) return undefined
    throw error
  }
}

/** @param parts.acceptor undefined where relay is switched off: every parcel is refused. */
export const mountRelayPeerApi = (app: Express, parts: { kmeId: KmeId; acceptor: ParcelAcceptor | undefined }): void => {
  const off = { outcome: 'refused', reason: 'relay-off', at: parts.kmeId } as const
  only(app, peerPaths.relays, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const body = parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX))
      // Without it there is nothing to answer to.
      const relayId = readRelayId(body)
      const parcel = orUndefined(() => readRelayParcel(body))
      sendJson(response, writeRelayAnswer(relayId, (await parts.acceptor?.accept(kmeId, parcel)) ?? off))
    },
  })
  only(app, peerPaths.relayChecks, {
    post: async (request, response) => {
      const { kmeId } = callerKme(request)
      const body = parsePeerBody(await readBody(request, PEER_BODY_BYTES_MAX))
      sendJson(
        response,
        (await parts.acceptor?.check(
          kmeId,
          orUndefined(() => readRelayCheck(body)),
        )) ?? off,
      )
    },
  })
}
