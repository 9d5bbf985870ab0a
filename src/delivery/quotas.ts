/** Which SAE and which pair of SAEs has which limits, from the settings of the operator. */
import type { SaeId } from '../kernel/identifiers.ts'

/** `points` in each window of `windowS` seconds; a window begins with the first point after the last window. */
export interface RateLimit {
  readonly points: number
  readonly windowS: number
}

/** Limits of one SAE or pair; what is undefined is unlimited. Keys are of default size: a longer key counts as the units it is made of. */
export interface Quota {
  readonly requestsPerS: RateLimit | undefined
  readonly keysPerS: RateLimit | undefined
  readonly keysPerDay: RateLimit | undefined
}

/** The setting that a limit comes from. */
export type QuotaKind = keyof Quota

/** A limit as an operator writes it; `off` takes away a default. */
type Setting = number | 'off' | undefined

export interface QuotaSettings {
  readonly requestsPerS?: Setting
  /** Requests that may come at once; as many as in a second if left out. */
  readonly requestsBurst?: number | undefined
  readonly keysPerS?: Setting
  readonly keysBurst?: number | undefined
  readonly keysPerDay?: Setting
}

export interface Quotas {
  /** Of an SAE that calls. */
  ofSae(saeId: SaeId): Quota
  /** Of a master SAE that names this slave SAE; undefined when the pair has no limits of its own. */
  ofPair(masterSaeId: SaeId, slave: string): Quota | undefined
}

const DAY_S = 86_400

/** @param settings.defaults for every SAE; an SAE's own settings replace them one by one. Pairs have no defaults. */
export const createQuotas = (settings: {
  readonly defaults: QuotaSettings
  readonly saes: readonly (QuotaSettings & { readonly sae: SaeId })[]
  readonly pairs: readonly (QuotaSettings & { readonly master: SaeId; readonly slave: SaeId })[]
}): Quotas => {
  const defaults = toQuota(settings.defaults)
  const saes = new Map(settings.saes.map((own) => [own.sae, toQuota(withDefaults(own, settings.defaults))]))
  const pairs = new Map(settings.pairs.map((own) => [nameOfPair(own.master, own.slave), toQuota(own)]))
  return {
    ofSae: (saeId) => saes.get(saeId) ?? defaults,
    ofPair: (masterSaeId, slave) => pairs.get(nameOfPair(masterSaeId, slave)),
  }
}

/** A space is in no SAE ID. */
export const nameOfPair = (masterSaeId: SaeId, slave: string): string => `${masterSaeId} ${slave}`

const withDefaults = (own: QuotaSettings, defaults: QuotaSettings): QuotaSettings => ({
  // A burst belongs to its rate.
  ...(own.requestsPerS === undefined
    ? { requestsPerS: defaults.requestsPerS, requestsBurst: own.requestsBurst ?? defaults.requestsBurst }
    : { requestsPerS: own.requestsPerS, requestsBurst: own.requestsBurst }),
  ...(own.keysPerS === undefined
    ? { keysPerS: defaults.keysPerS, keysBurst: own.keysBurst ?? defaults.keysBurst }
    : { keysPerS: own.keysPerS, keysBurst: own.keysBurst }),
  keysPerDay: own.keysPerDay ?? defaults.keysPerDay,
})

const toQuota = ({ requestsPerS, requestsBurst, keysPerS, keysBurst, keysPerDay }: QuotaSettings): Quota => ({
  requestsPerS: toLimit(requestsPerS, requestsBurst),
  keysPerS: toLimit(keysPerS, keysBurst),
  keysPerDay: typeof keysPerDay === 'number' ? { points: keysPerDay, windowS: DAY_S } : undefined,
})

/** The burst is what one window holds; the window is as long as the rate takes to bring it. */
const toLimit = (perS: Setting, burst: number | undefined): RateLimit | undefined => {
  if (typeof perS !== 'number') return undefined
  const points = burst ?? Math.ceil(perS)
  return { points, windowS: points / perS }
}
