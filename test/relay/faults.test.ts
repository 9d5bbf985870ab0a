/** Every message of a relay lost or answered in vain, as when a link is cut: the keys are equal at both ends or there are none, no pad makes two
 *  messages, and the next relay works. Then all of it again, as somebody who recorded it would send it. */
import { afterEach, describe, expect, it } from '@jest/globals'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { drawUniform, systemRandom } from '../../src/kernel/random.ts'
import type { RelayPolicy } from '../../src/key-store/key-store.ts'
import { A, B, C, D, issueAcross, padsUsedTwice, startDiamond, type Carrier, type RelayWorld } from './relay-world.ts'

const NODES = [A, B, C, D]
const AMPLE = { highWatermark: 100_000, units: 2000 }
let world: RelayWorld
afterEach(async () => {
  expect(padsUsedTwice(world.caught)).toEqual([])
  await world[Symbol.asyncDispose]()
})

const gone = (): never => {
  throw new CallFailed('gone', true)
}
type Fault = (forward: () => Promise<never>) => Promise<never>
const notAtAll: Fault = () => Promise.resolve().then(gone)
const inVain: Fault = (forward) => forward().then(gone)
const FAULTS: readonly [what: string, times: 'once' | 'always', fault: Fault][] = [
  ['does not arrive', 'once', notAtAll],
  ['does not arrive', 'always', notAtAll],
  ['is answered in vain', 'once', inVain],
  ['is answered in vain', 'always', inVain],
]

/** Strikes the message with this number, once or again and again. */
const strike = (fault: Fault, number: number, times: 'once' | 'always'): Carrier => {
  const messages: string[] = []
  let struck = false
  return ({ to, parcel }, forward) => {
    const name = `${to} ${parcel.relayId}`
    if (!messages.includes(name)) messages.push(name)
    if (messages.indexOf(name) !== number || (struck && times === 'once')) return forward()
    struck = true
    return fault(forward as () => Promise<never>)
  }
}

const relayNow = (): Promise<unknown> =>
  world
    .node(A)
    .relay.sources[0]!.replenish(undefined as never)
    .catch(() => 'failed')
const keysAtA = async (): Promise<number> => (await world.node(A).pool.level(C)).mine

/** Agrees on whatever is not yet agreed on, and uses up all keys there are. @returns how many that were. */
const useUp = async (): Promise<number> => {
  const { store, relay } = world.node(A)
  const linkId = 'relay:kme-a:kme-c' as never
  for (const { blockId } of await store.pendingBlocks(linkId)) await relay.agreement(linkId, C)!.propose(blockId)
  const keys = await keysAtA()
  if (keys > 0) {
    const { issued, fetched } = await issueAcross(world, A, C, keys)
    expect(fetched).toBe(issued)
    expect(new Set(issued.match(/.{64}/g)).size).toBe(keys)
  }
  return keys
}

/** Whatever happened, relaying goes on. */
const expectMore = async (): Promise<void> => {
  let keys = 0
  for (let tries = 0; keys === 0 && tries < 5; tries += 1) {
    await relayNow()
    keys = await useUp()
  }
  expect(keys).toBeGreaterThan(0)
}

const WISHES: readonly [string, Partial<RelayPolicy>, messages: number][] = [
  ['over one way', {}, 2],
  ['split over two ways, wrapped', { paths: 2, endToEnd: true }, 4],
]

it.each(WISHES)(
  'a block relayed %s is whole or gone, whatever happens to one of its messages',
  async (_how, policy, messages) => {
    // What is lost for good is waited for.
    world = await startDiamond({ ...AMPLE, settings: { deadlineMs: 1000 }, policy })
    for (const [, times, fault] of FAULTS) {
      for (let number = 0; number < messages; number += 1) {
        world.carry(strike(fault, number, times))
        await relayNow()
        world.carry((_caught, forward) => forward())
        await useUp()
        await expectMore()
      }
    }
    // What arrived and was never agreed on is at one end only, and usable at none.
    for (const node of [B, D]) expect(await world.count(node, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(0)
    const usable = `key_block WHERE link_id LIKE 'relay:%' AND state = 'AVAILABLE'`
    expect(await world.count(A, usable)).toBe(await world.count(C, usable))
  },
)

describe('what somebody recorded', () => {
  const stateOf = async (kmeId: KmeId): Promise<unknown> => {
    const node = world.node(kmeId)
    return [
      await node.database.query(
        `SELECT block_id, state, mine::text, taken::text, done::text, md5(sealed) FROM key_block ORDER BY block_id`,
      ),
      await node.database.query(`SELECT relay_id, side, state, units, answer FROM relay_pad ORDER BY relay_id, side`),
      await node.database.query(`SELECT aid, state FROM reservation ORDER BY aid`),
    ]
  }
  const states = (): Promise<unknown> => Promise.all(NODES.map(stateOf))

  it('has no effect when it is sent again: to the same KME and to others, by the same and by others, backwards and after restarts', async () => {
    world = await startDiamond({ ...AMPLE, policy: { paths: 2, endToEnd: true } })
    for (let i = 0; i < 3; i += 1) {
      await relayNow()
      await useUp()
    }
    const recorded = [...world.caught]
    expect(recorded.length).toBeGreaterThanOrEqual(12)
    const before = await states()
    for (const kmeId of NODES) await world.restart(kmeId)
    for (const { parcel } of [...recorded].reverse()) {
      for (const to of NODES) {
        for (const from of NODES.filter((other) => other !== to)) await world.node(to).relay.acceptor.accept(from, parcel)
      }
    }
    expect(await states()).toEqual(before)
    // Nobody sent anything on.
    expect(world.caught).toHaveLength(recorded.length)
    expect(await keysAtA()).toBe(0)
  })

  it('has no effect when everything comes twice, late and in another order', async () => {
    world = await startDiamond({ ...AMPLE, policy: { paths: 2 } })
    world.carry(async (_caught, forward) => {
      await systemClock.sleep(30 * drawUniform(systemRandom))
      const [answer] = await Promise.all([
        forward(),
        systemClock.sleep(60 * drawUniform(systemRandom)).then(() => forward()),
        systemClock.sleep(60 * drawUniform(systemRandom)).then(() => forward()),
      ])
      return answer
    })
    let keys = 0
    for (let i = 0; i < 6; i += 1) {
      await Promise.all([relayNow(), world.node(C).relay.fetch(A, 8)])
      keys += await useUp()
    }
    expect(keys).toBeGreaterThanOrEqual(6 * 8)
    const back = await world.node(C).pool.level(A)
    const { issued, fetched } = await issueAcross(world, C, A, back.mine)
    expect(fetched).toBe(issued)
  })
})
