/** Operations on the key pools: how full they are, how they change, how they were, and a push for one that runs low.
 *  One unit key is one key of the default size. */
import type { DeliveryLimits } from '../delivery/delivery.ts'
import type { components } from '../generated/admin.ts'
import type { Subscribe } from '../http/event-streams.ts'
import type { Clock } from '../kernel/clock.ts'
import { BadRequest, NotFound } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { PoolHistory, PoolReport, PoolWatch } from '../key-pool/key-pool.ts'
import type { Replenisher, SourceReport } from '../link/link.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import { actorOf, readMembers, type AdminRoute } from './admin-route.ts'

export interface ShowPoolsParts {
  readonly kmeId: KmeId
  readonly peers: PeerDirectory
  readonly pools: PoolWatch
  readonly poolHistory: PoolHistory
  readonly replenisher: Replenisher
  readonly limits: DeliveryLimits
  readonly clock: Clock
}

type Schemas = components['schemas']

const HOUR_MS = 3_600_000
/** The largest time ECMAScript knows. */
const TIME_MS_MAX = 8.64e15

export const showPoolsRoutes = (parts: ShowPoolsParts): AdminRoute[] => {
  const { pools, limits, clock } = parts
  const find = async (peerKmeId: string): Promise<PoolReport> => {
    const report = (await pools.read()).find(({ level }) => level.peerKmeId === peerKmeId)
    if (report === undefined) throw new NotFound('there is no pool for this KME')
    return report
  }
  return [
    {
      method: 'get',
      path: '/api/v1/pools',
      scope: 'pool:read',
      handle: async () => ({ json: toPoolList(await pools.read(), parts) }),
    },
    // Before the pool of one KME: this path would be taken for the ID of a KME.
    { method: 'get', path: '/api/v1/pools/events', scope: 'pool:read', handle: () => ({ events: watchPools(parts) }) },
    {
      method: 'get',
      path: '/api/v1/pools/:kmeId',
      scope: 'pool:read',
      handle: async ({ pathParameter }) => ({ json: toPool(await find(pathParameter), parts) }),
    },
    {
      method: 'get',
      path: '/api/v1/pools/:kmeId/history',
      scope: 'pool:read',
      query: ['fromMs', 'toMs'],
      handle: async ({ pathParameter, query }) => {
        const toMs = readTimeMs(query, 'toMs') ?? clock.nowMs()
        const fromMs = readTimeMs(query, 'fromMs') ?? Math.max(0, toMs - HOUR_MS)
        if (fromMs >= toMs) throw new BadRequest([{ problem: 'fromMs: not before toMs' }])
        const { peerKmeId } = (await find(pathParameter)).level
        const { bucketS, points } = await parts.poolHistory.read({ peerKmeId, fromMs, toMs, nowMs: clock.nowMs() })
        const json: Schemas['PoolHistory'] = { kmeId: peerKmeId, bucketS, points: [...points] }
        return { json }
      },
    },
    {
      method: 'post',
      path: '/api/v1/pools/:kmeId/replenish',
      scope: 'pool:replenish',
      handle: async ({ pathParameter, body, admin }) => {
        const isCount = (value: unknown): value is number =>
          Number.isInteger(value) && (value as number) >= 1 && (value as number) <= limits.maxStoredKeys
        const { upToKeys } = readMembers<{ upToKeys: number | 'as usual' }>(body, {
          upToKeys: (value) => (value === undefined ? 'as usual' : isCount(value) ? value : undefined),
        })
        const { peerKmeId } = (await find(pathParameter)).level
        const done = await parts.replenisher.replenishNow(
          peerKmeId,
          upToKeys === 'as usual' ? undefined : upToKeys,
          actorOf(admin),
        )
        const json: Schemas['Replenishment'] = {
          kmeId: peerKmeId,
          ceilingKeys: done.ceilingKeys,
          sources: done.sources.map(toSource),
        }
        return { json }
      },
    },
  ]
}

const toSource = (report: SourceReport): Schemas['Replenishment']['sources'][number] => ({
  source: report.source,
  outcome: report.outcome,
  keyCount: report.outcome === 'filled' ? report.keys : 0,
  reason: report.outcome === 'nothing' || report.outcome === 'failed' ? report.reason : null,
})

const readTimeMs = (query: ReadonlyMap<string, string>, name: string): number | undefined => {
  const text = query.get(name)
  if (text === undefined) return undefined
  const timeMs = /^\d{1,16}$/.test(text) ? Number(text) : NaN
  if (!(timeMs <= TIME_MS_MAX)) throw new BadRequest([{ problem: `${name}: not valid` }])
  return timeMs
}

/** The whole list at once, and again whenever a reading of the pools shows something else. */
const watchPools =
  (parts: ShowPoolsParts): Subscribe =>
  (send) => {
    let sent = ''
    const show = (): void => {
      const list = JSON.stringify(toPoolList(parts.pools.reports(), parts))
      if (list !== sent) send('pools', list)
      sent = list
    }
    show()
    return parts.pools.onReading(show)
  }

const toPoolList = (reports: readonly PoolReport[], parts: ShowPoolsParts): Schemas['PoolList'] => ({
  pools: reports.map((report) => toPool(report, parts)),
})

const toPool = (report: PoolReport, parts: ShowPoolsParts): Schemas['Pool'] => {
  const { level, marks, health } = report
  return {
    kmeId: level.peerKmeId,
    keySizeBits: parts.limits.keySizeBits,
    mine: level.mine,
    theirs: level.theirs,
    stored: level.mine + level.theirs,
    reserved: level.reserved,
    available: Math.max(0, level.mine - level.reserved),
    deliverable: deliverable(report, parts),
    max: parts.limits.maxStoredKeys,
    lowWatermark: marks.lowWatermark,
    criticalWatermark: marks.criticalWatermark,
    highWatermark: marks.highWatermark,
    state: health.state,
    refillKeysPerS: toHundredths(health.refillKeysPerS),
    consumptionKeysPerS: toHundredths(health.consumptionKeysPerS),
    timeToEmptyS: health.timeToEmptyS === undefined ? null : Math.round(health.timeToEmptyS),
    retryAfterS: parts.pools.retryAfterS(level.peerKmeId, 1),
  }
}

const toHundredths = (keysPerS: number): number => Math.round(keysPerS * 100) / 100

/** What "Get status" would announce to an SAE that may use everything. */
const deliverable = ({ level, borrowable }: PoolReport, { kmeId, peers, limits }: ShowPoolsParts): number => {
  // No key leaves without the consent of the other end.
  if (level.peerKmeId !== kmeId && peers.named(level.peerKmeId)?.available() !== true) return 0
  return Math.min(limits.maxStoredKeys, level.mine + borrowable)
}
