/** KeyPool of a KME that runs as one process: lines of unit keys in memory. */
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import type { AvailableUnits, UnitRun } from '../key-store/key-store.ts'
import { unitCountOf, type KeyPool } from './key-pool.ts'

interface Line {
  /** Runs in the order they are issued; the first one is used from `used` on. */
  runs: UnitRun[]
  used: number
  mine: number
  theirs: number
}

export const createMemoryKeyPool = (): KeyPool => {
  let lines = new Map<KmeId, Line>()
  /** What happens to the lines while they are being rebuilt; the reading may or may not have seen it. */
  let meanwhile: { offered: AvailableUnits[]; taken: Map<BlockId, Set<number>> } | undefined

  const lineIn = (all: Map<KmeId, Line>, peerKmeId: KmeId): Line => {
    let line = all.get(peerKmeId)
    if (line === undefined) all.set(peerKmeId, (line = { runs: [], used: 0, mine: 0, theirs: 0 }))
    return line
  }
  const offerTo = (all: Map<KmeId, Line>, units: AvailableUnits): void => {
    const line = lineIn(all, units.peerKmeId)
    line.theirs += units.theirs
    if (units.mine.units.length === 0) return
    line.runs.push(units.mine)
    line.mine += units.mine.units.length
  }
  const noteTaken = ({ blockId, units }: UnitRun): void => {
    if (meanwhile === undefined) return
    let noted = meanwhile.taken.get(blockId)
    if (noted === undefined) meanwhile.taken.set(blockId, (noted = new Set()))
    for (const unit of units) noted.add(unit)
  }
  const level = (peerKmeId: KmeId) => {
    const line = lines.get(peerKmeId)
    return { peerKmeId, mine: line?.mine ?? 0, theirs: line?.theirs ?? 0 }
  }
  return {
    offer: (units) => {
      offerTo(lines, units)
      meanwhile?.offered.push(units)
    },
    take: (peerKmeId, unitCount) => {
      const line = lines.get(peerKmeId)
      if (line === undefined || line.mine < unitCount) return undefined
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
      for (const run of taken) noteTaken(run)
      return taken
    },
    giveBack: (peerKmeId, units) => {
      const line = lineIn(lines, peerKmeId)
      const first = line.runs[0]
      if (first !== undefined && line.used > 0) {
        line.runs[0] = { blockId: first.blockId, units: first.units.slice(line.used) }
        line.used = 0
      }
      line.runs.unshift(...units.filter((run) => run.units.length > 0))
      line.mine += unitCountOf(units)
      for (const run of units) for (const unit of run.units) meanwhile?.taken.get(run.blockId)?.delete(unit)
    },
    adjustTheirs: (peerKmeId, unitCount) => {
      const line = lineIn(lines, peerKmeId)
      line.theirs = Math.max(0, line.theirs + unitCount)
    },
    level,
    levels: () => [...lines.keys()].map(level),
    rebuild: async (units) => {
      const changes: NonNullable<typeof meanwhile> = { offered: [], taken: new Map() }
      meanwhile = changes
      const fresh = new Map<KmeId, Line>()
      const read = new Set<BlockId>()
      try {
        for await (const available of units) {
          read.add(available.mine.blockId)
          offerTo(fresh, available)
        }
      } finally {
        meanwhile = undefined
      }
      // A block released since the reading began is new to it, or was read; units taken since may have been read as free.
      for (const offer of changes.offered) if (!read.has(offer.mine.blockId)) offerTo(fresh, offer)
      for (const line of fresh.values()) leaveOut(line, changes.taken)
      lines = fresh
    },
  }
}

const leaveOut = (line: Line, taken: ReadonlyMap<BlockId, ReadonlySet<number>>): void => {
  line.runs = line.runs
    .map(({ blockId, units }) => ({ blockId, units: units.filter((unit) => taken.get(blockId)?.has(unit) !== true) }))
    .filter((run) => run.units.length > 0)
  line.mine = unitCountOf(line.runs)
}
