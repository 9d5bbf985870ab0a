/** What a process knows of its pools, and what it tells administrators. */
import { afterEach, describe, expect, it } from '@jest/globals'
import type { PoolReport } from '../../src/key-pool/key-pool.ts'
import { recordPools } from '../../src/key-pool/record-pools.ts'
import { createPoolWorld, OTHER, OWN, PEER, settle, silent, type PoolWorld } from './pool-world.ts'

let running = new AbortController()
afterEach(() => {
  running.abort()
  running = new AbortController()
})

const watching = async (world: PoolWorld): Promise<void> => {
  void world.watch.run(running.signal)
  await settle()
}

describe('a process that watches its pools', () => {
  it('counts what the other end would lend, and nothing of the sort for the pool of its own SAEs', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 10, theirs: 164 })
    world.set({ peerKmeId: OWN, mine: 7, theirs: 500 })
    await watching(world)
    expect(world.watch.report(PEER)).toMatchObject({ borrowable: 100, health: { level: 110, state: 'healthy' } })
    expect(world.watch.report(OWN)).toMatchObject({ borrowable: 0, health: { level: 7, state: 'critical' } })
  })

  it('also knows of a pool into which nothing ever came', async () => {
    const world = createPoolWorld([PEER])
    await watching(world)
    expect(world.watch.reports().map(({ health }) => health.state)).toEqual(['exhausted'])
  })

  it('tells a refused SAE when the missing keys will have come in', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    await watching(world)
    expect(world.watch.retryAfterS(PEER, 100)).toBe(2)
    for (let s = 1; s <= 60; s += 1) {
      // Ten keys come in each second, and are gone at once.
      world.set({ peerKmeId: PEER, mine: 0, offeredTotal: 10 * s, takenTotal: 10 * s })
      await world.pass(1)
    }
    expect([10, 55, 1000].map((missing) => world.watch.retryAfterS(PEER, missing))).toEqual([1, 6, 60])
    expect(world.watch.retryAfterS(OTHER, 1)).toBe(2)
  })

  it('keeps what it knew while the pools cannot be read, and goes on', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 500 })
    await watching(world)
    const { levels } = world.pool
    Object.assign(world.pool, { levels: () => Promise.reject(new Error('away')) })
    await world.pass(3)
    expect(world.watch.report(PEER)?.level.mine).toBe(500)
    Object.assign(world.pool, { levels })
    world.set({ peerKmeId: PEER, mine: 400 })
    await world.pass(1)
    expect(world.watch.report(PEER)?.level.mine).toBe(400)
  })

  it('says after each reading that there is news, until nobody listens', async () => {
    const world = createPoolWorld([PEER])
    let news = 0
    const end = world.watch.onReading(() => (news += 1))
    await watching(world)
    await world.pass(2)
    expect(news).toBe(3)
    end()
    await world.pass(2)
    expect(news).toBe(3)
  })
})

describe('the process that records pools', () => {
  interface Recorder {
    readonly world: PoolWorld
    readonly recorded: PoolReport[][]
    isAway: boolean
  }
  const recording = async (world = createPoolWorld()): Promise<Recorder> => {
    const recorder: Recorder = { world, recorded: [], isAway: false }
    const history = {
      record: async (reports: readonly PoolReport[]) => {
        if (recorder.isAway) throw new Error('away')
        recorder.recorded.push([...reports])
      },
      prune: () => Promise.resolve(false),
      read: () => Promise.reject(new Error('not asked')),
    }
    await watching(world)
    const { watch, alarms, clock } = world
    void recordPools({ kmeId: OWN, watch, history, alarms, clock, log: silent }, running.signal)
    await settle()
    return recorder
  }
  const names = (world: PoolWorld): string[] => [...world.alarms.raised.keys()]
  /** The watch reads, then the recorder looks. */
  const change = async (world: PoolWorld, mine: number): Promise<void> => {
    world.set({ peerKmeId: PEER, mine })
    await world.pass(2)
  }

  it('raises the alarm that fits the state and clears the others', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 500 })
    await recording(world)
    expect(names(world)).toEqual([])
    const seen: string[][] = []
    for (const mine of [90, 20, 0, 1, 500]) {
      await change(world, mine)
      seen.push(names(world))
    }
    expect(seen).toEqual([['pool.low:kme-b'], ['pool.critical:kme-b'], ['pool.exhausted:kme-b'], ['pool.critical:kme-b'], []])
    expect(world.alarms.severities.get('pool.low:kme-b')).toBe('warning')
    expect(world.alarms.severities.get('pool.exhausted:kme-b')).toBe('critical')
  })

  it('says how long the pool lasts and what to do', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 500 })
    await recording(world)
    for (let mine = 490; mine >= 90; mine -= 10) {
      world.set({ peerKmeId: PEER, mine, takenTotal: 500 - mine })
      await world.pass(1)
    }
    await world.pass(1)
    const text = world.alarms.raised.get('pool.low:kme-b')
    expect(text).toContain('90 keys, the mark is 100; empty in about 9 s')
    expect(text).toContain('kme pool replenish kme-b')
  })

  it('calls nobody for a pool that is just being filled for the first time, and does when it stays empty', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    await recording(world)
    await world.pass(10)
    expect(names(world)).toEqual([])
    await world.pass(10)
    expect(names(world)).toEqual(['pool.exhausted:kme-b'])
  })

  it('sets right what the process before it had told', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 500 })
    world.alarms.raise('pool.exhausted:kme-b', 'critical', 'told by the process before')
    await recording(world)
    expect(names(world)).toEqual([])
  })

  it('alarms also while the history cannot be written, and writes again when it can', async () => {
    const recorder = await recording()
    recorder.isAway = true
    await change(recorder.world, 500)
    await change(recorder.world, 0)
    expect(names(recorder.world)).toEqual(['pool.exhausted:kme-b'])
    expect(recorder.recorded).toEqual([])
    recorder.isAway = false
    await recorder.world.pass(1)
    expect(recorder.recorded).toHaveLength(1)
  })
})
