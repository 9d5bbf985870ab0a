/** A process of the bench: started, waited for, stopped. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { HookMessage } from './child-hooks.ts'

export interface Child {
  readonly pid: number
  readonly process: ChildProcess
  /** The line it said when it was ready, from what `ready` matched on. */
  readonly readyLine: string
  /** Types a line on its standard input. @returns the line it answers with. */
  ask(line: string): Promise<string>
  /** Carries out a hook of child-hooks.ts. */
  hook(message: HookMessage): Promise<void>
  stop(): Promise<void>
}

const STOP_DEADLINE_MS = 10_000
const READY_DEADLINE_MS = 60_000
const HOOKS = new URL('child-hooks.ts', import.meta.url)

/** Path of a program in the repository. */
export const programPath = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url))

/** Runs a program of this repository until a line of its output matches `ready`.
 *  @param more.showLog whether what it says afterwards is shown.
 *  @throws Error with what it said when it ends before that. */
export const startChild = async (
  name: string,
  program: string,
  args: readonly string[],
  ready: RegExp,
  more: { readonly environment?: Readonly<Record<string, string>>; readonly showLog?: boolean } = {},
): Promise<Child> => {
  // Detached: Ctrl-C reaches the bench alone, which then stops everything in order.
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--import', HOOKS.href, programPath(program), ...args],
    { stdio: ['pipe', 'pipe', 'pipe', 'ipc'], detached: true, env: { ...process.env, ...more.environment } },
  )
  const said: string[] = []
  const remember = (line: string): void => {
    said.push(line)
    if (said.length > 50) said.shift()
  }
  let stopping = false
  const lines = createInterface({ input: child.stdout! })
  child.on('exit', (code, signal) => {
    if (!stopping) remember(`(${name} ended: ${signal ?? String(code)})`)
  })
  const readyLine = await new Promise<string>((resolve, reject) => {
    const fail = (why: string): void => {
      child.kill('SIGKILL')
      reject(new Error(`${name} ${why}:\n${said.join('\n')}`))
    }
    const late = setTimeout(() => fail('was not ready in time'), READY_DEADLINE_MS)
    child.once('error', reject)
    child.once('exit', () => {
      clearTimeout(late)
      fail('did not start')
    })
    lines.on('line', (line) => {
      remember(line)
      if (!ready.test(line)) return
      clearTimeout(late)
      child.removeAllListeners('exit')
      child.on('exit', (code, signal) => {
        if (!stopping) process.stderr.write(`${name} ended: ${signal ?? String(code)}\n`)
      })
      lines.removeAllListeners('line')
      if (more.showLog === true) lines.on('line', (entry) => process.stderr.write(`\n${name}: ${entry}\n`))
      resolve(line)
    })
    createInterface({ input: child.stderr! }).on('line', (line) => {
      remember(line)
      process.stderr.write(`${name}: ${line}\n`)
    })
  })
  return {
    pid: child.pid!,
    process: child,
    readyLine,
    ask: async (line) => {
      const answer = once(lines, 'line')
      child.stdin!.write(`${line}\n`)
      return ((await answer) as [string])[0]
    },
    hook: async (message) => {
      child.send(message)
      for (;;) {
        const [answer] = (await once(child, 'message')) as [{ hookDone?: string }]
        if (answer.hookDone === message.hook) return
      }
    },
    stop: async () => {
      stopping = true
      if (child.exitCode !== null || child.signalCode !== null) return
      const gone = once(child, 'exit')
      child.kill('SIGTERM')
      const late = setTimeout(() => child.kill('SIGKILL'), STOP_DEADLINE_MS)
      await gone
      clearTimeout(late)
    },
  }
}
