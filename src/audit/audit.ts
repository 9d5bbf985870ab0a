/** Door of the audit slice: who did what to which keys. A record of a key's state change is written in the same
 *  database transaction as the change; everything else (administration, links, refusals) is appended on its own.
 *  No record ever holds key bytes or a digest of them. */

export type AuditEventName =
  | 'block.available'
  | 'block.discarded'
  /** With the security statement of the block. */
  | 'block.distilled'
  | 'key.issued'
  | 'key.held'
  | 'key.delivered'
  | 'key.unsettled'
  | 'key.returned'
  | 'key.burnt'
  | 'key.voided'
  | 'key.expired'
  | 'units.lent'
  | 'units.borrowed'
  /** Link key became the pad of a relay message: sent, received. */
  | 'pad.spent'
  | 'pad.redeemed'
  | 'pool.state'
  | 'pool.replenish'
  | 'sae.changed'
  | 'alarm.raised'
  | 'alarm.cleared'
  | 'admin.refused'
  | 'peer.refused'
  /** Certificates approved or withdrawn, new sessions asked for. */
  | 'peer.changed'
  | 'kme.started'
  | 'kme.stopped'

export interface AuditEvent {
  readonly event: AuditEventName
  /** `sae:alice`, `kme:kme-b`, `admin:erika` or `system`. */
  readonly actor: string
  readonly outcome: 'done' | 'refused' | 'failed'
  /** Identifiers, counts and reasons. */
  readonly subject: Readonly<Record<string, unknown>>
}

export interface AuditRecord extends AuditEvent {
  readonly seq: string
  readonly at: Date
}

export interface AuditPage {
  /** Newest first. */
  readonly records: readonly AuditRecord[]
  /** Pass as `before` to read on; undefined on the last page. */
  readonly nextBefore: string | undefined
}

export interface AuditQuery {
  /** Only records older than this sequence number. */
  readonly before?: string
  readonly event?: string
  readonly actor?: string
  /** 1 to 1000. */
  readonly limit: number
}

export interface AuditLog {
  append(event: AuditEvent): Promise<void>
  page(query: AuditQuery): Promise<AuditPage>
}

/** Events as parallel arrays, the parameters of insertAudit(). */
export const auditColumns = (
  events: readonly AuditEvent[],
): [event: string[], actor: string[], outcome: string[], subject: string[]] => [
  events.map((event) => event.event),
  events.map((event) => event.actor),
  events.map((event) => event.outcome),
  events.map((event) => JSON.stringify(event.subject)),
]

/** SQL that writes the arrays of auditColumns(), which are the parameters from `first` on. Part of the statement that
 *  changes a key's state, so that neither happens without the other. */
export const insertAudit = (first: number): string => `
INSERT INTO audit_record (event, actor, outcome, subject)
SELECT * FROM unnest($${first}::text[], $${first + 1}::text[], $${first + 2}::text[], $${first + 3}::text[]::jsonb[])`
