/** Runs one link: pulls blocks from its driver, stores them, has them agreed with the other end, and tells operators how
 *  it is. One process of a KME runs a link at a time, all of them answer the other end. A full pool stops the pulling, and with it the device; a store that is away makes the driver start over, so
 *  that the device sends again what was not stored. */
import { createBackOff } from '../kernel/back-off.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { KeyPool, PoolCeilings } from '../key-pool/key-pool.ts'
import type { KeyStore } from '../key-store/key-store.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import type { Processes } from '../processes/processes.ts'
import { createBlockAgreement, type BlockAgreement } from './agree-block.ts'
import { blockIdOf } from './block-id.ts'
import type { Distillation, DriverEvent, KeyBlock, LinkDriver, LinkState, LinkStatus } from './link.ts'

export interface SuperviseLinkParts {
  readonly kmeId: KmeId
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly driverName: string
  readonly driver: LinkDriver
  readonly store: KeyStore
  readonly pool: KeyPool
  readonly peers: PeerDirectory
  /** Where all processes count what happens on the link. */
  readonly processes: Pick<Processes, 'count' | 'figures'>
  readonly unitSizeBits: number
  readonly ceilings: Pick<PoolCeilings, 'ceilingKeys' | 'full'>
  /** Blocks with a higher quantum bit error rate are never stored. */
  readonly qberMax: number
  /** What operators are told of by an alarm. */
  readonly on: {
    /** A block was refused because of its error rate. */
    readonly blockOverQberMax: (qber: number) => void
    readonly blockWithoutKey: (reason: string, qber: number) => void
    readonly notAuthenticated: (reason: string) => void
    /** The peer holds other bytes of a block. */
    readonly blocksDiffer: () => void
    /** A block is whole and authentic: what was wrong is over. */
    readonly blockDistilled: () => void
  }
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface SupervisedLink {
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly driver: string
  readonly agreement: BlockAgreement
  /** Ends the wait before a driver that failed is started again. */
  wake(): void
  /** What the driver's connection to the other end rested on has changed. */
  reconnect(): void
  /** Runs until `signal` aborts. @param publish gets the status of the link now and then. */
  run(signal: AbortSignal, publish: (status: LinkStatus) => void): Promise<void>
}

const RESTART_MS = 1000
const LONGEST_RESTART_MS = 60_000
const ROOM_INTERVAL_MS = 200
const CONNECTING = 'connecting to the device'
const RATE_WINDOW_MS = 60_000
/** A rate over less time would jump with every block. */
const RATE_WINDOW_MIN_MS = 5000
const PUBLISH_INTERVAL_MS = 250
/** How old the sums of a link's security statements may be. */
const DISTILLATION_INTERVAL_MS = 2000
/** How long a count of the units not agreed yet is good for. */
const PENDING_TRUST_MS = 200

export const superviseLink = (parts: SuperviseLinkParts): SupervisedLink => {
  const { kmeId, linkId, peerKmeId, store, pool, ceilings, clock, log } = parts
  const backOff = createBackOff({ firstMs: RESTART_MS, longestMs: LONGEST_RESTART_MS, random: parts.random })
  let woken = new AbortController()
  let state: LinkState = 'starting'
  let reason: string | undefined
  let qber: number | undefined
  let unitsOfLastBlock = 0
  let distillation: Distillation | undefined
  /** Units stored but not agreed yet, which will need room too, as the store counted them. */
  let pending: { units: number; atMs: number } | undefined
  const samples: { atMs: number; bits: number }[] = []
  const figure = (name: 'blocks agreed' | 'bits agreed' | 'blocks rejected'): string => `link ${linkId} ${name}`

  const agreement = createBlockAgreement({
    ...parts,
    onAgreed: (units) => {
      parts.processes.count(figure('blocks agreed'), 1)
      parts.processes.count(figure('bits agreed'), (units.mine.units.length + units.theirs) * parts.unitSizeBits)
    },
    onDiscarded: () => parts.processes.count(figure('blocks rejected'), 1),
    onDifferent: parts.on.blocksDiffer,
  })

  const report = (event: DriverEvent): void => {
    if (event.kind === 'no-key') {
      qber = event.qber
      parts.processes.count(figure('blocks rejected'), 1)
      log.warn({ linkId, qber, reason: event.reason }, 'a block gave no key')
      parts.on.blockWithoutKey(event.reason, event.qber)
      return
    }
    if (event.kind === 'not-authenticated') {
      log.error({ linkId, reason: event.reason }, 'the stations of the link could not authenticate each other')
      parts.on.notAuthenticated(event.reason)
      return
    }
    if (event.kind === 'rejected') {
      parts.processes.count(figure('blocks rejected'), 1)
      log.warn({ linkId, reason: event.reason }, 'the device sent something unusable')
      return
    }
    const next: LinkState = event.kind === 'connected' ? 'up' : 'down'
    reason = event.kind === 'connected' ? undefined : event.reason
    if (next !== state) log.info({ linkId, state: next, reason }, 'link')
    state = next
  }

  const unitsPending = async (): Promise<number> => {
    const nowMs = clock.monotonicMs()
    if (pending === undefined || nowMs - pending.atMs >= PENDING_TRUST_MS) {
      pending = { units: await store.pendingUnits(linkId), atMs: nowMs }
    }
    return pending.units
  }

  const waitForRoom = async (signal: AbortSignal, onFull?: () => void): Promise<void> => {
    for (;;) {
      const level = await pool.level(peerKmeId)
      const ceilingKeys = ceilings.ceilingKeys(peerKmeId)
      const stored = level.mine + level.theirs
      if (stored + (await unitsPending()) + unitsOfLastBlock <= ceilingKeys || signal.aborted) return
      onFull?.()
      // Blocks that are not agreed yet may be discarded; only what is in the pool fills it.
      if (stored + unitsOfLastBlock > ceilingKeys) ceilings.full(peerKmeId, ceilingKeys)
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
      parts.on.blockOverQberMax(block.qber)
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
      statement: block.statement,
      key: block.key,
    })
    if (block.statement !== undefined) parts.on.blockDistilled()
    // Only what is stored durably is acknowledged: until then the device keeps it.
    block.acknowledge()
    if (outcome === 'stored' && pending !== undefined) pending.units += units
    // A block sent again may be one whose storing was not answered.
    agreement.wake()
  }

  const pull = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      try {
        await waitForRoom(signal, () => {
          // Nothing is wrong with a link that is not started because nobody needs its keys.
          state = 'starting'
          reason = 'the pool is full: the device is started when keys are drawn'
        })
        if (state === 'starting') reason = CONNECTING
        for await (const block of parts.driver.blocks(signal, report)) {
          await ingest(block)
          backOff.succeeded()
          await waitForRoom(signal)
        }
      } catch (error) {
        state = 'down'
        reason = (error as Error).message
        log.error({ linkId, error }, 'the link failed; starting it again')
      }
      woken = new AbortController()
      await clock.sleep(backOff.failed(), AbortSignal.any([signal, woken.signal]))
    }
  }

  /** @param bits agreed until now, by all processes. */
  const keyRateBps = (bits: number): number => {
    const nowMs = clock.monotonicMs()
    samples.push({ atMs: nowMs, bits })
    while ((samples[0]?.atMs ?? Infinity) < nowMs - RATE_WINDOW_MS) samples.shift()
    const first = samples[0] ?? { atMs: nowMs, bits }
    return ((bits - first.bits) * 1000) / Math.max(nowMs - first.atMs, RATE_WINDOW_MIN_MS)
  }

  const status = (): LinkStatus => {
    const figures = parts.processes.figures()
    const agreed = figures.get(figure('blocks agreed'))
    return {
      linkId,
      peerKmeId,
      driver: parts.driverName,
      state,
      reason,
      qber,
      keyRateBps: keyRateBps(figures.get(figure('bits agreed'))?.total ?? 0),
      blocksAgreed: agreed?.total ?? 0,
      blocksRejected: figures.get(figure('blocks rejected'))?.total ?? 0,
      newestBlockAgeMs: agreed?.changedAgeMs,
      distillation,
    }
  }

  /** Looks now and then at what the link's blocks add up to. */
  const watchDistillation = async (signal: AbortSignal): Promise<void> => {
    if (parts.driver.facts === undefined) return
    while (!signal.aborted) {
      try {
        distillation = { ...(await parts.driver.facts()), security: await store.linkSecurity(linkId) }
      } catch (error) {
        log.warn({ linkId, error }, 'what the blocks of the link add up to could not be read; trying again')
      }
      await clock.sleep(DISTILLATION_INTERVAL_MS, signal)
    }
  }

  return {
    linkId,
    peerKmeId,
    driver: parts.driverName,
    agreement,
    wake: () => {
      backOff.succeeded()
      woken.abort()
    },
    reconnect: () => parts.driver.reconnect?.(),
    run: async (signal, publish) => {
      state = 'starting'
      reason = CONNECTING
      samples.length = 0
      // The other end may wait for this one's device: it is started even if its first block will have to wait for room.
      unitsOfLastBlock = 0
      const publishing = async (): Promise<void> => {
        while (!signal.aborted) {
          publish(status())
          await clock.sleep(PUBLISH_INTERVAL_MS, signal)
        }
      }
      await Promise.all([pull(signal), agreement.run(signal), publishing(), watchDistillation(signal)])
    },
  }
}
