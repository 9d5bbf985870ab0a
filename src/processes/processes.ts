/** Door of the processes slice: the processes of one KME that share one database. Each shows that it is alive, some work
 *  (a *duty*, such as driving a link) is done by one of them at a time, and all see what the others say of theirs.
 *  Nothing about keys rests on it: a duty done twice for a moment costs needless work and no key. */

/** A process of this KME. */
export interface LiveProcess {
  /** A UUID, new at each start. */
  readonly processId: string
  readonly host: string
  readonly pid: number
  /** Milliseconds since 1970, by the clock of the database. */
  readonly startedAtMs: number
  /** Milliseconds since it last showed that it is alive. */
  readonly seenAgeMs: number
}

/** A duty that a process holds now. */
export interface HeldDuty {
  readonly processId: string
  /** Milliseconds since the holder last published its report; it does so every second. */
  readonly ageMs: number
  /** What the holder says: JSON, undefined before its first report. */
  readonly report: unknown
}

/** A running total that all processes add to. */
export interface Figure {
  readonly total: number
  /** Milliseconds since somebody added to it. */
  readonly changedAgeMs: number
}

export interface Processes {
  readonly processId: string
  /** Does `work` in one process of the KME at a time: waits for the duty, works while it is held, tries again when it was lost.
   *  Resolves when `signal` aborts or when the work ends by itself; rejects when the work does.
   *  @param work must end soon when its signal aborts: then another process may have the duty. */
  hold(duty: string, work: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<void>
  /** Says how a duty goes. Seen by every process within two seconds, by this one at once; without effect while it is not held. */
  report(duty: string, report: unknown): void
  /** The duties that are held now, by name. */
  reports(): ReadonlyMap<string, HeldDuty>
  /** Adds to a running total. Kept over restarts and published within a second; what a process that dies has not published yet
   *  is lost, so these are figures to look at and no account. */
  count(figure: string, amount: number): void
  figures(): ReadonlyMap<string, Figure>
  /** The processes seen in the last five seconds, this one among them, oldest first. */
  alive(): readonly LiveProcess[]
  /** Something changed: look now instead of at the next second. */
  wake(): void
  /** Until `signal` aborts; then waits for the duties to end and leaves. */
  run(signal: AbortSignal): Promise<void>
}
