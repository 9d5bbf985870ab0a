/** Several processes on one database: who does what, what they tell each other, and that no two do the same at once. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import { Unavailable } from '../../src/kernel/errors.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { openProcesses } from '../../src/processes/prisma-processes.ts'
import type { Processes } from '../../src/processes/processes.ts'
import { eventually } from '../setup/eventually.ts'
import { createTestDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

let stored: TestDatabase
let database: Database
beforeAll(async () => {
  stored = await createTestDatabase()
  database = openTestDatabase(stored.url, 8)
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await stored.drop()
})

interface Started {
  readonly processes: Processes
  /** Orderly. */
  stop(): Promise<void>
  /** Nothing of it runs until it thaws, but time goes on: SIGSTOP and SIGCONT. */
  freeze(): void
  thaw(): void
  /** Its statements get no answer until told otherwise. */
  cut(isCut: boolean): void
}

let started: Started[]
beforeEach(async () => {
  started = []
  await database.query('DELETE FROM duty')
  await database.query('DELETE FROM kme_process')
  await database.query('DELETE FROM figure')
})
afterEach(async () => {
  await Promise.all(started.map((one) => one.stop()))
})

const start = async (): Promise<Started> => {
  const stopping = new AbortController()
  let thawed = Promise.withResolvers<void>()
  thawed.resolve()
  let cut = false
  const clock: Clock = {
    ...systemClock,
    sleep: async (durationMs, signal) => {
      await systemClock.sleep(durationMs, signal)
      await thawed.promise
    },
  }
  const own: Database = {
    ...database,
    query: async (sql, parameters) => {
      if (cut) throw new Unavailable()
      const rows = await database.query(sql, parameters)
      await thawed.promise
      return rows as never
    },
  }
  const log = createLogger('silent')
  const processes = await openProcesses({
    database: own,
    processId: systemRandom.uuid(),
    host: 'host',
    pid: 1,
    clock,
    log,
  })
  const running = processes.run(stopping.signal)
  const one: Started = {
    processes,
    stop: async () => {
      cut = false
      thawed.resolve()
      stopping.abort()
      await running
    },
    freeze: () => void (thawed = Promise.withResolvers()),
    thaw: () => thawed.resolve(),
    cut: (isCut) => void (cut = isCut),
  }
  started.push(one)
  return one
}

/** Work that says when it begins and ends. */
const recordWork = (events: string[], who: string) => (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    events.push(`${who} begins`)
    signal.addEventListener('abort', () => {
      events.push(`${who} ends`)
      resolve()
    })
  })

describe('a duty', () => {
  it('is done by one process at a time, and by another as soon as that one stops', async () => {
    const [a, b] = [await start(), await start()]
    const events: string[] = []
    const stopping = new AbortController()
    const held = a.processes.hold('link:x', recordWork(events, 'a'), stopping.signal)
    await eventually('a begins', () => events.length === 1)
    const other = new AbortController()
    const waiting = b.processes.hold('link:x', recordWork(events, 'b'), other.signal)
    await eventually('b sees who has it', () => b.processes.reports().get('link:x')?.processId === a.processes.processId)
    const stoppedMs = systemClock.monotonicMs()
    stopping.abort()
    await held
    await eventually('b begins', () => events.includes('b begins'))
    expect(systemClock.monotonicMs() - stoppedMs).toBeLessThan(timeLimitMs(2000))
    other.abort()
    await waiting
    expect(events).toEqual(['a begins', 'a ends', 'b begins', 'b ends'])
  })

  it('is taken over from a process that cannot reach the database, which stops before', async () => {
    const [a, b] = [await start(), await start()]
    const events: string[] = []
    const stopping = new AbortController()
    const holding = [a.processes.hold('link:x', recordWork(events, 'a'), stopping.signal)]
    await eventually('a begins', () => events.length === 1)
    holding.push(b.processes.hold('link:x', recordWork(events, 'b'), stopping.signal))
    a.cut(true)
    await eventually('b begins', () => events.includes('b begins'), timeLimitMs(10_000))
    expect(events).toEqual(['a begins', 'a ends', 'b begins'])
    a.cut(false)
    await eventually('a sees who has it', () => a.processes.reports().get('link:x')?.processId === b.processes.processId)
    expect(events).toHaveLength(3)
    stopping.abort()
    await Promise.all(holding)
  })

  it('is taken over from a frozen process, which stops at once when it thaws', async () => {
    const [a, b] = [await start(), await start()]
    const events: string[] = []
    const stopping = new AbortController()
    const holding = [a.processes.hold('link:x', recordWork(events, 'a'), stopping.signal)]
    await eventually('a begins', () => events.length === 1)
    holding.push(b.processes.hold('link:x', recordWork(events, 'b'), stopping.signal))
    a.freeze()
    await eventually('b begins', () => events.includes('b begins'), timeLimitMs(10_000))
    a.thaw()
    await eventually('a ends', () => events.includes('a ends'), timeLimitMs(500))
    // The renewal that it sent before it froze and whose answer it reads now gives it nothing back.
    await eventually('a sees who has it', () => a.processes.reports().get('link:x')?.processId === b.processes.processId)
    expect(events).toEqual(['a begins', 'b begins', 'a ends'])
    stopping.abort()
    await Promise.all(holding)
  })

  it('is lost at once when the database says that another process has it', async () => {
    const a = await start()
    const events: string[] = []
    const stopping = new AbortController()
    const holding = a.processes.hold('link:x', recordWork(events, 'a'), stopping.signal)
    await eventually('a begins', () => events.length === 1)
    await database.query(`UPDATE duty SET process_id = gen_random_uuid(), until = now() + interval '20 seconds'`)
    await eventually('a ends', () => events.includes('a ends'), timeLimitMs(2500))
    stopping.abort()
    await holding
    expect(events).toEqual(['a begins', 'a ends'])
  })

  it('ends with its work, also when that fails, and is free again', async () => {
    const a = await start()
    const { signal } = new AbortController()
    await a.processes.hold('once', () => Promise.resolve(), signal)
    await expect(a.processes.hold('once', () => Promise.reject(new Error('broken')), signal)).rejects.toThrow('broken')
    const rows = await database.query(`SELECT name FROM duty WHERE until > now()`)
    expect(rows).toEqual([])
  })

  it('is never done by two processes at a time, however they hang', async () => {
    const many = await Promise.all(Array.from({ length: 5 }, start))
    const duties = ['one', 'two', 'three', 'four']
    const stopping = new AbortController()
    const working = new Map<string, number>()
    let most = 0
    let begun = 0
    const holding = many.flatMap(({ processes }) =>
      duties.map((duty) =>
        processes.hold(
          duty,
          async (signal) => {
            begun += 1
            working.set(duty, (working.get(duty) ?? 0) + 1)
            most = Math.max(most, working.get(duty)!)
            await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
            working.set(duty, working.get(duty)! - 1)
          },
          stopping.signal,
        ),
      ),
    )
    await eventually('each duty is done', () => duties.every((duty) => working.get(duty) === 1))
    for (const round of [0, 1]) {
      const holders = new Set(many.map(({ processes }) => processes.reports().get('one')?.processId))
      const holder = many.find(({ processes }) => holders.has(processes.processId))!
      const before = begun
      holder.cut(true)
      await eventually(`others go on, round ${round}`, () => begun > before, timeLimitMs(15_000))
      holder.cut(false)
    }
    stopping.abort()
    await Promise.all(holding)
    expect(most).toBe(1)
  })
})

describe('processes', () => {
  it('see each other, and no longer those that left or are silent', async () => {
    const [a, b, c] = [await start(), await start(), await start()]
    const seenByA = (): string[] => a.processes.alive().map(({ processId }) => processId)
    await eventually('a sees all', () => seenByA().length === 3)
    expect(new Set(seenByA())).toEqual(new Set([a, b, c].map(({ processes }) => processes.processId)))
    await b.stop()
    await eventually('b is gone', () => seenByA().length === 2, timeLimitMs(3000))
    c.cut(true)
    await eventually('c is not seen any more', () => seenByA().length === 1, timeLimitMs(10_000))
    expect(seenByA()).toEqual([a.processes.processId])
  })

  it('read what the holder of a duty reports, and nothing once nobody holds it', async () => {
    const [a, b] = [await start(), await start()]
    const stopping = new AbortController()
    const holding = a.processes.hold('link:x', recordWork([], 'a'), stopping.signal)
    await eventually('a has it', () => a.processes.reports().has('link:x'))
    a.processes.report('link:x', { state: 'up', qber: 0.02 })
    expect(a.processes.reports().get('link:x')?.report).toEqual({ state: 'up', qber: 0.02 })
    await eventually('b reads it', () => b.processes.reports().get('link:x')?.report !== undefined, timeLimitMs(4000))
    expect(b.processes.reports().get('link:x')).toMatchObject({
      processId: a.processes.processId,
      report: { state: 'up', qber: 0.02 },
    })
    expect(b.processes.reports().get('link:x')!.ageMs).toBeLessThan(timeLimitMs(3000))
    stopping.abort()
    await holding
    await eventually('nobody holds it', () => !b.processes.reports().has('link:x'), timeLimitMs(4000))
  })

  it('add up what they count', async () => {
    const [a, b] = [await start(), await start()]
    for (let i = 0; i < 10; i += 1) a.processes.count('blocks', 2)
    b.processes.count('blocks', 5)
    await eventually('both see the sum', () => [a, b].every(({ processes }) => processes.figures().get('blocks')?.total === 25))
    await b.stop()
    const c = await start()
    expect(c.processes.figures().get('blocks')?.total).toBe(25)
  })

  it('publish later what they counted while the database was away', async () => {
    const a = await start()
    a.cut(true)
    a.processes.count('blocks', 3)
    await eventually('it could not say so', () => a.processes.alive()[0]!.seenAgeMs > 1200)
    a.processes.count('blocks', 4)
    a.cut(false)
    await eventually('all is there', () => a.processes.figures().get('blocks')?.total === 7, timeLimitMs(4000))
  })
})
