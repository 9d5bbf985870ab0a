/** Link key as one-time pads of relay messages (I33): a unit encrypts one message and never anything else.
 *  Holds: spending a pad and storing the message made of it are one transaction, so a message can be repeated and never replaced; the
 *  sealed bytes of the units are overwritten in the same transaction, so that nobody who saw the message reads it later (I34). */
import { Conflict, KeyDataAccess } from '../kernel/errors.ts'
import { sqlState, type Statements } from '../database/database.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import { sealedUnitBytes } from './key-envelope.ts'
import {
  RELAY_LINK_PREFIX,
  type PadRedeemed,
  type PadRedemption,
  type PadRefusal,
  type PadStore,
  type PriorPadAnswer,
  type UnitRun,
} from './key-store.ts'
import { appendAudit, finishUnits, masksIn, OF_FALLBACK } from './prisma-blocks.ts'
import { joinUnits, type OpenBlocks } from './prisma-open-blocks.ts'
import type { SettleParts } from './prisma-settle.ts'
import { OverlappingUnits } from './unit-bits.ts'

/** A message is given up, or delivered, long before. */
const OPEN_MAX_S = 60
/** Afterwards a message that comes again is refused for its pad. */
const KEPT_S = 86_400

const ROW_COUNT_CHECK = 'KM001'

/** SQL: pads are key that a link delivered; the key of other sources is known to others than the two ends. */
const OF_A_LINK = `NOT ${OF_FALLBACK} AND NOT starts_with(link_id, '${RELAY_LINK_PREFIX}')`

/** Ends a transaction without a change. */
class Refused extends Conflict {
  readonly reason: PadRefusal
  constructor(reason: PadRefusal) {
    super(reason)
    this.reason = reason
  }
}

const unitCountOf = (runs: readonly UnitRun[]): number => runs.reduce((sum, run) => sum + run.units.length, 0)
const blockIdsOf = (runs: readonly UnitRun[]): BlockId[] => runs.map((run) => run.blockId)

export const padMethods = ({ database, reader, processId, unitSizeBits }: SettleParts): PadStore => {
  /** Reads units that this transaction holds the locks of, and overwrites them. @throws KeyDataAccess. */
  const takeOut = async (statements: Statements, runs: readonly UnitRun[], blocks: OpenBlocks): Promise<SecretBytes> => {
    const rows = await statements.query<{ block_id: BlockId; sealed: Buffer | null }>(
      `SELECT block_id, sealed FROM key_block WHERE block_id = ANY($1::uuid[])`,
      [blockIdsOf(runs)],
    )
    const sealed = new Map(rows.flatMap(({ block_id, sealed: bytes }) => (bytes === null ? [] : [[block_id, bytes] as const])))
    const spans = new Map([...sealed].map(([blockId, bytes]) => [blockId, { first: 0, bytes }]))
    const request = { units: runs, sizeBits: unitSizeBits, count: unitCountOf(runs) }
    const pad = joinUnits(blocks, request, spans).bytes
    const step = sealedUnitBytes(unitSizeBits)
    for (const { blockId, units } of runs) for (const unit of units) sealed.get(blockId)?.fill(0, unit * step, (unit + 1) * step)
    await statements.query(
      `UPDATE key_block b SET sealed = t.sealed FROM unnest($1::uuid[], $2::bytea[]) AS t(block_id, sealed) WHERE b.block_id = t.block_id`,
      [[...sealed.keys()], [...sealed.values()]],
    )
    return pad
  }

  /** Why the units of a message cannot be its pad; undefined when they can. */
  const whyNot = async (
    statements: Statements,
    { blockIds, masks }: { blockIds: readonly BlockId[]; masks: readonly string[] },
    { peerKmeId, relayId, units }: PadRedemption,
  ): Promise<PadRefusal | undefined> => {
    // The tombstone that a retirement leaves.
    const retired = await statements.query(`SELECT 1 FROM assignment WHERE aid = $1 AND peer_kme_id = $2 AND state = 'VOIDED'`, [
      relayId,
      peerKmeId,
    ])
    if (retired.length > 0) return 'given-up'
    const [row] = await statements.query<{ free: number; used: boolean | null; pending: boolean | null }>(
      `SELECT coalesce(sum(bit_count(m.mask)) FILTER (WHERE b.state = 'AVAILABLE' AND ${OF_A_LINK}), 0)::int AS free,
         bool_or(bit_count(b.taken & m.mask) > 0) AS used, bool_or(b.state = 'INGESTED') AS pending
       FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask) JOIN key_block b USING (block_id)
       WHERE b.peer_kme_id = $3 AND bit_count(b.mine & m.mask) = 0`,
      [blockIds, masks, peerKmeId],
    )
    if (row?.used === true) return 'pad-used'
    if (row?.pending === true) return 'pad-pending'
    return row?.free === unitCountOf(units) ? undefined : 'pad-unavailable'
  }

  const giveUp = async (
    statements: Statements,
    rows: readonly { relay_id: string; peer_kme_id: KmeId; units: UnitRun[] }[],
  ): Promise<void> => {
    if (rows.length === 0) return
    // Burnt: settlement tells the peer, which may not have seen the message, and then forgets it.
    await statements.query(
      `INSERT INTO reservation (aid, peer_kme_id, state, claimed_by, units)
       SELECT t.aid, t.peer, 'BURNT', $4::uuid, t.units FROM unnest($1::uuid[], $2::text[], $3::text[]::jsonb[]) AS t(aid, peer, units)`,
      [
        rows.map((row) => row.relay_id),
        rows.map((row) => row.peer_kme_id),
        rows.map((row) => JSON.stringify(row.units)),
        processId,
      ],
    )
    await appendAudit(
      statements,
      rows.map((row) => ({
        event: 'key.burnt',
        actor: 'system',
        outcome: 'done',
        subject: { aid: row.relay_id, reason: 'the pad of a relay that was given up', units: unitCountOf(row.units) },
      })),
    )
  }

  const findPrior = async (
    statements: Statements,
    { peerKmeId, relayId, digest }: Pick<PadRedemption, 'peerKmeId' | 'relayId' | 'digest'>,
  ): Promise<PriorPadAnswer | undefined> => {
    const [row] = await statements.query<{ same: boolean; answer: unknown }>(
      `SELECT peer_kme_id = $2 AND digest = $3 AS same, answer FROM relay_pad WHERE relay_id = $1 AND side = 'in'`,
      [relayId, peerKmeId, digest],
    )
    if (row === undefined) return undefined
    return row.same ? { answer: row.answer ?? undefined } : 'other-content'
  }

  return {
    spendPad: async ({ peerKmeId, relayId, units, subject, encrypt }) => {
      const blocks = await reader.open(blockIdsOf(units))
      try {
        return await database.transaction(async (statements) => {
          const { blockIds, masks } = await masksIn(statements, units)
          await statements.query(
            `WITH spent AS (
               UPDATE key_block b SET taken = b.taken | m.mask
               FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask)
               WHERE b.block_id = m.block_id AND b.state = 'AVAILABLE' AND b.peer_kme_id = $3 AND ${OF_A_LINK}
                 AND bit_count(b.taken & m.mask) = 0 AND bit_count(b.mine & m.mask) = bit_count(m.mask)
               RETURNING bit_count(m.mask) AS units
             )
             SELECT must((SELECT coalesce(sum(units), 0) FROM spent) = $4::int, 'spend')`,
            [blockIds, masks, peerKmeId, unitCountOf(units)],
          )
          using pad = await takeOut(statements, units, blocks)
          const message = pad.use(encrypt)
          await statements.query(finishUnits(1, 2), [blockIds, masks])
          await statements.query(
            `INSERT INTO relay_pad (relay_id, side, peer_kme_id, state, units, message)
             VALUES ($1, 'out', $2, 'OPEN', $3::text::jsonb, $4::text::jsonb)`,
            [relayId, peerKmeId, JSON.stringify(units), JSON.stringify(message)],
          )
          await appendAudit(statements, [
            {
              event: 'pad.spent',
              actor: 'system',
              outcome: 'done',
              subject: { relayId, peerKmeId, units: unitCountOf(units), ...subject },
            },
          ])
          return message
        })
      } catch (error) {
        if (sqlState(error) === ROW_COUNT_CHECK || error instanceof OverlappingUnits) return 'conflict'
        throw error
      }
    },

    sentUnder: async (relayId) => {
      const [row] = await database.query<{ peer_kme_id: KmeId; message: unknown }>(
        `SELECT peer_kme_id, message FROM relay_pad WHERE relay_id = $1 AND side = 'out' AND state = 'OPEN'`,
        [relayId],
      )
      return row === undefined ? undefined : { peerKmeId: row.peer_kme_id, message: row.message }
    },

    closePad: (relayId, outcome) =>
      database.transaction(async (statements) => {
        const rows = await statements.query<{ relay_id: string; peer_kme_id: KmeId; units: UnitRun[] }>(
          `UPDATE relay_pad SET state = 'CLOSED', message = NULL WHERE relay_id = $1 AND side = 'out' AND state = 'OPEN'
           RETURNING relay_id, peer_kme_id, units`,
          [relayId],
        )
        if (outcome === 'given-up') await giveUp(statements, rows)
      }),

    tidyPads: () =>
      database.transaction(async (statements) => {
        const rows = await statements.query<{ relay_id: string; peer_kme_id: KmeId; units: UnitRun[] }>(
          `UPDATE relay_pad SET state = 'CLOSED', message = NULL
           WHERE side = 'out' AND state = 'OPEN' AND at < now() - interval '${OPEN_MAX_S} seconds' RETURNING relay_id, peer_kme_id, units`,
        )
        await giveUp(statements, rows)
        await statements.query(`DELETE FROM relay_pad WHERE at < now() - interval '${KEPT_S} seconds'`)
        return rows.length
      }),

    redeemPad: async (redemption): Promise<PadRedeemed> => {
      const { peerKmeId, relayId, units, digest, subject } = redemption
      const blocks = await reader.open(blockIdsOf(units))
      try {
        return await database.transaction(async (statements): Promise<PadRedeemed> => {
          const first = await statements.query(
            `INSERT INTO relay_pad (relay_id, side, peer_kme_id, state, units, digest) VALUES ($1, 'in', $2, 'OPEN', $3::text::jsonb, $4)
             ON CONFLICT DO NOTHING RETURNING 1`,
            [relayId, peerKmeId, JSON.stringify(units), digest],
          )
          if (first.length === 0) return { outcome: 'repeated' }
          const { blockIds, masks } = await masksIn(statements, units)
          const reason = await whyNot(statements, { blockIds, masks }, redemption)
          if (reason !== undefined) throw new Refused(reason)
          await statements.query(
            `UPDATE key_block b SET taken = b.taken | m.mask
             FROM unnest($1::uuid[], $2::text[]::varbit[]) AS m(block_id, mask) WHERE b.block_id = m.block_id`,
            [blockIds, masks],
          )
          using pad = await takeOut(statements, units, blocks)
          if (!pad.use(redemption.decrypt)) throw new Refused('not-authentic')
          await statements.query(finishUnits(1, 2), [blockIds, masks])
          await appendAudit(statements, [
            {
              event: 'pad.redeemed',
              actor: `kme:${peerKmeId}`,
              outcome: 'done',
              subject: { relayId, units: unitCountOf(units), ...subject },
            },
          ])
          return { outcome: 'redeemed' }
        })
      } catch (error) {
        if (error instanceof Refused) return { outcome: 'refused', reason: error.reason }
        if (error instanceof OverlappingUnits) return { outcome: 'refused', reason: 'pad-used' }
        if (error instanceof KeyDataAccess) return { outcome: 'refused', reason: 'pad-unavailable' }
        throw error
      }
    },

    priorAnswer: (message) => findPrior(database, message),

    answerPad: async (relayId, answer) => {
      await database.query(
        `UPDATE relay_pad SET state = 'CLOSED', answer = $2::text::jsonb WHERE relay_id = $1 AND side = 'in' AND state = 'OPEN'`,
        [relayId, JSON.stringify(answer)],
      )
    },
  }
}
