/** KeyPool of a KME that runs as one process: lines of unit keys in memory. */
import type { Clock } from '../kernel/clock.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import type { AvailableUnits, UnitRun } from '../key-store/key-store.ts'
import { BORROWER, NOBODY, unitCountOf, type Account, type KeyPool, type PoolLevel, type Taken } from './key-pool.ts'
import { keepNothing, noShares, reservedUnits, shareOut, type SharePolicy, type Shares } from './share-out.ts'

interface Line {
  /** Runs in the order they are issued; the first one is used from `used` on. */
  runs: UnitRun[]
  used: number
  mine: number
  theirs: number
  offeredTotal: number
  takenTotal: number
  refusedTotal: number
  readonly shares: Shares
}

const emptyLine = (): Line => ({
  runs: [],
  used: 0,
  mine: 0,
  theirs: 0,
  offeredTotal: 0,
  takenTotal: 0,
  refusedTotal: 0,
  shares: noShares(),
})

export const createMemoryKeyPool = (parts: { policy: SharePolicy; clock: Clock }): KeyPool => {
  const { policy, clock } = parts
  let lines = new Map<KmeId, Line>()
  let inDoubt = false
  /** What happens to the lines while they are being rebuilt; the reading may or may not have seen it. */
  let meanwhile: { offered: AvailableUnits[]; taken: Map<BlockId, Set<number>> } | undefined

  const lineIn = (all: Map<KmeId, Line>, peerKmeId: KmeId): Line => {
    let line = all.get(peerKmeId)
    if (line === undefined) all.set(peerKmeId, (line = emptyLine()))
    return line
  }
  const append = (line: Line, units: AvailableUnits): void => {
    line.theirs += units.theirs
    if (units.mine.units.length === 0) return
    line.runs.push(units.mine)
    line.mine += units.mine.units.length
  }
  const share = (line: Line): void => shareOut(line.shares, line.mine, policy, clock.monotonicMs())
  const noteTaken = ({ blockId, units }: UnitRun): void => {
    if (meanwhile === undefined) return
    let noted = meanwhile.taken.get(blockId)
    if (noted === undefined) meanwhile.taken.set(blockId, (noted = new Set()))
    for (const unit of units) noted.add(unit)
  }
  const level = (peerKmeId: KmeId): PoolLevel => {
    const { mine, theirs, shares, offeredTotal, takenTotal, refusedTotal } = lines.get(peerKmeId) ?? emptyLine()
    return { peerKmeId, mine, theirs, reserved: reservedUnits(shares), offeredTotal, takenTotal, refusedTotal }
  }
  const allowed = ({ mine, shares }: Line, account: Account): number => {
    if (account === BORROWER) return mine
    const emergency = policy.accounts.get(account)?.emergency === true ? shares.emergency : 0
    return mine - reservedUnits(shares) + (shares.reserved.get(account) ?? 0) + emergency
  }

  /** What is kept for no one goes first, then the account's own share, then the emergency reserve. */
  const charge = (line: Line, to: Account, unitCount: number): void => {
    const { shares } = line
    let rest = Math.max(0, unitCount - (line.mine - reservedUnits(shares)))
    const own = shares.reserved.get(to) ?? 0
    if (own > 0) shares.reserved.set(to, own - Math.min(own, rest))
    rest = Math.max(0, rest - own)
    shares.emergency -= rest
  }

  const pull = (line: Line, unitCount: number): UnitRun[] => {
    const taken: UnitRun[] = []
    let missing = unitCount
    while (missing > 0) {
      const run = line.runs[0] as UnitRun
      const units = run.units.slice(line.used, line.used + missing)
      taken.push({ blockId: run.blockId, units })
      missing -= units.length
      line.used += units.length
      if (line.used === run.units.length) {
        line.runs.shift()
        line.used = 0
      }
    }
    line.mine -= unitCount
    line.takenTotal += unitCount
    for (const run of taken) noteTaken(run)
    return taken
  }

  const take = (peerKmeId: KmeId, to: Account, unitCount: number): Taken => {
    const line = lineIn(lines, peerKmeId)
    const { askedMs } = line.shares
    if (to !== NOBODY && to !== BORROWER) {
      const isNew = !askedMs.has(to)
      askedMs.set(to, clock.monotonicMs())
      if (isNew) share(line)
    }
    // Shares of those who asked no more may be what is lacking.
    if (unitCount > allowed(line, to)) share(line)
    const missing = unitCount - allowed(line, to)
    if (missing > 0) {
      line.refusedTotal += 1
      return { missing }
    }
    if (to !== BORROWER) charge(line, to, unitCount)
    const units = pull(line, unitCount)
    if (line.mine < reservedUnits(line.shares)) {
      keepNothing(line.shares)
      share(line)
    }
    return { units }
  }

  const giveBack = (peerKmeId: KmeId, units: readonly UnitRun[]): void => {
    const line = lineIn(lines, peerKmeId)
    const first = line.runs[0]
    if (first !== undefined && line.used > 0) {
      line.runs[0] = { blockId: first.blockId, units: first.units.slice(line.used) }
      line.used = 0
    }
    line.runs.unshift(...units.filter((run) => run.units.length > 0))
    const unitCount = unitCountOf(units)
    line.mine += unitCount
    line.takenTotal -= unitCount
    for (const run of units) for (const unit of run.units) meanwhile?.taken.get(run.blockId)?.delete(unit)
  }

  const rebuild = async (units: AsyncIterable<AvailableUnits>): Promise<void> => {
    const changes: NonNullable<typeof meanwhile> = { offered: [], taken: new Map() }
    meanwhile = changes
    // Doubts that come up from now on count for the next time.
    inDoubt = false
    const fresh = new Map<KmeId, Line>()
    const read = new Set<BlockId>()
    try {
      for await (const available of units) {
        read.add(available.mine.blockId)
        append(lineIn(fresh, available.peerKmeId), available)
      }
    } catch (error) {
      inDoubt = true
      throw error
    } finally {
      meanwhile = undefined
    }
    // A block released since the reading began is new to it, or was read; units taken since may have been read as free.
    for (const offer of changes.offered) if (!read.has(offer.mine.blockId)) append(lineIn(fresh, offer.peerKmeId), offer)
    for (const [peerKmeId, line] of fresh) {
      leaveOut(line, changes.taken)
      const { offeredTotal, takenTotal, refusedTotal, shares } = lineIn(lines, peerKmeId)
      Object.assign(line, { offeredTotal, takenTotal, refusedTotal })
      for (const [asker, atMs] of shares.askedMs) line.shares.askedMs.set(asker, atMs)
      share(line)
    }
    lines = fresh
  }

  return {
    offer: (units, source = 'new') => {
      const line = lineIn(lines, units.peerKmeId)
      append(line, units)
      line.offeredTotal += units.mine.units.length
      if (source === 'new') share(line)
      meanwhile?.offered.push(units)
      return Promise.resolve()
    },
    take: (peerKmeId, to, unitCount) => Promise.resolve(take(peerKmeId, to, unitCount)),
    giveBack: (peerKmeId, units) => Promise.resolve(giveBack(peerKmeId, units)),
    adjustTheirs: (peerKmeId, unitCount) => {
      const line = lineIn(lines, peerKmeId)
      line.theirs = Math.max(0, line.theirs + unitCount)
      return Promise.resolve()
    },
    drawable: (peerKmeId, to) => {
      const line = lines.get(peerKmeId)
      if (line === undefined) return Promise.resolve(0)
      share(line)
      return Promise.resolve(allowed(line, to))
    },
    level: (peerKmeId) => Promise.resolve(level(peerKmeId)),
    levels: () => Promise.resolve([...lines.keys()].map(level)),
    doubt: () => {
      inDoubt = true
    },
    needsRebuild: () => inDoubt,
    rebuild,
  }
}

const leaveOut = (line: Line, taken: ReadonlyMap<BlockId, ReadonlySet<number>>): void => {
  line.runs = line.runs
    .map(({ blockId, units }) => ({ blockId, units: units.filter((unit) => taken.get(blockId)?.has(unit) !== true) }))
    .filter((run) => run.units.length > 0)
  line.mine = unitCountOf(line.runs)
}
