/** What every KeyPool must do. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import type { Clock } from '../../src/kernel/clock.ts'
import type { BlockId, KmeId } from '../../src/kernel/identifiers.ts'
import { BORROWER, NOBODY, unitCountOf, type Account, type KeyPool } from '../../src/key-pool/key-pool.ts'
import { ORDINARY, type SharePolicy } from '../../src/key-pool/share-out.ts'
import type { AvailableUnits, UnitRun } from '../../src/key-store/key-store.ts'

export const PEER = 'kme-b' as KmeId
export const OTHER = 'kme-c' as KmeId

/** Names of blocks as the pool meets them. */
const blockId = (name: number): BlockId => `00000000-0000-4000-8000-${String(name).padStart(12, '0')}` as BlockId

export const block = (name: number, unitCount: number, peerKmeId = PEER, theirs = 0): AvailableUnits => ({
  peerKmeId,
  mine: { blockId: blockId(name), units: Array.from({ length: unitCount }, (_, unit) => unit) },
  theirs,
})

const flat = (runs: readonly UnitRun[]): string[] =>
  runs.flatMap((run) => run.units.map((unit) => `${Number(run.blockId.slice(-12))}/${unit}`))

async function* reading(...blocks: AvailableUnits[]): AsyncIterable<AvailableUnits> {
  for (const available of blocks) {
    await Promise.resolve()
    yield available
  }
}

/** A clock that stands still until it is moved. */
export const createStandingClock = (): Clock & { advanceMs(ms: number): void } => {
  let nowMs = 1_800_000_000_000
  return {
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    sleep: () => Promise.resolve(),
    advanceMs: (ms) => (nowMs += ms),
  }
}

export const UNSHARED: SharePolicy = { fairUnits: 0, emergencyUnits: 0, activeMs: 10_000, accounts: new Map() }

export interface PoolMaker {
  /** A new empty pool. Pools made with one `name` are one pool seen by several processes, where the implementation has such. */
  create(parts: { policy: SharePolicy; clock: Clock }): Promise<KeyPool>
  stop(): Promise<void>
}

export const describeKeyPool = (name: string, start: () => Promise<PoolMaker>): void => {
  describe(`${name}: a key pool`, () => {
    let maker: PoolMaker
    beforeAll(async () => {
      maker = await start()
    })
    afterAll(() => maker.stop())

    const createPool = async (policy: Partial<SharePolicy> = {}) => {
      const clock = createStandingClock()
      const pool = await maker.create({ policy: { ...UNSHARED, ...policy }, clock })
      const take = async (unitCount: number, account: Account = NOBODY, peerKmeId = PEER): Promise<string[] | undefined> => {
        const taken = await pool.take(peerKmeId, account, unitCount)
        return 'units' in taken ? flat(taken.units) : undefined
      }
      return { pool, clock, take }
    }

    it('gives units out oldest first, across blocks, each once', async () => {
      const { pool, take } = await createPool()
      await pool.offer(block(1, 3))
      await pool.offer(block(2, 3))
      expect(await take(2)).toEqual(['1/0', '1/1'])
      expect(await take(3)).toEqual(['1/2', '2/0', '2/1'])
      expect(await pool.level(PEER)).toMatchObject({ peerKmeId: PEER, mine: 1, theirs: 0, offeredTotal: 6, takenTotal: 5 })
    })

    it('gives all or none, and says how many are missing', async () => {
      const { pool, take } = await createPool()
      await pool.offer(block(1, 3))
      expect(await pool.take(PEER, NOBODY, 5)).toEqual({ missing: 2 })
      expect(await take(3)).toHaveLength(3)
      expect(await pool.take(PEER, NOBODY, 1)).toEqual({ missing: 1 })
      expect(await pool.level(PEER)).toMatchObject({ mine: 0, takenTotal: 3, refusedTotal: 2 })
    })

    it('gives each of many requests at once units of its own, and refuses only those that find too few', async () => {
      const { pool } = await createPool()
      for (let name = 1; name <= 4; name += 1) await pool.offer(block(name, 25))
      const taken = await Promise.all(Array.from({ length: 30 }, () => pool.take(PEER, NOBODY, 4)))
      const given = taken.flatMap((one) => ('units' in one ? flat(one.units) : []))
      expect(given).toHaveLength(100)
      expect(new Set(given).size).toBe(100)
      expect(taken.filter((one) => 'missing' in one)).toHaveLength(5)
    })

    it('keeps the lines of peers apart', async () => {
      const { pool, take } = await createPool()
      await pool.offer(block(1, 2))
      await pool.offer(block(2, 2, OTHER, 5))
      expect(await take(3, NOBODY, OTHER)).toBeUndefined()
      expect(await take(2, NOBODY, OTHER)).toEqual(['2/0', '2/1'])
      const levels = (await pool.levels()).filter(({ mine, theirs }) => mine + theirs > 0)
      expect(levels).toEqual([
        expect.objectContaining({ peerKmeId: PEER, mine: 2, theirs: 0 }),
        expect.objectContaining({ peerKmeId: OTHER, mine: 0, theirs: 5 }),
      ])
    })

    it('counts what the peer may issue and never less than nothing', async () => {
      const { pool } = await createPool()
      await pool.offer(block(1, 1, PEER, 10))
      await pool.adjustTheirs(PEER, -4)
      await pool.adjustTheirs(PEER, 1)
      expect((await pool.level(PEER)).theirs).toBe(7)
      await pool.adjustTheirs(PEER, -100)
      expect((await pool.level(PEER)).theirs).toBe(0)
    })

    it('puts units that come back at the head of the line', async () => {
      const { pool, take } = await createPool()
      await pool.offer(block(1, 4))
      const taken = await pool.take(PEER, NOBODY, 2)
      await pool.giveBack(PEER, 'units' in taken ? taken.units : [])
      expect((await pool.level(PEER)).takenTotal).toBe(0)
      expect(await take(4)).toEqual(['1/0', '1/1', '1/2', '1/3'])
    })

    it('forgets everything but what the store says when it is rebuilt', async () => {
      const { pool, take } = await createPool()
      await pool.offer(block(1, 3, PEER, 7))
      await pool.rebuild(reading(block(2, 2, PEER, 1)))
      expect(await pool.level(PEER)).toMatchObject({ mine: 2, theirs: 1 })
      expect(await take(2)).toEqual(['2/0', '2/1'])
      await pool.rebuild(reading())
      expect(await pool.level(PEER)).toMatchObject({ mine: 0, theirs: 0 })
    })

    it('does not bring back units that were taken while it was rebuilt, and keeps those that came meanwhile', async () => {
      const { pool, take } = await createPool()
      await pool.offer(block(1, 4))
      const began = Promise.withResolvers<undefined>()
      const goOn = Promise.withResolvers<undefined>()
      async function* slowReading(): AsyncIterable<AvailableUnits> {
        began.resolve(undefined)
        yield block(1, 4)
        await goOn.promise
        yield block(2, 1)
      }
      const rebuilt = pool.rebuild(slowReading())
      await began.promise
      expect(await take(3)).toHaveLength(3)
      await pool.offer(block(3, 1))
      goOn.resolve(undefined)
      await rebuilt
      expect((await pool.level(PEER)).mine).toBe(3)
      expect((await take(3))?.sort()).toEqual(['1/3', '2/0', '3/0'])
    })

    it('never holds a unit twice and loses none, whatever is asked of it', async () => {
      const step = fc.oneof(
        fc.record({ kind: fc.constant('offer' as const), count: fc.integer({ min: 1, max: 9 }) }),
        fc.record({ kind: fc.constant('take' as const), count: fc.integer({ min: 1, max: 12 }) }),
        fc.record({ kind: fc.constant('giveBack' as const), count: fc.constant(0) }),
      )
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
          const { pool } = await createPool()
          const out: (readonly UnitRun[])[] = []
          let offered = 0
          for (const [i, { kind, count }] of steps.entries()) {
            if (kind === 'offer') {
              await pool.offer(block(i, count))
              offered += count
            } else if (kind === 'take') {
              const taken = await pool.take(PEER, NOBODY, count)
              const left = offered - out.flatMap(flat).length
              expect(taken).toEqual(count > left ? { missing: count - left } : { units: expect.anything() as unknown })
              if ('units' in taken) out.push(taken.units)
            } else {
              const back = out.pop()
              if (back !== undefined) await pool.giveBack(PEER, back)
            }
            expect((await pool.level(PEER)).mine + out.reduce((sum, runs) => sum + unitCountOf(runs), 0)).toBe(offered)
          }
          const left = (await pool.level(PEER)).mine
          const rest = left === 0 ? { units: [] } : await pool.take(PEER, NOBODY, left)
          const all = [...out.flatMap(flat), ...('units' in rest ? flat(rest.units) : [])]
          expect(new Set(all).size).toBe(offered)
          expect(all).toHaveLength(offered)
        }),
        { numRuns: 50 },
      )
    })

    describe('that shares its units out', () => {
      const modest = Array.from({ length: 9 }, (_, i) => `modest-${i}`)

      it('keeps the floor of each account, whatever a greedy one asks for', async () => {
        const floors = new Map(modest.map((account) => [account, { ...ORDINARY, floorUnits: 5 }]))
        const { pool, take } = await createPool({ accounts: floors })
        await pool.offer(block(1, 100))
        let greedy = 0
        while ((await take(1, 'greedy')) !== undefined) greedy += 1
        expect(greedy).toBe(100 - 9 * 5)
        expect(await pool.drawable(PEER, 'greedy')).toBe(0)
        for (const account of modest) {
          expect(await pool.drawable(PEER, account)).toBe(5)
          expect(await take(5, account)).toHaveLength(5)
          expect(await take(1, account)).toBeUndefined()
        }
        expect(await pool.level(PEER)).toMatchObject({ mine: 0, reserved: 0 })
      })

      it('shares new key of a drained pool out by weight among those who ask', async () => {
        const { pool, take } = await createPool({
          fairUnits: 1000,
          accounts: new Map([['heavy', { ...ORDINARY, weight: 3 }]]),
        })
        for (const account of ['heavy', 'light', 'other']) expect(await take(1, account)).toBeUndefined()
        await pool.offer(block(1, 100))
        expect(await pool.drawable(PEER, 'heavy')).toBe(60)
        expect(await pool.drawable(PEER, 'light')).toBe(20)
        expect(await take(61, 'heavy')).toBeUndefined()
        expect(await take(60, 'heavy')).toHaveLength(60)
        expect(await take(20, 'light')).toHaveLength(20)
        expect(await take(20, 'other')).toHaveLength(20)
      })

      it('takes first what is kept for no one, so that a share is there when the rest is gone', async () => {
        const { pool, take } = await createPool({ fairUnits: 20 })
        await pool.offer(block(1, 100))
        expect(await take(1, 'modest')).toHaveLength(1)
        expect(await take(79, 'greedy')).toHaveLength(79)
        expect(await pool.level(PEER)).toMatchObject({ mine: 20, reserved: 20 })
        expect(await take(10, 'greedy')).toHaveLength(10)
        expect(await take(1, 'greedy')).toBeUndefined()
        expect(await take(10, 'modest')).toHaveLength(10)
      })

      it('leaves the share of an account that asks no more to the others', async () => {
        const { pool, clock, take } = await createPool({ fairUnits: 20, activeMs: 1000 })
        await pool.offer(block(1, 20))
        expect(await take(1, 'gone')).toHaveLength(1)
        expect(await take(20, 'stays')).toBeUndefined()
        clock.advanceMs(1001)
        expect(await pool.drawable(PEER, 'stays')).toBe(19)
        expect(await take(19, 'stays')).toHaveLength(19)
      })

      it('lets only named accounts use the emergency reserve', async () => {
        const { pool, take } = await createPool({
          emergencyUnits: 10,
          accounts: new Map([['fire', { ...ORDINARY, emergency: true }]]),
        })
        await pool.offer(block(1, 30))
        expect(await take(21, 'ordinary')).toBeUndefined()
        expect(await take(20, 'ordinary')).toHaveLength(20)
        expect(await pool.drawable(PEER, 'ordinary')).toBe(0)
        expect(await pool.drawable(PEER, 'fire')).toBe(10)
        expect(await take(10, 'fire')).toHaveLength(10)
      })

      it('gives a loan to whoever takes it and does not share it out', async () => {
        const { pool, take } = await createPool({ fairUnits: 1000 })
        expect(await take(1, 'waits')).toBeUndefined()
        expect(await take(1, 'asks')).toBeUndefined()
        await pool.offer(block(1, 10), 'loan')
        expect(await take(10, 'asks')).toHaveLength(10)
      })

      it('lends what is kept for SAEs too, and shares the rest out anew', async () => {
        const { pool, take } = await createPool({ accounts: new Map([['modest', { ...ORDINARY, floorUnits: 5 }]]) })
        await pool.offer(block(1, 20))
        expect(await take(17, BORROWER)).toHaveLength(17)
        expect(await pool.level(PEER)).toMatchObject({ mine: 3, reserved: 3 })
        expect(await take(4, BORROWER)).toBeUndefined()
        expect(await take(1, 'other')).toBeUndefined()
        expect(await take(3, 'modest')).toHaveLength(3)
      })

      it('shares out anew when it is rebuilt', async () => {
        const { pool, take } = await createPool({ accounts: new Map([['modest', { ...ORDINARY, floorUnits: 5 }]]) })
        await pool.offer(block(1, 100))
        await pool.rebuild(reading(block(2, 20)))
        expect(await take(16, 'greedy')).toBeUndefined()
        expect(await take(15, 'greedy')).toHaveLength(15)
        expect(await take(5, 'modest')).toHaveLength(5)
      })
    })
  })
}
