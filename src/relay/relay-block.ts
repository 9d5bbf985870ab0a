/** The origin's side of one relay: makes a block for a KME without a link and has it carried there.
 *  Holds: the block is the system's random source's and no key of a link; it can be used only after both ends proved to each other, without
 *  any node in between, that they hold the same. Otherwise both destroy it. */
import { CallFailed } from '../kernel/call-failed.ts'
import type { Clock } from '../kernel/clock.ts'
import type { BlockId, KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import type { KeyStore, RelayPolicy } from '../key-store/key-store.ts'
import { blockIdOf, type BlockAgreement } from '../link/link.ts'
import type { RelayPartner, RelayShare } from '../peer/peer.ts'
import { RELAY_BLOCK_BYTES_MAX } from '../peer/wire.ts'
import type { RouteFinder } from '../topology/topology.ts'
import { createWrapping } from './end-to-end.ts'
import type { LinkPads } from './link-pads.ts'
import type { RelaySettings } from './relay.ts'
import type { Journey, ParcelSender, Sent } from './send-parcel.ts'

export interface RelayBlockParts {
  readonly kmeId: KmeId
  readonly peerKmeId: KmeId
  readonly linkId: LinkId
  readonly agreement: BlockAgreement
  readonly settings: RelaySettings
  readonly routes: RouteFinder
  readonly store: Pick<KeyStore, 'deposit' | 'discard'>
  readonly pads: LinkPads
  readonly sender: ParcelSender
  readonly partner: (kmeId: KmeId) => RelayPartner | undefined
  readonly unitSizeBits: number
  readonly random: Random
  readonly clock: Clock
}

/** Relays a block of so many units; they come out of the agreement.
 *  @param onNamed called before the other KME may know of the block.
 *  @throws NoWay. @throws Error when the block did not get there, or not for certain, saying what was in the way. */
export type RelayBlock = (units: number, policy: RelayPolicy, onNamed?: (blockId: BlockId) => void) => Promise<void>

/** The network has no way that meets the policy. */
export class NoWay extends Error {}

const TAG_KEY_BYTES = 32
const UNITS_PER_BLOCK_MAX = 4096
/** Ways that are tried one after the other for a block. */
const ROUTES_MAX = 4
/** Below it a KME two hops away has no time to answer. */
const CHECK_LEAST_MS = 500

/** Of a block with so many units. */
export const blockBytesOf = (units: number, unitSizeBits: number): number => TAG_KEY_BYTES + (units * unitSizeBits) / 8

/** Most units of a block: as many as a parcel carries. */
export const unitsPerBlockMax = (unitSizeBits: number): number =>
  Math.min(UNITS_PER_BLOCK_MAX, Math.floor((8 * (RELAY_BLOCK_BYTES_MAX - TAG_KEY_BYTES)) / unitSizeBits))

/** The trusted nodes of a path. */
export const nodesBetween = (path: readonly KmeId[]): readonly KmeId[] => path.slice(1, -1)

/** The name of a block, after the KME that made it. */
export const deviceBlockOf = (origin: KmeId, block: string): string => `${origin}/${block}`
/** Of one share of a block that is split. The origin has no such block, so nobody ever proposes it. */
export const shareBlockOf = (origin: KmeId, block: string, { index, count }: RelayShare): string =>
  `${deviceBlockOf(origin, block)} share ${index} of ${count}`

export const createBlockRelay = (parts: RelayBlockParts): RelayBlock => {
  const { kmeId, peerKmeId, linkId, agreement, settings, store, clock } = parts

  /** Whether every KME on the way could take the block now; else why not. */
  const check = async (path: readonly KmeId[], sizeBytes: number, budgetMs: number): Promise<string | undefined> => {
    const next = path[1] as KmeId
    const partner = parts.partner(next)
    if (partner?.available() !== true) return `${next} does not answer`
    if (!(await parts.pads.haveRoom(next, sizeBytes))) return `too few keys are shared with ${next}`
    try {
      const answer = await partner.checkRelay({ path, hop: 1, budgetMs, sizeBytes })
      return answer.outcome === 'ready' ? undefined : `${answer.at} says: ${answer.reason}`
    } catch (error) {
      if (error instanceof CallFailed) return `${next} does not answer`
      throw error
    }
  }

  /** Ways for the shares of a block, all of which could take theirs now. @throws NoWay.
   *  @throws Error saying for each way what is in it. */
  const chooseWays = async (
    { paths, maxHops, avoid, only }: RelayPolicy,
    sizeBytes: number,
    untilMs: number,
  ): Promise<readonly (readonly KmeId[])[]> => {
    const request = { from: kmeId, to: peerKmeId, maxHops, avoid, ...(only !== undefined && { only }) }
    const ways = parts.routes.routes({ ...request, ...(paths > 1 && { disjointPaths: paths }) }).slice(0, ROUTES_MAX)
    if (ways.length < paths)
      throw new NoWay(
        paths > 1 ? `there are no ${paths} ways to ${peerKmeId} without a KME in common` : `no way to ${peerKmeId} is known`,
      )
    const obstacles: string[] = []
    for (const [index, path] of ways.entries()) {
      const leftMs = untilMs - clock.monotonicMs()
      // A KME that hangs leaves time for the ways after it, and for the block.
      const shareMs = Math.max(CHECK_LEAST_MS, leftMs / (ways.length - index + 1))
      const obstacle = await check(path, sizeBytes, Math.max(1, Math.floor(Math.min(leftMs, shareMs))))
      if (obstacle !== undefined) obstacles.push(obstacle)
      else if (paths === 1) return [path]
    }
    if (obstacles.length > 0) throw new Error([...new Set(obstacles)].join('; '))
    return ways
  }

  /** The relayed bytes of a block: random shares that add up to it. @param whole gets the sum. */
  const drawShares = (count: number, whole: SecretBytes): SecretBytes[] =>
    Array.from({ length: count }, () => {
      const share = parts.random.fill(Buffer.allocUnsafeSlow(whole.lengthBytes))
      whole.use((bytes) => {
        for (let i = 0; i < bytes.length; i += 1) bytes[i] = (bytes[i] as number) ^ (share[i] as number)
      })
      return SecretBytes.adopt(share)
    })

  /** Sends one share. @returns what came of it; the stream of its wrapping is added to `whole`. */
  const sendShare = async (
    journey: Omit<Journey, 'wrap'>,
    share: SecretBytes,
    { whole, isWrapped }: { readonly whole: SecretBytes; readonly isWrapped: boolean },
    untilMs: number,
  ): Promise<Sent | { readonly outcome: 'not-wrapped' }> => {
    if (!isWrapped) return parts.sender.send(journey, share, untilMs)
    const wrapping = createWrapping(journey)
    const sent = await parts.sender.send({ ...journey, wrap: wrapping.offer }, share, untilMs)
    if (sent.outcome !== 'delivered') return sent
    return sent.reply !== undefined && wrapping.apply(whole, sent.reply) ? sent : { outcome: 'not-wrapped' }
  }

  return async (units, policy, onNamed) => {
    const { endToEnd: isWrapped } = policy
    const untilMs = clock.monotonicMs() + settings.deadlineMs
    const sizeBytes = blockBytesOf(units, parts.unitSizeBits)
    const ways = await chooseWays(policy, sizeBytes, untilMs)
    const block = parts.random.uuid()
    const deviceBlock = deviceBlockOf(kmeId, block)
    const blockId = blockIdOf(linkId, deviceBlock)
    onNamed?.(blockId)
    using whole = SecretBytes.adopt(Buffer.alloc(sizeBytes))
    const shares = drawShares(ways.length, whole)
    const deposit = (): Promise<unknown> =>
      store.deposit({
        blockId,
        linkId,
        deviceBlock,
        peerKmeId,
        issuedHere: 'all',
        relayed: { ways: ways.map(nodesBetween), endToEnd: isWrapped },
        key: whole,
      })
    const sendAll = (): Promise<(Sent | { readonly outcome: 'not-wrapped' })[]> =>
      Promise.all(
        ways.map((path, index) => {
          const journey = { relayId: parts.random.uuid(), path, hop: 1, block, share: { index, count: ways.length } }
          return sendShare(journey, shares[index] as SecretBytes, { whole, isWrapped }, untilMs)
        }),
      )
    let sent: Awaited<ReturnType<typeof sendAll>>
    try {
      // Stored before it leaves, where it is known before: then a lost answer costs nothing.
      if (!isWrapped) await deposit()
      sent = await sendAll()
    } finally {
      for (const share of shares) share.wipe()
    }
    const failed = sent.find(({ outcome }) => outcome !== 'delivered')
    if (failed === undefined) {
      if (isWrapped) await deposit()
      if (await agreement.propose(blockId)) return
      agreement.wake()
      throw new Error('the block was relayed, and the other KME has yet to agree on it')
    }
    const refused = sent.find((one) => one.outcome === 'refused')
    if (refused !== undefined && refused.reason !== 'failed') {
      await store.discard(blockId, `relay refused by ${refused.at}: ${refused.reason}`)
    } else {
      // It may have arrived: the agreement finds out, or destroys it.
      agreement.wake()
    }
    if (refused !== undefined) throw new Error(`${refused.at} says: ${refused.reason}`)
    throw new Error(failed.outcome === 'not-wrapped' ? `${peerKmeId} did not wrap the block` : 'no answer in time')
  }
}
