/** Joins the parts of the relay: sources of blocks for KMEs without a link, and what answers others. */
import type { Alarms } from '../alarms/alarms.ts'
import type { AuditLog } from '../audit/audit.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { KeyPool, PoolCeilings, PoolMarks } from '../key-pool/key-pool.ts'
import {
  relayLinkId,
  type AvailableUnits,
  type KeyStore,
  type PadStore,
  type PendingBlock,
  type RelayPolicy,
  type ShareStore,
} from '../key-store/key-store.ts'
import { blockIdOf, type BlockAgreement } from '../link/link.ts'
import type { RelayPartner } from '../peer/peer.ts'
import type { Processes } from '../processes/processes.ts'
import type { RouteFinder } from '../topology/topology.ts'
import { createParcelAcceptor, type BlockReceiver, type ParcelAcceptor } from './accept-parcel.ts'
import { wrapAtDestination } from './end-to-end.ts'
import { createLinkPads } from './link-pads.ts'
import { blockBytesOf, createBlockRelay, deviceBlockOf, nodesBetween, shareBlockOf, unitsPerBlockMax } from './relay-block.ts'
import { createRelayOnDemand, type RelayOnDemand } from './relay-on-demand.ts'
import { createRelaySource, type RelaySource } from './relay-source.ts'
import type { Relay, RelaySettings } from './relay.ts'
import { createParcelSender } from './send-parcel.ts'

export interface RelayParts {
  readonly kmeId: KmeId
  readonly settings: RelaySettings
  readonly policyOf: (peerKmeId: KmeId) => RelayPolicy
  readonly routes: RouteFinder
  /** KMEs at the other end of a QKD link. */
  readonly neighbours: readonly KmeId[]
  /** Peers that no link leads to. */
  readonly distantPeers: readonly KmeId[]
  readonly partner: (kmeId: KmeId) => RelayPartner | undefined
  readonly agreementWith: (parts: {
    readonly linkId: LinkId
    readonly peerKmeId: KmeId
    readonly proposes: (block: PendingBlock) => boolean
    readonly unproposedDeadlineMs: number
    /** Where released units go. */
    readonly pool: Pick<KeyPool, 'offer'>
    readonly onDifferent: () => void
  }) => BlockAgreement
  readonly store: KeyStore & PadStore & ShareStore
  readonly pool: KeyPool
  readonly ceilings: PoolCeilings
  readonly marksOf: (peerKmeId: KmeId) => PoolMarks
  readonly processes: Pick<Processes, 'hold'>
  readonly unitSizeBits: number
  readonly audit: Pick<AuditLog, 'append'>
  readonly alarms: Alarms
  readonly random: Random
  readonly clock: Clock
  readonly log: Logger
}

export interface RunningRelay extends Relay {
  readonly acceptor: ParcelAcceptor
}

interface Channel {
  readonly peerKmeId: KmeId
  readonly linkId: LinkId
  readonly agreement: BlockAgreement
  readonly source: RelaySource
  readonly onDemand: RelayOnDemand
}

const TIDY_INTERVAL_MS = 10_000
/** An origin that is there proposes a block as soon as it is answered, and gives it up 30 s later: one it does not propose has failed. */
const UNPROPOSED_DEADLINE_MS = 60_000

export const createRelay = (parts: RelayParts): RunningRelay => {
  const { kmeId, store, clock, log } = parts
  const pads = createLinkPads({ ...parts, floorKeys: parts.settings.floorKeys })
  const sender = createParcelSender({ ...parts, pads })
  const channels = parts.distantPeers.map((peerKmeId): Channel => {
    const linkId = relayLinkId(kmeId, peerKmeId)
    const proposes = ({ deviceBlock }: PendingBlock): boolean => deviceBlock.startsWith(deviceBlockOf(kmeId, ''))
    const agreement = parts.agreementWith({
      linkId,
      peerKmeId,
      proposes,
      unproposedDeadlineMs: UNPROPOSED_DEADLINE_MS,
      pool: { offer: (units: AvailableUnits) => onDemand.offer(units) },
      onDifferent: () =>
        parts.alarms.raise(
          `link.blocks-differ:${linkId}`,
          'critical',
          `a block relayed between this KME and ${peerKmeId} arrived with other bytes: a trusted node changed it, or that KME lies`,
          { linkId, peerKmeId },
        ),
    })
    const marks = parts.marksOf(peerKmeId)
    const policy = parts.policyOf(peerKmeId)
    const relayBlock = createBlockRelay({ ...parts, peerKmeId, linkId, agreement, pads, sender })
    const source = createRelaySource({ ...parts, peerKmeId, marks, policy, relayBlock })
    const onDemand = createRelayOnDemand({ ...parts, peerKmeId, policy, relayBlock })
    return { peerKmeId, linkId, agreement, source, onDemand }
  })
  const channelTo = (peerKmeId: KmeId): Channel | undefined => channels.find((channel) => channel.peerKmeId === peerKmeId)

  const receiver: BlockReceiver = {
    judge: async (origin, blockBytes) => {
      const units = (8 * (blockBytes - blockBytesOf(0, parts.unitSizeBits))) / parts.unitSizeBits
      if (!Number.isInteger(units) || units < 1 || units > unitsPerBlockMax(parts.unitSizeBits)) return 'malformed'
      // What nobody uses would stay for ever.
      const unused = await store.unusedUnits(relayLinkId(kmeId, origin))
      return unused + units > 2 * parts.marksOf(origin).highWatermark ? 'too-many' : 'ready'
    },
    receive: async (parcel, key) => {
      using _key = key
      const { block, share, wrap } = parcel
      const origin = parcel.path[0] as KmeId
      const linkId = relayLinkId(kmeId, origin)
      const reply = wrap === undefined ? undefined : wrapAtDestination(key, parcel, wrap)
      if (wrap !== undefined && reply === undefined) return 'failed'
      const named = (deviceBlock: string) => {
        const blockId = blockIdOf(linkId, deviceBlock)
        return { blockId, linkId, deviceBlock, peerKmeId: origin, issuedHere: 'none' } as const
      }
      const whole = named(deviceBlockOf(origin, block))
      const shareOf = (index: number) => named(shareBlockOf(origin, block, { index, count: share.count }))
      const relayed = { ways: [nodesBetween(parcel.path)], endToEnd: wrap !== undefined }
      const stored = await store.deposit({ ...(share.count === 1 ? whole : shareOf(share.index)), relayed, key })
      if (stored === 'duplicate') return 'failed'
      if (share.count > 1) {
        const shares = Array.from({ length: share.count }, (_, index) => shareOf(index).blockId)
        await store.joinShares(shares, whole)
      }
      return { reply }
    },
  }

  const tidy = async ({ agreement }: Channel, held: AbortSignal): Promise<void> => {
    const wakeNowAndThen = async (): Promise<void> => {
      while (!held.aborted) {
        await clock.sleep(TIDY_INTERVAL_MS, held)
        agreement.wake()
      }
    }
    await Promise.all([agreement.run(held), wakeNowAndThen()])
  }
  const tidyPads = async (held: AbortSignal): Promise<void> => {
    while (!held.aborted) {
      try {
        const givenUp = await store.tidyPads()
        if (givenUp > 0) log.info({ givenUp }, 'relays that no process finished were given up')
      } catch (error) {
        log.warn({ error }, 'relays that are over could not be tidied up; trying again')
      }
      await clock.sleep(TIDY_INTERVAL_MS, held)
    }
  }

  return {
    sources: channels.map(({ source }) => source),
    fetch: async (peerKmeId, unitCount) => (await channelTo(peerKmeId)?.source.fetch(unitCount)) ?? false,
    take: async (peerKmeId, unitCount, policy) => (await channelTo(peerKmeId)?.onDemand.take(unitCount, policy)) ?? 'not-relayed',
    agreement: (linkId, peerKmeId) => {
      const channel = channelTo(peerKmeId)
      return channel?.linkId === linkId ? channel.agreement : undefined
    },
    acceptor: createParcelAcceptor({
      ...parts,
      pads,
      sender,
      receiver,
      maxHops: parts.settings.maxHops,
      neighbours: new Set(parts.neighbours),
      origins: new Set(parts.distantPeers),
    }),
    run: async (signal) => {
      await Promise.all([
        parts.processes.hold('relay', tidyPads, signal),
        ...channels.map((channel) => parts.processes.hold(`link:${channel.linkId}`, (held) => tidy(channel, held), signal)),
      ])
    },
  }
}
