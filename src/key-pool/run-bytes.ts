/** Runs of units as the pool in Redis holds them: the ID of a block, 36 characters, then three bytes for each unit.
 *  Holds: what comes back from Redis is looked at before it is used, because others may write there. */
import { parseBlockId } from '../kernel/identifiers.ts'
import type { UnitRun } from '../key-store/key-store.ts'

const ID_BYTES = 36
const UNIT_BYTES = 3

export const toRunBytes = ({ blockId, units }: UnitRun): Buffer => {
  const bytes = Buffer.allocUnsafe(ID_BYTES + UNIT_BYTES * units.length)
  bytes.write(blockId, 0, 'latin1')
  let at = ID_BYTES
  for (const unit of units) at = bytes.writeUIntBE(unit, at, UNIT_BYTES)
  return bytes
}

/** @returns undefined for what is no run. */
export const fromRunBytes = (bytes: unknown): UnitRun | undefined => {
  if (!Buffer.isBuffer(bytes) || bytes.length <= ID_BYTES || (bytes.length - ID_BYTES) % UNIT_BYTES !== 0) return undefined
  const blockId = parseBlockId(bytes.toString('latin1', 0, ID_BYTES))
  if (blockId === undefined) return undefined
  const units: number[] = []
  for (let at = ID_BYTES; at < bytes.length; at += UNIT_BYTES) units.push(bytes.readUIntBE(at, UNIT_BYTES))
  return { blockId, units }
}
