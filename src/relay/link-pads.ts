/** Units for the pads of parcels to a neighbour: what its pool holds above the floor that an operator set, and above its critical mark,
 *  so that relaying for others leaves the keys of two neighbours' own SAEs alone. */
import type { KmeId } from '../kernel/identifiers.ts'
import { NOBODY, type KeyPool, type PoolMarks } from '../key-pool/key-pool.ts'
import type { UnitRun } from '../key-store/key-store.ts'
import { padBytesFor } from './hop-cipher.ts'

export interface LinkPads {
  /** Whether a block of that size can be sent to the neighbour now. */
  haveRoom(neighbour: KmeId, blockBytes: number): Promise<boolean>
  /** Takes units out of the pool. @returns undefined when there are too few. */
  take(neighbour: KmeId, blockBytes: number): Promise<readonly UnitRun[] | undefined>
  /** The units turned out not to be free. */
  doubt(neighbour: KmeId): void
}

export const createLinkPads = (parts: {
  readonly pool: KeyPool
  readonly unitSizeBits: number
  readonly floorKeys: number
  readonly marksOf: (neighbour: KmeId) => Pick<PoolMarks, 'criticalWatermark'>
}): LinkPads => {
  const { pool, floorKeys } = parts
  const unitsFor = (blockBytes: number): number => Math.ceil((8 * padBytesFor(blockBytes)) / parts.unitSizeBits)
  const haveRoom = async (neighbour: KmeId, blockBytes: number): Promise<boolean> => {
    const units = unitsFor(blockBytes)
    // Asking the pool for more than it gives would count as a request of an SAE that was refused.
    const [drawable, { mine, theirs }] = await Promise.all([pool.drawable(neighbour, NOBODY), pool.level(neighbour)])
    const left = mine - units
    return drawable >= units && left >= floorKeys && left + theirs >= parts.marksOf(neighbour).criticalWatermark
  }
  return {
    haveRoom,
    take: async (neighbour, blockBytes) => {
      if (!(await haveRoom(neighbour, blockBytes))) return undefined
      const taken = await pool.take(neighbour, NOBODY, unitsFor(blockBytes))
      return 'units' in taken ? taken.units : undefined
    },
    doubt: (neighbour) => pool.doubt(neighbour),
  }
}
