/** Puts the parts of this slice together: clients, sender, messenger, server. */
import type { AuditLog } from '../audit/audit.ts'
import type { Database } from '../database/database.ts'
import type { DeliveryLimits, NeighbourDirectory, SaeDirectory } from '../delivery/delivery.ts'
import type { Clock } from '../kernel/clock.ts'
import { Unavailable } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { ReceivedKeyStore } from '../key-store/key-store.ts'
import type { Neighbour, NeighbourStatus, NeighbourTls } from './interworking.ts'
import { createNeighbourClient } from './neighbour-client.ts'
import { createTransferStore } from './prisma-transfers.ts'
import { mountInterworkingApi } from './routes.ts'
import { createKeySender } from './send-keys.ts'
import { makeServeNeighbour } from './serve-neighbour.ts'
import { createNeighbourMessenger } from './tell-neighbours.ts'
import { interworkingPaths, type KeySizeLimits } from './wire.ts'

export interface InterworkingParts {
  readonly kmeId: KmeId
  readonly neighbours: readonly Neighbour[]
  /** Origin under which neighbours reach this KME. */
  readonly ownUrl: string
  readonly tls: NeighbourTls
  readonly isRevoked: (serial: string, issuer: string) => boolean
  readonly directory: SaeDirectory
  readonly store: ReceivedKeyStore
  readonly database: Database
  readonly audit: AuditLog
  readonly limits: KeySizeLimits & Pick<DeliveryLimits, 'maxSaeIdCount' | 'heldForS' | 'maxStoredKeys'>
  /** A counter of its own for each name. `take` resolves to the milliseconds to wait when the points do not fit. */
  readonly limiterOf: (name: string, pointsPerS: number) => { take(points: number): Promise<number | undefined> }
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface Interworking extends AsyncDisposable {
  readonly neighbours: NeighbourDirectory
  statuses(): readonly NeighbourStatus[]
  /** Registers the routes, for neighbours only. */
  mount(app: Parameters<typeof mountInterworkingApi>[0]): void
  /** Greets neighbours and posts to them until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
  /** Another process may have noted something. */
  notice(): void
  updateTls(tls: NeighbourTls): void
}

export const createInterworking = (parts: InterworkingParts): Interworking => {
  const { kmeId, directory, store, database, audit, limits, clock, random, log } = parts
  const clients = new Map(
    parts.neighbours.map((neighbour) => [neighbour.kmeId, createNeighbourClient({ neighbour, tls: parts.tls, clock, log })]),
  )
  const callbackUrl = `${new URL(parts.ownUrl).origin}${interworkingPaths.ack}`
  const transfers = createTransferStore({ database, random })
  const messenger = createNeighbourMessenger({ clients, transfers, store, callbackUrl, clock, random, log })
  const admission = (name: string, perS: (neighbour: Neighbour) => number) => {
    const limiters = new Map(
      parts.neighbours.map((one) => [one.kmeId, parts.limiterOf(`neighbour:${name}:${one.kmeId}`, perS(one))]),
    )
    return async (caller: Neighbour, points: number): Promise<void> => {
      const missingMs = await limiters.get(caller.kmeId)?.take(points)
      if (missingMs !== undefined) throw new Unavailable(missingMs / 1000)
    }
  }
  const admitRequests = admission('requestsPerS', ({ requestsPerS }) => requestsPerS)
  const sender = createKeySender({ transfers, callbackUrl, wakeMessenger: messenger.wake, clock })
  const serve = makeServeNeighbour({
    kmeId,
    directory,
    targetsMax: limits.maxSaeIdCount + 1,
    limits,
    store,
    transfers,
    heldForS: limits.heldForS,
    heldUnitsMax: limits.maxStoredKeys,
    admitKeys: admission('keysPerS', ({ keysPerS }) => keysPerS),
    log,
  })
  const kmes = new Map([...clients].map(([id, client]) => [id, sender.neighbourKme(client)]))

  return {
    neighbours: { named: (id) => kmes.get(id) },
    statuses: () => [...clients.values()].map((client) => client.status()),
    mount: (app) => {
      const { neighbours, isRevoked } = parts
      const admitRequest = (caller: Neighbour): Promise<void> => admitRequests(caller, 1)
      mountInterworkingApi(app, { serve, neighbours, isRevoked, admitRequest, audit, wake: messenger.wake, clock })
    },
    run: async (signal) => {
      await Promise.all([messenger.run(signal), ...[...clients.values()].map((client) => client.watch(signal))])
    },
    notice: sender.notice,
    updateTls: (tls) => clients.forEach((client) => client.updateTls(tls)),
    [Symbol.asyncDispose]: async () => {
      await Promise.all([...clients.values()].map((client) => client.close()))
    },
  }
}
