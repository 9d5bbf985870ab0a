/** Units that will never be issued: both ends must count them as used, or they would be waited for for ever. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import { KeyNotFound, PeerUnavailable } from '../../src/kernel/errors.ts'
import type { BlockId, KmeId } from '../../src/kernel/identifiers.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { Retirement, RetirementAnswer } from '../../src/peer/peer.ts'
import {
  addBlock,
  ALICE,
  blockAt,
  BOB,
  BURN_AFTER_S,
  claimUnits,
  countAt,
  depositBlock,
  fetchAt,
  holdAt,
  KME_B,
  issueAt,
  loopBackPeer,
  oneKey,
  openTwoStores,
  releaseAt,
  startDelivery,
  type Claimed,
  type End,
  type TwoStores,
} from './two-stores.ts'

let stores: TwoStores

beforeEach(async () => {
  stores = await openTwoStores()
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

const burn = async (end: End, blockId: BlockId, units: readonly number[]): Promise<Claimed> => {
  const claimed = await claimUnits(end, [{ blockId, units }])
  await end.store.burn(claimed.assignment.aid, 'test')
  return claimed
}

/** One key's whole life: offered, held, issued, fetched. */
const use = async (issuer: End, holder: End, blockId: BlockId, units: readonly number[]): Promise<void> => {
  const claimed = await claimUnits(issuer, [{ blockId, units }])
  expect(await holdAt(holder, claimed)).toBe('held')
  await issueAt(issuer, claimed)
  await fetchAt(holder, claimed)
}

describe('burnt units', () => {
  it('are counted as used at both ends once they are settled', async () => {
    const blockId = await addBlock(stores, 8)
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    await burn(stores.a, blockId, [0, 4])
    expect(await blockAt(stores.a, blockId)).toMatchObject({ taken: 2, done: 2 })
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 0, done: 0 })

    await delivery.settlement.settle()
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 2, done: 2 })
    await expect(stores.b.store.counts()).resolves.toMatchObject([{ unitsMine: 4, unitsTheirs: 2 }])
    await expect(stores.a.store.unsettled()).resolves.toEqual([])
    expect(await countAt(stores.b, `audit_record WHERE event = 'key.burnt' AND actor = 'kme:kme-a'`)).toBe(1)
  })

  it('are told of until the peer confirms it', async () => {
    const blockId = await addBlock(stores, 8)
    const peer = loopBackPeer(stores.b)
    const answers: (RetirementAnswer | 'cut' | 'away')[] = ['failed', 'cut', 'away', 'retired']
    const told: Retirement[] = []
    const delivery = await startDelivery(stores.a, {
      ...peer,
      available: () => answers[0] !== 'away',
      retire: async (retirement) => {
        told.push(retirement)
        const answer = answers[0]
        if (answer === 'cut') throw new CallFailed('the connection was cut', true)
        return answer === 'failed' ? 'failed' : peer.retire(retirement)
      },
    })
    const { assignment } = await burn(stores.a, blockId, [2])

    while (answers.length > 0) {
      await expect(stores.a.store.unsettled()).resolves.toMatchObject([{ aid: assignment.aid, state: 'BURNT' }])
      await delivery.settlement.settle()
      answers.shift()
    }
    await expect(stores.a.store.unsettled()).resolves.toEqual([])
    await delivery.settlement.settle()
    expect(told.map(({ units }) => units)).toEqual(Array.from({ length: 3 }, () => [{ blockId, units: [2] }]))
  })

  it('never come back: neither to the issuer nor into an issue', async () => {
    const blockId = await addBlock(stores, 8)
    const claimed = await burn(stores.a, blockId, [0])
    const { aid } = claimed.assignment
    await expect(stores.a.store.giveBack(aid, KME_B, 'R1')).resolves.toEqual([])
    await expect(stores.a.store.giveBack(aid, KME_B, 'R2')).resolves.toEqual([])
    await expect(stores.a.store.burn(aid, 'test')).resolves.toBe(0)
    await expect(issueAt(stores.a, claimed)).rejects.toMatchObject({ code: 'conflict' })
    await expect(claimUnits(stores.a, [{ blockId, units: [0] }])).rejects.toThrow('not free')
  })

  it('are not forgotten before they are burnt', async () => {
    const blockId = await addBlock(stores, 8)
    const { assignment } = await claimUnits(stores.a, [{ blockId, units: [0] }])
    await stores.a.store.markAborting(assignment.aid, 'test')
    await stores.a.store.forgetBurnt(assignment.aid, KME_B)
    await expect(stores.a.store.unsettled()).resolves.toMatchObject([{ aid: assignment.aid, state: 'ABORTING' }])
  })

  it('let their block be destroyed at both ends when all others are used', async () => {
    const blockId = await addBlock(stores, 6)
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    await use(stores.a, stores.b, blockId, [0])
    await use(stores.b, stores.a, blockId, [1, 3, 5])
    await burn(stores.a, blockId, [2])
    await burn(stores.a, blockId, [4])
    expect(await blockAt(stores.a, blockId)).toMatchObject({ state: 'DESTROYED', done: 6, has_material: false })
    expect(await blockAt(stores.b, blockId)).toMatchObject({ state: 'AVAILABLE', done: 4, has_material: true })

    await delivery.settlement.settle()
    expect(await blockAt(stores.b, blockId)).toMatchObject({ state: 'DESTROYED', done: 6, has_material: false })
  })

  it('let a block be destroyed of which no unit was ever used', async () => {
    const blockId = await addBlock(stores, 4)
    const deliveryA = await startDelivery(stores.a, loopBackPeer(stores.b))
    const deliveryB = await startDelivery(stores.b, loopBackPeer(stores.a))
    await burn(stores.a, blockId, [0, 2])
    await burn(stores.b, blockId, [1, 3])
    await Promise.all([deliveryA.settlement.settle(), deliveryB.settlement.settle()])
    for (const end of [stores.a, stores.b]) {
      expect(await blockAt(end, blockId)).toMatchObject({ state: 'DESTROYED', done: 4, has_material: false })
    }
  })
})

describe('an assignment burnt because it was not settled in time', () => {
  it('is taken from the slave SAE that has not fetched it', async () => {
    const blockId = await addBlock(stores, 8)
    const clock: Clock = { ...systemClock, nowMs: () => systemClock.nowMs() + (BURN_AFTER_S + 1) * 1000 }
    const peer = loopBackPeer(stores.b)
    const held: Claimed['assignment'][] = []
    const delivery = await startDelivery(
      stores.a,
      {
        ...peer,
        assign: async (offer) => {
          held.push(offer.assignment)
          await peer.assign(offer)
          throw new CallFailed('the connection was cut', true)
        },
      },
      { clock },
    )
    await expect(delivery.getKey(ALICE, BOB, oneKey)).rejects.toThrow(PeerUnavailable)

    await delivery.settlement.settle()
    await expect(stores.a.store.unsettled()).resolves.toMatchObject([{ state: 'BURNT' }])
    await delivery.settlement.settle()
    await expect(fetchAt(stores.b, { assignment: held[0]! })).rejects.toThrow(KeyNotFound)
    expect(await blockAt(stores.a, blockId)).toMatchObject({ taken: 1, done: 1 })
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 1, done: 1 })
  })

  it('leaves the keys alone that a slave SAE has', async () => {
    const blockId = await addBlock(stores, 8)
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    const claimed = await claimUnits(stores.a, [{ blockId, units: [0, 2] }])
    await holdAt(stores.b, claimed)
    const [first, second] = claimed.assignment.keyIds
    await fetchAt(stores.b, { assignment: { ...claimed.assignment, keyIds: [first!] } })
    await stores.a.store.burn(claimed.assignment.aid, 'test')

    await delivery.settlement.settle()
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 2, done: 1 })
    await fetchAt(stores.b, { assignment: { ...claimed.assignment, keyIds: [second!] } })
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 2, done: 2 })
  })
})

describe('retirement', () => {
  it('changes nothing when it is repeated', async () => {
    const blockId = await addBlock(stores, 8)
    const runs = [{ blockId, units: [0, 2] }]
    await expect(stores.b.store.retire(stores.a.kmeId, runs)).resolves.toBe(2)
    await expect(stores.b.store.retire(stores.a.kmeId, runs)).resolves.toBe(0)
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 2, done: 2 })
    expect(await countAt(stores.b, `audit_record WHERE event = 'key.burnt'`)).toBe(1)
  })

  it('counts only what was still free when several come at once', async () => {
    const blockId = await addBlock(stores, 8)
    const counts = await Promise.all(
      [
        [0, 2],
        [2, 4],
        [0, 4, 6],
      ].map((units) => stores.b.store.retire(stores.a.kmeId, [{ blockId, units }])),
    )
    expect(counts.reduce((sum, count) => sum + count)).toBe(4)
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 4, done: 4 })
  })

  it('is harmless when it comes after the block is gone, or for what never was', async () => {
    const blockId = await addBlock(stores, 4)
    await use(stores.a, stores.b, blockId, [0, 2])
    await use(stores.b, stores.a, blockId, [1, 3])
    const unknown = systemRandom.uuid() as BlockId
    const { store } = stores.b
    await expect(store.retire(stores.a.kmeId, [{ blockId, units: [0, 2] }])).resolves.toBe(0)
    await expect(store.retire(stores.a.kmeId, [{ blockId: unknown, units: [0] }])).resolves.toBe(0)
    await expect(store.retire(stores.a.kmeId, [])).resolves.toBe(0)
    expect(await blockAt(stores.b, blockId)).toMatchObject({ state: 'DESTROYED', taken: 4, done: 4 })
  })

  it('leaves out units that the block does not have', async () => {
    const blockId = await addBlock(stores, 4)
    await expect(stores.b.store.retire(stores.a.kmeId, [{ blockId, units: [2, 4, 1000] }])).resolves.toBe(1)
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 1, done: 1 })
  })

  it('does not touch units that are held for a slave SAE', async () => {
    const blockId = await addBlock(stores, 8)
    const claimed = await claimUnits(stores.a, [{ blockId, units: [0] }])
    await holdAt(stores.b, claimed)
    await expect(stores.b.store.retire(stores.a.kmeId, [{ blockId, units: [0, 2] }])).resolves.toBe(1)
    await expect(fetchAt(stores.b, claimed)).resolves.toMatchObject({ keys: [{}] })
  })

  it('also works on a block that is not released at this end yet', async () => {
    const blockId = await depositBlock(stores, 8)
    await expect(stores.b.store.retire(stores.a.kmeId, [{ blockId, units: [0, 2] }])).resolves.toBe(2)
    await expect(releaseAt(stores.b, blockId)).resolves.toMatchObject({ mine: { units: [1, 3, 5, 7] }, theirs: 2 })
  })

  it('by the peer does not reach units that this KME issues', async () => {
    const blockId = await addBlock(stores, 8)
    await expect(stores.b.store.retire(stores.a.kmeId, [{ blockId, units: [1, 2, 3] }])).resolves.toBe(1)
    await use(stores.b, stores.a, blockId, [1, 3])
  })

  it('by a KME that is not at the other end of the link changes nothing', async () => {
    const blockId = await addBlock(stores, 8)
    await expect(stores.b.store.retire('kme-c' as KmeId, [{ blockId, units: [0, 1, 2, 3] }])).resolves.toBe(0)
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 0, done: 0 })
    expect(await countAt(stores.b, `audit_record WHERE event = 'key.burnt'`)).toBe(0)
    await use(stores.a, stores.b, blockId, [0, 2])
  })
})
