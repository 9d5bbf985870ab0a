/** Door of the key pool: which unit keys wait to be issued to which peer KME. The pool holds hints in line, never
 *  material and never the truth: a claim in the key store decides. Losing the pool costs a rebuild. */
import type { KmeId } from '../kernel/identifiers.ts'
import type { AvailableUnits, UnitRun } from '../key-store/key-store.ts'

export interface PoolLevel {
  readonly peerKmeId: KmeId
  /** Units this KME may issue now. */
  readonly mine: number
  /** Units the peer may issue, as far as this KME knows. */
  readonly theirs: number
}

export interface KeyPool {
  /** Puts units at the end of the line for their peer. */
  offer(units: AvailableUnits): void
  /** Takes exactly `unitCount` units out of the line, oldest first, or none and undefined when there are fewer. */
  take(peerKmeId: KmeId, unitCount: number): readonly UnitRun[] | undefined
  /** Puts units taken before back at the head of the line. */
  giveBack(peerKmeId: KmeId, units: readonly UnitRun[]): void
  /** The peer issued, lent (`unitCount` < 0) or got back units of its own. */
  adjustTheirs(peerKmeId: KmeId, unitCount: number): void
  level(peerKmeId: KmeId): PoolLevel
  levels(): readonly PoolLevel[]
  /** Empties the pool and fills it from the key store. */
  rebuild(units: AsyncIterable<AvailableUnits>): Promise<void>
}

/** How many units runs name in all. */
export const unitCountOf = (runs: readonly UnitRun[]): number => runs.reduce((sum, run) => sum + run.units.length, 0)
