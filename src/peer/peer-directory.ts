/** The KMEs this one speaks to. */
import type { KmeId } from '../kernel/identifiers.ts'
import type { MtlsPeer } from './mtls-peer.ts'
import type { FloodingPartner, PeerDirectory, RelayPartner } from './peer.ts'
import type { PeerTls } from './session-client.ts'

export interface WatchedPeers extends PeerDirectory, AsyncDisposable {
  /** Everybody this KME exchanges topology with. */
  partners(): readonly FloodingPartner[]
  relayPartner(kmeId: KmeId): RelayPartner | undefined
  watch(signal: AbortSignal): Promise<void>
  updateTls(tls: PeerTls): void
}

export const createPeerDirectory = (peers: readonly MtlsPeer[]): WatchedPeers => {
  const byId = new Map<KmeId, MtlsPeer>(peers.map((peer) => [peer.kmeId, peer]))
  return {
    named: (kmeId) => byId.get(kmeId),
    partners: () => peers,
    relayPartner: (kmeId) => byId.get(kmeId),
    statuses: () => peers.map((peer) => peer.status()),
    watch: async (signal) => {
      await Promise.all(peers.map((peer) => peer.watch(signal)))
    },
    updateTls: (tls) => peers.forEach((peer) => peer.updateTls(tls)),
    [Symbol.asyncDispose]: async () => {
      await Promise.all(peers.map((peer) => peer.close()))
    },
  }
}
