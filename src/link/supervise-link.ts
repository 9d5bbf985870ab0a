/** Runs one link: pulls blocks from its driver, stores them, has them agreed with the other end, and tells operators how
 *  it is. A full pool stops the pulling, and with it the device; a store that is away makes the driver start over, so
 *  that the device sends again what was not stored. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import type { KeyStore } from '../key-store/key-store.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import { createBlockAgreement, type BlockAgreement } from './agree-block.ts'
import { blockIdOf } from './block-id.ts'
import type { DriverEvent, KeyBlock, LinkDriver, LinkState, LinkStatus } from './link.ts'

export interface SuperviseLinkParts {
  readonly kmeId: KmeId
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly driverName: string
  readonly driver: LinkDriver
  readonly store: KeyStore
  readonly pool: KeyPool
  readonly peers: PeerDirectory
  readonly unitSizeBits: number
  readonly maxStoredKeys: number
  /** Blocks with a higher quantum bit error rate are never stored. */
  readonly qberMax: number
  readonly clock: Clock
  readonly log: Logger
}

export interface SupervisedLink {
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly agreement: BlockAgreement
  status(): LinkStatus
  /** Runs until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

const RESTART_MS = 1000
const ROOM_INTERVAL_MS = 200
const RATE_WINDOW_MS = 60_000

export const superviseLink = (parts: SuperviseLinkParts): SupervisedLink => {
  const { kmeId, linkId, peerKmeId, store, pool, clock, log } = parts
  let state: LinkState = 'starting'
  let reason: string | undefined = 'connecting to the device'
  let qber: number | undefined
  let blocksAgreed = 0
  let blocksRejected = 0
  let newestAgreedMs: number | undefined
  /** Units stored but not agreed yet; they will need room too. */
  let unitsPending = 0
  let unitsOfLastBlock = 0
  const agreedBits: { atMs: number; bits: number }[] = []

  const agreement = createBlockAgreement({
    ...parts,
    onAgreed: (units) => {
      const count = units.mine.units.length + units.theirs
      unitsPending = Math.max(0, unitsPending - count)
      blocksAgreed += 1
      newestAgreedMs = clock.monotonicMs()
      agreedBits.push({ atMs: newestAgreedMs, bits: count * parts.unitSizeBits })
    },
    onDiscarded: () => {
      unitsPending = Math.max(0, unitsPending - unitsOfLastBlock)
      blocksRejected += 1
    },
  })

  const report = (event: DriverEvent): void => {
    if (event.kind === 'rejected') {
      blocksRejected += 1
      log.warn({ linkId, reason: event.reason }, 'the device sent something unusable')
      return
    }
    const next: LinkState = event.kind === 'connected' ? 'up' : 'down'
    reason = event.kind === 'connected' ? undefined : event.reason
    if (next !== state) log.info({ linkId, state: next, reason }, 'link')
    state = next
  }

  const waitForRoom = async (signal: AbortSignal): Promise<void> => {
    for (;;) {
      const level = await pool.level(peerKmeId)
      if (level.mine + level.theirs + unitsPending + unitsOfLastBlock <= parts.maxStoredKeys || signal.aborted) return
      await clock.sleep(ROOM_INTERVAL_MS, signal)
    }
  }

  /** Drops a block for good: the device need not send it again, and nothing of it is stored. */
  const drop = (block: KeyBlock, why: string): void => {
    block.key.wipe()
    block.acknowledge()
    report({ kind: 'rejected', reason: why })
  }

  const ingest = async (block: KeyBlock): Promise<void> => {
    qber = block.qber
    if (block.qber !== undefined && block.qber > parts.qberMax) {
      return drop(
        block,
        `the error rate of a block is ${block.qber}, over the limit of ${parts.qberMax}: somebody may be listening`,
      )
    }
    const units = Math.max(0, Math.floor((block.key.lengthBytes * 8 - 256) / parts.unitSizeBits))
    if (units === 0) return drop(block, `a block of ${block.key.lengthBytes} bytes is too short`)
    unitsOfLastBlock = units
    const outcome = await store.deposit({
      blockId: blockIdOf(linkId, block.deviceBlock),
      linkId,
      deviceBlock: block.deviceBlock,
      peerKmeId,
      // Each end issues every other unit, so the two never race for one.
      issuedHere: kmeId < peerKmeId ? 'even' : 'odd',
      key: block.key,
    })
    // Only what is stored durably is acknowledged: until then the device keeps it.
    block.acknowledge()
    if (outcome === 'stored') unitsPending += units
    // A block sent again may be one whose storing was not answered.
    agreement.wake()
  }

  const pull = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      try {
        await waitForRoom(signal)
        for await (const block of parts.driver.blocks(signal, report)) {
          await ingest(block)
          await waitForRoom(signal)
        }
      } catch (error) {
        state = 'down'
        reason = (error as Error).message
        log.error({ linkId, error }, 'the link failed; starting it again')
      }
      await clock.sleep(RESTART_MS, signal)
    }
  }

  const keyRateBps = (): number => {
    const since = clock.monotonicMs() - RATE_WINDOW_MS
    while ((agreedBits[0]?.atMs ?? Infinity) < since) agreedBits.shift()
    return agreedBits.reduce((sum, { bits }) => sum + bits, 0) / (RATE_WINDOW_MS / 1000)
  }

  return {
    linkId,
    peerKmeId,
    agreement,
    status: () => ({
      linkId,
      peerKmeId,
      driver: parts.driverName,
      state,
      reason,
      qber,
      keyRateBps: keyRateBps(),
      blocksAgreed,
      blocksRejected,
      newestBlockAgeMs: newestAgreedMs === undefined ? undefined : clock.monotonicMs() - newestAgreedMs,
    }),
    run: async (signal) => {
      await Promise.all([pull(signal), agreement.run(signal)])
      state = 'stopped'
      reason = undefined
    },
  }
}
