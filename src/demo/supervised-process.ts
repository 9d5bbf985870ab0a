/** A `kme` command kept running as a child process: started again with growing pauses when it ends by itself.
 *  Its standard input is a pipe that closes when the demo stops it or dies, however that happens; the commands run with
 *  --stop-with-parent and then stop. */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import type { Clock } from '../kernel/clock.ts'

export interface SupervisedProcessOptions {
  /** Program and arguments. */
  readonly command: readonly [string, ...string[]]
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Receives standard output and standard error. */
  readonly logFile: string
  readonly clock: Clock
  /** After every start and every end. */
  readonly onChange: () => void
  /** After an end nobody asked for. */
  readonly onDied: (how: string, restartInMs: number) => void
}

export interface SupervisedProcess {
  /** undefined while it is not running. */
  pid(): number | undefined
  /** Asks it to stop; kills it after `deadlineMs`. Resolves when it is gone for good. */
  stop(deadlineMs: number): Promise<void>
}

const PAUSE_MIN_MS = 250
const PAUSE_MAX_MS = 10_000
/** After a run of this length the next pause is short again. */
const STABLE_MS = 20_000

export const superviseProcess = (options: SupervisedProcessOptions): SupervisedProcess => {
  const { command, environment, logFile, clock, onChange, onDied } = options
  const stopping = new AbortController()
  let child: ChildProcess | undefined

  const runOnce = async (): Promise<string> => {
    const log = openSync(logFile, 'a', 0o600)
    const [program, ...args] = command
    try {
      // Detached: Ctrl-C reaches the demo alone, which then stops its children in order.
      child = spawn(program, args, {
        env: environment,
        stdio: ['pipe', log, log],
        detached: process.platform !== 'win32',
        windowsHide: true,
      })
    } finally {
      closeSync(log)
    }
    const running = child
    running.stdin?.on('error', () => {
      // It is gone; its exit tells.
    })
    const ended = new Promise<string>((resolve) => {
      running.once('exit', (code, signal) => resolve(signal ?? `exit status ${code ?? 'unknown'}`))
      running.once('error', (error) => resolve(error.message))
    })
    onChange()
    const how = await ended
    child = undefined
    onChange()
    return how
  }

  const run = async (): Promise<void> => {
    let pauseMs = PAUSE_MIN_MS
    while (!stopping.signal.aborted) {
      const startedMs = clock.monotonicMs()
      const how = await runOnce()
      if (stopping.signal.aborted) return
      if (clock.monotonicMs() - startedMs > STABLE_MS) pauseMs = PAUSE_MIN_MS
      onDied(how, pauseMs)
      await clock.sleep(pauseMs, stopping.signal)
      pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS)
    }
  }
  const running = run()

  return {
    pid: () => child?.pid,
    stop: async (deadlineMs) => {
      stopping.abort()
      child?.stdin?.end()
      const gone = new AbortController()
      void running.finally(() => gone.abort())
      await clock.sleep(deadlineMs, gone.signal)
      child?.kill('SIGKILL')
      await running
    },
  }
}
