/** Units of blocks as bit masks, the form the database checks and changes them in: bit i of a mask is unit i. */
import type { BlockId } from '../kernel/identifiers.ts'
import type { UnitRun } from './key-store.ts'

/** Two parts of one statement name the same unit. They must be tried one by one, so that the database refuses one. */
export class OverlappingUnits extends Error {
  constructor() {
    super('the same unit is named twice')
    this.name = 'OverlappingUnits'
  }
}

/** One mask per block, as parallel arrays for unnest().
 *  @param unitCountOfBlock how many units a block has; the mask is as long.
 *  @throws OverlappingUnits. @throws RangeError for a unit that the block does not have. */
export const masksOf = (
  runs: Iterable<UnitRun>,
  unitCountOfBlock: (blockId: BlockId) => number,
): { blockIds: BlockId[]; masks: string[] } => {
  const bitsOfBlock = new Map<BlockId, Buffer>()
  for (const run of runs) {
    let bits = bitsOfBlock.get(run.blockId)
    if (bits === undefined) {
      bits = Buffer.alloc(unitCountOfBlock(run.blockId), '0')
      bitsOfBlock.set(run.blockId, bits)
    }
    for (const unit of run.units) {
      if (unit >= bits.length) throw new RangeError('no such unit')
      if (bits[unit] === 0x31) throw new OverlappingUnits()
      bits[unit] = 0x31
    }
  }
  // In the order of spanParameters(), so that both describe the same blocks side by side.
  const blockIds = [...bitsOfBlock.keys()].sort()
  return { blockIds, masks: blockIds.map((blockId) => (bitsOfBlock.get(blockId) as Buffer).toString('latin1')) }
}

/** The units whose bit is set in a text of zeros and ones. */
export const unitsIn = (bits: string): number[] => {
  const units: number[] = []
  for (let unit = bits.indexOf('1'); unit !== -1; unit = bits.indexOf('1', unit + 1)) units.push(unit)
  return units
}

/** The units of keys `positions` of an assignment whose keys take `unitsPerKey` units each, in order. */
export const unitsOfKeys = (runs: readonly UnitRun[], unitsPerKey: number, positions: readonly number[]): UnitRun[] => {
  const flat: { blockId: BlockId; unit: number }[] = []
  for (const run of runs) for (const unit of run.units) flat.push({ blockId: run.blockId, unit })
  const chosen: { blockId: BlockId; units: number[] }[] = []
  for (const position of positions) {
    for (const { blockId, unit } of flat.slice(position * unitsPerKey, (position + 1) * unitsPerKey)) {
      const last = chosen.at(-1)
      if (last?.blockId === blockId) last.units.push(unit)
      else chosen.push({ blockId, units: [unit] })
    }
  }
  return chosen
}
