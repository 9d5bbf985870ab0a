/** Operations on the KME itself: who am I to it, and how is it. */
import type { components } from '../generated/admin.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { LinkDirectory } from '../link/link.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import type { Processes } from '../processes/processes.ts'
import type { AdminRoute } from './admin-route.ts'
import type { Readiness } from './admin.ts'

export interface ShowKmeParts {
  readonly kmeId: KmeId
  readonly version: string
  /** Milliseconds since 1970. */
  readonly startedAtMs: number
  readonly clock: Clock
  readonly readiness: Readiness
  readonly links: LinkDirectory
  readonly peers: PeerDirectory
  readonly processes: Pick<Processes, 'alive' | 'reports'>
}

type WhoAmI = components['schemas']['WhoAmI']
type Kme = components['schemas']['Kme']

export const showKmeRoutes = (parts: ShowKmeParts): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/whoami',
    scope: 'any',
    handle: ({ admin }) => {
      const json: WhoAmI = {
        subject: admin.subject,
        scopes: [...admin.scopes],
        expiresAt: new Date(admin.expiresAtS * 1000).toISOString(),
      }
      return { json }
    },
  },
  {
    method: 'get',
    path: '/api/v1/kme',
    scope: 'kme:read',
    handle: async () => {
      const probes = await parts.readiness.results()
      const peers = parts.peers.statuses()
      const links = parts.links.statuses()
      const json: Kme = {
        kmeId: parts.kmeId,
        version: parts.version,
        startedAt: new Date(parts.startedAtMs).toISOString(),
        uptimeS: Math.max(0, Math.floor((parts.clock.nowMs() - parts.startedAtMs) / 1000)),
        state: probes.every((probe) => probe.ok) ? 'ready' : 'not-ready',
        probes: probes.map(({ name, ok }) => ({ name, ok })),
        peers: { configured: peers.length, available: peers.filter((peer) => peer.available).length },
        links: { configured: links.length, up: links.filter((link) => link.state === 'up').length },
        processes: showProcesses(parts.processes),
      }
      return { json }
    },
  },
]

const showProcesses = (processes: ShowKmeParts['processes']): Kme['processes'] => {
  const duties = [...processes.reports()].map(([duty, { processId }]) => ({ duty, processId }))
  return processes.alive().map(({ processId, host, pid, startedAtMs, seenAgeMs }) => ({
    processId,
    host,
    pid,
    startedAt: new Date(startedAtMs).toISOString(),
    seenAgeMs,
    duties: duties
      .filter((held) => held.processId === processId)
      .map(({ duty }) => duty)
      .sort(),
  }))
}
