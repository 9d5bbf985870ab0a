/** What commands that talk to a KME share: tables for people and programs, files named in options, exit statuses. */
import Table from 'cli-table3'
import { readFileSync } from 'node:fs'
import { InvalidArgumentError, Option, type Command } from 'commander'
import { KmeRequestError } from '../client/client.ts'

/** Added to the help of every command that talks to a KME. */
export const EXIT_STATUS_HELP = `
Exit status: 0 done; 1 refused (bad request, not authorised) or a mistake in the command; 2 the KME is unavailable, cannot be
reached or has no keys now, so that trying again later makes sense.`

/** Rows under a head: drawn on a terminal, aligned with spaces elsewhere. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  if (process.stdout.isTTY) {
    const drawn = new Table({ head: [...head], style: { head: [], border: [] } })
    for (const row of rows) drawn.push([...row])
    return drawn.toString()
  }
  const lines = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)))
  return lines
    .map((line) =>
      line
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

export const toJson = (value: unknown): string => JSON.stringify(value, undefined, 2)

/** An option whose value may come from an environment variable. */
export const environmentOption = (flags: string, variable: string, description: string): Option =>
  new Option(flags, description).env(variable)

/** @throws Error that names the option and the variable when neither was given. */
export const need = (value: string | undefined, option: string, variable: string): string => {
  if (value === undefined || value === '') throw new Error(`give ${option}, or set ${variable}`)
  return value
}

/** @throws Error that names file and option. */
export const readNamedFile = (file: string, option: string): string => {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    throw new Error(`the file ${file} cannot be read; correct ${option}`)
  }
}

export const wholeNumber =
  (min: number, max: number) =>
  (text: string): number => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : NaN
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`)
    return value
  }

/** The options every command that talks to a KME has. */
export const withTalkOptions = (command: Command): Command =>
  command
    .addOption(environmentOption('--ca <file>', 'KME_CA', 'authority the KME certificate comes from (PEM)'))
    .option('--deadline-ms <ms>', 'how long one request may take', wholeNumber(1, 600_000), 10_000)
    .option('--json', 'JSON for programs')
    .addHelpText('after', EXIT_STATUS_HELP)

/** Runs work that talks to a KME; says on standard error what the KME answered, and sets the exit status. */
export const talk = async (work: () => Promise<void>): Promise<void> => {
  try {
    await work()
  } catch (error) {
    if (!(error instanceof KmeRequestError)) throw error
    console.error(describeRefusal(error))
    process.exitCode = error.status === undefined || error.status >= 500 ? 2 : 1
  }
}

const describeRefusal = ({ status, message, details, retryAfterS }: KmeRequestError): string => {
  const lines = [status === undefined ? message : `${status}: ${message}`]
  for (const detail of details)
    lines.push(
      `  ${Object.entries(detail)
        .map(([name, value]) => `${name}: ${String(value)}`)
        .join(', ')}`,
    )
  if (retryAfterS !== undefined) lines.push(`  try again in ${retryAfterS} s`)
  return lines.join('\n')
}

/** A length of time in the unit a person would use. */
export const duration = (durationMs: number): string => {
  const s = durationMs / 1000
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`
  if (s < 3600) return `${Math.floor(s / 60)} min`
  return s < 86_400 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86_400)} d`
}

/** How long ago something was, for people. */
export const age = (ageMs: number | null): string => (ageMs === null ? 'never' : `${duration(ageMs)} ago`)

/** @returns a parser of an option's value. */
export const decimal =
  (min: number, max: number) =>
  (text: string): number => {
    const value = text.trim() === '' ? NaN : Number(text)
    if (!(value >= min && value <= max)) throw new InvalidArgumentError(`Give a number from ${min} to ${max}.`)
    return value
  }
