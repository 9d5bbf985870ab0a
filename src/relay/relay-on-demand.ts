/** Relays keys for somebody who wants them relayed otherwise than those in the pool: just as many, past the pool.
 *  Holds: units that nobody takes in the end go into the pool, which they are good enough for. */
import { createBackOff } from '../kernel/back-off.ts'
import { createBatching } from '../kernel/batching.ts'
import type { Clock } from '../kernel/clock.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import { bothPolicies, type AvailableUnits, type RelayPolicy, type UnitRun } from '../key-store/key-store.ts'
import { NoWay, unitsPerBlockMax, type RelayBlock } from './relay-block.ts'
import type { RelayedUnits } from './relay.ts'

export interface RelayOnDemandParts {
  readonly peerKmeId: KmeId
  /** What is wanted of all keys shared with the peer. */
  readonly policy: RelayPolicy
  readonly relayBlock: RelayBlock
  readonly pool: Pick<KeyPool, 'offer' | 'giveBack'>
  readonly unitSizeBits: number
  readonly random: Random
  readonly clock: Clock
  readonly log: Logger
}

export interface RelayOnDemand {
  take(unitCount: number, policy: RelayPolicy): Promise<RelayedUnits>
  /** Both ends agreed on a block: its units go to those who wait for it, if somebody does, else into the pool. */
  offer(units: AvailableUnits): Promise<void>
}

/** Gives keys relayed in one certain way: who wants them waits for nobody who wants another way in vain. */
type Order = (unitCount: number) => Promise<RelayedUnits>

const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 15_000
/** Ways to relay that are remembered, with when to try them again. */
const ORDERS_MAX = 64
/** Requests that may share a block, */
const DEMANDS_MAX = 64
/** and blocks on their way at once. */
const LANES = 2

export const createRelayOnDemand = (parts: RelayOnDemandParts): RelayOnDemand => {
  const { peerKmeId, pool, clock, log } = parts
  const unitsMax = unitsPerBlockMax(parts.unitSizeBits)
  /** Blocks on their way, with their units once they are agreed on. */
  const awaited = new Map<BlockId, AvailableUnits | undefined>()
  const orders = new Map<string, Order>()

  const openOrder = (policy: RelayPolicy): Order => {
    const backOff = createBackOff({ firstMs: FIRST_PAUSE_MS, longestMs: LONGEST_PAUSE_MS, random: parts.random })
    let pausedUntilMs = -Infinity

    const relay = async (unitCount: number): Promise<UnitRun | 'no-way' | 'not-now'> => {
      if (clock.monotonicMs() < pausedUntilMs) return 'not-now'
      let blockId: BlockId | undefined
      const arrived = (): UnitRun | undefined => (blockId === undefined ? undefined : awaited.get(blockId)?.mine)
      try {
        await parts.relayBlock(unitCount, policy, (named) => {
          blockId = named
          awaited.set(named, undefined)
        })
        backOff.succeeded()
        // None when another process was quicker to agree on it: then they are in the pool.
        return arrived() ?? 'not-now'
      } catch (error) {
        // Asking the network costs nobody anything, so it may be asked again at once.
        if (error instanceof NoWay) return 'no-way'
        pausedUntilMs = clock.monotonicMs() + backOff.failed()
        log.warn({ peerKmeId, error }, 'no keys could be relayed for a request')
        // Some when this end lost the answer, and heard it when it asked again meanwhile.
        return arrived() ?? 'not-now'
      } finally {
        if (blockId !== undefined) awaited.delete(blockId)
      }
    }

    const relayTogether = async (demands: readonly number[]): Promise<readonly RelayedUnits[]> => {
      const relayed = await relay(sumOf(demands))
      let at = 0
      return demands.map((unitCount) => {
        const from = at
        at += unitCount
        return typeof relayed === 'string' ? relayed : [{ blockId: relayed.blockId, units: relayed.units.slice(from, at) }]
      })
    }

    return createBatching<number, RelayedUnits>({
      itemsMax: DEMANDS_MAX,
      lanes: LANES,
      separable: () => false,
      work: async (demands) => (await Promise.all(inBlocks(demands, unitsMax).map(relayTogether))).flat(),
    })
  }

  /** One for all that say the same: an SAE can have the policies of its pairs joined in any order, by the order it names slaves in. */
  const orderOf = (policy: RelayPolicy): Order => {
    const name = JSON.stringify({ ...policy, avoid: policy.avoid.toSorted(), only: policy.only?.toSorted() })
    const order = orders.get(name) ?? openOrder(policy)
    // The last that was asked for stays longest; one that is forgotten at work still serves who waits for it.
    orders.delete(name)
    orders.set(name, order)
    const [oldest] = orders.keys()
    if (orders.size > ORDERS_MAX && oldest !== undefined) orders.delete(oldest)
    return order
  }

  return {
    take: async (unitCount, wanted) => {
      const order = orderOf(bothPolicies(parts.policy, wanted))
      const sizes = Array.from({ length: Math.ceil(unitCount / unitsMax) }, (_, i) =>
        Math.min(unitsMax, unitCount - i * unitsMax),
      )
      const answers = await Promise.all(sizes.map(order))
      const refused = answers.find((answer) => typeof answer === 'string')
      const runs = answers.flatMap((answer) => (typeof answer === 'string' ? [] : answer))
      if (refused === undefined) return runs
      await pool.giveBack(peerKmeId, runs)
      return refused
    },
    offer: async (units) => {
      if (awaited.has(units.mine.blockId)) awaited.set(units.mine.blockId, units)
      else await pool.offer(units)
    },
  }
}

const sumOf = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0)

/** Neighbours share a block as long as it holds them. */
const inBlocks = (demands: readonly number[], unitsMax: number): readonly (readonly number[])[] => {
  const blocks: number[][] = []
  for (const unitCount of demands) {
    const last = blocks.at(-1)
    if (last === undefined || sumOf(last) + unitCount > unitsMax) blocks.push([unitCount])
    else last.push(unitCount)
  }
  return blocks
}
