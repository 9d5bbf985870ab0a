/** Whether this KME can serve, asked by load balancers and operators as often as they like.
 *  Holds: a flood of questions costs one round of probes per `maxAgeMs`, and a probe that hangs counts as failed. */
import type { Clock } from '../kernel/clock.ts'
import type { Probe, ProbeResult, Readiness } from './admin.ts'

export interface ReadinessOptions {
  readonly probes: readonly Probe[]
  readonly clock: Clock
  /** How old an answer may be; 1000 if left out. */
  readonly maxAgeMs?: number
  /** How long a probe may take; 2000 if left out. */
  readonly deadlineMs?: number
}

export const createReadiness = (options: ReadinessOptions): Readiness => {
  const { probes, clock, maxAgeMs = 1000, deadlineMs = 2000 } = options
  let latest: { readonly results: readonly ProbeResult[]; readonly atMs: number } | undefined
  let running: Promise<readonly ProbeResult[]> | undefined

  const askAll = async (): Promise<readonly ProbeResult[]> => {
    const results = await Promise.all(
      probes.map(async (probe) => ({ name: probe.name, ok: await ask(probe, clock, deadlineMs) })),
    )
    latest = { results, atMs: clock.monotonicMs() }
    running = undefined
    return results
  }

  return {
    results: async () => {
      if (latest !== undefined && clock.monotonicMs() - latest.atMs < maxAgeMs) return latest.results
      running ??= askAll()
      return running
    },
  }
}

const ask = async (probe: Probe, clock: Clock, deadlineMs: number): Promise<boolean> => {
  const answered = new AbortController()
  const answer = async (): Promise<boolean> => {
    try {
      return await probe.check()
    } catch {
      return false
    }
  }
  const late = async (): Promise<boolean> => {
    await clock.sleep(deadlineMs, answered.signal)
    return false
  }
  const ok = await Promise.race([answer(), late()])
  answered.abort()
  return ok
}
