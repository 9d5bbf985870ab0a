/** What must outlive this process: which keys were sent to a neighbour and what it said of them, and what neighbours must still be told.
 *  A key that was sent goes its way by conditional statements only, so that of an acknowledgement, a deadline and a void one is first.
 *
 *  SENT: durable before a byte leaves. RELAYED, FAILED: as the neighbour said. REFUSED: the neighbour has no trace of it. ISSUED: the
 *  initiator may get it. VOIDED: nobody gets it any more; the neighbour asked for that, or is told. */
import { auditColumns, insertAudit } from '../audit/audit.ts'
import type { Database, Statements } from '../database/database.ts'
import { createBatching } from '../kernel/batching.ts'
import type { AssignmentId, KeyId, KmeId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import type { Assignment, VoidedKey } from '../key-store/key-store.ts'
import {
  CONNECTIONS_PER_NEIGHBOUR,
  type Ack,
  type AckStatus,
  type NeighbourMessage,
  type WaitingMessage,
} from './interworking.ts'
import type { VoidRequest } from './wire.ts'

type SentState = 'SENT' | 'RELAYED' | 'FAILED' | 'REFUSED' | 'ISSUED' | 'VOIDED'

/** How the keys of one request are doing. `lost`: one of them cannot be issued any more. */
export type TransferProgress = 'waiting' | 'relayed' | 'lost'

export interface TransferStore {
  /** To be called before a byte of the keys leaves; durable when it resolves. */
  open(kmeId: KmeId, assignment: Assignment): Promise<void>
  /** Nothing was sent. */
  forget(aid: AssignmentId): Promise<void>
  /** The neighbour refused and has no trace of the keys. */
  refused(aid: AssignmentId): Promise<void>
  progress(aid: AssignmentId): Promise<TransferProgress>
  /** From now on a void comes too late. False when one came before, or not every key is relayed. */
  issue(aid: AssignmentId): Promise<boolean>
  /** The keys will never be issued; the neighbour is told, also after a restart. Does nothing a second time. */
  abandon(aid: AssignmentId): Promise<void>
  /** What a neighbour says of keys that were sent to it, or that it was asked to void. All is noted, or nothing.
   *  @returns false when it never got one of them. */
  note(kmeId: KmeId, acks: readonly Ack[]): Promise<boolean>
  /** A neighbour voids keys that were sent to it. */
  voidSent(kmeId: KmeId, request: Pick<VoidRequest, 'initiator' | 'targets' | 'keyIds'>): Promise<readonly VoidedKey[]>

  /** Durable when it resolves. */
  tell(kmeId: KmeId, message: NeighbourMessage): Promise<void>
  /** Messages to a neighbour that are due, as many as can be posted to it at a time. Nobody else gets them for so long. */
  takeDue(kmeId: KmeId, leaseMs: number): Promise<readonly WaitingMessage[]>
  /** The same, of messages nobody wants to know of any more, to any neighbour, also one that is configured no longer. */
  takeExpired(leaseMs: number): Promise<readonly WaitingMessage[]>
  told(id: string): Promise<void>
  tryLater(id: string, pauseMs: number): Promise<void>
  /** Forgets sent keys that nobody can void any more. */
  tidy(): Promise<void>
}

/** How long a message is tried. Whoever waits for an acknowledgement has given up long before; keys should not wait longer to be voided. */
const LIFE_S = { ack: 600, void: 86_400 } as const
const EXPIRED_AT_ONCE = 32

const SEND = `
INSERT INTO sent_key (key_id, aid, neighbour, initiator_sae_id, target_sae_ids, state, expires_at)
SELECT key_id, $2, $3, $4, $5::text[], 'SENT', now() + interval '1 day' FROM unnest($1::uuid[]) AS key_id`

/** SQL: keys of a neighbour, of this initiator for exactly these targets. */
const OF_PARTIES = `neighbour = $1 AND initiator_sae_id = $2 AND target_sae_ids @> $3::text[] AND target_sae_ids <@ $3::text[]`

const LOCK_SOME = `SELECT key_id, state FROM sent_key WHERE key_id = ANY($4::uuid[]) AND ${OF_PARTIES} ORDER BY key_id FOR UPDATE`
const LOCK_ALL = `SELECT key_id, state FROM sent_key WHERE state IN ('SENT', 'RELAYED', 'FAILED') AND ${OF_PARTIES} ORDER BY key_id FOR UPDATE`
const MOVE = `UPDATE sent_key SET state = $2 WHERE key_id = ANY($1::uuid[]) AND state = ANY($3::text[])`

/** SQL: rounded down, since the column has milliseconds, and what is rounded up is not due yet when somebody is woken for it. */
const inMilliseconds = (ms: string): string => `date_trunc('milliseconds', now() + ${ms}::int * interval '1 millisecond')`

/** SQL: leases messages for $1 milliseconds. */
const takeMessages = (which: string): string => `
UPDATE neighbour_message SET attempts = attempts + 1, next_attempt_at = ${inMilliseconds('$1')}
WHERE id IN (SELECT id FROM neighbour_message WHERE next_attempt_at <= now() AND ${which} FOR UPDATE SKIP LOCKED)
RETURNING id, neighbour AS "kmeId", body AS message, attempts`
const TAKE_DUE = takeMessages(`neighbour = $2 AND expires_at > now() ORDER BY next_attempt_at LIMIT ${CONNECTIONS_PER_NEIGHBOUR}`)
const TAKE_EXPIRED = takeMessages(`expires_at <= now() ORDER BY expires_at LIMIT ${EXPIRED_AT_ONCE}`)

interface MessageRow extends Record<string, unknown>, WaitingMessage {}
interface SentRow extends Record<string, unknown> {
  key_id: KeyId
  state: SentState
}

/** What a neighbour's word on a key that waits makes of it. "failed to void" is about a void, not about a key that waits. */
const moveOf: Readonly<Record<AckStatus, SentState | undefined>> = {
  relayed: 'RELAYED',
  failed: 'FAILED',
  voided: 'VOIDED',
  'key not present': 'VOIDED',
  'failed to void': undefined,
}

export const createTransferStore = ({ database, random }: { database: Database; random: Random }): TransferStore => {
  const tell = (statements: Statements, kmeId: KmeId, message: NeighbourMessage): Promise<unknown> =>
    statements.query(
      `INSERT INTO neighbour_message (id, neighbour, kind, body, next_attempt_at, expires_at)
       VALUES ($1, $2, $3, $4::text::jsonb, ${inMilliseconds('0')}, now() + $5::int * interval '1 second')`,
      [random.uuid(), kmeId, message.kind, JSON.stringify(message), LIFE_S[message.kind]],
    )

  const noteOne = async (statements: Statements, { status, keyIds }: Ack): Promise<void> => {
    const move = moveOf[status]
    if (move !== undefined) await statements.query(MOVE, [keyIds, move, move === 'VOIDED' ? ['SENT', 'RELAYED'] : ['SENT']])
    if (status === 'relayed' || status === 'failed') return
    await statements.query(`UPDATE sent_key SET void_answer = $2 WHERE key_id = ANY($1::uuid[]) AND state = 'VOIDED'`, [
      keyIds,
      status,
    ])
  }

  /** All that wait look at each notice, in one statement. */
  const progress = createBatching<AssignmentId, TransferProgress>({
    work: async (aids) => {
      const rows = await database.query<{ aid: AssignmentId; state: SentState }>(
        `SELECT DISTINCT aid, state FROM sent_key WHERE aid = ANY($1::uuid[])`,
        [aids],
      )
      return aids.map((aid) => progressOf(rows.filter((row) => row.aid === aid).map(({ state }) => state)))
    },
    separable: () => false,
    itemsMax: 256,
    lanes: 1,
  })

  return {
    open: async (kmeId, { aid, keyIds, masterSaeId, slaveSaeIds }) => {
      await database.query(SEND, [keyIds, aid, kmeId, masterSaeId, slaveSaeIds])
    },
    forget: async (aid) => {
      await database.query(`DELETE FROM sent_key WHERE aid = $1 AND state = 'SENT'`, [aid])
    },
    refused: async (aid) => {
      await database.query(`UPDATE sent_key SET state = 'REFUSED' WHERE aid = $1 AND state = 'SENT'`, [aid])
    },
    progress,
    issue: (aid) =>
      database.transaction(async (statements) => {
        const rows = await statements.query<SentRow>(
          `SELECT key_id, state FROM sent_key WHERE aid = $1 ORDER BY key_id FOR UPDATE`,
          [aid],
        )
        if (rows.length === 0 || rows.some(({ state }) => state !== 'RELAYED')) return false
        await statements.query(`UPDATE sent_key SET state = 'ISSUED' WHERE aid = $1`, [aid])
        return true
      }),
    abandon: (aid) =>
      database.transaction(async (statements) => {
        await statements.query(`SELECT 1 FROM sent_key WHERE aid = $1 ORDER BY key_id FOR UPDATE`, [aid])
        const rows = await statements.query<{ key_id: KeyId; neighbour: KmeId; initiator: string; targets: string[] }>(
          `UPDATE sent_key SET state = 'VOIDED' WHERE aid = $1 AND state IN ('SENT', 'RELAYED', 'FAILED', 'ISSUED')
           RETURNING key_id, neighbour, initiator_sae_id AS initiator, target_sae_ids AS targets`,
          [aid],
        )
        const [first] = rows
        if (first === undefined) return
        const { neighbour, initiator, targets } = first
        await tell(statements, neighbour, { kind: 'void', initiator, targets, keyIds: rows.map((row) => row.key_id) })
      }),
    note: async (kmeId, acks) => {
      // One that names no key says nothing.
      const named = acks.filter(({ keyIds }) => keyIds.length > 0)
      if (named.length === 0) return true
      return database.transaction(async (statements) => {
        for (const { initiator, targets, keyIds } of named) {
          const rows = await statements.query<SentRow>(LOCK_SOME, [kmeId, initiator, targets, keyIds])
          if (rows.length < keyIds.length) return false
        }
        for (const ack of named) await noteOne(statements, ack)
        return true
      })
    },
    voidSent: (kmeId, { initiator, targets, keyIds }) =>
      database.transaction(async (statements) => {
        const parties = [kmeId, initiator, targets]
        const rows = await (keyIds === 'all'
          ? statements.query<SentRow>(LOCK_ALL, parties)
          : statements.query<SentRow>(LOCK_SOME, [...parties, keyIds]))
        const states = new Map(rows.map((row) => [row.key_id, row.state]))
        await statements.query(MOVE, [[...states.keys()], 'VOIDED', ['SENT', 'RELAYED', 'FAILED']])
        const meant = keyIds === 'all' ? [...states.keys()] : keyIds
        const subject = { direction: 'sent', initiator, targets, keyIds: meant }
        await statements.query(
          insertAudit(1),
          auditColumns([{ event: 'key.voided', actor: `kme:${kmeId}`, outcome: 'done', subject }]),
        )
        return meant.map((keyId): VoidedKey => ({ keyId, outcome: voidOutcome(states.get(keyId)) }))
      }),

    tell: async (kmeId, message) => {
      await tell(database, kmeId, message)
    },
    takeDue: (kmeId, leaseMs) => database.query<MessageRow>(TAKE_DUE, [leaseMs, kmeId]),
    takeExpired: (leaseMs) => database.query<MessageRow>(TAKE_EXPIRED, [leaseMs]),
    told: async (id) => {
      await database.query(`DELETE FROM neighbour_message WHERE id = $1`, [id])
    },
    tryLater: async (id, pauseMs) => {
      await database.query(`UPDATE neighbour_message SET next_attempt_at = ${inMilliseconds('$2')} WHERE id = $1`, [id, pauseMs])
    },
    tidy: async () => {
      await database.query(`DELETE FROM sent_key WHERE expires_at <= now()`)
    },
  }
}

const progressOf = (states: readonly SentState[]): TransferProgress => {
  if (states.length === 0 || states.some((state) => state !== 'SENT' && state !== 'RELAYED')) return 'lost'
  return states.includes('SENT') ? 'waiting' : 'relayed'
}

const voidOutcome = (state: SentState | undefined): VoidedKey['outcome'] => {
  if (state === undefined || state === 'REFUSED') return 'absent'
  return state === 'ISSUED' ? 'delivered' : 'voided'
}
