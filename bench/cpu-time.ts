/** CPU time of processes as Linux counts it: user and system, in ticks of 10 ms. Elsewhere there is none. */
import { readdirSync, readFileSync } from 'node:fs'

const MS_PER_TICK = 10

interface Stat {
  readonly parentPid: number
  readonly ownMs: number
  /** Of children that have ended. */
  readonly childrenMs: number
}

const readStat = (pid: number | string): Stat | undefined => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name before the last bracket may hold anything.
    const fields = text
      .slice(text.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number)
    const at = (index: number): number => fields[index] ?? 0
    return { parentPid: at(1), ownMs: (at(11) + at(12)) * MS_PER_TICK, childrenMs: (at(13) + at(14)) * MS_PER_TICK }
  } catch {
    return undefined
  }
}

/** Milliseconds one process has used; undefined where /proc does not exist. */
export const cpuTimeMs = (pid: number): number | undefined => readStat(pid)?.ownMs

/** Milliseconds a process and all its children have used, living and ended. */
export const treeCpuTimeMs = (pid: number): number | undefined => {
  const root = readStat(pid)
  if (root === undefined) return undefined
  let sum = root.ownMs + root.childrenMs
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const stat = readStat(entry)
    if (stat?.parentPid === pid) sum += stat.ownMs + stat.childrenMs
  }
  return sum
}
