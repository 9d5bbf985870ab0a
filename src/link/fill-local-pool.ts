/** Keys for pairs of SAEs that are both homed at this KME. No QKD link joins them, so their blocks come from the system's
 *  random source and live in the same states as all others. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import type { KeyPool, PoolCeilings } from '../key-pool/key-pool.ts'
import type { AvailableUnits, KeyStore } from '../key-store/key-store.ts'
import { blockIdOf } from './block-id.ts'
import type { ReplenishSource } from './link.ts'

export interface FillLocalPoolParts {
  readonly kmeId: KmeId
  readonly store: KeyStore
  readonly pool: KeyPool
  readonly unitSizeBits: number
  readonly ceilings: Pick<PoolCeilings, 'ceilingKeys' | 'full'>
  readonly random: Random
  readonly clock: Clock
  readonly log: Logger
}

const LOCAL_LINK = 'local' as LinkId
const UNITS_PER_BLOCK = 255
const TAG_KEY_BYTES = 32
const INTERVAL_MS = 200

export interface LocalSource extends ReplenishSource {
  /** Keeps the local pool filled until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

export const createLocalSource = (parts: FillLocalPoolParts): LocalSource => {
  const { kmeId, store, pool, ceilings, random, clock } = parts
  let leftOver = true
  let filling: Promise<number> | undefined

  const offer = async (units: AvailableUnits | undefined): Promise<number> => {
    if (units === undefined) return 0
    await pool.offer(units)
    return units.mine.units.length
  }
  const addBlock = async (): Promise<number> => {
    const deviceBlock = random.uuid()
    const blockId = blockIdOf(LOCAL_LINK, deviceBlock)
    const bytes = Buffer.allocUnsafeSlow(TAG_KEY_BYTES + (UNITS_PER_BLOCK * parts.unitSizeBits) / 8)
    const key = SecretBytes.adopt(random.fill(bytes))
    await store.deposit({ blockId, linkId: LOCAL_LINK, deviceBlock, peerKmeId: kmeId, issuedHere: 'all', key })
    return offer(await store.release(blockId))
  }
  /** Up to the ceiling. @returns how many units came. */
  const fill = async (signal?: AbortSignal): Promise<number> => {
    let units = 0
    if (leftOver) {
      // Blocks that were stored and then not released: the process died, or the database went away in between.
      for (const block of await store.pendingBlocks(LOCAL_LINK)) units += await offer(await store.release(block.blockId))
      leftOver = false
    }
    const ceilingKeys = ceilings.ceilingKeys(kmeId)
    while (signal?.aborted !== true && (await pool.level(kmeId)).mine < ceilingKeys) units += await addBlock()
    if (signal?.aborted !== true) ceilings.full(kmeId, ceilingKeys)
    return units
  }
  const fillOnce = (signal?: AbortSignal): Promise<number> => {
    filling ??= fill(signal)
      .catch((error: unknown) => {
        leftOver = true
        throw error
      })
      .finally(() => (filling = undefined))
    return filling
  }

  return {
    name: 'random source',
    peerKmeId: kmeId,
    replenish: async () => ({ outcome: 'filled', keys: await fillOnce() }),
    run: async (signal) => {
      while (!signal.aborted) {
        try {
          await fillOnce(signal)
        } catch (error) {
          parts.log.warn({ error }, 'the local pool could not be filled; trying again')
        }
        await clock.sleep(INTERVAL_MS, signal)
      }
    },
  }
}
