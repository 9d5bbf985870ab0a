/** SessionLedger in PostgreSQL. Redis has no part in it, so that emptying Redis opens nothing.
 *  Holds: a session ID is inserted once; the mark of a session only rises, by a conditional UPDATE from where it stood; an ended session
 *  stays ended. Rows are forgotten long after no session could be as old. */
import type { Database } from '../database/database.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import type { SessionLedger } from './session-ledger.ts'

export interface StoredSessionLedger extends SessionLedger {
  /** Forgets old sessions now and then, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

/** Sessions live for hours at most. */
const REMEMBERED_DAYS = 7
const TIDY_INTERVAL_MS = 3_600_000

const OPEN = `
INSERT INTO peer_session (session_id, peer_kme_id, process_id, reserved_sequence, with_qkd_key) VALUES ($1::uuid, $2, $3::uuid, $4::bigint, $5)
ON CONFLICT DO NOTHING RETURNING session_id`

const RESERVE = `
UPDATE peer_session SET reserved_sequence = $3::bigint
WHERE session_id = $1::uuid AND reserved_sequence = $2::bigint AND ended_at IS NULL RETURNING session_id`

const END = `UPDATE peer_session SET ended_at = now() WHERE session_id = $1::uuid AND ended_at IS NULL`

const FORGET = `DELETE FROM peer_session WHERE opened_at < now() - interval '${REMEMBERED_DAYS} days'`

export const createSessionLedger = (parts: {
  readonly database: Database
  readonly processId: string
  readonly clock: Clock
  readonly log: Logger
}): StoredSessionLedger => {
  const { database, processId, clock, log } = parts
  return {
    reserve: async ({ sessionId, peerKmeId, isMixed }, from, to) => {
      const rows =
        from === 0
          ? await database.query(OPEN, [sessionId, peerKmeId, processId, to, isMixed])
          : await database.query(RESERVE, [sessionId, from, to])
      return rows.length === 1
    },
    end: async (sessionId) => {
      await database.query(END, [sessionId])
    },
    run: async (signal) => {
      while (!signal.aborted) {
        try {
          await database.query(FORGET)
        } catch (error) {
          log.warn({ error }, 'old peer sessions could not be forgotten; trying again later')
        }
        await clock.sleep(TIDY_INTERVAL_MS, signal)
      }
    },
  }
}
