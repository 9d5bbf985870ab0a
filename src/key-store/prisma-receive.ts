/** Keys that came whole from another KME: sealed in a block of their own, each key in an assignment of its own, so that each is
 *  delivered, expires and is voided by itself. An ID that was ever seen here is spent for ever. */
import { timingSafeEqual } from 'node:crypto'
import type { Clock } from '../kernel/clock.ts'
import type { Statements } from '../database/database.ts'
import { violatedConstraint } from '../database/database.ts'
import { KeyDataAccess } from '../kernel/errors.ts'
import type { AssignmentId, BlockId, KeyId, KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { TAG_KEY_BYTES } from './key-envelope.ts'
import type { AssignmentState } from './key-states.ts'
import {
  RECEIVED_LINK_PREFIX,
  type Assignment,
  type ReceivedKeys,
  type ReceivedKeyStore,
  type ReceivedSelection,
  type UnitRun,
  type VoidedKey,
} from './key-store.ts'
import { assignmentRow, insertAssignments, insertKeys, keyColumns } from './prisma-assignment-rows.ts'
import { appendAudit, finishUnits, masksIn, prepareInsert, type BlockParts } from './prisma-blocks.ts'
import { joinUnits, unitsPerKey } from './prisma-open-blocks.ts'

export interface ReceiveParts extends BlockParts {
  readonly clock: Clock
  readonly random: Random
}

interface KnownKey extends Record<string, unknown> {
  key_id: KeyId
  aid: AssignmentId
  role: string
  peer_kme_id: KmeId
  state: AssignmentState
  size_bits: number
  units: UnitRun[]
  fetched: number
  expired: boolean
  same_parties: boolean
}

/** SQL: keys, and whether they are of this master ($2) for exactly these slaves ($3). */
const KNOWN = `
SELECT k.key_id, a.aid, a.role, a.peer_kme_id, a.state, a.size_bits, a.units, bit_count(a.fetched)::int AS fetched,
  a.expires_at <= now() AS expired,
  a.master_sae_id = $2 AND a.slave_sae_ids @> $3::text[] AND a.slave_sae_ids <@ $3::text[] AS same_parties
FROM assigned_key k JOIN assignment a USING (aid)`

const KNOWN_OF_IDS = `${KNOWN} WHERE k.key_id = ANY($1::uuid[]) ORDER BY a.aid`
const KNOWN_OF_PARTIES = `${KNOWN} WHERE a.ended_at IS NULL AND a.state = 'ISSUED' AND a.role = 'holder' AND a.peer_kme_id = $1 AND a.master_sae_id = $2
  AND a.slave_sae_ids @> $3::text[] AND a.slave_sae_ids <@ $3::text[] ORDER BY a.aid`

/** SQL: IDs never seen before become those of keys that were voided before they came. */
const TOMBSTONES = `
WITH fresh AS (
  INSERT INTO assigned_key (key_id, aid, position)
  SELECT t.key_id, t.aid, 0 FROM unnest($1::uuid[], $2::uuid[]) AS t(key_id, aid) ORDER BY t.key_id
  ON CONFLICT DO NOTHING RETURNING aid
)
INSERT INTO assignment (aid, role, peer_kme_id, state, master_sae_id, slave_sae_ids, size_bits, key_count, units, fetched, expires_at, ended_at)
SELECT aid, 'holder', $3, 'VOIDED', $4, $5::text[], 0, 1, '[]', ''::varbit, now(), now() FROM fresh`

/** How long a count of waiting units is believed: with many small blocks it takes long. Keys fetched meanwhile still count, and those that
 *  another process took in do not. */
const COUNT_LIFE_MS = 1000

export const receiveMethods = (parts: ReceiveParts): ReceivedKeyStore => {
  const { database, reader, clock, random, unitSizeBits } = parts

  /** Tag key, then each key in units of its own, the rest of its last unit zero. */
  const blockOf = ({ keys, bytes }: ReceivedKeys): SecretBytes => {
    const unitBytes = unitSizeBits / 8
    const unitCount = keys.reduce((sum, { sizeBits }) => sum + unitsPerKey(sizeBits, unitSizeBits), 0)
    const block = Buffer.allocUnsafeSlow(TAG_KEY_BYTES + unitCount * unitBytes).fill(0)
    random.fill(block.subarray(0, TAG_KEY_BYTES))
    bytes.use((source) => {
      let from = 0
      let to = TAG_KEY_BYTES
      for (const { sizeBits } of keys) {
        source.copy(block, to, from, from + sizeBits / 8)
        from += sizeBits / 8
        to += unitsPerKey(sizeBits, unitSizeBits) * unitBytes
      }
    })
    return SecretBytes.adopt(block)
  }
  const toAssignments = (received: ReceivedKeys, blockId: BlockId): Assignment[] => {
    let next = 0
    return received.keys.map(({ keyId, sizeBits }) => {
      const first = next
      next += unitsPerKey(sizeBits, unitSizeBits)
      return {
        aid: random.uuid() as AssignmentId,
        masterSaeId: received.masterSaeId,
        slaveSaeIds: received.slaveSaeIds,
        sizeBits,
        keyIds: [keyId],
        units: [{ blockId, units: Array.from({ length: next - first }, (_, i) => first + i) }],
        ttlS: received.ttlS,
      }
    })
  }

  const store = async (received: ReceivedKeys): Promise<void> => {
    const { peerKmeId } = received
    const blockId = random.uuid() as BlockId
    const assignments = toAssignments(received, blockId)
    using key = blockOf(received)
    const insertBlock = prepareInsert(parts, {
      blockId,
      linkId: linkOf(peerKmeId),
      deviceBlock: blockId,
      peerKmeId,
      issuedHere: 'none',
      key,
    })
    const rows = assignments.map((one) => assignmentRow('holder', peerKmeId, one, { lifeS: one.ttlS, ended: false }))
    await database.transaction(async (statements) => {
      await insertBlock(statements)
      await statements.query(`UPDATE key_block SET state = 'AVAILABLE', taken = ~taken WHERE block_id = $1`, [blockId])
      await statements.query(insertAssignments(1), [JSON.stringify(rows)])
      await statements.query(insertKeys(1), keyColumns(assignments))
      const subject = {
        source: 'received',
        master: received.masterSaeId,
        slaves: received.slaveSaeIds,
        keyIds: received.keys.map(({ keyId }) => keyId),
      }
      await appendAudit(statements, [{ event: 'key.held', actor: `kme:${peerKmeId}`, outcome: 'done', subject }])
    })
  }

  /** Whether the very same keys are held for the very same SAEs and nobody has one of them yet. */
  const isHeld = async (received: ReceivedKeys): Promise<boolean> => {
    const keyIds = received.keys.map(({ keyId }) => keyId)
    const rows = await database.query<KnownKey>(KNOWN_OF_IDS, [keyIds, received.masterSaeId, received.slaveSaeIds])
    const known = new Map(rows.map((row) => [row.key_id, row]))
    const waiting = received.keys.flatMap(({ keyId, sizeBits }) => {
      const row = known.get(keyId)
      const waits =
        row?.role === 'holder' &&
        row.peer_kme_id === received.peerKmeId &&
        row.same_parties &&
        row.state === 'ISSUED' &&
        row.fetched === 0 &&
        !row.expired &&
        row.size_bits === sizeBits
      return waits ? [{ units: row.units, sizeBits, count: 1 }] : []
    })
    if (waiting.length < received.keys.length) return false
    const sealed = await reader.sealedUnits(waiting)
    const blocks = await reader.open(waiting.flatMap(({ units }) => units.map((run) => run.blockId)))
    try {
      let at = 0
      return waiting.every((key) => {
        using stored = joinUnits(blocks, key, sealed).bytes
        const from = at
        at += key.sizeBits / 8
        return received.bytes.use((bytes) => stored.use((own) => timingSafeEqual(own, bytes.subarray(from, at))))
      })
    } catch (error) {
      // Fetched by the last slave a moment ago.
      if (error instanceof KeyDataAccess) return false
      throw error
    }
  }

  const countWaiting = async (peerKmeId: KmeId): Promise<number> => {
    const [row] = await database.query<{ units: number }>(
      `SELECT coalesce(sum(unit_count - bit_count(done)), 0)::int AS units FROM key_block WHERE state = 'AVAILABLE' AND link_id = $1`,
      [linkOf(peerKmeId)],
    )
    return row?.units ?? 0
  }
  /** Units of each KME that wait for a slave, as counted lately, and what came in since. */
  const waiting = new Map<KmeId, { readonly counted: Promise<number>; readonly untilMs: number; added: number }>()

  /** Keeps room for the units of these keys. @returns false when there is none. */
  const makeRoom = async ({ peerKmeId, keys, heldUnitsMax }: ReceivedKeys): Promise<boolean> => {
    const units = keys.reduce((sum, { sizeBits }) => sum + unitsPerKey(sizeBits, unitSizeBits), 0)
    let account = waiting.get(peerKmeId)
    if (account === undefined || clock.monotonicMs() >= account.untilMs) {
      account = { counted: countWaiting(peerKmeId), untilMs: clock.monotonicMs() + COUNT_LIFE_MS, added: 0 }
      waiting.set(peerKmeId, account)
      // Who comes next counts anew.
      account.counted.catch(() => waiting.delete(peerKmeId))
    }
    const counted = await account.counted
    if (counted + account.added + units > heldUnitsMax) return false
    account.added += units
    return true
  }

  const spendUnknown = (statements: Statements, selection: ReceivedSelection): Promise<unknown> => {
    const { peerKmeId, masterSaeId, slaveSaeIds, keyIds } = selection
    if (keyIds === 'all') return Promise.resolve()
    const aids = keyIds.map(() => random.uuid())
    return statements.query(TOMBSTONES, [keyIds, aids, peerKmeId, masterSaeId, slaveSaeIds])
  }

  return {
    receive: async (received) => {
      // Keys that are here already need no room.
      if (!(await makeRoom(received))) return (await isHeld(received)) ? 'held' : 'too-many'
      try {
        await store(received)
        return 'held'
      } catch (error) {
        if (violatedConstraint(error) !== 'assigned_key_pkey') throw error
        return (await isHeld(received)) ? 'held' : 'key-id-in-use'
      }
    },

    voidReceived: (selection) =>
      database.transaction(async (statements) => {
        const { peerKmeId, masterSaeId, slaveSaeIds, keyIds } = selection
        await spendUnknown(statements, selection)
        const rows = await statements.query<KnownKey>(`${keyIds === 'all' ? KNOWN_OF_PARTIES : KNOWN_OF_IDS} FOR UPDATE OF a`, [
          keyIds === 'all' ? peerKmeId : keyIds,
          masterSaeId,
          slaveSaeIds,
        ])
        const outcomes = new Map(rows.map((row) => [row.key_id, outcomeOf(row, peerKmeId)]))
        const ended = rows.filter((row) => row.state === 'ISSUED' && outcomes.get(row.key_id) === 'voided')
        if (ended.length > 0) {
          await statements.query(`UPDATE assignment SET state = 'VOIDED', ended_at = now() WHERE aid = ANY($1::uuid[])`, [
            ended.map((row) => row.aid),
          ])
          const { blockIds, masks } = await masksIn(
            statements,
            ended.flatMap((row) => row.units),
          )
          await statements.query(finishUnits(1, 2), [blockIds, masks])
        }
        const voided = (keyIds === 'all' ? [...outcomes.keys()] : keyIds).map((keyId): VoidedKey => ({
          keyId,
          outcome: outcomes.get(keyId) ?? 'absent',
        }))
        const subject = { master: masterSaeId, slaves: slaveSaeIds, keyIds: ended.map((row) => row.key_id), asked: voided.length }
        await appendAudit(statements, [
          { event: 'key.voided', actor: `kme:${peerKmeId}`, outcome: ended.length > 0 ? 'done' : 'refused', subject },
        ])
        return voided
      }),
  }
}

const linkOf = (peerKmeId: KmeId): LinkId => `${RECEIVED_LINK_PREFIX}${peerKmeId}` as LinkId

const outcomeOf = (row: KnownKey, peerKmeId: KmeId): VoidedKey['outcome'] => {
  if (row.role !== 'holder' || row.peer_kme_id !== peerKmeId || !row.same_parties) return 'absent'
  // A key of no size was voided before it came.
  if (row.state === 'VOIDED') return row.size_bits === 0 ? 'absent' : 'voided'
  if (row.fetched > 0) return 'delivered'
  return row.state === 'ISSUED' && !row.expired ? 'voided' : 'absent'
}
