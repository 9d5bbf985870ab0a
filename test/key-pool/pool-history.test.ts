/** The history of the pools and operators' wishes, as PostgreSQL keeps them. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { PoolReport, PoolState } from '../../src/key-pool/key-pool.ts'
import { nextHealth } from '../../src/key-pool/pool-health.ts'
import { createPoolCeilings, type RunningPoolCeilings } from '../../src/key-pool/prisma-pool-ceilings.ts'
import { createPoolHistory, type RecordedPools } from '../../src/key-pool/prisma-pool-history.ts'
import { FakeClock, levelOf } from '../admin/admin-world.ts'
import { eventually } from '../setup/eventually.ts'
import { createTestDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'
import { MARKS, OTHER, PEER, silent } from './pool-world.ts'

const SECOND_MS = 1000
const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** The beginning of a coarse bucket, and so of a fine one. */
const START_MS = Date.parse('2030-01-01T12:00:00Z')

let server: TestDatabase
let database: Database
let history: RecordedPools
beforeAll(async () => {
  server = await createTestDatabase()
  database = openTestDatabase(server.url, 4, { clock: new FakeClock() })
})
beforeEach(async () => {
  await database.query('DELETE FROM pool_history')
  await database.query('DELETE FROM pool_record')
  await database.query('DELETE FROM pool_replenishment')
  history = createPoolHistory({ database, historyDays: 90 })
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await server.drop()
})

const reportOf = (mine: number, totals: [offered: number, taken: number, refused: number], peerKmeId = PEER): PoolReport => {
  const [offeredTotal, takenTotal, refusedTotal] = totals
  const level = { ...levelOf(peerKmeId, mine, 2 * mine), offeredTotal, takenTotal, refusedTotal }
  return { level, borrowable: 0, marks: MARKS, health: nextHealth(undefined, { ...level, atMs: 0, level: mine }, MARKS) }
}
const record = (atS: number, mine: number, totals: [number, number, number]): Promise<void> =>
  history.record([reportOf(mine, totals)], START_MS + atS * SECOND_MS)
const read = async (fromS: number, toS: number, nowS = toS) => {
  const { bucketS, points } = await history.read({
    peerKmeId: PEER,
    fromMs: START_MS + fromS * SECOND_MS,
    toMs: START_MS + toS * SECOND_MS,
    nowMs: START_MS + nowS * SECOND_MS,
  })
  return { bucketS, points: points.map(({ fromMs, ...point }) => ({ atS: (fromMs - START_MS) / SECOND_MS, ...point })) }
}

describe('the history of a pool', () => {
  it('has levels at the lowest and at the end of each ten seconds, and what flowed in them', async () => {
    await record(1, 100, [100, 0, 0])
    await record(5, 40, [100, 60, 1])
    await record(9, 70, [130, 60, 3])
    await record(12, 60, [130, 70, 3])
    expect(await read(0, 20)).toEqual({
      bucketS: 10,
      points: [
        { atS: 0, mineMin: 40, mineLast: 70, theirsMin: 80, theirsLast: 140, offered: 130, taken: 60, refused: 3 },
        { atS: 10, mineMin: 60, mineLast: 60, theirsMin: 120, theirsLast: 120, offered: 0, taken: 10, refused: 0 },
      ],
    })
  })

  it('counts nothing twice and leaves nothing out when another process goes on writing it', async () => {
    await record(0, 100, [100, 0, 0])
    history = createPoolHistory({ database, historyDays: 90 })
    // Both write for a moment.
    await Promise.all([record(3, 90, [100, 10, 0]), record(3, 90, [100, 10, 0]), record(3, 90, [100, 10, 0])])
    await record(30, 50, [150, 60, 2])
    const { points } = await read(0, 40)
    expect(points.reduce((sum, { taken }) => sum + taken, 0)).toBe(60)
    expect(points.reduce((sum, { offered }) => sum + offered, 0)).toBe(150)
  })

  it('goes on when the totals begin at nothing again', async () => {
    await record(0, 100, [1000, 900, 7])
    await record(10, 100, [40, 30, 1])
    expect((await read(10, 20)).points).toMatchObject([{ offered: 40, taken: 30, refused: 1 }])
  })

  it('writes a change of state into the audit log, once and also across a restart', async () => {
    const states = async (): Promise<unknown[]> => {
      const rows = await database.query<{ subject: object }>(
        `SELECT subject FROM audit_record WHERE event = 'pool.state' ORDER BY seq`,
      )
      return rows.map(({ subject }) => subject)
    }
    const before = (await states()).length
    await record(0, 500, [0, 0, 0])
    await record(1, 500, [0, 0, 0])
    expect(await states()).toHaveLength(before)
    history = createPoolHistory({ database, historyDays: 90 })
    await record(2, 0, [0, 0, 0])
    await record(3, 0, [0, 0, 0])
    const exhausted: PoolState = 'exhausted'
    expect((await states()).slice(before)).toEqual([{ peerKmeId: PEER, before: 'healthy', state: exhausted, keys: 0 }])
  })

  it('is given in at most 500 points, longer ones for longer times', async () => {
    for (let hour = 0; hour < 40; hour += 1) await record(hour * 3600, hour, [hour, 0, 0])
    const hours = (count: number) => read(40 * 3600 - count * 3600, 40 * 3600)
    expect((await hours(1)).bucketS).toBe(10)
    expect((await hours(8)).bucketS).toBe(60)
    expect((await hours(40)).bucketS).toBe(600)
    const all = await hours(24 * 365)
    expect(all.bucketS % 600).toBe(0)
    expect(all.bucketS).toBeGreaterThan(3600)
    expect(all.points.reduce((sum, { offered }) => sum + offered, 0)).toBe(39)
    await expect(read(-START_MS / 1000, 8.64e12 - START_MS / 1000, 0)).resolves.toBeDefined()
  })

  it('never has more than 500 points however it is asked', async () => {
    await database.query(
      `INSERT INTO pool_history (peer_kme_id, width_s, from_at, mine_min, mine_last, theirs_min, theirs_last, offered, taken, refused)
       SELECT $1, 10, to_timestamp($2::float8 / 1000 + n * 10), 1, 1, 1, 1, 1, 1, 1 FROM generate_series(0, 9000) AS n`,
      [PEER, START_MS],
    )
    for (const spanS of [4970, 4980, 4985, 4990, 5000, 9960, 9970, 10_000, 29_990, 30_000]) {
      for (const offsetS of [0, 3, 9]) {
        const { points, bucketS } = await read(40_000 + offsetS, 40_000 + offsetS + spanS)
        expect(points.length).toBeLessThanOrEqual(500)
        expect(points.length).toBeGreaterThanOrEqual(Math.min(495, Math.floor(spanS / bucketS)))
      }
    }
  })

  it('keeps the fine buckets for two days and the coarse ones as long as is configured', async () => {
    await record(0, 1, [1, 0, 0])
    const widths = async (): Promise<number[]> => {
      const rows = await database.query<{ width: number }>('SELECT width_s AS width FROM pool_history ORDER BY 1')
      return rows.map(({ width }) => width)
    }
    expect(await widths()).toEqual([10, 600])
    await history.prune(START_MS + 2 * DAY_MS)
    expect(await widths()).toEqual([10, 600])
    await history.prune(START_MS + 2 * DAY_MS + 11 * SECOND_MS)
    expect(await widths()).toEqual([600])
    await history.prune(START_MS + 91 * DAY_MS)
    expect(await widths()).toEqual([])
  })

  it('is pruned in pieces', async () => {
    await database.query(
      `INSERT INTO pool_history (peer_kme_id, width_s, from_at, mine_min, mine_last, theirs_min, theirs_last, offered, taken, refused)
       SELECT $1, 10, to_timestamp($2::float8 / 1000 + n * 10), 1, 1, 1, 1, 1, 1, 1 FROM generate_series(1, 1500) AS n`,
      [OTHER, START_MS],
    )
    expect(await history.prune(START_MS + 30 * DAY_MS)).toBe(true)
    expect(await history.prune(START_MS + 30 * DAY_MS)).toBe(false)
    expect(await database.query('SELECT 1 FROM pool_history')).toEqual([])
  })
})

describe("an operator's wish that a pool be filled", () => {
  const running = new AbortController()
  afterEach(() => running.abort())
  const processOf = (): RunningPoolCeilings =>
    createPoolCeilings({ database, marksOf: () => MARKS, clock: new FakeClock(), random: systemRandom, log: silent })

  it('lifts the ceiling in every process until whoever fills the pool finds no more room', async () => {
    const [asking, filling] = [processOf(), processOf()]
    const heard: string[] = []
    filling.onAsk((peerKmeId) => heard.push(peerKmeId))
    expect(asking.ceilingKeys(PEER)).toBe(1000)
    await asking.ask(PEER, 5000)
    expect(asking.ceilingKeys(PEER)).toBe(5000)
    void filling.run(running.signal)
    await eventually('the other process hears of it', () => heard.length > 0)
    expect(heard).toEqual([PEER])
    expect([filling.ceilingKeys(PEER), filling.ceilingKeys(OTHER)]).toEqual([5000, 1000])
    // Found no room under the mark, before it knew of the wish.
    filling.full(PEER, 1000)
    expect(filling.ceilingKeys(PEER)).toBe(5000)
    filling.full(PEER, 5000)
    expect(filling.ceilingKeys(PEER)).toBe(1000)
    await eventually('the wish is gone', async () => (await database.query('SELECT 1 FROM pool_replenishment')).length === 0)
  })

  it('is heard again when it is repeated', async () => {
    const asking = processOf()
    const heard: string[] = []
    asking.onAsk((peerKmeId) => heard.push(peerKmeId))
    await asking.ask(PEER, 1000)
    await asking.ask(PEER, 1000)
    expect(heard).toEqual([PEER, PEER])
  })
})
