/** Door of the key pool: which unit keys wait to be issued to which peer KME, and whom they are kept for. The pool holds
 *  hints in line, never material and never the truth: a claim in the key store decides. Losing the pool costs a rebuild. */
import type { KmeId } from '../kernel/identifiers.ts'
import type { AvailableUnits, UnitRun } from '../key-store/key-store.ts'
import type { PoolHealth, PoolMarks } from './pool-health.ts'

export type { PoolHealth, PoolMarks, PoolState } from './pool-health.ts'

export interface PoolLevel {
  readonly peerKmeId: KmeId
  /** Units this KME may issue now. */
  readonly mine: number
  /** Units the peer may issue, as far as this KME knows. */
  readonly theirs: number
  /** Of `mine`, kept aside: floors, fair shares and the emergency reserve. */
  readonly reserved: number
  /** Running totals of all processes since the pool was built; rates are differences of these. Units that came in, */
  readonly offeredTotal: number
  /** units taken for requests and not given back, */
  readonly takenTotal: number
  /** and requests that found too few. */
  readonly refusedTotal: number
}

/** All units asked for, or how many more the pool would have to hold for this account. */
export type Taken = { readonly units: readonly UnitRun[] } | { readonly missing: number }

/** For whom units are taken: the SAE, or the pair of SAEs where the pair has a share of its own. */
export type Account = string

/** Takes only what is kept for no one. */
export const NOBODY: Account = ''

/** The other end of the link, which was promised what lies above the floor for loans: takes also what is kept for SAEs here. */
export const BORROWER: Account = '>'

export interface KeyPool {
  /** Puts units at the end of the line for their peer. New key from a link or another source is shared out first to those whose
   *  share is not full; a loan was asked for by someone who waits for it. */
  offer(units: AvailableUnits, source?: 'new' | 'loan'): Promise<void>
  /** Takes exactly `unitCount` units out of the line, oldest first, or none. */
  take(peerKmeId: KmeId, account: Account, unitCount: number): Promise<Taken>
  /** Puts units taken before back at the head of the line. */
  giveBack(peerKmeId: KmeId, units: readonly UnitRun[]): Promise<void>
  /** The peer issued, lent (`unitCount` < 0) or got back units of its own. */
  adjustTheirs(peerKmeId: KmeId, unitCount: number): Promise<void>
  /** How many units of `mine` this account could take now. */
  drawable(peerKmeId: KmeId, account: Account): Promise<number>
  level(peerKmeId: KmeId): Promise<PoolLevel>
  levels(): Promise<readonly PoolLevel[]>
  /** Its units turned out not to be free, or some may be missing: it is to be rebuilt soon. */
  doubt(peerKmeId: KmeId): void
  /** Whether the pool is in doubt and could be rebuilt. */
  needsRebuild(): boolean
  /** Empties the pool and fills it from the key store.
   *  @throws when either cannot be reached; the pool then still needs it. */
  rebuild(units: AsyncIterable<AvailableUnits>): Promise<void>
}

/** How many units runs name in all. */
export const unitCountOf = (runs: readonly UnitRun[]): number => runs.reduce((sum, run) => sum + run.units.length, 0)

/** A pool and how it is doing. */
export interface PoolReport {
  readonly level: PoolLevel
  /** Of `theirs`, what the other end would lend. */
  readonly borrowable: number
  readonly marks: PoolMarks
  readonly health: PoolHealth
}

/** How the pools are doing, from memory. */
export interface PoolWatch {
  /** As last read, which is done about once a second; none before the first time. */
  reports(): readonly PoolReport[]
  report(peerKmeId: KmeId): PoolReport | undefined
  /** Reads the pools now. */
  read(): Promise<readonly PoolReport[]>
  /** After how many seconds somebody for whom `missingKeys` keys are missing should ask again; 1 to 60. */
  retryAfterS(peerKmeId: KmeId, missingKeys: number): number
  /** Calls back after each regular reading. @returns what ends that. */
  onReading(listener: () => void): () => void
}

/** A pool within one stretch of time: levels at the lowest and at the end, and what flowed. In keys. */
export interface HistoryPoint {
  /** When the stretch begins, in milliseconds since 1970. */
  readonly fromMs: number
  readonly mineMin: number
  readonly mineLast: number
  readonly theirsMin: number
  readonly theirsLast: number
  readonly offered: number
  readonly taken: number
  /** Requests that found too few. */
  readonly refused: number
}

export interface PoolHistory {
  /** At most 500 points, oldest first; stretches in which nobody looked are missing.
   *  @returns also how many seconds each point stands for. */
  read(query: {
    readonly peerKmeId: KmeId
    readonly fromMs: number
    readonly toMs: number
    readonly nowMs: number
  }): Promise<{ readonly bucketS: number; readonly points: readonly HistoryPoint[] }>
}

/** How full the pools may get, in keys this KME and its peer may issue together. */
export interface PoolCeilings {
  /** Filling stops here. */
  ceilingKeys(peerKmeId: KmeId): number
  /** Lets the pool be filled up to `keys` once, and has every process try its sources at once. */
  ask(peerKmeId: KmeId, keys: number): Promise<void>
  /** Whoever fills the pool found no room under `atKeys`: what was asked for is done. */
  full(peerKmeId: KmeId, atKeys: number): void
  /** Calls back when somebody asks, in whichever process. */
  onAsk(listener: (peerKmeId: KmeId) => void): void
}
