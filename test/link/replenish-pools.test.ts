/** Who is asked for keys when pools run low, in which order, and what happens when that fails. */
import { afterEach, describe, expect, it } from '@jest/globals'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { systemRandom, type Random } from '../../src/kernel/random.ts'
import type { PoolCeilings } from '../../src/key-pool/key-pool.ts'
import type { ReplenishSource, Replenished } from '../../src/link/link.ts'
import { createReplenisher, type RunningReplenisher } from '../../src/link/replenish-pools.ts'
import { createLinkSource, createLoanSource } from '../../src/link/replenish-sources.ts'
import { createPoolWorld, MARKS, OTHER, PEER, settle, silent, type PoolWorld } from '../key-pool/pool-world.ts'
import { levelOf, linkId } from '../admin/admin-world.ts'

const THIRD = 'kme-d' as KmeId
/** Draws the longest wait. */
const patient: Random = { ...systemRandom, fill: (target) => target.fill(255) }

let running = new AbortController()
afterEach(() => {
  running.abort()
  running = new AbortController()
})

interface Scripted extends ReplenishSource {
  asked: number
  answer: () => Replenished | Promise<Replenished>
}
const sourceFor = (peerKmeId: KmeId, name = `source of ${peerKmeId}`): Scripted => ({
  name,
  peerKmeId,
  asked: 0,
  answer: () => ({ outcome: 'asked' }),
  replenish: async function () {
    this.asked += 1
    return this.answer()
  },
})
const failing = (): never => {
  throw new Error('no light')
}

interface Replenishing {
  readonly world: PoolWorld
  readonly replenisher: RunningReplenisher
  readonly wished: [KmeId, number][]
}

const replenishing = async (sources: readonly ReplenishSource[], world = createPoolWorld()): Promise<Replenishing> => {
  const wished: [KmeId, number][] = []
  const listeners: ((peerKmeId: KmeId) => void)[] = []
  const ceilings: PoolCeilings = {
    ceilingKeys: (peerKmeId) =>
      Math.max(MARKS.highWatermark, ...wished.filter(([id]) => id === peerKmeId).map(([, keys]) => keys)),
    ask: async (peerKmeId, keys) => {
      wished.push([peerKmeId, keys])
      for (const listener of listeners) listener(peerKmeId)
    },
    full: () => undefined,
    onAsk: (listener) => void listeners.push(listener),
  }
  const { watch, alarms, audit, clock } = world
  const replenisher = createReplenisher({ watch, ceilings, sources, alarms, audit, clock, random: patient, log: silent })
  void watch.run(running.signal)
  await settle()
  void replenisher.run(running.signal)
  await settle()
  return { world, replenisher, wished }
}

describe('a pool that runs low', () => {
  it('has its sources asked each second, and a full one has not', async () => {
    const [low, full] = [sourceFor(PEER), sourceFor(OTHER)]
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 99 })
    world.set({ peerKmeId: OTHER, mine: 500 })
    await replenishing([low, full], world)
    await world.pass(3)
    expect([low.asked, full.asked]).toEqual([4, 0])
    world.set({ peerKmeId: PEER, mine: 500 })
    await world.pass(3)
    expect(low.asked).toBeLessThanOrEqual(5)
  })

  it('that would be empty first comes before the others', async () => {
    const order: KmeId[] = []
    const sources = [PEER, OTHER, THIRD].map((peerKmeId) => {
      const source = sourceFor(peerKmeId)
      source.answer = () => {
        order.push(peerKmeId)
        return { outcome: 'asked' }
      }
      return source
    })
    const world = createPoolWorld()
    const emptying = (peerKmeId: KmeId, mine: number, perS: number, s: number): void =>
      world.set({ peerKmeId, mine: mine - perS * s, takenTotal: perS * s })
    for (let s = 0; s <= 5; s += 1) {
      world.set({ peerKmeId: PEER, mine: 60 })
      emptying(OTHER, 95, 1, s)
      emptying(THIRD, 98, 5, s)
      await world.watch.read()
      world.clock.advanceMs(1000)
    }
    await replenishing(sources, world)
    expect(order.slice(0, 3)).toEqual([THIRD, OTHER, PEER])
  })

  it('does not wait for the sources of other pools', async () => {
    const [hanging, other] = [sourceFor(PEER), sourceFor(OTHER)]
    hanging.answer = () => new Promise(() => undefined)
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    world.set({ peerKmeId: OTHER, mine: 50 })
    await replenishing([hanging, other], world)
    await world.pass(3)
    expect([hanging.asked, other.asked]).toEqual([1, 4])
  })
})

describe('a source that fails', () => {
  it('is asked again ever more seldom, and an administrator hears of it after the third time', async () => {
    const source = sourceFor(PEER)
    source.answer = failing
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    await replenishing([source], world)
    const askedAfter: number[] = []
    for (let s = 1; s <= 16; s += 1) {
      await world.pass(1)
      askedAfter.push(source.asked)
      expect(world.alarms.raised.has('pool.replenish:kme-b')).toBe(source.asked >= 3)
    }
    // At 0, 1, 3, 7 and 15 seconds.
    expect(askedAfter).toEqual([2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5])
    expect(world.alarms.raised.get('pool.replenish:kme-b')).toContain('source of kme-b failed 3 times in a row: no light')
    await world.pass(300)
    const before = source.asked
    await world.pass(61)
    expect(source.asked - before).toBeGreaterThanOrEqual(1)
  })

  it('is forgiven at its first success', async () => {
    const source = sourceFor(PEER)
    source.answer = failing
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    await replenishing([source], world)
    await world.pass(4)
    expect(world.alarms.raised.has('pool.replenish:kme-b')).toBe(true)
    source.answer = () => ({ outcome: 'filled', keys: 1 })
    await world.pass(4)
    expect(world.alarms.raised.has('pool.replenish:kme-b')).toBe(false)
    const before = source.asked
    await world.pass(3)
    expect(source.asked).toBe(before + 3)
  })

  it('keeps its alarm while another source of the pool works', async () => {
    const [bad, good] = [sourceFor(PEER, 'bad'), sourceFor(PEER, 'good')]
    bad.answer = failing
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    await replenishing([bad, good], world)
    await world.pass(5)
    expect(world.alarms.raised.get('pool.replenish:kme-b')).toContain('bad failed')
    world.set({ peerKmeId: PEER, mine: 900 })
    await world.pass(2)
    expect(world.alarms.raised.has('pool.replenish:kme-b')).toBe(false)
  })

  it('whose alarm a process before this one raised, loses it when it works', async () => {
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    world.alarms.raise('pool.replenish:kme-b', 'warning', 'told before')
    await replenishing([sourceFor(PEER)], world)
    expect(world.alarms.raised.has('pool.replenish:kme-b')).toBe(false)
  })
})

describe('an operator', () => {
  it('has every source asked at once, also one that is to wait, and learns what each did', async () => {
    const [bad, good, none] = [sourceFor(PEER, 'bad'), sourceFor(PEER, 'good'), sourceFor(PEER, 'none')]
    bad.answer = failing
    good.answer = () => ({ outcome: 'filled', keys: 7 })
    none.answer = () => ({ outcome: 'nothing', reason: 'dry' })
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 500 })
    const { replenisher, wished } = await replenishing([bad, good, none, sourceFor(OTHER)], world)
    const done = await replenisher.replenishNow(PEER, 5000, 'admin:erika')
    expect(done).toEqual({
      ceilingKeys: 5000,
      sources: [
        { source: 'bad', outcome: 'failed', reason: 'no light' },
        { source: 'good', outcome: 'filled', keys: 7 },
        { source: 'none', outcome: 'nothing', reason: 'dry' },
      ],
    })
    expect(wished).toEqual([[PEER, 5000]])
    expect(world.audit.events).toEqual([
      { event: 'pool.replenish', actor: 'admin:erika', outcome: 'done', subject: { peerKmeId: PEER, ceilingKeys: 5000 } },
    ])
  })

  it('never lowers the ceiling, and is told when there is no such pool', async () => {
    const world = createPoolWorld([PEER])
    const { replenisher } = await replenishing([], world)
    expect((await replenisher.replenishNow(PEER, 5, 'admin:erika')).ceilingKeys).toBe(MARKS.highWatermark)
    expect((await replenisher.replenishNow(PEER, undefined, 'admin:erika')).ceilingKeys).toBe(MARKS.highWatermark)
    await expect(replenisher.replenishNow(OTHER, 5, 'admin:erika')).rejects.toMatchObject({ code: 'not-found' })
  })

  it('in another process ends the waits of this one', async () => {
    const source = sourceFor(PEER)
    source.answer = failing
    const world = createPoolWorld()
    world.set({ peerKmeId: PEER, mine: 0 })
    const { replenisher } = await replenishing([source], world)
    await world.pass(8)
    expect(source.asked).toBe(4)
    source.answer = () => ({ outcome: 'asked' })
    await replenisher.replenishNow(PEER, undefined, 'admin:erika')
    await world.pass(1)
    expect(source.asked).toBe(6)
  })
})

describe('a loan', () => {
  const ask = async (mine: number, borrowable: number, options: { available?: boolean; lends?: boolean } = {}) => {
    const { available = true, lends = true } = options
    const asked: number[] = []
    const source = createLoanSource({
      peerKmeId: PEER,
      lending: {
        borrow: async (_, unitCount) => {
          asked.push(unitCount)
          return lends
        },
      },
      peers: { named: () => ({ available: () => available }) as never, statuses: () => [] },
    })
    const need = { level: levelOf(PEER, mine, borrowable + 64), borrowable, ceilingKeys: 1000 }
    return { done: await source.replenish(need), asked }
  }

  it('evens out what the two ends have', async () => {
    expect(await ask(10, 1010)).toEqual({ done: { outcome: 'filled', keys: 500 }, asked: [500] })
    expect(await ask(0, 100_000)).toEqual({ done: { outcome: 'filled', keys: 4096 }, asked: [4096] })
  })

  it('is not asked for when both have about the same, so that ends do not lend to and fro', async () => {
    for (const [mine, borrowable] of [
      [100, 100],
      [0, 255],
      [500, 0],
    ] as const) {
      expect((await ask(mine, borrowable)).done.outcome).toBe('nothing')
    }
    expect((await ask(0, 256)).done.outcome).toBe('filled')
  })

  it('that is not given is a failure', async () => {
    await expect(ask(0, 1000, { available: false })).rejects.toThrow('does not answer')
    await expect(ask(0, 1000, { lends: false })).rejects.toThrow('lent nothing')
  })
})

describe('a link as a source', () => {
  const sourceIn = (state: 'up' | 'down' | 'starting') =>
    createLinkSource({
      linkId: linkId('a-b'),
      peerKmeId: PEER,
      links: { statuses: () => [{ linkId: linkId('a-b'), state, reason: 'no device' }] as never },
    })
  const need = { level: levelOf(PEER, 0, 0), borrowable: 0, ceilingKeys: 1000 }

  it('brings keys by itself while it is up, and counts as failed while it is down', async () => {
    expect(await sourceIn('up').replenish(need)).toEqual({ outcome: 'asked' })
    expect(await sourceIn('starting').replenish(need)).toEqual({ outcome: 'asked' })
    await expect(async () => sourceIn('down').replenish(need)).rejects.toThrow('the link is down: no device')
  })
})
