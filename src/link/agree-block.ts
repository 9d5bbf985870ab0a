/** Both KMEs of a link prove to each other that they hold the same block before any key of it may be used (I32).
 *  The KME with the smaller ID proposes; the other compares and answers with a proof of its own. A block the other end
 *  never gets, or got with other bytes, is destroyed at both ends. */
import { timingSafeEqual } from 'node:crypto'
import type { Clock } from '../kernel/clock.ts'
import type { BlockId, KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import type { AvailableUnits, KeyStore, PendingBlock } from '../key-store/key-store.ts'
import type { BlockAnswer, BlockProposal, PeerDirectory } from '../peer/peer.ts'

export interface AgreeBlockParts {
  readonly kmeId: KmeId
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly store: KeyStore
  /** Where released units go. */
  readonly pool: Pick<KeyPool, 'offer'>
  /** Whether this end proposes a block; if left out the KME with the smaller ID proposes all of them. */
  readonly proposes?: (block: PendingBlock) => boolean
  /** For so long the other end must be there and not propose a block before this one gives the block up. */
  readonly unproposedDeadlineMs?: number
  readonly peers: PeerDirectory
  readonly clock: Clock
  readonly log: Logger
  readonly onAgreed: (units: AvailableUnits) => void
  readonly onDiscarded: (reason: string) => void
  /** Before `onDiscarded`: the two ends hold different bytes. */
  readonly onDifferent: () => void
}

export interface BlockAgreement {
  /** Something new may be pending. */
  wake(): void
  /** Proposes a block of this end now. Whether it needs no more proposals. */
  propose(blockId: BlockId): Promise<boolean>
  /** Proposes blocks again and again, and tidies up those that the other end should propose, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
  /** The other end proposes a block. */
  answer(proposal: BlockProposal): Promise<BlockAnswer>
}

const INTERVAL_MS = 500
/** How long the other end may say it does not know a block before the proposer gives it up. */
const UNKNOWN_DEADLINE_MS = 30_000
/** A device may lag that far behind the one at the other end. */
const UNPROPOSED_DEADLINE_MS = 600_000
const PROPOSALS_AT_ONCE = 16

const equal = (one: Buffer, other: Buffer): boolean => one.length === other.length && timingSafeEqual(one, other)

const keepOnly = (times: Map<BlockId, number>, blocks: readonly PendingBlock[]): void => {
  const pending = new Set(blocks.map(({ blockId }) => blockId))
  for (const blockId of times.keys()) if (!pending.has(blockId)) times.delete(blockId)
}

export const createBlockAgreement = (parts: AgreeBlockParts): BlockAgreement => {
  const { kmeId, linkId, peerKmeId, store, pool, clock, log } = parts
  const { proposes = () => kmeId < peerKmeId, unproposedDeadlineMs = UNPROPOSED_DEADLINE_MS } = parts
  const unknownSinceMs = new Map<BlockId, number>()
  /** How long the proposer was there while a block waited for its proposal. */
  const unproposedMs = new Map<BlockId, number>()
  /** When this end last looked while the proposer was there. */
  let lookedMs: number | undefined
  let pending = false
  let wakeUp = new AbortController()

  const release = async (blockId: BlockId): Promise<void> => {
    const units = await store.release(blockId)
    if (units === undefined) return
    await pool.offer(units)
    parts.onAgreed(units)
  }
  const discard = async (blockId: BlockId, reason: string): Promise<void> => {
    unknownSinceMs.delete(blockId)
    if (!(await store.discard(blockId, reason))) return
    log.warn({ linkId, blockId, reason }, 'a block was discarded')
    parts.onDiscarded(reason)
  }

  const discardDifferent = (blockId: BlockId): Promise<void> => {
    parts.onDifferent()
    return discard(blockId, 'the two ends hold different bytes')
  }

  /** @returns true when the block needs no more proposals. */
  const propose = async (blockId: BlockId): Promise<boolean> => {
    const peer = parts.peers.named(peerKmeId)
    if (peer?.available() !== true) return false
    const tags = await store.blockTags(blockId, parts)
    if (tags === undefined) {
      await discard(blockId, 'it could not be opened')
      return true
    }
    const answer = await peer.confirmBlock({ linkId, blockId, tag: tags.own })
    if (answer.outcome === 'unknown') {
      const since = unknownSinceMs.get(blockId) ?? clock.monotonicMs()
      unknownSinceMs.set(blockId, since)
      if (clock.monotonicMs() - since < UNKNOWN_DEADLINE_MS) return false
      await discard(blockId, 'the other end never got it')
      return true
    }
    unknownSinceMs.delete(blockId)
    if (answer.outcome === 'agreed' && equal(answer.tag, tags.peers)) await release(blockId)
    else await discardDifferent(blockId)
    return true
  }

  /** The answering end: gives up blocks the proposer, though there, never proposes. It knows of no such block. */
  const tidyUp = async (blocks: readonly PendingBlock[]): Promise<void> => {
    if (parts.peers.named(peerKmeId)?.available() !== true) return
    const nowMs = clock.monotonicMs()
    // What is longer was not all watched: nobody looked, or the proposer was away.
    const elapsedMs = lookedMs === undefined ? 0 : Math.min(INTERVAL_MS, nowMs - lookedMs)
    lookedMs = nowMs
    keepOnly(unproposedMs, blocks)
    for (const { blockId } of blocks) {
      const ageMs = (unproposedMs.get(blockId) ?? 0) + elapsedMs
      unproposedMs.set(blockId, ageMs)
      if (ageMs > unproposedDeadlineMs) await discard(blockId, 'the other end never proposed it')
    }
  }

  const proposeAll = async (blocks: readonly PendingBlock[]): Promise<boolean> => {
    let allDone = true
    for (let at = 0; at < blocks.length; at += PROPOSALS_AT_ONCE) {
      const outcomes = await Promise.allSettled(blocks.slice(at, at + PROPOSALS_AT_ONCE).map((block) => propose(block.blockId)))
      if (outcomes.some((outcome) => outcome.status === 'rejected' || !outcome.value)) allDone = false
    }
    return allDone
  }

  return {
    wake: () => {
      pending = true
      wakeUp.abort()
    },
    propose,
    run: async (signal) => {
      // Another process may have left something.
      pending = true
      while (!signal.aborted) {
        wakeUp = new AbortController()
        try {
          if (pending) {
            pending = false
            const blocks = await store.pendingBlocks(linkId)
            // Others discard blocks too.
            keepOnly(unknownSinceMs, blocks)
            const others = blocks.filter((block) => !proposes(block))
            if (!(await proposeAll(blocks.filter(proposes)))) pending = true
            await tidyUp(others)
            if (others.length > 0) pending = true
          }
        } catch (error) {
          pending = true
          log.warn({ linkId, error }, 'block agreement failed; trying again')
        }
        // A new block ends the pause at once; blocks that must wait are asked about again at the interval.
        if (!pending || !wakeUp.signal.aborted) await clock.sleep(INTERVAL_MS, AbortSignal.any([signal, wakeUp.signal]))
      }
    },
    answer: async ({ blockId, tag }) => {
      // A peer may speak of the blocks of its own links only.
      const tags = await store.blockTags(blockId, parts)
      if (tags === undefined) return { outcome: 'unknown' }
      if (!equal(tag, tags.peers)) {
        await discardDifferent(blockId)
        return { outcome: 'different' }
      }
      await release(blockId)
      return { outcome: 'agreed', tag: tags.own }
    },
  }
}
