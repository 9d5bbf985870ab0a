/** Alarms and the notices of them, in PostgreSQL.
 *  Holds: an alarm changes by one conditional statement, in one transaction with its audit record and the notices it causes, so
 *  that of several processes that report the same thing one causes notices. Times are the caller's, because back-off is counted
 *  on an injected clock; the clocks of a KME's machines must agree to a few seconds, as certificates demand anyway. */
import { auditColumns, insertAudit, type AuditEventName } from '../audit/audit.ts'
import type { Database, Row, Statements } from '../database/database.ts'
import type { AlarmRecord, AlarmSeverity } from './alarms.ts'

/** Something that was seen, on its way to the database. */
export type AlarmReport = { readonly name: string; readonly atMs: number } & (
  | {
      readonly event: 'raised'
      readonly severity: AlarmSeverity
      readonly text: string
      /** JSON. */
      readonly subject: string
    }
  | { readonly event: 'cleared' }
)

export interface AlarmNotice {
  readonly id: string
  readonly body: string
  /** Tries, this one included. */
  readonly attempts: number
}

export interface GivenUpNotice {
  readonly alarm: string
  readonly event: string
  readonly webhook: string
}

export interface AlarmStore {
  /** Raises or clears an alarm.
   *  @returns false when nothing changed: the alarm was so already. */
  write(report: AlarmReport): Promise<boolean>
  /** Those that are raised, newest first. */
  active(): Promise<readonly AlarmRecord[]>
  /** Those cleared since then, newest first. */
  clearedSince(sinceMs: number, limit: number): Promise<readonly AlarmRecord[]>
  /** Forgets alarms cleared before then. */
  forgetCleared(beforeMs: number): Promise<void>
  /** Takes notices of this webhook that are due; nobody else gets them before `leaseMs` have passed. */
  takeDue(webhook: string, leaseMs: number): Promise<readonly AlarmNotice[]>
  accepted(notice: AlarmNotice): Promise<void>
  /** To be tried again in `pauseMs`. */
  failed(notice: AlarmNotice, pauseMs: number): Promise<void>
  /** Removes notices made before then. */
  giveUp(beforeMs: number): Promise<readonly GivenUpNotice[]>
}

export interface AlarmStoreParts {
  readonly database: Database
  readonly kmeId: string
  /** URLs of those to be told. */
  readonly webhooks: readonly string[]
  /** How long a notice that an alarm is over is held back. */
  readonly quietMs: number
  readonly nowMs: () => number
  readonly uuid: () => string
}

interface AlarmRow extends Row {
  readonly name: string
  readonly severity: AlarmSeverity
  readonly text: string
  readonly subject: Readonly<Record<string, unknown>>
  readonly raised_at: Date
  readonly cleared_at: Date | null
}

const COLUMNS = 'name, severity, text, subject, raised_at, cleared_at'

const RAISE = `
INSERT INTO alarm (name, severity, text, subject, raised_at) VALUES ($1, $2, $3, $4::jsonb, $5)
ON CONFLICT (name) DO UPDATE
  SET severity = excluded.severity, text = excluded.text, subject = excluded.subject, raised_at = excluded.raised_at, cleared_at = NULL
  WHERE alarm.cleared_at IS NOT NULL
RETURNING ${COLUMNS}`

const CLEAR = `
UPDATE alarm SET cleared_at = greatest(raised_at, $2) WHERE name = $1 AND cleared_at IS NULL RETURNING ${COLUMNS}`

const INSERT_NOTICES = `
INSERT INTO alarm_notice (alarm, event, next_attempt_at, created_at, id, webhook, body)
SELECT $1, $2, $3::timestamptz, $4::timestamptz, notice.*
FROM unnest($5::uuid[], $6::text[], $7::text[]) AS notice (id, webhook, body)`

// The webhook has not heard yet that the alarm was over: it need not hear either that it is back.
const UNSAY_CLEARED = `
DELETE FROM alarm_notice WHERE alarm = $1 AND event = 'cleared' AND attempts = 0 RETURNING webhook`

const TAKE_DUE = `
UPDATE alarm_notice SET attempts = attempts + 1, next_attempt_at = $3
WHERE id IN (
  SELECT due.id FROM alarm_notice AS due
  WHERE due.webhook = $1 AND due.next_attempt_at <= $2
    AND NOT EXISTS (
      SELECT 1 FROM alarm_notice AS earlier
      WHERE earlier.webhook = due.webhook AND earlier.alarm = due.alarm AND earlier.seq < due.seq)
  ORDER BY due.seq
  LIMIT 8
  FOR UPDATE OF due SKIP LOCKED)
RETURNING id, body, attempts`

export const createAlarmStore = (parts: AlarmStoreParts): AlarmStore => {
  const { database, webhooks, nowMs } = parts
  const inFuture = (ms: number): Date => new Date(nowMs() + ms)

  const tellWebhooks = async (statements: Statements, report: AlarmReport, alarm: AlarmRow): Promise<void> => {
    const { event } = report
    const unsaid = event === 'raised' ? await statements.query<{ webhook: string }>(UNSAY_CLEARED, [alarm.name]) : []
    const told = webhooks.filter((url) => !unsaid.some(({ webhook }) => webhook === url))
    if (told.length === 0) return
    const ids = told.map(() => parts.uuid())
    const { name, severity, text, subject } = alarm
    const at = new Date(report.atMs).toISOString()
    const bodies = ids.map((id) => JSON.stringify({ id, at, kmeId: parts.kmeId, event, name, severity, text, subject }))
    const due = inFuture(event === 'cleared' ? parts.quietMs : 0)
    await statements.query(INSERT_NOTICES, [name, event, due, inFuture(0), ids, told, bodies])
  }

  return {
    write: (report) =>
      database.transaction(async (statements) => {
        const at = new Date(report.atMs)
        const [alarm] = await (report.event === 'raised'
          ? statements.query<AlarmRow>(RAISE, [report.name, report.severity, report.text, report.subject, at])
          : statements.query<AlarmRow>(CLEAR, [report.name, at]))
        if (alarm === undefined) return false
        const { name, severity, subject } = alarm
        const event: AuditEventName = `alarm.${report.event}`
        const record = { event, actor: 'system', outcome: 'done', subject: { ...subject, alarm: name, severity } } as const
        await statements.query(insertAudit(1), auditColumns([record]))
        await tellWebhooks(statements, report, alarm)
        return true
      }),
    active: async () => {
      const rows = await database.query<AlarmRow>(
        `SELECT ${COLUMNS} FROM alarm WHERE cleared_at IS NULL ORDER BY raised_at DESC, name`,
      )
      return rows.map(toRecord)
    },
    clearedSince: async (sinceMs, limit) => {
      const rows = await database.query<AlarmRow>(
        `SELECT ${COLUMNS} FROM alarm WHERE cleared_at >= $1 ORDER BY cleared_at DESC, name LIMIT $2`,
        [new Date(sinceMs), limit],
      )
      return rows.map(toRecord)
    },
    forgetCleared: async (beforeMs) => {
      await database.query('DELETE FROM alarm WHERE cleared_at < $1', [new Date(beforeMs)])
    },
    takeDue: (webhook, leaseMs) => database.query<AlarmNotice & Row>(TAKE_DUE, [webhook, inFuture(0), inFuture(leaseMs)]),
    accepted: async ({ id }) => {
      await database.query('DELETE FROM alarm_notice WHERE id = $1', [id])
    },
    failed: async ({ id, attempts }, pauseMs) => {
      // Not when the lease ran out and somebody else tries already.
      await database.query('UPDATE alarm_notice SET next_attempt_at = $3 WHERE id = $1 AND attempts = $2', [
        id,
        attempts,
        inFuture(pauseMs),
      ])
    },
    giveUp: (beforeMs) =>
      database.query<GivenUpNotice & Row>('DELETE FROM alarm_notice WHERE created_at < $1 RETURNING alarm, event, webhook', [
        new Date(beforeMs),
      ]),
  }
}

const toRecord = (row: AlarmRow): AlarmRecord => ({
  name: row.name,
  severity: row.severity,
  text: row.text,
  subject: row.subject,
  raisedAt: row.raised_at,
  clearedAt: row.cleared_at ?? undefined,
})
