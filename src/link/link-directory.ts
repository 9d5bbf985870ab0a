/** All links of a KME. */
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { LinkDirectory } from './link.ts'
import type { SupervisedLink } from './supervise-link.ts'

export interface RunningLinks extends LinkDirectory {
  /** The link of this ID if it leads to that peer: nobody may speak about other KMEs' links. */
  find(linkId: LinkId, peerKmeId: KmeId): SupervisedLink | undefined
  run(signal: AbortSignal): Promise<void>
}

export const createLinkDirectory = (links: readonly SupervisedLink[]): RunningLinks => ({
  statuses: () => links.map((link) => link.status()),
  find: (linkId, peerKmeId) => links.find((link) => link.linkId === linkId && link.peerKmeId === peerKmeId),
  run: async (signal) => {
    await Promise.all(links.map((link) => link.run(signal)))
  },
})
