/** What a check of `kme doctor` is: it looks at one part of a KME, changes nothing, and says what is wrong and what to do. */
import type { Config } from '../../config/config.ts'
import type { Clock } from '../../kernel/clock.ts'

export type Level = 'ok' | 'warn' | 'fail'

export interface Finding {
  /** The part that was looked at, such as `certificates`. */
  readonly check: string
  readonly level: Level
  /** One line: what is so, or what is wrong. */
  readonly what: string
  /** One line: what to do about it. */
  readonly todo?: string
}

export interface DoctorParts {
  readonly config: Config
  readonly clock: Clock
  /** For each single network operation. */
  readonly deadlineMs: number
}

/** Reports findings as it goes, so that those before a failure or the deadline count. */
export type Report = (level: Level, what: string, todo?: string) => void

export interface Check {
  readonly name: string
  run(report: Report): Promise<void> | void
}

/** Runs all checks at once. One that throws or takes too long becomes a finding of its own.
 *  @returns the findings in the order of the checks. */
export const runChecks = async (checks: readonly Check[], clock: Clock, limitMs: number): Promise<Finding[]> => {
  const perCheck = checks.map(async (check) => {
    const { name } = check
    const findings: Finding[] = []
    let open = true
    const report: Report = (level, what, todo) => {
      if (open) findings.push({ check: name, level, what, ...(todo !== undefined && { todo }) })
    }
    const finished = new AbortController()
    const tooLate = clock.sleep(limitMs, finished.signal).then(() => {
      if (!finished.signal.aborted)
        report('fail', `no result within ${limitMs} ms`, 'find out what hangs; --deadline-ms gives more time')
    })
    const work = (async () => check.run(report))().catch((error: unknown) =>
      report('fail', `the check itself failed: ${messageOf(error)}`, 'run it again; if it stays, report it'),
    )
    await Promise.race([work, tooLate])
    open = false
    finished.abort()
    return findings
  })
  return (await Promise.all(perCheck)).flat()
}

/** The first line of an error's message. */
export const messageOf = (error: unknown): string => ((error as Error).message ?? String(error)).split('\n')[0] ?? ''
