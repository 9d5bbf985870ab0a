/** What a pool does that has lost its Redis: it takes units straight from the key store. Each process reads blocks in an order of its
 *  own, so that several seldom choose the same units; when they do, the key store grants them to one. */
import type { Clock } from '../kernel/clock.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import type { AvailableUnits, KeyStore, StoreCounts, UnitRun } from '../key-store/key-store.ts'
import { unitCountOf, type Account, type KeyPool, type PoolLevel, type Taken } from './key-pool.ts'
import { createMemoryKeyPool } from './memory-key-pool.ts'
import type { SharePolicy } from './share-out.ts'

export interface StoreReader {
  take(peerKmeId: KmeId, account: Account, unitCount: number): Promise<Taken>
  level(peerKmeId: KmeId): Promise<PoolLevel>
  /** Forgets units it has read for this peer: they may have been used since. */
  startAnew(peerKmeId: KmeId): void
  /** Units that this process has taken, here or from Redis: until they are claimed they look free. */
  noteTaken(units: readonly UnitRun[]): void
  /** They are free again. */
  noteGivenBack(units: readonly UnitRun[]): void
}

/** Units are read ahead, so that not every request costs a reading. */
const READ_AHEAD_UNITS = 512
/** For so long a reading that found too few counts, and so do counts. */
const FRESH_MS = 200
/** A unit that was taken is claimed or given back in this time, at the least. */
const CLAIM_MS = 5000

export const createStoreReader = (parts: {
  store: Pick<KeyStore, 'freeUnits' | 'counts'>
  processId: string
  policy: SharePolicy
  clock: Clock
}): StoreReader => {
  const { store, clock } = parts
  const pools = new Map<
    KmeId,
    {
      pool: KeyPool
      /** When a reading last found fewer than asked for. */ drainedAtMs: number
      reading: Promise<void> | undefined
    }
  >()
  let counts: { atMs: number; read: Promise<readonly StoreCounts[]> } | undefined

  /** Units taken lately: those of the last CLAIM_MS, and some of as long before. */
  let taken = new Map<BlockId, Set<number>>()
  let takenBefore = new Map<BlockId, Set<number>>()
  let turnedMs = clock.monotonicMs()
  const noteTaken = (units: readonly UnitRun[]): void => {
    if (clock.monotonicMs() - turnedMs > CLAIM_MS) {
      takenBefore = taken
      taken = new Map()
      turnedMs = clock.monotonicMs()
    }
    for (const run of units) {
      let noted = taken.get(run.blockId)
      if (noted === undefined) taken.set(run.blockId, (noted = new Set()))
      for (const unit of run.units) noted.add(unit)
    }
  }
  const withoutTaken = ({ mine, ...rest }: AvailableUnits): AvailableUnits => {
    const sets = [taken.get(mine.blockId), takenBefore.get(mine.blockId)].filter((set) => set !== undefined)
    if (sets.length === 0) return { mine, ...rest }
    return { ...rest, mine: { blockId: mine.blockId, units: mine.units.filter((unit) => !sets.some((set) => set.has(unit))) } }
  }

  const poolOf = (peerKmeId: KmeId) => {
    let found = pools.get(peerKmeId)
    if (found === undefined) {
      pools.set(peerKmeId, (found = { pool: createMemoryKeyPool(parts), drainedAtMs: -Infinity, reading: undefined }))
    }
    return found
  }
  const readAgain = async (peerKmeId: KmeId, unitCount: number): Promise<void> => {
    const one = poolOf(peerKmeId)
    const wanted = unitCount + READ_AHEAD_UNITS
    const units = await store.freeUnits(peerKmeId, wanted, parts.processId)
    await one.pool.rebuild(each(units.map(withoutTaken)))
    if (unitCountOf(units.map(({ mine }) => mine)) < wanted) one.drainedAtMs = clock.monotonicMs()
  }
  const countsNow = (): Promise<readonly StoreCounts[]> => {
    if (counts === undefined || clock.monotonicMs() - counts.atMs > FRESH_MS) {
      counts = { atMs: clock.monotonicMs(), read: store.counts() }
    }
    return counts.read
  }

  return {
    take: async (peerKmeId, account, unitCount) => {
      const one = poolOf(peerKmeId)
      const takeNow = async (): Promise<Taken> => {
        const found = await one.pool.take(peerKmeId, account, unitCount)
        if ('units' in found) noteTaken(found.units)
        return found
      }
      const found = await takeNow()
      if ('units' in found) return found
      if (one.reading === undefined && clock.monotonicMs() - one.drainedAtMs <= FRESH_MS) return found
      // Whoever comes while a reading is under way waits for it.
      one.reading ??= readAgain(peerKmeId, unitCount).finally(() => (one.reading = undefined))
      await one.reading
      return takeNow()
    },
    level: async (peerKmeId) => {
      const found = (await countsNow()).find((one) => one.peerKmeId === peerKmeId)
      const totals = { offeredTotal: 0, takenTotal: 0, refusedTotal: 0 }
      return { peerKmeId, mine: found?.unitsMine ?? 0, theirs: found?.unitsTheirs ?? 0, reserved: 0, ...totals }
    },
    startAnew: (peerKmeId) => {
      pools.delete(peerKmeId)
    },
    noteTaken,
    noteGivenBack: (units) => {
      for (const { blockId, units: back } of units) {
        for (const unit of back) {
          taken.get(blockId)?.delete(unit)
          takenBefore.get(blockId)?.delete(unit)
        }
      }
    },
  }
}

// eslint-disable-next-line @typescript-eslint/require-await
async function* each(units: readonly AvailableUnits[]): AsyncIterable<AvailableUnits> {
  yield* units
}
