/** SaeDirectory in PostgreSQL with a copy in memory, so that asking costs nothing and a change counts at once.
 *  Holds: the copy never goes back to an older state, because one reading follows the other; a change and its audit record are
 *  one transaction. */
import { auditColumns, insertAudit, type AuditEvent } from '../audit/audit.ts'
import type { Database, Row } from '../database/database.ts'
import type { Clock } from '../kernel/clock.ts'
import { BadRequest, Conflict, NotFound } from '../kernel/errors.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { RegisteredSae, SaeDirectory } from './delivery.ts'

export interface SeedSae {
  readonly id: SaeId
  readonly kme: KmeId
  readonly sharesWith: readonly SaeId[]
}

export interface StoredSaeDirectory extends SaeDirectory {
  /** Registers the SAEs of the configuration that are not known yet; those that are stay as they are. */
  seed(saes: readonly SeedSae[]): Promise<void>
  /** Reads again now and then until `signal` aborts, for changes made by another process. */
  watch(signal: AbortSignal): Promise<void>
  /** Another process may have changed something: read again now. */
  notice(): void
  /** Whether the latest reading succeeded: what is in memory is what the database holds, and the database answers. */
  isCurrent(): boolean
}

const WATCH_INTERVAL_MS = 1000

const smallerFirst = (one: SaeId, other: SaeId): [SaeId, SaeId] => (one < other ? [one, other] : [other, one])

interface SaeRow extends Row {
  readonly sae_id: SaeId
  readonly kme_id: KmeId
  readonly enabled: boolean
  readonly shares_with: SaeId[]
}

// One statement sees one state of both tables.
const READ = `
SELECT sae_id, kme_id, enabled,
       ARRAY(SELECT sae_b FROM sae_pair WHERE sae_a = sae_id UNION SELECT sae_a FROM sae_pair WHERE sae_b = sae_id) AS shares_with
FROM sae`

const REGISTER = `INSERT INTO sae (sae_id, kme_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING sae_id`
const SET_ENABLED = `UPDATE sae SET enabled = $2 WHERE sae_id = $1 RETURNING sae_id`
const PAIR = `INSERT INTO sae_pair (sae_a, sae_b) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING sae_a`
const UNPAIR = `DELETE FROM sae_pair WHERE sae_a = $1 AND sae_b = $2 RETURNING sae_a`
// In one order, so that processes that start together do not wait for each other in a circle.
const SEED_SAES = `INSERT INTO sae (sae_id, kme_id) SELECT * FROM unnest($1::text[], $2::text[]) ORDER BY 1 ON CONFLICT DO NOTHING`
const SEED_PAIRS = `INSERT INTO sae_pair (sae_a, sae_b) SELECT * FROM unnest($1::text[], $2::text[]) ORDER BY 1, 2 ON CONFLICT DO NOTHING`

export const createSaeDirectory = (parts: { database: Database; clock: Clock; log: Logger }): StoredSaeDirectory => {
  const { database } = parts
  let saes: ReadonlyMap<SaeId, RegisteredSae> = new Map()
  let partners: ReadonlyMap<SaeId, ReadonlySet<SaeId>> = new Map()
  const listeners: ((saeId: SaeId) => void)[] = []

  const read = async (): Promise<void> => {
    const rows = await database.query<SaeRow>(READ)
    const before = saes
    partners = new Map(rows.map((row) => [row.sae_id, new Set(row.shares_with)]))
    saes = new Map(
      rows.map((row) => [
        row.sae_id,
        { saeId: row.sae_id, kmeId: row.kme_id, enabled: row.enabled, sharesWith: [...row.shares_with].sort() },
      ]),
    )
    for (const [saeId, sae] of before) {
      if (sae.enabled && saes.get(saeId)?.enabled !== true) for (const listener of listeners) listener(saeId)
    }
  }
  let current = true
  let noticed = new AbortController()
  let reading: Promise<void> = Promise.resolve()
  let next: Promise<void> | undefined
  /** A reading that begins after this call and after the one that is running. */
  const reload = (): Promise<void> => {
    next ??= reading
      .catch(() => {
        // Whoever asked for that reading was told.
      })
      .then(() => {
        next = undefined
        return (reading = read())
      })
    return next
  }
  /** Runs one statement that returns the rows it changed.
   *  @returns whether there were any; without any there is no audit record. */
  const change = async (actor: string, subject: Record<string, unknown>, sql: string, values: unknown[]): Promise<boolean> => {
    const changed = await database.transaction(async (statements) => {
      const rows = await statements.query(sql, values)
      const event: AuditEvent = { event: 'sae.changed', actor, outcome: 'done', subject }
      if (rows.length > 0) await statements.query(insertAudit(1), auditColumns([event]))
      return rows.length > 0
    })
    await reload()
    return changed
  }
  const mustExist = (saeId: SaeId): void => {
    if (!saes.has(saeId)) throw new NotFound('no such SAE')
  }

  return {
    find: (saeId) => saes.get(saeId),
    mayShare: (one, other) =>
      saes.get(one)?.enabled === true && saes.get(other)?.enabled === true && partners.get(one)?.has(other) === true,
    list: () => [...saes.values()].sort((a, b) => (a.saeId < b.saeId ? -1 : 1)),
    register: async ({ saeId, kmeId }, actor) => {
      const isNew = await change(actor, { change: 'registered', saeId, kmeId }, REGISTER, [saeId, kmeId])
      if (!isNew) throw new Conflict('this SAE is registered already')
    },
    setEnabled: async (saeId, enabled, actor) => {
      const exists = await change(actor, { change: enabled ? 'enabled' : 'disabled', saeId }, SET_ENABLED, [saeId, enabled])
      if (!exists) throw new NotFound('no such SAE')
    },
    setPair: async (one, other, allowed, actor) => {
      mustExist(one)
      mustExist(other)
      if (one === other) throw new BadRequest([{ reason: 'an SAE shares keys with other SAEs, not with itself' }])
      const subject = { change: allowed ? 'paired' : 'unpaired', one, other }
      await change(actor, subject, allowed ? PAIR : UNPAIR, smallerFirst(one, other))
    },
    reload,
    onChange: (listener) => listeners.push(listener),
    seed: async (seeds) => {
      await reload()
      const fresh = seeds.filter(({ id }) => !saes.has(id))
      const isFresh = new Set(fresh.map(({ id }) => id))
      // A pair is as new as its newer SAE; pairs an administrator took away stay away.
      const pairs = seeds.flatMap(({ id, sharesWith }) =>
        sharesWith.filter((other) => isFresh.has(id) || isFresh.has(other)).map((other) => smallerFirst(id, other)),
      )
      await database.transaction(async (statements) => {
        await statements.query(SEED_SAES, [fresh.map(({ id }) => id), fresh.map(({ kme }) => kme)])
        await statements.query(SEED_PAIRS, [pairs.map(([saeA]) => saeA), pairs.map(([, saeB]) => saeB)])
      })
      await reload()
    },
    isCurrent: () => current,
    notice: () => noticed.abort(),
    watch: async (signal) => {
      while (!signal.aborted) {
        await parts.clock.sleep(WATCH_INTERVAL_MS, AbortSignal.any([signal, noticed.signal]))
        if (signal.aborted) return
        noticed = new AbortController()
        try {
          await reload()
          current = true
        } catch (error) {
          if (current) parts.log.warn({ error }, 'the SAE directory could not be read again; trying on')
          current = false
        }
      }
    },
  }
}
