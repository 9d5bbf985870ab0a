/** Blocks coming and going: sealed when a link delivers them, released once both ends agree, destroyed when used up. */
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import type { Keyring } from '../custody/custody.ts'
import type { Database, Statements } from '../database/database.ts'
import { KeyDataAccess } from '../kernel/errors.ts'
import type { BlockId, KmeId, LinkId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import { blockTag, sessionSecret } from './commitment.ts'
import { placeName, sealUnit, TAG_KEY_BYTES, TAG_KEY_INDEX, type BlockPlace } from './key-envelope.ts'
import {
  FALLBACK_LINK_PREFIX,
  type AvailableUnits,
  type KeyStore,
  type NewBlock,
  type RelayedOver,
  type SecurityStatement,
  type StoreCounts,
  type UnitRun,
} from './key-store.ts'
import { joinUnits, type BlockReader } from './prisma-open-blocks.ts'
import { masksOf, unitsIn } from './unit-bits.ts'

export interface BlockParts {
  readonly database: Database
  readonly keyring: Keyring
  readonly reader: BlockReader
  readonly kmeId: KmeId
  readonly unitSizeBits: number
}

/** SQL: whether a block is of the fallback source. Such blocks are in no pool. */
export const OF_FALLBACK = `starts_with(link_id, '${FALLBACK_LINK_PREFIX}')`

/** How many units of the runs are in blocks that are not of the fallback source. */
export const countPoolUnits = async (statements: Statements, runs: readonly UnitRun[]): Promise<number> => {
  const rows = await statements.query<{ block_id: BlockId }>(
    `SELECT block_id FROM key_block WHERE block_id = ANY($1::uuid[]) AND ${OF_FALLBACK}`,
    [runs.map((run) => run.blockId)],
  )
  const others = new Set(rows.map((row) => row.block_id))
  return runs.reduce((sum, { blockId, units }) => sum + (others.has(blockId) ? 0 : units.length), 0)
}

/** SQL: a condition that locks blocks in the order of their IDs, and holds unless none of them is there. Every statement that changes
 *  blocks waits with it for all of them before it changes the first: left to the plan, which may go by any index, two statements would
 *  lock the same blocks in opposite orders and wait for each other.
 *
 *  Reservations and assignments that exist are locked before blocks, those that are new are inserted after.
 *  @param blocks number of the parameter with the block IDs. */
export const blocksAreLocked = (blocks: number): string => `
(SELECT count(*) FROM (SELECT FROM key_block WHERE block_id = ANY($${blocks}::uuid[]) ORDER BY block_id FOR NO KEY UPDATE) locked) > 0`

/** SQL: ends units for good. When it was the last of a block, its material and data key go with it.
 *  @param blocks, masks numbers of the parameters with the arrays of masksOf(). */
export const finishUnits = (blocks: number, masks: number): string => `
UPDATE key_block b SET
  done = b.done | m.mask,
  state = CASE WHEN bit_count(b.done | m.mask) = b.unit_count THEN 'DESTROYED' ELSE b.state END,
  sealed = CASE WHEN bit_count(b.done | m.mask) = b.unit_count THEN NULL ELSE b.sealed END,
  sealed_tag_key = CASE WHEN bit_count(b.done | m.mask) = b.unit_count THEN NULL ELSE b.sealed_tag_key END,
  wrapped_dek = CASE WHEN bit_count(b.done | m.mask) = b.unit_count THEN NULL ELSE b.wrapped_dek END,
  ended_at = CASE WHEN bit_count(b.done | m.mask) = b.unit_count THEN now() ELSE b.ended_at END
FROM unnest($${blocks}::uuid[], $${masks}::text[]::varbit[]) AS m(block_id, mask)
WHERE b.block_id = m.block_id AND ${blocksAreLocked(blocks)}`

/** Masks of units as the database needs them, of blocks that are there; units that a block does not have are left out. The blocks are
 *  locked until the end of the transaction, in the order of blocksAreLocked(). */
export const masksIn = async (
  statements: Statements,
  runs: readonly UnitRun[],
): Promise<{ blockIds: BlockId[]; masks: string[] }> => {
  const rows = await statements.query<{ block_id: BlockId; unit_count: number }>(
    `SELECT block_id, unit_count FROM key_block WHERE block_id = ANY($1::uuid[]) ORDER BY block_id FOR NO KEY UPDATE`,
    [runs.map((run) => run.blockId)],
  )
  const unitCounts = new Map(rows.map((row) => [row.block_id, row.unit_count]))
  const unitCountOf = (blockId: BlockId): number => unitCounts.get(blockId) ?? 0
  const known = runs.map(({ blockId, units }) => ({ blockId, units: units.filter((unit) => unit < unitCountOf(blockId)) }))
  return masksOf(
    known.filter((run) => run.units.length > 0),
    unitCountOf,
  )
}

export const appendAudit = (statements: Statements, events: readonly AuditEvent[]): Promise<unknown> =>
  statements.query(insertAudit(1), auditColumns(events))

const addSecurity = (statements: Statements, linkId: LinkId, statement: SecurityStatement): Promise<unknown> =>
  statements.query(
    `INSERT INTO link_security AS total (link_id, blocks, key_bits, epsilon_sum, tag_bits) VALUES ($1, 1, $2, $3, $4)
       ON CONFLICT (link_id) DO UPDATE SET blocks = total.blocks + 1, key_bits = total.key_bits + excluded.key_bits,
         epsilon_sum = total.epsilon_sum + excluded.epsilon_sum, tag_bits = total.tag_bits + excluded.tag_bits, updated_at = now()`,
    [
      linkId,
      statement.lengthBits - statement.replenishBits,
      statement.epsilonSecrecy + statement.epsilonCorrectness + statement.epsilonAuthentication,
      statement.tagBits,
    ],
  )

/** A block may be used up while it is spoken of; then the next one will do. */
const SHARED_BLOCKS_MAX = 4

/** Seals a block. @returns what inserts it; false when this device block is known already. */
export const prepareInsert = (
  { keyring, kmeId, unitSizeBits }: Pick<BlockParts, 'keyring' | 'kmeId' | 'unitSizeBits'>,
  block: NewBlock,
): ((statements: Statements) => Promise<boolean>) => {
  const { key, statement } = block
  const unitBytes = unitSizeBits / 8
  const unitCount = Math.floor((key.lengthBytes - TAG_KEY_BYTES) / unitBytes)
  if (unitCount < 1) throw new RangeError('a block must hold a tag key and at least one unit')
  const place: BlockPlace = {
    kmeId,
    linkId: block.linkId,
    blockId: block.blockId,
    term: keyring.activeTerm,
    generation: 0,
  }
  const { dek, wrapped } = keyring.createDek(placeName(place))
  const tagKey = key.use((bytes) => sealUnit(dek, place, TAG_KEY_INDEX, bytes.subarray(0, TAG_KEY_BYTES)))
  const sealed = key.use((bytes) => {
    const units: Buffer[] = []
    for (let unit = 0; unit < unitCount; unit += 1) {
      const start = TAG_KEY_BYTES + unit * unitBytes
      units.push(sealUnit(dek, place, unit, bytes.subarray(start, start + unitBytes)))
    }
    return Buffer.concat(units)
  })
  return async (statements) => {
    const rows = await statements.query(
      `INSERT INTO key_block (block_id, link_id, device_block, peer_kme_id, state, unit_count, unit_size_bits,
         mine, taken, done, sealed, sealed_tag_key, wrapped_dek, term, statement, relayed)
       VALUES ($1, $2, $3, $4, 'INGESTED', $5, $6, $7::text::varbit, $8::text::varbit, $8::text::varbit, $9, $10, $11, $12, $13, $14::text::jsonb)
       ON CONFLICT DO NOTHING RETURNING 1`,
      [
        block.blockId,
        block.linkId,
        block.deviceBlock,
        block.peerKmeId,
        unitCount,
        unitSizeBits,
        issuedHereBits(block, unitCount),
        '0'.repeat(unitCount),
        sealed,
        tagKey,
        wrapped,
        place.term,
        statement === undefined ? null : JSON.stringify(statement),
        block.relayed === undefined ? null : JSON.stringify(block.relayed),
      ],
    )
    return rows.length === 1
  }
}

type BlockMethods = Pick<
  KeyStore,
  | 'deposit'
  | 'linkSecurity'
  | 'relayedOver'
  | 'pendingBlocks'
  | 'pendingUnits'
  | 'unusedUnits'
  | 'blockTags'
  | 'sharedBlocks'
  | 'sharedSecret'
  | 'release'
  | 'discard'
  | 'availableUnits'
  | 'counts'
  | 'freeUnits'
>

export const blockMethods = ({ database, keyring, reader, kmeId, unitSizeBits }: BlockParts): BlockMethods => ({
  deposit: async (block) => {
    using _key = block.key
    const { statement } = block
    const insert = prepareInsert({ keyring, kmeId, unitSizeBits }, block)
    const stored =
      statement === undefined
        ? await insert(database)
        : await database.transaction(async (statements) => {
            if (!(await insert(statements))) return false
            await addSecurity(statements, block.linkId, statement)
            const subject = { linkId: block.linkId, blockId: block.blockId, deviceBlock: block.deviceBlock, ...statement }
            await appendAudit(statements, [{ event: 'block.distilled', actor: 'system', outcome: 'done', subject }])
            return true
          })
    return stored ? 'stored' : 'duplicate'
  },

  linkSecurity: async (linkId) => {
    const [row] = await database.query<{ blocks: string; key_bits: string; epsilon_sum: number; tag_bits: string }>(
      `SELECT blocks, key_bits, epsilon_sum, tag_bits FROM link_security WHERE link_id = $1`,
      [linkId],
    )
    if (row === undefined) return { blocks: 0, keyBits: 0, epsilonSum: 0, tagBits: 0 }
    return {
      blocks: Number(row.blocks),
      keyBits: Number(row.key_bits),
      epsilonSum: row.epsilon_sum,
      tagBits: Number(row.tag_bits),
    }
  },

  relayedOver: async (blockIds) => {
    const rows = await database.query<{ block_id: BlockId; relayed: RelayedOver }>(
      `SELECT block_id, relayed FROM key_block WHERE block_id = ANY($1::uuid[]) AND relayed IS NOT NULL`,
      [blockIds],
    )
    return new Map(rows.map((row) => [row.block_id, row.relayed]))
  },

  pendingBlocks: async (linkId: LinkId) => {
    const rows = await database.query<{ block_id: BlockId; device_block: string; ingested_at: Date }>(
      `SELECT block_id, device_block, ingested_at FROM key_block WHERE link_id = $1 AND state = 'INGESTED' ORDER BY ingested_at`,
      [linkId],
    )
    return rows.map((row) => ({
      blockId: row.block_id,
      linkId,
      deviceBlock: row.device_block,
      ingestedAtMs: row.ingested_at.getTime(),
    }))
  },

  pendingUnits: async (linkId) => {
    const rows = await database.query<{ units: number }>(
      `SELECT coalesce(sum(unit_count), 0)::int AS units FROM key_block WHERE link_id = $1 AND state = 'INGESTED'`,
      [linkId],
    )
    return rows[0]?.units ?? 0
  },

  unusedUnits: async (linkId) => {
    const [row] = await database.query<{ units: number }>(
      `SELECT coalesce(sum(unit_count - bit_count(taken)), 0)::int AS units FROM key_block
       WHERE link_id = $1 AND state IN ('INGESTED', 'AVAILABLE')`,
      [linkId],
    )
    return row?.units ?? 0
  },

  sharedBlocks: async ({ linkIds, peerKmeId }) => {
    const rows = await database.query<{ block_id: BlockId }>(
      `SELECT block_id FROM key_block WHERE state = 'AVAILABLE' AND link_id = ANY($1::text[]) AND peer_kme_id = $2
       ORDER BY ingested_at DESC LIMIT ${SHARED_BLOCKS_MAX}`,
      [linkIds, peerKmeId],
    )
    return rows.map((row) => row.block_id)
  },

  sharedSecret: async (blockId, { linkIds, peerKmeId }) => {
    const block = (await reader.open([blockId])).get(blockId)
    if (block?.peerKmeId !== peerKmeId || !linkIds.some((linkId) => linkId === block.place.linkId)) return undefined
    return sessionSecret(block.tagKey, blockId)
  },

  blockTags: async (blockId, of) => {
    const block = (await reader.open([blockId])).get(blockId)
    if (block?.place.linkId !== of.linkId || block.peerKmeId !== of.peerKmeId) return undefined
    const whole = {
      units: [{ blockId, units: Array.from({ length: block.unitCount }, (_, unit) => unit) }],
      sizeBits: block.unitSizeBits,
      count: block.unitCount,
    }
    const sealed = await reader.sealedUnits([whole])
    const blocks = await reader.open([blockId])
    const again = blocks.get(blockId)
    if (again === undefined) return undefined
    let bytes: SecretBytes
    try {
      bytes = joinUnits(blocks, whole, sealed).bytes
    } catch (error) {
      if (error instanceof KeyDataAccess) return undefined
      throw error
    }
    try {
      const tagOf = (speaker: KmeId): Buffer => blockTag(again.tagKey, blockId, speaker, bytes)
      return { own: tagOf(kmeId), peers: tagOf(again.peerKmeId) }
    } finally {
      bytes.wipe()
    }
  },

  release: (blockId) =>
    database.transaction(async (statements) => {
      const rows = await statements.query<UnitsRow>(
        `UPDATE key_block SET state = 'AVAILABLE' WHERE block_id = $1 AND state = 'INGESTED'
         RETURNING block_id, peer_kme_id, unit_size_bits, (mine & ~taken)::text AS mine, bit_count(~mine & ~taken)::int AS theirs`,
        [blockId],
      )
      const row = rows[0]
      if (row === undefined) return undefined
      const units = toAvailable(row)
      await appendAudit(statements, [
        {
          event: 'block.available',
          actor: 'system',
          outcome: 'done',
          subject: { blockId, peerKmeId: row.peer_kme_id, units: units.mine.units.length + units.theirs },
        },
      ])
      return units
    }),

  discard: (blockId, reason) =>
    database.transaction(async (statements) => {
      const rows = await statements.query(
        `UPDATE key_block SET state = 'DESTROYED', sealed = NULL, sealed_tag_key = NULL, wrapped_dek = NULL, ended_at = now()
         WHERE block_id = $1 AND state = 'INGESTED' RETURNING 1`,
        [blockId],
      )
      if (rows.length === 0) return false
      reader.forget(blockId)
      await appendAudit(statements, [
        { event: 'block.discarded', actor: 'system', outcome: 'done', subject: { blockId, reason } },
      ])
      return true
    }),

  availableUnits: async function* () {
    const pageMax = 500
    let after: { at: Date; blockId: string } = { at: new Date(0), blockId: '00000000-0000-0000-0000-000000000000' }
    for (;;) {
      const rows = await database.query<UnitsRow & { ingested_at: Date }>(
        `SELECT block_id, peer_kme_id, unit_size_bits, (mine & ~taken)::text AS mine, bit_count(~mine & ~taken)::int AS theirs, ingested_at
         FROM key_block WHERE state = 'AVAILABLE' AND unit_size_bits = $1 AND bit_count(taken) < unit_count AND NOT ${OF_FALLBACK}
           AND (date_trunc('milliseconds', ingested_at), block_id) > ($2::timestamptz, $3::uuid)
         ORDER BY date_trunc('milliseconds', ingested_at), block_id LIMIT $4`,
        [unitSizeBits, after.at, after.blockId, pageMax],
      )
      for (const row of rows) yield toAvailable(row)
      const last = rows.at(-1)
      if (last === undefined || rows.length < pageMax) return
      after = { at: last.ingested_at, blockId: last.block_id }
    }
  },

  freeUnits: async (peerKmeId, unitCount, order, source = 'links') => {
    // Blocks that just came in last: the other end may not have finished with them, and would refuse their units for now.
    const rows = await database.query<UnitsRow>(
      `SELECT block_id, peer_kme_id, unit_size_bits, mine::text AS mine, theirs
       FROM (SELECT block_id, peer_kme_id, unit_size_bits, mine & ~taken AS mine, bit_count(~mine & ~taken)::int AS theirs,
               sum(bit_count(mine & ~taken)) OVER (ORDER BY ingested_at > now() - interval '1 second', md5(block_id::text || $3))
                 - bit_count(mine & ~taken) AS units_before
             FROM key_block WHERE state = 'AVAILABLE' AND unit_size_bits = $1 AND peer_kme_id = $2 AND bit_count(mine & ~taken) > 0
               AND ${OF_FALLBACK} = $5::boolean) b
       WHERE units_before < $4 ORDER BY units_before`,
      [unitSizeBits, peerKmeId, order, unitCount, source === 'fallback'],
    )
    return rows.map(toAvailable)
  },

  counts: async () => {
    const rows = await database.query<CountsRow>(
      `SELECT peer_kme_id,
         count(*) FILTER (WHERE state = 'INGESTED')::int AS pending,
         count(*) FILTER (WHERE state = 'AVAILABLE')::int AS available,
         coalesce(sum(bit_count(mine & ~taken)) FILTER (WHERE state = 'AVAILABLE'), 0)::int AS mine,
         coalesce(sum(bit_count(~mine & ~taken)) FILTER (WHERE state = 'AVAILABLE'), 0)::int AS theirs,
         (SELECT coalesce(sum(jsonb_array_length(run -> 'units')), 0)::int FROM reservation r, jsonb_array_elements(r.units) run
            WHERE r.peer_kme_id = b.peer_kme_id AND r.state <> 'BURNT') AS reserved
       FROM key_block b WHERE state IN ('INGESTED', 'AVAILABLE') AND NOT ${OF_FALLBACK} GROUP BY peer_kme_id`,
    )
    return rows.map((row): StoreCounts => ({
      peerKmeId: row.peer_kme_id,
      blocksPending: row.pending,
      blocksAvailable: row.available,
      unitsMine: row.mine,
      unitsTheirs: row.theirs,
      unitsReserved: row.reserved,
    }))
  },
})

interface UnitsRow extends Record<string, unknown> {
  block_id: BlockId
  peer_kme_id: KmeId
  mine: string
  theirs: number
}

interface CountsRow extends Record<string, unknown> {
  peer_kme_id: KmeId
  pending: number
  available: number
  mine: number
  theirs: number
  reserved: number
}

const toAvailable = (row: UnitsRow): AvailableUnits => ({
  peerKmeId: row.peer_kme_id,
  mine: { blockId: row.block_id, units: unitsIn(row.mine) },
  theirs: row.theirs,
})

const issuedHereBits = (block: NewBlock, unitCount: number): string => {
  if (block.issuedHere === 'all') return '1'.repeat(unitCount)
  if (block.issuedHere === 'none') return '0'.repeat(unitCount)
  const pair = block.issuedHere === 'even' ? '10' : '01'
  return pair.repeat(Math.ceil(unitCount / 2)).slice(0, unitCount)
}
