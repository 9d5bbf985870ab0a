/** Reads blocks: their opened data and tag keys (kept for a while, in memory only) and the sealed units of requests. */
import { createSecretKey, type KeyObject } from 'node:crypto'
import type { Keyring } from '../custody/custody.ts'
import type { Statements } from '../database/database.ts'
import { KeyDataAccess } from '../kernel/errors.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { openUnit, placeName, sealedUnitBytes, TAG_KEY_BYTES, TAG_KEY_INDEX, type BlockPlace } from './key-envelope.ts'
import { isFallback, type KeyMaterial, type UnitRun } from './key-store.ts'

/** A block whose keys are open. */
export interface OpenBlock {
  readonly place: BlockPlace
  readonly peerKmeId: KmeId
  readonly unitCount: number
  readonly unitSizeBits: number
  readonly dek: KeyObject
  readonly tagKey: KeyObject
}

export type OpenBlocks = ReadonlyMap<BlockId, OpenBlock>

/** Keys that units are to be joined to. */
export interface MaterialRequest {
  readonly units: readonly UnitRun[]
  readonly sizeBits: number
  readonly count: number
}

const OPEN_BLOCKS_MAX = 512

/** Sealed units of some blocks: of each block the slice that covers all units asked for. */
export type SealedUnits = ReadonlyMap<BlockId, { readonly first: number; readonly bytes: Buffer }>

/** SQL: the columns and source of SpanRow. Takes the parameters of spanParameters() as $1 to $4. */
export const SPANS = `
  w.block_id, w.first,
    (SELECT substring(b.sealed FROM w.first * $4::int + 1 FOR (w.last - w.first + 1) * $4::int)
       FROM key_block b WHERE b.block_id = w.block_id) AS bytes
  FROM unnest($1::uuid[], $2::int[], $3::int[]) AS w(block_id, first, last)`

export interface SpanRow extends Record<string, unknown> {
  block_id: BlockId
  first: number
  bytes: Buffer | null
}

/** For each block the range from the first to the last unit that the requests name. */
export const spanParameters = (requests: readonly MaterialRequest[], unitSizeBits: number): unknown[] => {
  const firsts = new Map<BlockId, number>()
  const lasts = new Map<BlockId, number>()
  for (const { units } of requests) {
    for (const run of units) {
      firsts.set(
        run.blockId,
        run.units.reduce((least, unit) => Math.min(least, unit), firsts.get(run.blockId) ?? Infinity),
      )
      lasts.set(
        run.blockId,
        run.units.reduce((most, unit) => Math.max(most, unit), lasts.get(run.blockId) ?? 0),
      )
    }
  }
  // In the order of masksOf(), so that both describe the same blocks side by side.
  const blockIds = [...firsts.keys()].sort()
  return [
    blockIds,
    blockIds.map((blockId) => firsts.get(blockId)),
    blockIds.map((blockId) => lasts.get(blockId)),
    sealedUnitBytes(unitSizeBits),
  ]
}

export const toSealedUnits = (rows: readonly SpanRow[]): SealedUnits =>
  new Map(rows.flatMap((row) => (row.bytes === null ? [] : [[row.block_id, { first: row.first, bytes: row.bytes }]])))

export const createBlockReader = (parts: { statements: Statements; keyring: Keyring; kmeId: KmeId; unitSizeBits: number }) => {
  const cache = new Map<BlockId, OpenBlock>()

  const forget = (blockId: BlockId): void => {
    cache.delete(blockId)
  }

  const openRow = (row: BlockKeysRow): OpenBlock => {
    const place: BlockPlace = {
      kmeId: parts.kmeId,
      linkId: row.link_id,
      blockId: row.block_id,
      term: row.term,
      generation: row.generation,
    }
    const dek = parts.keyring.openDek(row.wrapped_dek, row.term, placeName(place))
    const tagKey = Buffer.allocUnsafeSlow(TAG_KEY_BYTES)
    openUnit(dek, place, TAG_KEY_INDEX, row.sealed_tag_key, tagKey, 0)
    const open = { dek, tagKey: createSecretKey(tagKey) }
    tagKey.fill(0)
    return {
      place,
      peerKmeId: row.peer_kme_id,
      unitCount: row.unit_count,
      unitSizeBits: row.unit_size_bits,
      ...open,
    }
  }

  /** Opens blocks, from memory where possible. A block that is unknown, destroyed or does not open is left out:
   *  whoever needs it finds that out for its own request alone. */
  const open = async (blockIds: Iterable<BlockId>): Promise<OpenBlocks> => {
    const wanted = new Set(blockIds)
    const opened = new Map<BlockId, OpenBlock>()
    const missing: BlockId[] = []
    for (const blockId of wanted) {
      const block = cache.get(blockId)
      if (block === undefined) missing.push(blockId)
      else opened.set(blockId, block)
    }
    if (missing.length > 0) {
      const rows = await parts.statements.query<BlockKeysRow>(
        `SELECT block_id, link_id, peer_kme_id, unit_count, unit_size_bits, term, generation, wrapped_dek, sealed_tag_key
         FROM key_block WHERE block_id = ANY($1::uuid[]) AND wrapped_dek IS NOT NULL AND sealed_tag_key IS NOT NULL`,
        [missing],
      )
      for (const row of rows) {
        // Another request may have opened the same block while this one waited.
        const block = cache.get(row.block_id) ?? tryTo(() => openRow(row))
        if (block === undefined) continue
        cache.set(row.block_id, block)
        opened.set(row.block_id, block)
      }
      for (const blockId of cache.keys()) {
        if (cache.size <= OPEN_BLOCKS_MAX) break
        if (!wanted.has(blockId)) forget(blockId)
      }
    }
    return opened
  }

  /** The sealed units that the requests name. */
  const sealedUnits = async (requests: readonly MaterialRequest[]): Promise<SealedUnits> => {
    if (requests.length === 0) return new Map()
    return toSealedUnits(await parts.statements.query<SpanRow>(`SELECT ${SPANS}`, spanParameters(requests, parts.unitSizeBits)))
  }

  /** Lets go of the keys of blocks that are used up: they are gone from the database too. */
  const forgetDestroyed = async (): Promise<void> => {
    const rows = await parts.statements.query<{ block_id: BlockId }>(
      `SELECT block_id FROM key_block WHERE block_id = ANY($1::uuid[]) AND wrapped_dek IS NULL`,
      [[...cache.keys()]],
    )
    for (const row of rows) forget(row.block_id)
  }

  return { open, sealedUnits, forget, forgetDestroyed }
}

export type BlockReader = ReturnType<typeof createBlockReader>

interface BlockKeysRow extends Record<string, unknown> {
  block_id: BlockId
  link_id: string
  peer_kme_id: KmeId
  unit_count: number
  unit_size_bits: number
  term: number
  generation: number
  wrapped_dek: Buffer
  sealed_tag_key: Buffer
}

const tryTo = <T>(work: () => T): T | undefined => {
  try {
    return work()
  } catch (error) {
    if (error instanceof KeyDataAccess) return undefined
    throw error
  }
}

/** How many units one key of `sizeBits` takes. */
export const unitsPerKey = (sizeBits: number, unitSizeBits: number): number => Math.ceil(sizeBits / unitSizeBits)

/** Opens units and joins them to keys: each key is as many units as it needs, the rest of its last unit is destroyed.
 *  @throws KeyDataAccess when a unit is gone, altered or moved. */
export const joinUnits = (blocks: OpenBlocks, request: MaterialRequest, sealed: SealedUnits): KeyMaterial => {
  const keyBytes = request.sizeBits / 8
  const bytes = Buffer.allocUnsafeSlow(keyBytes * request.count)
  const fallbackKeys = new Set<number>()
  const material: KeyMaterial = {
    sizeBits: request.sizeBits,
    count: request.count,
    bytes: SecretBytes.adopt(bytes),
    fallbackKeys,
  }
  let written = 0
  let spare: Buffer | undefined
  try {
    for (const run of request.units) {
      const block = blocks.get(run.blockId)
      const span = sealed.get(run.blockId)
      if (block === undefined || span === undefined) throw new KeyDataAccess()
      const unitBytes = block.unitSizeBits / 8
      const sealedBytes = sealedUnitBytes(block.unitSizeBits)
      const fromFallback = isFallback(block.place.linkId)
      for (const unit of run.units) {
        if (fromFallback) fallbackKeys.add(Math.floor(written / keyBytes))
        const at = (unit - span.first) * sealedBytes
        const slice = span.bytes.subarray(at, at + sealedBytes)
        if (slice.length !== sealedBytes) throw new KeyDataAccess()
        const room = Math.min(unitBytes, keyBytes - (written % keyBytes))
        if (written >= bytes.length) throw new KeyDataAccess()
        if (room === unitBytes) {
          openUnit(block.dek, block.place, unit, slice, bytes, written)
        } else {
          spare ??= Buffer.allocUnsafeSlow(unitBytes)
          openUnit(block.dek, block.place, unit, slice, spare, 0)
          spare.copy(bytes, written, 0, room)
        }
        written += room
      }
    }
    if (written !== bytes.length) throw new KeyDataAccess()
    return material
  } catch (error) {
    material.bytes.wipe()
    throw error
  } finally {
    spare?.fill(0)
  }
}
