/** Door of the alarms slice: what an administrator is told without asking. An alarm is raised by name and stays raised until it is
 *  cleared; whoever sees the same thing again, in this process or another of the KME, changes nothing.
 *  Holds: raising and clearing never throw and never wait; no text or subject holds a secret or key bytes. */

/** `warning`: look when there is time. `critical`: keys are, or soon will be, refused or in danger. */
export type AlarmSeverity = 'warning' | 'critical'

export const alarmSeverities: readonly AlarmSeverity[] = ['warning', 'critical']

export interface Alarms {
  /** @param name what is wrong, and where: `link.down:a-b`. One alarm has one name.
   *  @param text one sentence for a person.
   *  @param subject identifiers and counts for a program. */
  raise(name: string, severity: AlarmSeverity, text: string, subject?: Readonly<Record<string, unknown>>): void
  /** Does nothing when there is no such alarm. */
  clear(name: string): void
}

export interface AlarmRecord {
  readonly name: string
  readonly severity: AlarmSeverity
  readonly text: string
  readonly subject: Readonly<Record<string, unknown>>
  readonly raisedAt: Date
  /** Undefined while it is raised. */
  readonly clearedAt: Date | undefined
}

export interface AlarmDirectory {
  /** Those that are raised, then those cleared in the last seven days, each newest first; 1000 at most. */
  list(): Promise<readonly AlarmRecord[]>
  /** Those that are raised, as last read: at most a few seconds old, older while the database is away. */
  active(): readonly AlarmRecord[]
}
