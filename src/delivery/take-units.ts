/** Which units a request gets: as many of the pool of each KME that is to hold its keys, or of what stands in for them.
 *  Holds: never some of each; when one target lacks units, those of the others are given back. The store decides whether the units may be
 *  used (KeyStore.claim); here they are hints. */
import { BadRequest, KeysExhausted } from '../kernel/errors.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Account, KeyPool } from '../key-pool/key-pool.ts'
import { meetsPolicy, type KeyStore, type RelayPolicy, type UnitRun } from '../key-store/key-store.ts'
import { OPTIONS_NOT_MET } from './extensions.ts'
import type { RelayWanted } from './relay-wanted.ts'
import type { Target } from './route-to-slaves.ts'

export interface TakeUnitsParts {
  readonly kmeId: KmeId
  readonly pool: Pick<KeyPool, 'take' | 'giveBack'>
  readonly store: Pick<KeyStore, 'relayedOver'>
  /** Asks the other end of a link to lend units when this end has too few. False when it lent none. */
  readonly borrow: (peerKmeId: KmeId, unitCount: number) => Promise<boolean>
  /** After how many seconds to ask again when the pool of a peer lacks so many keys. */
  readonly retryAfterS: (peerKmeId: KmeId, missingKeys: number) => number
  /** Whom the pool counts a request for. */
  readonly accountOf: (masterSaeId: SaeId, slaveSaeId: SaeId) => Account
  /** Units of the fallback source, for a peer whose pool is exhausted. Undefined where it is off, or gives none now. */
  readonly takeFallback: (peerKmeId: KmeId, unitCount: number) => Promise<readonly UnitRun[] | undefined>
  /** Keys relayed for one request, for a peer that no link leads to (docs/relay.md). `not-relayed`: one does. `no-way`: the network has no
   *  such ways. */
  readonly takeRelayed: (
    peerKmeId: KmeId,
    unitCount: number,
    policy: RelayPolicy,
  ) => Promise<readonly UnitRun[] | 'not-relayed' | 'no-way' | 'not-now'>
}

export interface UnitsWanted {
  readonly masterSaeId: SaeId
  /** Of each target. */
  readonly unitCount: number
  readonly qkdOnly: boolean
  readonly relay: RelayWanted
}

export interface TakenUnits {
  /** Of each target's pool. */
  readonly units: readonly (readonly UnitRun[])[]
  readonly fromFallback: boolean
  /** How all of them were relayed at least. */
  readonly met: RelayPolicy | undefined
}

/** @throws KeysExhausted; BadRequest when the request insists on ways that the network does not have. */
export type TakeUnits = (wanted: UnitsWanted, targets: readonly Target[]) => Promise<TakenUnits>

const NOT_RELAYED = {
  'no-way': 'no key material available: the network has no such way now as the operator wants for these SAEs',
  'not-now': 'no key material available: none could be relayed as wanted',
}
/** Several requests may share one loan; whoever finds it used up asks for another. */
const LOANS_MAX = 4

export const makeTakeUnits = (parts: TakeUnitsParts): TakeUnits => {
  const { kmeId, pool, store } = parts

  /** Whether all units were relayed like that. Those that a link gave to both ends were not relayed. */
  const areRelayed = async (units: readonly UnitRun[], policy: RelayPolicy): Promise<boolean> => {
    const relayed = await store.relayedOver(units.map((run) => run.blockId))
    return [...relayed.values()].every((one) => meetsPolicy(one, policy))
  }

  /** From the pool, else relayed as they are wanted, else borrowed, else of the fallback source; never some of each, so that one unit does
   *  not mark many keys.
   *  @param policy undefined: relayed or not, in whatever way.
   *  @param mayFallBack not for keys of several KMEs: the SAEs of one would not be told how the keys went to another. */
  const takeFor = async (
    wanted: UnitsWanted,
    { kmeId: target, slaveSaeIds }: Target,
    policy: RelayPolicy | undefined,
    mayFallBack: boolean,
  ): Promise<{ units: readonly UnitRun[]; fromFallback: boolean }> => {
    const { unitCount } = wanted
    const account = parts.accountOf(wanted.masterSaeId, slaveSaeIds[0] as SaeId)
    for (let attempt = 1; ; attempt += 1) {
      const taken = await pool.take(target, account, unitCount)
      if ('units' in taken) {
        let suit = false
        try {
          suit = policy === undefined || (await areRelayed(taken.units, policy))
        } finally {
          if (!suit) await pool.giveBack(target, taken.units)
        }
        if (suit) return { units: taken.units, fromFallback: false }
      }
      const missing = 'missing' in taken ? taken.missing : unitCount
      const relayed = policy === undefined ? 'not-relayed' : await parts.takeRelayed(target, unitCount, policy)
      if (relayed === 'no-way' && wanted.relay.isMandatory) throw new BadRequest(undefined, OPTIONS_NOT_MET)
      if (relayed === 'no-way' || relayed === 'not-now') {
        throw new KeysExhausted(parts.retryAfterS(target, missing), NOT_RELAYED[relayed])
      }
      if (relayed !== 'not-relayed') return { units: relayed, fromFallback: false }
      const mayBorrow = target !== kmeId && attempt <= LOANS_MAX
      if (mayBorrow && (await parts.borrow(target, missing))) continue
      const fallsBack = mayFallBack && !wanted.qkdOnly && policy === undefined && target !== kmeId
      const units = fallsBack ? await parts.takeFallback(target, unitCount) : undefined
      if (units === undefined) throw new KeysExhausted(parts.retryAfterS(target, missing))
      return { units, fromFallback: true }
    }
  }

  const takeLike = async (
    wanted: UnitsWanted,
    targets: readonly Target[],
    policy: RelayPolicy | undefined,
  ): Promise<Omit<TakenUnits, 'met'>> => {
    const units: (readonly UnitRun[])[] = []
    let fromFallback = false
    try {
      for (const target of targets) {
        const taken = await takeFor(wanted, target, policy, targets.length === 1)
        units.push(taken.units)
        fromFallback = taken.fromFallback
      }
    } catch (error) {
      for (const [i, taken] of units.entries()) await pool.giveBack((targets[i] as Target).kmeId, taken)
      throw error
    }
    return { units, fromFallback }
  }

  return async (wanted, targets) => {
    const { must, wish } = wanted.relay
    if (wish !== undefined) {
      try {
        return { ...(await takeLike(wanted, targets, wish)), met: wish }
      } catch (error) {
        if (!(error instanceof KeysExhausted || error instanceof BadRequest)) throw error
      }
    }
    return { ...(await takeLike(wanted, targets, must)), met: must }
  }
}
