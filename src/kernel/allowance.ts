/** So many for each name at once, so many a second after that. */
import type { Clock } from './clock.ts'

/** @returns whether one more is allowed now; asking takes it. */
export const createAllowance = (
  clock: Pick<Clock, 'monotonicMs'>,
  { atOnce, perS }: { readonly atOnce: number; readonly perS: number },
): ((name: string) => boolean) => {
  const accounts = new Map<string, { readonly left: number; readonly atMs: number }>()
  return (name) => {
    const atMs = clock.monotonicMs()
    const before = accounts.get(name) ?? { left: atOnce, atMs }
    const left = Math.min(atOnce, before.left + ((atMs - before.atMs) * perS) / 1000)
    accounts.set(name, { left: left >= 1 ? left - 1 : left, atMs })
    return left >= 1
  }
}
