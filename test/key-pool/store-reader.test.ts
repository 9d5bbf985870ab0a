/** What stands in for a pool whose Redis is away. */
import { expect, it } from '@jest/globals'
import type { AvailableUnits, UnitRun } from '../../src/key-store/key-store.ts'
import { createStoreReader } from '../../src/key-pool/store-reader.ts'
import { block, createStandingClock, PEER, UNSHARED } from './key-pool.contract.ts'

const flat = (runs: readonly UnitRun[]): string[] => runs.flatMap((run) => run.units.map((unit) => `${run.blockId}/${unit}`))

/** A key store in which nothing is ever claimed: every unit looks free at each reading. */
const createReader = (blocks: readonly AvailableUnits[]) => {
  let readings = 0
  const clock = createStandingClock()
  const reader = createStoreReader({
    store: { freeUnits: () => Promise.resolve(((readings += 1), blocks)), counts: () => Promise.resolve([]) },
    processId: 'this-process',
    policy: UNSHARED,
    clock,
  })
  const take = async (unitCount: number): Promise<readonly UnitRun[]> => {
    const taken = await reader.take(PEER, 'alice', unitCount)
    return 'units' in taken ? taken.units : []
  }
  return { reader, clock, take, readings: () => readings }
}

it('never gives units again whose claim may be on its way, also after it started anew', async () => {
  const { reader, take, readings } = createReader([block(1, 60), block(2, 60)])
  const given: string[] = []
  for (let i = 0; i < 10; i += 1) {
    given.push(...flat(await take(12)))
    // As after each conflict.
    reader.startAnew(PEER)
  }
  expect(readings()).toBeGreaterThan(5)
  expect(given).toHaveLength(120)
  expect(new Set(given).size).toBe(120)
  expect(await take(1)).toEqual([])
})

it('leaves out units that were taken from Redis, until they are given back or their time is over', async () => {
  const { reader, clock, take } = createReader([block(1, 4)])
  const fromRedis = block(1, 3).mine
  reader.noteTaken([fromRedis])
  expect(flat(await take(1))).toEqual([`${fromRedis.blockId}/3`])
  reader.noteGivenBack([{ blockId: fromRedis.blockId, units: [2] }])
  clock.advanceMs(300)
  expect(flat(await take(1))).toEqual([`${fromRedis.blockId}/2`])
  expect(await take(1)).toEqual([])
  for (let turn = 0; turn < 2; turn += 1) {
    clock.advanceMs(6000)
    reader.noteTaken([])
  }
  expect(await take(4)).toHaveLength(1)
})
