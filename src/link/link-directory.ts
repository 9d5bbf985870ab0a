/** All links of a KME. Each is run by one of its processes at a time; what operators see of it is what that process says, so every
 *  process shows the same. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Processes } from '../processes/processes.ts'
import type { LinkDirectory, LinkStatus } from './link.ts'
import type { SupervisedLink } from './supervise-link.ts'

export interface RunningLinks extends LinkDirectory {
  /** The link of this ID if it leads to that peer: nobody may speak about other KMEs' links. */
  find(linkId: LinkId, peerKmeId: KmeId): SupervisedLink | undefined
  /** Has every link to that peer try again at once what failed. */
  wake(peerKmeId: KmeId): void
  /** Has every driver that speaks to the other KME's connect anew: certificates or revocation lists have changed. */
  reconnect(): void
  /** Runs the links that are this process's to run, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

export const createLinkDirectory = (links: readonly SupervisedLink[], processes: Processes): RunningLinks => {
  const dutyOf = (link: SupervisedLink): string => `link:${link.linkId}`
  return {
    statuses: () => {
      const reports = processes.reports()
      return links.map((link): LinkStatus => {
        const duty = reports.get(dutyOf(link))
        if (duty?.report === undefined) return notRun(link)
        const report = duty.report as LinkStatus
        const { reason, newestBlockAgeMs: ageMs } = report
        return { ...notRun(link), ...report, reason, newestBlockAgeMs: ageMs === undefined ? undefined : ageMs + duty.ageMs }
      })
    },
    find: (linkId, peerKmeId) => links.find((link) => link.linkId === linkId && link.peerKmeId === peerKmeId),
    wake: (peerKmeId) => {
      for (const link of links) if (link.peerKmeId === peerKmeId) link.wake()
    },
    reconnect: () => {
      for (const link of links) link.reconnect()
    },
    run: async (signal) => {
      await Promise.all(
        links.map((link) => {
          const duty = dutyOf(link)
          return processes.hold(duty, (held) => link.run(held, (status) => processes.report(duty, status)), signal)
        }),
      )
    },
  }
}

const notRun = ({ linkId, peerKmeId, driver }: SupervisedLink): LinkStatus => ({
  linkId,
  peerKmeId,
  driver,
  state: 'down',
  reason: 'no process of this KME runs the link yet',
  qber: undefined,
  keyRateBps: 0,
  blocksAgreed: 0,
  blocksRejected: 0,
  newestBlockAgeMs: undefined,
})
