/** The fallback source: keys for a peer whose pool is exhausted, made from the system's random source and sent to it over the
 *  KME-to-KME channel. Off unless the operators of both KMEs want it, because such keys are only as secret as that channel: no
 *  physics protects them, only the key exchange of TLS.
 *  Holds: units of this source are in no pool and never beside QKD units in one request; each is issued by the KME that made it;
 *  both ends know them by the link ID of their block. Everything else of their life is that of all other units. */
import type { Alarms } from '../alarms/alarms.ts'
import type { AuditLog } from '../audit/audit.ts'
import type { Clock } from '../kernel/clock.ts'
import type { BlockId, KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { NOBODY, type KeyPool } from '../key-pool/key-pool.ts'
import { fallbackLinkId, type KeyStore, type UnitRun } from '../key-store/key-store.ts'
import type { FallbackAnswer, PeerDirectory } from '../peer/peer.ts'
import type { Processes } from '../processes/processes.ts'
import { createBlockAgreement, type BlockAgreement } from './agree-block.ts'
import { blockIdOf } from './block-id.ts'

export interface FallbackSourceParts {
  readonly kmeId: KmeId
  readonly store: KeyStore
  readonly peers: PeerDirectory
  readonly processes: Pick<Processes, 'alive' | 'hold'>
  readonly unitSizeBits: number
  /** The peers that may be given keys of this source, and how many a second at most. */
  readonly allowed: readonly { readonly peer: KmeId; readonly maxKeysPerS: number }[]
  /** Units of this source that this process may issue, apart from those of the links. */
  readonly line: KeyPool
  readonly alarms: Alarms
  readonly onDifferent: (ends: { readonly linkId: LinkId; readonly peerKmeId: KmeId }) => void
  readonly audit: AuditLog
  readonly random: Random
  readonly clock: Clock
  readonly log: Logger
}

export interface FallbackSource {
  /** Units for a peer whose pool is exhausted; makes some where there are too few.
   *  @returns undefined where the source is off, or gives none now. */
  take(peerKmeId: KmeId, unitCount: number): Promise<readonly UnitRun[] | undefined>
  /** A peer sends a block it made. @param name as the peer calls it. */
  accept(peerKmeId: KmeId, name: string, key: SecretBytes): Promise<FallbackAnswer>
  /** The agreement on the blocks shared with a peer. */
  agreement(linkId: LinkId, peerKmeId: KmeId): BlockAgreement | undefined
  /** Finishes what a process did not live to finish, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

interface Channel {
  readonly peerKmeId: KmeId
  readonly linkId: LinkId
  readonly agreement: BlockAgreement
  readonly maxKeysPerS: number
  /** Keys this process may give out and take in. */
  readonly given: Budget
  readonly accepted: Budget
  making: Promise<boolean> | undefined
  /** Looking for units that were left over; undefined before it began. */
  adopting: Promise<void> | undefined
  /** Until then the peer is not asked. */
  pausedUntilMs: number
  notedMs: number
}

const TAG_KEY_BYTES = 32
/** A block holds at least so many units, so that not each request costs one, */
const UNITS_PER_BLOCK_MIN = 128
/** and so many at most. */
const UNITS_PER_BLOCK_MAX = 4096
/** Of a block on its way: the bytes of the largest block with units of the default size, of a smaller one with others. */
export const FALLBACK_BLOCK_BYTES_MAX = 256 * 1024
const ATTEMPTS = 16
/** How long a peer that refuses, or could not take a block just now, is not asked again. */
const REFUSED_PAUSE_MS = 10_000
const FAILED_PAUSE_MS = 1000
const NOTE_INTERVAL_MS = 1000
/** A peer may have sent what it is allowed to in so long, and not used it. */
const UNUSED_MAX_S = 60
const TIDY_INTERVAL_MS = 10_000

/** So many a second on average. One that is larger than that is let through and paid off by waiting. */
interface Budget {
  spend(amount: number): boolean
  refund(amount: number): void
}

const createBudget = (perS: () => number, clock: Clock): Budget => {
  let left = perS()
  let filledMs = clock.monotonicMs()
  return {
    spend: (amount) => {
      const nowMs = clock.monotonicMs()
      left = Math.min(perS(), left + (perS() * (nowMs - filledMs)) / 1000)
      filledMs = nowMs
      if (left <= 0) return false
      left -= amount
      return true
    },
    refund: (amount) => {
      left += amount
    },
  }
}

export const createFallbackSource = (parts: FallbackSourceParts): FallbackSource => {
  const { kmeId, store, peers, line, alarms, clock, log } = parts
  const unitBytes = parts.unitSizeBits / 8
  const unitsMax = Math.max(1, Math.min(UNITS_PER_BLOCK_MAX, Math.floor((FALLBACK_BLOCK_BYTES_MAX - TAG_KEY_BYTES) / unitBytes)))
  /** Names a block after the KME that made it. */
  const blockName = (maker: KmeId, name: string): string => `${maker}/${name}`

  const channels = parts.allowed.map(({ peer: peerKmeId, maxKeysPerS }): Channel => {
    const linkId = fallbackLinkId(kmeId, peerKmeId)
    const perS = (): number => maxKeysPerS / Math.max(1, parts.processes.alive().length)
    const agreement = createBlockAgreement({
      ...parts,
      linkId,
      peerKmeId,
      pool: line,
      proposes: ({ deviceBlock }) => deviceBlock.startsWith(blockName(kmeId, '')),
      onAgreed: () => undefined,
      onDiscarded: () => undefined,
      onDifferent: () => parts.onDifferent({ linkId, peerKmeId }),
    })
    return {
      peerKmeId,
      linkId,
      agreement,
      maxKeysPerS,
      given: createBudget(perS, clock),
      accepted: createBudget(perS, clock),
      making: undefined,
      adopting: undefined,
      pausedUntilMs: -Infinity,
      notedMs: -Infinity,
    }
  })
  const channelTo = (peerKmeId: KmeId): Channel | undefined => channels.find((channel) => channel.peerKmeId === peerKmeId)

  /** The alarms slice clears both some minutes later; while it lasts they are raised again. */
  const noteUse = (channel: Channel): void => {
    const nowMs = clock.monotonicMs()
    if (nowMs - channel.notedMs < NOTE_INTERVAL_MS) return
    channel.notedMs = nowMs
    const { peerKmeId } = channel
    alarms.raise(
      `pool.fallback:${peerKmeId}`,
      'critical',
      `keys shared with ${peerKmeId} come from the fallback source: they are secret by computation only, not by QKD`,
      { peerKmeId },
    )
  }
  const noteRefusal = ({ peerKmeId }: Channel): void =>
    alarms.raise(
      `pool.fallback-refused:${peerKmeId}`,
      'warning',
      `${peerKmeId} refuses keys of the fallback source: set pools.fallback there too, or take it away here`,
      { peerKmeId },
    )
  const pause = (channel: Channel, durationMs: number): void => {
    channel.pausedUntilMs = clock.monotonicMs() + durationMs
  }

  const make = async (channel: Channel, unitCount: number): Promise<boolean> => {
    const { peerKmeId, linkId } = channel
    const peer = peers.named(peerKmeId)
    if (peer?.available() !== true) return false
    const units = Math.min(unitsMax, Math.max(UNITS_PER_BLOCK_MIN, unitCount))
    const name = parts.random.uuid()
    const deviceBlock = blockName(kmeId, name)
    const blockId = blockIdOf(linkId, deviceBlock)
    const bytes = parts.random.fill(Buffer.allocUnsafeSlow(TAG_KEY_BYTES + units * unitBytes))
    // Of its own, because each of the two is wiped by whoever gets it.
    const sent = Buffer.allocUnsafeSlow(bytes.length)
    bytes.copy(sent)
    try {
      // Stored first: what the other end has this end has too.
      await store.deposit({ blockId, linkId, deviceBlock, peerKmeId, issuedHere: 'all', key: SecretBytes.adopt(bytes) })
      const answer = await peer.sendFallbackBlock(name, sent)
      if (answer === 'stored') {
        alarms.clear(`pool.fallback-refused:${peerKmeId}`)
        return await channel.agreement.propose(blockId)
      }
      await store.discard(blockId, `the peer answered: ${answer}`)
      if (answer === 'refused') noteRefusal(channel)
      pause(channel, answer === 'refused' ? REFUSED_PAUSE_MS : FAILED_PAUSE_MS)
      return false
    } catch (error) {
      pause(channel, FAILED_PAUSE_MS)
      // If it is stored at both ends, the agreement finds out later.
      channel.agreement.wake()
      log.warn({ peer: peerKmeId, error }, 'no keys could be had from the fallback source')
      return false
    } finally {
      sent.fill(0)
    }
  }

  /** Takes over units that processes left behind. They look the same as those that another process is about to use, which claims
   *  them first, or this one does: so it happens once, when this process is alone or takes over from another. */
  const adopt = async (channel: Channel): Promise<void> => {
    const { peerKmeId } = channel
    try {
      if ((await line.level(peerKmeId)).mine > 0) return
      for (const units of await store.freeUnits(peerKmeId, UNITS_PER_BLOCK_MAX, kmeId, 'fallback')) await line.offer(units)
    } catch (error) {
      log.warn({ peer: peerKmeId, error }, 'units of the fallback source that were left over could not be read')
    }
  }

  const takeOrMake = async (channel: Channel, unitCount: number): Promise<readonly UnitRun[] | undefined> => {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const taken = await line.take(channel.peerKmeId, NOBODY, unitCount)
      if ('units' in taken) return taken.units
      if (attempt === 1) {
        if (parts.processes.alive().length === 1) channel.adopting ??= adopt(channel)
        await channel.adopting
        continue
      }
      // Several requests may share one block; whoever finds it used up makes another.
      channel.making ??= make(channel, taken.missing).finally(() => (channel.making = undefined))
      if (!(await channel.making)) return undefined
    }
    return undefined
  }

  /** Whether the peer sent far more than it uses: what nobody uses would stay for ever. */
  const isFull = async ({ linkId, maxKeysPerS }: Channel): Promise<boolean> =>
    (await store.unusedUnits(linkId)) > Math.max(2 * UNITS_PER_BLOCK_MAX, UNUSED_MAX_S * maxKeysPerS)

  return {
    take: async (peerKmeId, unitCount) => {
      const channel = channelTo(peerKmeId)
      if (channel === undefined || clock.monotonicMs() < channel.pausedUntilMs) return undefined
      if (!channel.given.spend(unitCount)) return undefined
      const units = await takeOrMake(channel, unitCount)
      if (units === undefined) channel.given.refund(unitCount)
      else noteUse(channel)
      return units
    },
    accept: async (peerKmeId, name, key) => {
      using _key = key
      const channel = channelTo(peerKmeId)
      const units = (key.lengthBytes - TAG_KEY_BYTES) / unitBytes
      if (channel === undefined || !Number.isInteger(units) || units < 1 || units > unitsMax) {
        const reason = channel === undefined ? 'the fallback source is off here' : 'malformed'
        await parts.audit.append({
          event: 'peer.refused',
          actor: `kme:${peerKmeId}`,
          outcome: 'refused',
          subject: { call: 'fallback-blocks', reason },
        })
        return 'refused'
      }
      if ((await isFull(channel)) || !channel.accepted.spend(units)) return 'too-many'
      const deviceBlock = blockName(peerKmeId, name)
      const blockId: BlockId = blockIdOf(channel.linkId, deviceBlock)
      await store.deposit({ blockId, linkId: channel.linkId, deviceBlock, peerKmeId, issuedHere: 'none', key })
      noteUse(channel)
      return 'stored'
    },
    agreement: (linkId, peerKmeId) => {
      const channel = channelTo(peerKmeId)
      return channel?.linkId === linkId ? channel.agreement : undefined
    },
    run: async (signal) => {
      const tidy = async (channel: Channel, held: AbortSignal): Promise<void> => {
        const wakeNowAndThen = async (): Promise<void> => {
          while (!held.aborted) {
            await clock.sleep(TIDY_INTERVAL_MS, held)
            channel.agreement.wake()
          }
        }
        if (channel.adopting === undefined || parts.processes.alive().length > 1) channel.adopting = adopt(channel)
        await channel.adopting
        await Promise.all([channel.agreement.run(held), wakeNowAndThen()])
      }
      await Promise.all(
        channels.map((channel) => parts.processes.hold(`link:${channel.linkId}`, (held) => tidy(channel, held), signal)),
      )
    },
  }
}
