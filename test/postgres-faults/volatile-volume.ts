/** A directory whose unsynced content can be dropped, as by a power cut; volatile_fs.py does the work. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { eventually } from '../setup/eventually.ts'

const PROGRAM = fileURLToPath(new URL('volatile_fs.py', import.meta.url))

export interface VolatileVolume {
  /** Where everything is kept; for what may be slow and need not be lost. */
  readonly backing: string
  /** The same as the volume shows it. */
  readonly directory: string
  mount(): Promise<void>
  /** All there is counts as synced. */
  sync(): Promise<void>
  /** What was not synced is gone. @returns how much, in words. */
  drop(): Promise<string>
  unmount(): Promise<void>
  remove(): Promise<void>
}

export const createVolatileVolume = (): VolatileVolume => {
  const place = mkdtempSync(join(tmpdir(), 'openkme-volatile-'))
  const backing = join(place, 'backing')
  const directory = join(place, 'mounted')
  for (const path of [backing, directory]) mkdirSync(path, { mode: 0o700 })
  let mounted: { child: ChildProcess; answers: Interface } | undefined

  const command = async (text: string): Promise<string> => {
    const { child, answers } = mounted!
    const answered = once(answers, 'line')
    child.stdin!.write(`${text}\n`)
    return ((await answered) as [string])[0]
  }
  const unmount = async (): Promise<void> => {
    if (mounted === undefined) return
    const ended = once(mounted.child, 'exit')
    execFileSync('fusermount', ['-u', '-z', directory])
    await ended
    mounted = undefined
  }
  return {
    backing,
    directory,
    mount: async () => {
      const outside = statSync(directory).dev
      const child = spawn('/usr/bin/python3', [PROGRAM, backing, directory], { stdio: ['pipe', 'pipe', 'inherit'] })
      mounted = { child, answers: createInterface({ input: child.stdout }) }
      await eventually('the volume is mounted', () => {
        if (child.exitCode !== null) throw new Error(`volatile_fs.py has ended: may this user use /dev/fuse?`)
        return statSync(directory).dev !== outside
      })
    },
    sync: async () => {
      await command('sync')
    },
    drop: () => command('drop'),
    unmount,
    remove: async () => {
      await unmount()
      rmSync(place, { recursive: true })
    },
  }
}
