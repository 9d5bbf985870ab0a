/** Processes in PostgreSQL. One statement a second shows that this process is alive, renews its duties, takes free ones and reads
 *  everything else.
 *
 *  Holds: all times are by the clock of the database; a duty lasts 5 s there. The holder counts 4 s on its own monotonic clock
 *  from before it sent the renewal that was answered last, and then lets go by itself, so it stops before another may begin,
 *  also when it cannot reach the database. A process that was frozen finds the 4 s gone when it thaws. */
import { outcomeUnknown, type Database, type Row } from '../database/database.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import type { Figure, HeldDuty, LiveProcess, Processes } from './processes.ts'

export interface ProcessesOptions {
  /** With a connection that nothing else uses: a KME under load must not lose its duties because of it. */
  readonly database: Database
  /** A UUID of this process, new at each start. */
  readonly processId: string
  readonly host: string
  readonly pid: number
  readonly clock: Clock
  readonly log: Logger
}

const BEAT_MS = 1000
const DUTY_MS = 5000
/** Less than DUTY_MS by what clocks may differ in speed and work needs to notice. */
const TRUST_MS = 4000
const ALIVE_MS = 5000

interface BeatRow extends Row {
  readonly started_at: Date
  readonly renewed: string[]
  readonly taken: string[]
  readonly processes: { id: string; host: string; pid: number; startedAtMs: number; ageMs: number }[] | null
  readonly duties: { name: string; id: string; leftMs: number; ageMs: number | null; report: unknown }[] | null
  readonly figures: { name: string; total: number; ageMs: number }[] | null
}

const ageMs = (column: string): string => `extract(epoch FROM now() - ${column}) * 1000`

// Rows are locked in the order of their names, and only those that look free are tried: two processes never wait for each other.
const BEAT = `
WITH seen AS (
  INSERT INTO kme_process AS p (process_id, host, pid, started_at, seen_at) VALUES ($1::uuid, $2, $3::int, now(), now())
  ON CONFLICT (process_id) DO UPDATE SET seen_at = now() RETURNING p.started_at
),
renewed AS (
  UPDATE duty d SET until = now() + interval '${DUTY_MS} milliseconds', report = h.report::jsonb, reported_at = now()
  FROM unnest($4::text[], $5::text[]) AS h(name, report)
  WHERE d.name = h.name AND d.process_id = $1::uuid RETURNING d.name
),
taken AS (
  INSERT INTO duty AS d (name, process_id, until)
  SELECT w.name, $1::uuid, now() + interval '${DUTY_MS} milliseconds' FROM unnest($6::text[]) AS w(name)
  WHERE NOT EXISTS (SELECT 1 FROM duty o WHERE o.name = w.name AND o.until > now() AND o.process_id <> $1::uuid)
  ORDER BY w.name
  ON CONFLICT (name) DO UPDATE SET process_id = excluded.process_id, until = excluded.until, report = NULL, reported_at = NULL
  WHERE d.until <= now() OR d.process_id = excluded.process_id RETURNING d.name
),
counted AS (
  INSERT INTO figure AS f (name, total, changed_at)
  SELECT c.name, c.amount, now() FROM unnest($7::text[], $8::float8[]) AS c(name, amount) ORDER BY c.name
  ON CONFLICT (name) DO UPDATE SET total = f.total + excluded.total, changed_at = now() RETURNING f.name, f.total
),
pruned AS (DELETE FROM kme_process WHERE seen_at < now() - interval '1 hour')
SELECT (SELECT started_at FROM seen) AS started_at,
  ARRAY(SELECT name FROM renewed) AS renewed,
  ARRAY(SELECT name FROM taken) AS taken,
  (SELECT jsonb_agg(jsonb_build_object('id', process_id, 'host', host, 'pid', pid, 'ageMs', ${ageMs('seen_at')},
      'startedAtMs', extract(epoch FROM started_at) * 1000) ORDER BY started_at)
    FROM kme_process WHERE process_id <> $1::uuid AND seen_at > now() - interval '${ALIVE_MS} milliseconds') AS processes,
  (SELECT jsonb_agg(jsonb_build_object('name', name, 'id', process_id, 'leftMs', extract(epoch FROM until - now()) * 1000,
      'ageMs', ${ageMs('coalesce(reported_at, now())')}, 'report', report))
    FROM duty WHERE process_id <> $1::uuid AND until > now()) AS duties,
  (SELECT jsonb_agg(jsonb_build_object('name', name, 'total', total, 'ageMs', age))
    FROM (SELECT f.name, coalesce(c.total, f.total) AS total, CASE WHEN c.name IS NULL THEN ${ageMs('f.changed_at')} ELSE 0 END AS age
          FROM figure f LEFT JOIN counted c ON c.name = f.name
          UNION ALL
          SELECT c.name, c.total, 0 FROM counted c WHERE NOT EXISTS (SELECT 1 FROM figure f WHERE f.name = c.name)) all_figures) AS figures`

// The others need not wait for the end of the second.
const LET_GO = `
WITH gone AS (UPDATE duty SET until = now() WHERE name = $1 AND process_id = $2::uuid AND until > now() RETURNING 1)
SELECT pg_notify('kme_changes', 'duty') FROM gone`

const LEAVE = `DELETE FROM kme_process WHERE process_id = $1::uuid`

interface Lease {
  readonly over: AbortController
  trustedUntilMs: number
  report: unknown
  reportedMs: number
}

/** What the database said last. */
interface Seen {
  readonly atMs: number
  readonly row: BeatRow
}

/** Shows this process in the database. @throws when the database does not answer. */
export const openProcesses = async (options: ProcessesOptions): Promise<Processes> => {
  const { database, processId, clock, log } = options
  const leases = new Map<string, Lease>()
  const wanted = new Map<string, (lease: Lease) => void>()
  const holds = new Set<Promise<void>>()
  let amounts = new Map<string, number>()
  let beating: Promise<void> = Promise.resolve()
  let wakeUp = new AbortController()
  let failing = false

  const beat = async (): Promise<Seen> => {
    const held = [...leases.keys()]
    const added = amounts
    amounts = new Map()
    const sentMs = clock.monotonicMs()
    try {
      const [row] = await database.query<BeatRow>(BEAT, [
        processId,
        options.host,
        options.pid,
        held,
        held.map((duty) => JSON.stringify(leases.get(duty)?.report ?? null)),
        [...wanted.keys()],
        [...added.keys()],
        [...added.values()],
      ])
      const answered: Seen = { atMs: clock.monotonicMs(), row: row as BeatRow }
      settleDuties(held, answered, sentMs + TRUST_MS)
      return answered
    } catch (error) {
      if (!outcomeUnknown(error)) for (const [figure, amount] of added) count(figure, amount)
      throw error
    }
  }

  const settleDuties = (held: readonly string[], { atMs, row }: Seen, trustedUntilMs: number): void => {
    // Late beyond trust: the leases end by themselves, and nothing is begun on such an answer.
    if (atMs >= trustedUntilMs) return
    for (const duty of held) {
      const lease = leases.get(duty)
      if (lease === undefined) continue
      if (row.renewed.includes(duty)) lease.trustedUntilMs = trustedUntilMs
      else lose(duty, lease, 'another process has it')
    }
    for (const duty of row.taken) {
      const begin = wanted.get(duty)
      if (begin === undefined) {
        void letGo(duty)
        continue
      }
      wanted.delete(duty)
      const lease: Lease = { over: new AbortController(), trustedUntilMs, report: undefined, reportedMs: atMs }
      leases.set(duty, lease)
      void guard(duty, lease)
      begin(lease)
    }
  }

  const lose = (duty: string, lease: Lease, reason: string): void => {
    if (lease.over.signal.aborted) return
    log.warn({ duty, reason }, 'a duty was lost')
    lease.over.abort()
    leases.delete(duty)
  }

  const guard = async (duty: string, lease: Lease): Promise<void> => {
    while (!lease.over.signal.aborted) {
      const leftMs = lease.trustedUntilMs - clock.monotonicMs()
      if (leftMs <= 0) return lose(duty, lease, 'it could not be renewed in time')
      await clock.sleep(leftMs, lease.over.signal)
    }
  }

  const letGo = async (duty: string): Promise<void> => {
    try {
      // A renewal under way must not come after it.
      await beating
      await database.query(LET_GO, [duty, processId])
    } catch (error) {
      log.debug({ duty, error }, 'a duty runs out instead of being given up')
    }
  }

  const acquire = (duty: string, signal: AbortSignal): Promise<Lease | undefined> =>
    new Promise((resolve) => {
      const giveUp = (): void => {
        wanted.delete(duty)
        resolve(undefined)
      }
      signal.addEventListener('abort', giveUp, { once: true })
      wanted.set(duty, (lease) => {
        signal.removeEventListener('abort', giveUp)
        resolve(lease)
      })
      wake()
    })

  const holdUntilDone = async (
    duty: string,
    work: (signal: AbortSignal) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> => {
    while (!signal.aborted) {
      const lease = await acquire(duty, signal)
      if (lease === undefined) return
      log.info({ duty }, 'duty taken')
      const lost = lease.over.signal
      try {
        await work(AbortSignal.any([signal, lost]))
        if (!lost.aborted) return
      } finally {
        if (!lost.aborted) {
          leases.delete(duty)
          lease.over.abort()
        }
        await letGo(duty)
      }
    }
  }

  const wake = (): void => wakeUp.abort()

  const count = (figure: string, amount: number): void => void amounts.set(figure, (amounts.get(figure) ?? 0) + amount)

  let seen = await beat()

  const isAlive = ({ seenAgeMs }: LiveProcess): boolean => seenAgeMs < ALIVE_MS

  return {
    processId,
    hold: async (duty, work, signal) => {
      if (wanted.has(duty) || leases.has(duty)) throw new Error(`this process holds the duty ${duty} already`)
      const done = holdUntilDone(duty, work, signal)
      holds.add(done)
      try {
        await done
      } finally {
        holds.delete(done)
      }
    },
    report: (duty, report) => {
      const lease = leases.get(duty)
      if (lease === undefined) return
      lease.report = report
      lease.reportedMs = clock.monotonicMs()
    },
    reports: () => {
      const nowMs = clock.monotonicMs()
      const passedMs = nowMs - seen.atMs
      const duties = new Map<string, HeldDuty>()
      for (const { name, id, leftMs, ageMs: age, report } of seen.row.duties ?? []) {
        if (leftMs > passedMs) duties.set(name, { processId: id, ageMs: (age ?? 0) + passedMs, report: report ?? undefined })
      }
      for (const [duty, { report, reportedMs }] of leases) {
        duties.set(duty, { processId, ageMs: nowMs - reportedMs, report })
      }
      return duties
    },
    count,
    figures: () => {
      const passedMs = clock.monotonicMs() - seen.atMs
      return new Map(
        (seen.row.figures ?? []).map(({ name, total, ageMs: age }): [string, Figure] => [
          name,
          { total, changedAgeMs: age + passedMs },
        ]),
      )
    },
    alive: () => {
      const passedMs = clock.monotonicMs() - seen.atMs
      const { host, pid } = options
      const own = { processId, host, pid, startedAtMs: seen.row.started_at.getTime(), seenAgeMs: passedMs }
      const others = (seen.row.processes ?? []).map(({ id, ageMs: age, ...process }): LiveProcess => ({
        processId: id,
        host: process.host,
        pid: process.pid,
        startedAtMs: process.startedAtMs,
        seenAgeMs: age + passedMs,
      }))
      return [own, ...others.filter(isAlive)].sort((one, other) => one.startedAtMs - other.startedAtMs)
    },
    wake,
    run: async (signal) => {
      while (!signal.aborted) {
        wakeUp = new AbortController()
        const answered = beat().then((answer) => {
          seen = answer
        })
        beating = answered.catch(() => undefined)
        try {
          await answered
          if (failing) log.info({}, 'this process shows again that it is alive')
          failing = false
        } catch (error) {
          if (!failing) log.warn({ error }, 'this process could not show that it is alive; trying on')
          failing = true
        }
        await clock.sleep(BEAT_MS, AbortSignal.any([signal, wakeUp.signal]))
      }
      await Promise.allSettled(holds)
      await database.query(LEAVE, [processId]).catch(() => undefined)
    },
  }
}
