/** Keys drawn and fetched in both directions at a moderate pace, so that no pool runs dry and every refusal has another reason. */
import { systemClock } from '../../src/kernel/clock.ts'
import { keysOf, type Network } from '../network/network.ts'
import { timeLimitMs } from '../setup/time-limit.ts'
import { createAccount } from '../soak/account.ts'
import { createPlan } from '../soak/plan.ts'

const KEYS_MAX = 4
const PACE_MS = 5
const DEADLINE_MS = timeLimitMs(10_000)
const DIRECTIONS = [
  ['alice', 'bob'],
  ['bob', 'alice'],
] as const

/** What happened since it was made. */
export interface Watch {
  /** What enc_keys answered with 503. */
  readonly refused: string[]
  /** The longest enc_keys. */
  readonly slowestMs: number
  /** How long nine in ten of the enc_keys took at the most. */
  nineTenthsWithinMs(): number
}

export const startSteadyTraffic = (network: Network) => {
  const startMs = systemClock.monotonicMs()
  const account = createAccount(() => `${(systemClock.monotonicMs() - startMs).toFixed(0)} ms`)
  const stopping = new AbortController()
  const { signal } = stopping
  const watches = new Set<{ readonly refused: string[]; readonly tookMs: number[] }>()
  let exchanges: number[] = DIRECTIONS.map(() => 0)
  let changed = Promise.withResolvers<void>()
  const tellChange = (): void => {
    changed.resolve()
    changed = Promise.withResolvers<void>()
  }

  const exchange = async (at: number): Promise<void> => {
    const [master, slave] = DIRECTIONS[at]!
    const [drawer, fetcher] = [await network.sae(master), await network.sae(slave)]
    const plan = createPlan(at)
    while (!signal.aborted) {
      const number = plan.whole(1, KEYS_MAX)
      const batch = { master, slave, sizeBits: 256, history: [] }
      const sentMs = systemClock.monotonicMs()
      const issued = await drawer.post(`/api/v1/keys/${slave}/enc_keys`, { number, size: 256 })
      const tookMs = systemClock.monotonicMs() - sentMs
      for (const watch of watches) watch.tookMs.push(tookMs)
      if (issued.status === 200) {
        const keys = account.issued(batch, keysOf(issued), number)
        const fetched = await fetcher.post(`/api/v1/keys/${master}/dec_keys`, {
          key_IDs: keys.map(({ keyId }) => ({ key_ID: keyId })),
        })
        if (fetched.status === 200) account.fetched(keys, keysOf(fetched))
        else account.violation(`dec_keys answered ${fetched.status}: ${fetched.text}`, keys)
        exchanges = exchanges.map((count, i) => count + (i === at ? 1 : 0))
      } else {
        if (issued.status !== 503) account.violation(`enc_keys answered ${issued.status}: ${issued.text}`)
        for (const watch of watches) watch.refused.push(`${master} ${issued.text}`)
      }
      tellChange()
      await systemClock.sleep(PACE_MS, signal)
    }
    drawer.close()
    fetcher.close()
  }
  const all = Promise.all(DIRECTIONS.map((_, at) => exchange(at)))
  // Awaited by `stop` and by `more`.
  all.catch(tellChange)

  return {
    account,
    /** Waits until each direction has exchanged keys so many times more. */
    more: async (count: number): Promise<void> => {
      const goals = exchanges.map((before) => before + count)
      const sinceMs = systemClock.monotonicMs()
      while (exchanges.some((done, at) => done < goals[at]!)) {
        const late = systemClock.monotonicMs() - sinceMs > DEADLINE_MS
        if (late) throw new Error(`${count} exchanges in each direction took too long; ${exchanges.join(' and ')} done in all`)
        const alarm = new AbortController()
        await Promise.race([changed.promise, systemClock.sleep(DEADLINE_MS, alarm.signal), all])
        alarm.abort()
      }
    },
    watch: (): Watch => {
      const [refused, tookMs]: [string[], number[]] = [[], []]
      watches.add({ refused, tookMs })
      return {
        refused,
        get slowestMs() {
          return Math.max(0, ...tookMs)
        },
        nineTenthsWithinMs: () => tookMs.toSorted((one, other) => one - other)[Math.floor(tookMs.length * 0.9)] ?? 0,
      }
    },
    stop: async (): Promise<void> => {
      stopping.abort()
      await all
    },
  }
}

export type SteadyTraffic = ReturnType<typeof startSteadyTraffic>
