/** Keys for pairs of SAEs that are both homed at this KME. No QKD link joins them, so their blocks come from the system's
 *  random source and live in the same states as all others. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import type { AvailableUnits, KeyStore } from '../key-store/key-store.ts'
import { blockIdOf } from './block-id.ts'

export interface FillLocalPoolParts {
  readonly kmeId: KmeId
  readonly store: KeyStore
  readonly pool: KeyPool
  readonly unitSizeBits: number
  /** Units kept ready; 0 switches the local pool off. */
  readonly localStored: number
  readonly random: Random
  readonly clock: Clock
  readonly log: Logger
}

const LOCAL_LINK = 'local' as LinkId
const UNITS_PER_BLOCK = 255
const TAG_KEY_BYTES = 32
const INTERVAL_MS = 200

/** Keeps the local pool filled until `signal` aborts. */
export const fillLocalPool = async (parts: FillLocalPoolParts, signal: AbortSignal): Promise<void> => {
  const { kmeId, store, pool, random, clock } = parts
  const offer = async (units: AvailableUnits | undefined): Promise<void> => {
    if (units !== undefined) await pool.offer(units)
  }
  let leftOver = true
  while (!signal.aborted) {
    try {
      if (leftOver) {
        // Blocks that a process stored and did not live to release.
        for (const block of await store.pendingBlocks(LOCAL_LINK)) await offer(await store.release(block.blockId))
        leftOver = false
      }
      while (!signal.aborted && (await pool.level(kmeId)).mine < parts.localStored) {
        const deviceBlock = random.uuid()
        const blockId = blockIdOf(LOCAL_LINK, deviceBlock)
        const bytes = Buffer.allocUnsafeSlow(TAG_KEY_BYTES + (UNITS_PER_BLOCK * parts.unitSizeBits) / 8)
        const key = SecretBytes.adopt(random.fill(bytes))
        await store.deposit({ blockId, linkId: LOCAL_LINK, deviceBlock, peerKmeId: kmeId, issuedHere: 'all', key })
        await offer(await store.release(blockId))
      }
    } catch (error) {
      parts.log.warn({ error }, 'the local pool could not be filled; trying again')
    }
    await clock.sleep(INTERVAL_MS, signal)
  }
}
