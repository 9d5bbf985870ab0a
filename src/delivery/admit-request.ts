/** Quotas and rate limits of SAEs and of pairs of SAEs, checked before a request touches a pool.
 *  Holds: a request that is refused costs no key and counts against no quota. A request that is let through counts as one request
 *  whatever comes of it; its keys count only when they were issued. An SAE without limits pays nothing for this. */
import { KeysExhausted } from '../kernel/errors.ts'
import type { SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import { nameOfPair, type Quota, type QuotaKind, type Quotas } from './quotas.ts'
import { createRateLimiter, type RateLimiter, type RateLimiterParts } from './rate-limiter.ts'

export interface AdmitRequestParts extends RateLimiterParts {
  readonly quotas: Quotas
  /** Counts refused requests for metrics. */
  readonly onRefused: (kind: QuotaKind) => void
  readonly log: Logger
}

export interface RequestCost {
  readonly caller: SaeId
  /** The SAEs a master names. None for "Get key with key IDs": a slave does not use up what its master may ask for. */
  readonly slaves: readonly string[]
  /** Keys of default size. */
  readonly keyCount: number
}

/** Serves a request if the quotas of its caller allow it.
 *  @throws KeysExhausted when not; else what `serve` throws. */
export type AdmitRequest = <T>(cost: RequestCost, serve: () => T | Promise<T>) => Promise<T>

interface Account {
  readonly name: string
  readonly who: 'SAE' | 'pair of SAEs'
  readonly limiters: readonly { readonly kind: QuotaKind; readonly limiter: RateLimiter }[]
}

interface Charge {
  readonly account: Account
  readonly kind: QuotaKind
  readonly limiter: RateLimiter
  readonly points: number
}

const KINDS: readonly QuotaKind[] = ['requestsPerS', 'keysPerS', 'keysPerDay']
const LOG_INTERVAL_MS = 60_000

export const makeAdmitRequest = (parts: AdmitRequestParts): AdmitRequest => {
  const { quotas, clock, log } = parts
  // As many as there are SAEs and pairs with limits: callers are registered, pairs are configured.
  const accounts = new Map<string, Account>()
  const refusals = new Map<string, { loggedMs: number; sinceThen: number }>()

  const accountOf = (name: string, who: Account['who'], quota: Quota): Account => {
    let account = accounts.get(name)
    if (account === undefined) {
      const limiters = KINDS.flatMap((kind) => {
        const limit = quota[kind]
        return limit === undefined ? [] : [{ kind, limiter: createRateLimiter(`${kind}:${name}`, limit, parts) }]
      })
      account = { name, who, limiters }
      accounts.set(name, account)
    }
    return account
  }
  const accountsOf = ({ caller, slaves }: RequestCost): Account[] => [
    accountOf(caller, 'SAE', quotas.ofSae(caller)),
    ...slaves.flatMap((slave) => {
      const quota = quotas.ofPair(caller, slave)
      return quota === undefined ? [] : [accountOf(nameOfPair(caller, slave), 'pair of SAEs', quota)]
    }),
  ]

  const chargesOf = (cost: RequestCost): Charge[] =>
    accountsOf(cost).flatMap((account) =>
      account.limiters
        .map(({ kind, limiter }) => ({ account, kind, limiter, points: kind === 'requestsPerS' ? 1 : cost.keyCount }))
        .filter(({ points }) => points > 0),
    )

  const giveBack = (charges: readonly Charge[]): void => charges.forEach(({ limiter, points }) => limiter.giveBack(points))

  /** One line per account and minute: who floods requests must not flood the log. */
  const logRefusal = ({ account, kind }: Charge): void => {
    const nowMs = clock.monotonicMs()
    const last = refusals.get(account.name)
    if (last !== undefined && nowMs - last.loggedMs < LOG_INTERVAL_MS) {
      last.sinceThen += 1
      return
    }
    refusals.set(account.name, { loggedMs: nowMs, sinceThen: 0 })
    log.warn({ account: account.name, kind, refusedBefore: last?.sinceThen ?? 0 }, 'a quota is used up; requests are refused')
  }

  const refuse = (charge: Charge, retryAfterMs: number): KeysExhausted => {
    parts.onRefused(charge.kind)
    logRefusal(charge)
    return new KeysExhausted(retryAfterMs / 1000, messageOf(charge))
  }

  const admit = async (charges: readonly Charge[]): Promise<void> => {
    const missing = await Promise.all(charges.map(({ limiter, points }) => limiter.take(points)))
    const refused = charges
      .map((charge, i) => ({ charge, retryAfterMs: missing[i] }))
      .filter((one): one is { charge: Charge; retryAfterMs: number } => one.retryAfterMs !== undefined)
      .sort((a, b) => b.retryAfterMs - a.retryAfterMs)
    const [longest] = refused
    if (longest === undefined) return
    giveBack(charges.filter((_, i) => missing[i] === undefined))
    throw refuse(longest.charge, longest.retryAfterMs)
  }

  return async (cost, serve) => {
    const charges = chargesOf(cost)
    if (charges.length === 0) return serve()
    await admit(charges)
    try {
      return await serve()
    } catch (error) {
      giveBack(charges.filter(({ kind }) => kind !== 'requestsPerS'))
      throw error
    }
  }
}

const messageOf = ({ account: { who }, kind, limiter, points }: Charge): string => {
  if (points > limiter.limit.points) return `more keys than the quota of this ${who} ever allows at once`
  return kind === 'keysPerDay' ? `daily number of keys of this ${who} reached` : `rate limit of this ${who} reached`
}
