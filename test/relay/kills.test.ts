/** Each KME of a relay killed at each step of it, before the step and after it: the keys are equal at both ends or there are none, none comes
 *  twice, no pad is used twice, and relaying goes on. */
import { afterEach, expect, it } from '@jest/globals'
import type { RelayPolicy } from '../../src/key-store/key-store.ts'
import { A, B, C, D, issueAcross, padViolationsIn, startDiamond, type RelayWorld, type Step } from './relay-world.ts'

const NODES = [A, B, C, D]
const RELAYED = 'relay:kme-a:kme-c' as never
let world: RelayWorld
afterEach(async () => {
  await world[Symbol.asyncDispose]()
})

const relayNow = (): Promise<unknown> => {
  const { relay, life } = world.node(A)
  return Promise.race([life.end, relay.sources[0]!.replenish(undefined as never)]).catch((error: unknown) => (lastError = error))
}

/** Why the last relay failed. */
let lastError: unknown
const seen = new Set<string>()
/** Agrees on whatever is not yet agreed on, and uses up all keys there are. @returns how many that were. */
const useUp = async (): Promise<number> => {
  const { store, relay, pool } = world.node(A)
  for (const { blockId } of await store.pendingBlocks(RELAYED)) await relay.agreement(RELAYED, C)!.propose(blockId)
  const keys = (await pool.level(C)).mine
  if (keys === 0) return 0
  const { issued, fetched } = await issueAcross(world, A, C, keys)
  expect(fetched).toBe(issued)
  for (const key of issued.match(/.{64}/g)!) {
    expect(seen.has(key)).toBe(false)
    seen.add(key)
  }
  return keys
}

const nameOf = ({ kmeId, call, when }: Step): string => `${kmeId} ${when} ${call}`

/** Each with how many of its name came before it. */
const countedSteps = async (): Promise<string[]> => {
  const counts = new Map<string, number>()
  const steps: string[] = []
  world.watch((step) => {
    const name = nameOf(step)
    const count = counts.get(name) ?? 0
    counts.set(name, count + 1)
    steps.push(`${name} ${count}`)
  })
  await relayNow()
  world.watch(() => undefined)
  return steps
}

/** Kills a KME when it comes to a step, and starts it again. @returns whether it came to it. */
const killAt = async (name: string): Promise<boolean> => {
  const counts = new Map<string, number>()
  let restarted: Promise<void> | undefined
  world.watch((step) => {
    const count = counts.get(nameOf(step)) ?? 0
    counts.set(nameOf(step), count + 1)
    if (`${nameOf(step)} ${count}` !== name || restarted !== undefined) return
    world.kill(step.kmeId)
    restarted = world.restart(step.kmeId)
  })
  await relayNow()
  world.watch(() => undefined)
  await restarted
  return restarted !== undefined
}

it.each<[string, Partial<RelayPolicy>]>([
  ['over one way', {}],
  ['split over two ways, wrapped', { paths: 2, endToEnd: true }],
])('a block relayed %s is whole or gone, whoever dies at whatever step', async (_how, policy) => {
  world = await startDiamond({
    policy,
    settings: { blockKeys: 16 },
    highWatermark: 100_000,
    units: 300,
    blocks: 30,
  })
  const steps = await countedSteps()
  expect(await useUp()).toBeGreaterThan(0)
  const between = policy.paths === 2 ? [B, D] : [B]
  for (const kmeId of [A, ...between, C]) expect(steps.some((step) => step.startsWith(kmeId))).toBe(true)
  const missed: string[] = []
  for (const step of steps) {
    if (!(await killAt(step))) missed.push(step)
    await useUp()
    let more = 0
    for (let tries = 0; more === 0 && tries < 5; tries += 1) {
      await relayNow()
      more = await useUp()
    }
    if (more === 0) throw new Error(step, { cause: lastError })
  }
  expect(missed).toEqual([])
  expect(await padViolationsIn(world, NODES)).toEqual([])
  for (const kmeId of [B, D]) expect(await world.count(kmeId, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(0)
})
