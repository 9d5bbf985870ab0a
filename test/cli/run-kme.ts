/** The command line as a shell runs it: the real program, or its commands in this process, which costs no start. */
import { spawn } from 'node:child_process'
import { jest } from '@jest/globals'
import { Command, CommanderError } from 'commander'
import { addDoctorCommand } from '../../src/cli/doctor-command.ts'
import { addOperatorCommands } from '../../src/cli/operator-commands.ts'
import { addSaeClientCommands } from '../../src/cli/sae-client-commands.ts'
import { systemClock } from '../../src/kernel/clock.ts'

export interface Run {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Variables that a developer's shell may have and that would change what the commands do. */
const isOurs = (name: string): boolean => /^(KME_|DATABASE_URL$)/.test(name)

/** The real program.
 *  @param variables the variables of the environment that the commands read. */
export const runProgram = (args: readonly string[], variables: Readonly<Record<string, string>> = {}): Promise<Run> =>
  new Promise((resolve, reject) => {
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !isOurs(name)))
    const child = spawn(process.execPath, ['src/cli/kme.ts', ...args], { env: { ...environment, ...variables } })
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString('utf8')))
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString('utf8')))
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, stdout, stderr }))
  })

/** The same commands in this process, one run at a time.
 *  @param isTerminal whether standard output shall be taken for a terminal. */
export const runKme = async (
  args: readonly string[],
  variables: Readonly<Record<string, string>> = {},
  isTerminal = false,
): Promise<Run> => {
  const environment = process.env
  const wasTerminal = process.stdout.isTTY
  let [stdout, stderr] = ['', '']
  const addError = (text: string): void => void (stderr += text)
  const spies = [
    jest.spyOn(console, 'log').mockImplementation((text) => void (stdout += `${text}\n`)),
    jest.spyOn(console, 'error').mockImplementation((text) => addError(`${text}\n`)),
    jest.spyOn(process.stdout, 'write').mockImplementation((...given: unknown[]) => {
      stdout += Buffer.from(given[0] as Buffer).toString('utf8')
      const done = given.at(-1)
      if (typeof done === 'function') done()
      return true
    }),
  ]
  process.env = { ...Object.fromEntries(Object.entries(environment).filter(([name]) => !isOurs(name))), ...variables }
  process.stdout.isTTY = isTerminal
  process.exitCode = undefined
  try {
    const program = new Command('kme').exitOverride().configureOutput({ writeErr: addError, writeOut: addError })
    addSaeClientCommands(program)
    addOperatorCommands(program)
    addDoctorCommand(program, { clock: systemClock })
    await program.parseAsync(args, { from: 'user' })
  } catch (error) {
    // Commander has said its own errors already; the others are said by src/cli/kme.ts.
    if (!(error instanceof CommanderError)) addError(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  } finally {
    process.env = environment
    process.stdout.isTTY = wasTerminal
    for (const spy of spies) spy.mockRestore()
  }
  const status = typeof process.exitCode === 'number' ? process.exitCode : 0
  process.exitCode = undefined
  return { status, stdout, stderr }
}
