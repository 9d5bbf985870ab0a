/** Reads blocks: their opened data and tag keys (kept for a while, in memory only) and the sealed units of requests. */
import type { Keyring } from '../custody/custody.ts'
import type { Statements } from '../database/database.ts'
import { KeyDataAccess } from '../kernel/errors.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { openUnit, placeName, sealedUnitBytes, TAG_KEY_BYTES, TAG_KEY_INDEX, type BlockPlace } from './key-envelope.ts'
import type { KeyMaterial, UnitRun } from './key-store.ts'

/** A block whose keys are open. Valid until the cache lets go of it: use it in the same turn, never keep it. */
export interface OpenBlock {
  readonly place: BlockPlace
  readonly peerKmeId: KmeId
  readonly unitCount: number
  readonly unitSizeBits: number
  readonly dek: SecretBytes
  readonly tagKey: SecretBytes
}

export type OpenBlocks = ReadonlyMap<BlockId, OpenBlock>

/** Keys that units are to be joined to. */
export interface MaterialRequest {
  readonly units: readonly UnitRun[]
  readonly sizeBits: number
  readonly count: number
}

const OPEN_BLOCKS_MAX = 512

/** SQL: `wanted` (request, block, unit, order) and `span` (the covering slice of each block, read once).
 *  Takes $1 requests, $2 blocks, $3 units, $4 bytes of a sealed unit. */
export const WANTED_UNITS = `
wanted AS (
  SELECT * FROM unnest($1::int[], $2::uuid[], $3::int[]) WITH ORDINALITY AS t(request, block_id, unit, place)
),
span AS MATERIALIZED (
  SELECT e.block_id, e.first,
    (SELECT substring(b.sealed FROM e.first * $4::int + 1 FOR (e.last - e.first + 1) * $4::int)
       FROM key_block b WHERE b.block_id = e.block_id) AS part
  FROM (SELECT block_id, min(unit) AS first, max(unit) AS last FROM wanted GROUP BY block_id) e
)`

/** SQL: one row per request with its sealed units one after the other. Goes with WANTED_UNITS. */
export const SEALED_UNITS = `
  w.request, string_agg(substring(s.part FROM (w.unit - s.first) * $4::int + 1 FOR $4::int), ''::bytea ORDER BY w.place) AS sealed
  FROM wanted w JOIN span s USING (block_id) GROUP BY w.request`

export const wantedParameters = (requests: readonly MaterialRequest[], unitSizeBits: number): unknown[] => {
  const request: number[] = []
  const block: string[] = []
  const unit: number[] = []
  requests.forEach(({ units }, i) => {
    for (const run of units) {
      for (const one of run.units) {
        request.push(i)
        block.push(run.blockId)
        unit.push(one)
      }
    }
  })
  return [request, block, unit, sealedUnitBytes(unitSizeBits)]
}

export interface SealedRow extends Record<string, unknown> {
  request: number
  sealed: Buffer | null
}

export const createBlockReader = (parts: { statements: Statements; keyring: Keyring; kmeId: KmeId; unitSizeBits: number }) => {
  const cache = new Map<BlockId, OpenBlock>()

  const forget = (blockId: BlockId): void => {
    const block = cache.get(blockId)
    cache.delete(blockId)
    block?.dek.wipe()
    block?.tagKey.wipe()
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
    return {
      place,
      peerKmeId: row.peer_kme_id,
      unitCount: row.unit_count,
      unitSizeBits: row.unit_size_bits,
      dek,
      tagKey: SecretBytes.adopt(tagKey),
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

  /** Sealed units of each request, in order. */
  const sealedUnits = async (requests: readonly MaterialRequest[]): Promise<(Buffer | undefined)[]> => {
    if (requests.length === 0) return []
    const rows = await parts.statements.query<SealedRow>(
      `WITH ${WANTED_UNITS} SELECT ${SEALED_UNITS}`,
      wantedParameters(requests, parts.unitSizeBits),
    )
    return bySealedRequest(rows, requests.length)
  }

  /** Wipes the keys of blocks that are used up: their data keys are gone from the database too. */
  const forgetDestroyed = async (): Promise<void> => {
    const rows = await parts.statements.query<{ block_id: BlockId }>(
      `SELECT block_id FROM key_block WHERE block_id = ANY($1::uuid[]) AND wrapped_dek IS NULL`,
      [[...cache.keys()]],
    )
    for (const row of rows) forget(row.block_id)
  }

  return { open, sealedUnits, forget, forgetDestroyed, dispose: () => [...cache.keys()].forEach(forget) }
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

export const bySealedRequest = (rows: readonly SealedRow[], count: number): (Buffer | undefined)[] => {
  const sealed = new Array<Buffer | undefined>(count)
  for (const row of rows) sealed[row.request] = row.sealed ?? undefined
  return sealed
}

/** How many units one key of `sizeBits` takes. */
export const unitsPerKey = (sizeBits: number, unitSizeBits: number): number => Math.ceil(sizeBits / unitSizeBits)

/** Opens units and joins them to keys: each key is as many units as it needs, the rest of its last unit is destroyed.
 *  @throws KeyDataAccess when a unit is gone, altered or moved. */
export const joinUnits = (blocks: OpenBlocks, request: MaterialRequest, sealed: Buffer | undefined): KeyMaterial => {
  const keyBytes = request.sizeBits / 8
  const bytes = Buffer.allocUnsafeSlow(keyBytes * request.count)
  const material: KeyMaterial = { sizeBits: request.sizeBits, count: request.count, bytes: SecretBytes.adopt(bytes) }
  let read = 0
  let written = 0
  let spare: Buffer | undefined
  try {
    for (const run of request.units) {
      const block = blocks.get(run.blockId)
      if (block === undefined || sealed === undefined) throw new KeyDataAccess()
      const unitBytes = block.unitSizeBits / 8
      const sealedBytes = sealedUnitBytes(block.unitSizeBits)
      for (const unit of run.units) {
        const slice = sealed.subarray(read, read + sealedBytes)
        if (slice.length !== sealedBytes) throw new KeyDataAccess()
        read += sealedBytes
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
