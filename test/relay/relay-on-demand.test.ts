/** Keys relayed for one request, in a way of its own. */
import { afterEach, expect, it } from '@jest/globals'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import type { RelayPolicy } from '../../src/key-store/key-store.ts'
import type { RelayedUnits } from '../../src/relay/relay.ts'
import { A, B, C, D, issueUnits, kme, padsUsedTwice, startDiamond, unitsOf, type RelayWorld } from './relay-world.ts'

const ANY: RelayPolicy = { paths: 1, endToEnd: false, maxHops: 16, avoid: [], only: undefined }
let world: RelayWorld
afterEach(async () => {
  expect(padsUsedTwice(world.caught)).toEqual([])
  await world[Symbol.asyncDispose]()
})

const take = (unitCount: number, policy: Partial<RelayPolicy>) => world.node(A).relay.take(C, unitCount, { ...ANY, ...policy })
const runsOf = (units: RelayedUnits | 'not-relayed') => {
  if (typeof units === 'string') throw new Error(units)
  return units
}
const levelAtA = async (): Promise<number> => (await world.node(A).pool.level(C)).mine

it('they are just as many, of one block that meets the wish, in no pool, and good at both ends', async () => {
  world = await startDiamond()
  const runs = runsOf(await take(3, { paths: 2 }))
  expect(unitsOf(runs)).toBe(3)
  expect(await levelAtA()).toBe(0)
  const relayed = await world.node(A).store.relayedOver(runs.map((run) => run.blockId))
  expect([...relayed.values()]).toEqual([{ ways: [[B], [D]], endToEnd: false }])
  const { issued, fetched } = await issueUnits(world, A, C, runs)
  expect(fetched).toBe(issued)
})

it('they also meet what is wanted of all keys shared with the peer', async () => {
  world = await startDiamond({ policy: { avoid: [B] } })
  const runs = runsOf(await take(1, { endToEnd: true }))
  const relayed = await world.node(A).store.relayedOver(runs.map((run) => run.blockId))
  expect([...relayed.values()]).toEqual([{ ways: [[D]], endToEnd: true }])
  await expect(take(1, { paths: 2 })).resolves.toBe('no-way')
  await expect(take(1, { only: [B] })).resolves.toBe('no-way')
  await expect(take(1, { maxHops: 1 })).resolves.toBe('no-way')
  expect(new Set(world.caught.flatMap(({ parcel }) => parcel.path))).not.toContain(B)
})

it('those who ask for the same at the same moment share a block, each with units of its own', async () => {
  world = await startDiamond()
  const first = take(1, { paths: 2 })
  const others = await Promise.all([first, ...[1, 2, 3, 4, 5, 6].map((count) => take(count, { paths: 2 }))])
  const runs = others.flatMap(runsOf)
  expect(unitsOf(runs)).toBe(22)
  expect(new Set(runs.flatMap(({ blockId, units }) => units.map((unit) => `${blockId} ${unit}`))).size).toBe(22)
  expect(new Set(runs.map(({ blockId }) => blockId)).size).toBeLessThan(4)
})

it('those who ask for the same in other words share a block too', async () => {
  world = await startDiamond()
  const [x, y] = [kme('x'), kme('y')]
  const taken = await Promise.all([take(1, { avoid: [x, y] }), take(1, { avoid: [y, x] })])
  const runs = taken.flatMap(runsOf)
  expect(new Set(runs.map(({ blockId }) => blockId)).size).toBe(1)
})

it('those who ask for different things at the same moment get each their own', async () => {
  world = await startDiamond()
  const taken = await Promise.all([take(1, { paths: 2 }), take(1, { endToEnd: true }), take(1, { avoid: [D] })])
  const runs = taken.flatMap(runsOf)
  const relayed = await world.node(A).store.relayedOver(runs.map(({ blockId }) => blockId))
  expect(runs.map(({ blockId }) => relayed.get(blockId))).toEqual([
    { ways: [[B], [D]], endToEnd: false },
    { ways: [[B]], endToEnd: true },
    { ways: [[B]], endToEnd: false },
  ])
})

it('more than a block holds come in several', async () => {
  world = await startDiamond({ highWatermark: 10_000, settings: { deadlineMs: 20_000 }, units: 20_000 })
  const runs = runsOf(await take(5000, {}))
  expect(runs.map(({ units }) => units.length)).toEqual([4096, 904])
})

it('there are none, and nothing is used up, while a KME on the way is away; soon after it is back there are', async () => {
  world = await startDiamond()
  world.away.add(D)
  await expect(take(1, { paths: 2 })).resolves.toBe('not-now')
  expect(world.caught).toEqual([])
  await expect(take(1, {})).resolves.toMatchObject([{ units: [0] }])
  world.away.delete(D)
  let taken = await take(1, { paths: 2 })
  for (const endsMs = Date.now() + 5000; taken === 'not-now' && Date.now() < endsMs;) {
    await new Promise((resolve) => setImmediate(resolve))
    taken = await take(1, { paths: 2 })
  }
  expect(unitsOf(runsOf(taken))).toBe(1)
})

it('go into the pool when they come too late for who waited', async () => {
  world = await startDiamond({ settings: { deadlineMs: 3000 } })
  world.carry(async (_caught, forward) => {
    await forward()
    throw new CallFailed('the answer was lost', true)
  })
  await expect(take(2, {})).resolves.toBe('not-now')
  const { store, relay } = world.node(A)
  const [block] = await store.pendingBlocks('relay:kme-a:kme-c' as never)
  await relay.agreement('relay:kme-a:kme-c' as never, C)!.propose(block!.blockId)
  expect(await levelAtA()).toBe(2)
})

it('there are none for a KME that a link leads to', async () => {
  world = await startDiamond()
  await expect(world.node(A).relay.take(B, 1, ANY)).resolves.toBe('not-relayed')
})
