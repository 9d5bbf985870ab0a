/** What the commands that run an emulator in the foreground have in common: they say where they listen, obey lines on standard
 *  input, and stop at `quit`, SIGINT or SIGTERM. */
import { createInterface } from 'node:readline'

export interface ForegroundEmulator {
  start(): Promise<void>
  /** What is printed when it runs. */
  announcement(): string
  /** Carries out a line. */
  obey(line: string): { readonly text: string; readonly quit: boolean }
  /** Resolves when it was asked to stop by another way than a line here. */
  readonly quitAsked?: Promise<void>
  stop(): Promise<void>
}

export const STOP_WITH_PARENT = [
  '--stop-with-parent',
  'stop when standard input ends, as it does when the program that started this one dies',
  false,
] as const

/** Runs it until somebody wants it to stop, or standard input ends and that is asked to count. */
export const runInForeground = async (emulator: ForegroundEmulator, stopWithParent: boolean): Promise<void> => {
  const quit = Promise.withResolvers<void>()
  const onSignal = (): void => quit.resolve()
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  try {
    await emulator.start()
    const lines = createInterface({ input: process.stdin })
    lines.on('line', (line) => {
      if (line.trim() === '') return
      const reply = emulator.obey(line)
      console.log(reply.text)
      if (reply.quit) quit.resolve()
    })
    if (stopWithParent) lines.once('close', () => quit.resolve())
    console.log(emulator.announcement())
    await Promise.race([quit.promise, ...(emulator.quitAsked === undefined ? [] : [emulator.quitAsked])])
    lines.close()
  } finally {
    await emulator.stop()
    // An open standard input would keep the process alive.
    process.stdin.destroy()
    process.off('SIGINT', onSignal)
    process.off('SIGTERM', onSignal)
  }
}
