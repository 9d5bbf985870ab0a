/** Relays blocks for the pool of a KME without a link, when it runs low or somebody waits. */
import { createBackOff, type BackOff } from '../kernel/back-off.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { KeyPool, PoolCeilings, PoolMarks } from '../key-pool/key-pool.ts'
import type { RelayPolicy } from '../key-store/key-store.ts'
import type { ReplenishSource } from '../link/link.ts'
import { unitsPerBlockMax, type RelayBlock } from './relay-block.ts'
import type { RelaySettings } from './relay.ts'

export interface RelaySourceParts {
  readonly peerKmeId: KmeId
  readonly settings: RelaySettings
  readonly policy: RelayPolicy
  readonly relayBlock: RelayBlock
  readonly pool: Pick<KeyPool, 'level'>
  readonly ceilings: Pick<PoolCeilings, 'ceilingKeys' | 'full'>
  readonly marks: PoolMarks
  readonly unitSizeBits: number
  readonly random: Random
  readonly clock: Clock
  readonly log: Logger
}

export interface RelaySource extends ReplenishSource {
  /** Relays a block for somebody who waits. @returns whether keys came. */
  fetch(unitCount: number): Promise<boolean>
}

/** In one go; the next comes when the pool is looked at again. */
const BLOCKS_AT_ONCE = 16
/** Filled a good deal above the mark that calls for keys. */
const FILL_FACTOR = 1.25
const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 15_000

export const createRelaySource = (parts: RelaySourceParts): RelaySource => {
  const { peerKmeId, settings, clock, log } = parts
  const backOff: BackOff = createBackOff({ firstMs: FIRST_PAUSE_MS, longestMs: LONGEST_PAUSE_MS, random: parts.random })
  let pausedUntilMs = -Infinity
  let underWay: Promise<void> | undefined

  /** One block at a time; who comes meanwhile waits for it. @throws Error. */
  const relayOne = (units: number): Promise<void> => {
    const size = Math.min(unitsPerBlockMax(parts.unitSizeBits), Math.max(settings.blockKeys, units))
    underWay ??= parts
      .relayBlock(size, parts.policy)
      .then(
        () => backOff.succeeded(),
        (error: unknown) => {
          pausedUntilMs = clock.monotonicMs() + backOff.failed()
          throw error
        },
      )
      .finally(() => (underWay = undefined))
    return underWay
  }

  return {
    name: 'relay',
    peerKmeId,
    replenish: async () => {
      const before = (await parts.pool.level(peerKmeId)).mine
      const ceilingKeys = parts.ceilings.ceilingKeys(peerKmeId)
      const { lowWatermark, highWatermark } = parts.marks
      // An operator who asked for more gets it; otherwise no more key of other links is used up than is needed here.
      const wanted = ceilingKeys > highWatermark ? ceilingKeys : Math.min(ceilingKeys, Math.ceil(FILL_FACTOR * lowWatermark))
      let keys = 0
      for (let blocks = 0; before + keys < wanted && blocks < BLOCKS_AT_ONCE; blocks += 1) {
        try {
          await relayOne(0)
        } catch (error) {
          if (keys === 0) throw error
          break
        }
        keys = (await parts.pool.level(peerKmeId)).mine - before
      }
      if (before + keys >= ceilingKeys) parts.ceilings.full(peerKmeId, ceilingKeys)
      return keys > 0 ? { outcome: 'filled', keys } : { outcome: 'nothing', reason: 'there are enough for now' }
    },
    fetch: async (unitCount) => {
      if (underWay === undefined && clock.monotonicMs() < pausedUntilMs) return false
      try {
        await relayOne(unitCount)
        return true
      } catch (error) {
        log.warn({ peerKmeId, error }, 'no keys could be relayed')
        return false
      }
    },
  }
}
