/** What every KeyPool must do. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import type { BlockId, KmeId } from '../../src/kernel/identifiers.ts'
import type { KeyPool } from '../../src/key-pool/key-pool.ts'
import { unitCountOf } from '../../src/key-pool/key-pool.ts'
import type { AvailableUnits, UnitRun } from '../../src/key-store/key-store.ts'

const PEER = 'kme-b' as KmeId
const OTHER = 'kme-c' as KmeId

export const block = (name: string, unitCount: number, peerKmeId = PEER, theirs = 0): AvailableUnits => ({
  peerKmeId,
  mine: { blockId: name as BlockId, units: Array.from({ length: unitCount }, (_, unit) => unit) },
  theirs,
})

const flat = (runs: readonly UnitRun[]): string[] => runs.flatMap((run) => run.units.map((unit) => `${run.blockId}/${unit}`))

async function* reading(...blocks: AvailableUnits[]): AsyncIterable<AvailableUnits> {
  for (const available of blocks) {
    await Promise.resolve()
    yield available
  }
}

export const describeKeyPool = (name: string, createPool: () => KeyPool): void => {
  describe(`${name}: a key pool`, () => {
    it('gives units out oldest first, across blocks, each once', () => {
      const pool = createPool()
      pool.offer(block('1', 3))
      pool.offer(block('2', 3))
      expect(flat(pool.take(PEER, 2)!)).toEqual(['1/0', '1/1'])
      expect(flat(pool.take(PEER, 3)!)).toEqual(['1/2', '2/0', '2/1'])
      expect(pool.level(PEER)).toEqual({ peerKmeId: PEER, mine: 1, theirs: 0 })
    })

    it('gives all or none', () => {
      const pool = createPool()
      pool.offer(block('1', 3))
      expect(pool.take(PEER, 4)).toBeUndefined()
      expect(flat(pool.take(PEER, 3)!)).toHaveLength(3)
      expect(pool.take(PEER, 1)).toBeUndefined()
    })

    it('keeps the lines of peers apart', () => {
      const pool = createPool()
      pool.offer(block('1', 2))
      pool.offer(block('2', 2, OTHER, 5))
      expect(pool.take(OTHER, 3)).toBeUndefined()
      expect(flat(pool.take(OTHER, 2)!)).toEqual(['2/0', '2/1'])
      expect(pool.levels()).toEqual([
        { peerKmeId: PEER, mine: 2, theirs: 0 },
        { peerKmeId: OTHER, mine: 0, theirs: 5 },
      ])
    })

    it('puts units that come back at the head of the line', () => {
      const pool = createPool()
      pool.offer(block('1', 4))
      const taken = pool.take(PEER, 2)!
      pool.giveBack(PEER, taken)
      expect(flat(pool.take(PEER, 4)!)).toEqual(['1/0', '1/1', '1/2', '1/3'])
    })

    it('forgets everything but what the store says when it is rebuilt', async () => {
      const pool = createPool()
      pool.offer(block('1', 3, PEER, 7))
      await pool.rebuild(reading(block('2', 2, PEER, 1)))
      expect(pool.level(PEER)).toEqual({ peerKmeId: PEER, mine: 2, theirs: 1 })
      expect(flat(pool.take(PEER, 2)!)).toEqual(['2/0', '2/1'])
    })

    it('does not bring back units that were taken while it was rebuilt, and keeps those that came meanwhile', async () => {
      const pool = createPool()
      pool.offer(block('1', 4))
      const rebuilt = pool.rebuild(reading(block('1', 4), block('2', 1)))
      const taken = pool.take(PEER, 3)!
      const back = [{ blockId: taken[0]!.blockId, units: taken[0]!.units.slice(2) }]
      pool.giveBack(PEER, back)
      pool.offer(block('3', 1))
      await rebuilt
      expect(flat(pool.take(PEER, 4)!).sort()).toEqual(['1/2', '1/3', '2/0', '3/0'])
      expect(pool.level(PEER).mine).toBe(0)
    })

    it('never holds a unit twice and loses none, whatever is asked of it', () => {
      const step = fc.oneof(
        fc.record({ kind: fc.constant('offer' as const), count: fc.integer({ min: 1, max: 9 }) }),
        fc.record({ kind: fc.constant('take' as const), count: fc.integer({ min: 1, max: 12 }) }),
        fc.record({ kind: fc.constant('giveBack' as const), count: fc.constant(0) }),
      )
      fc.assert(
        fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
          const pool = createPool()
          const out: (readonly UnitRun[])[] = []
          let offered = 0
          steps.forEach(({ kind, count }, i) => {
            if (kind === 'offer') {
              pool.offer(block(`block ${i}`, count))
              offered += count
            } else if (kind === 'take') {
              const taken = pool.take(PEER, count)
              expect(taken === undefined).toBe(count > offered - out.flatMap(flat).length)
              if (taken !== undefined) out.push(taken)
            } else {
              const back = out.pop()
              if (back !== undefined) pool.giveBack(PEER, back)
            }
            expect(pool.level(PEER).mine + out.reduce((sum, runs) => sum + unitCountOf(runs), 0)).toBe(offered)
          })
          const rest = pool.take(PEER, pool.level(PEER).mine) ?? []
          const all = [...out.flatMap(flat), ...flat(rest)]
          expect(new Set(all).size).toBe(offered)
          expect(all).toHaveLength(offered)
        }),
      )
    })
  })
}
