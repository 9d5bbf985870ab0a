/** Waits for a condition that some other event brings about, and fails when it does not come. */
import { setTimeout as pause } from 'node:timers/promises'

export const eventually = async (what: string, condition: () => boolean, deadlineMs = 10_000): Promise<void> => {
  const endMs = performance.now() + deadlineMs
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`waited ${deadlineMs} ms in vain: ${what}`)
    await pause(2)
  }
}
