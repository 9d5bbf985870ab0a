/** Two processes of one KME on one key store: who settles what, and equal requests that reach both. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import type { AssignmentId, BlockId, LinkId, SaeId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { KeyRequest } from '../../src/delivery/key-request.ts'
import type { KeyStore } from '../../src/key-store/key-store.ts'
import {
  addBlock,
  ALICE,
  BOB,
  CAROL,
  claimUnits,
  countAt,
  createGate,
  fetchForBob,
  hexOf,
  issueAt,
  KME_A,
  loopBackPeer,
  oneKey,
  openTwoStores,
  startDelivery,
  type End,
  type TwoStores,
} from './two-stores.ts'

let stores: TwoStores
let other: End
beforeEach(async () => {
  stores = await openTwoStores()
  other = await stores.anotherProcess(stores.a)
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

/** As the process itself would, `ageS` seconds ago. */
const seen = async ({ processId, database }: End, ageS: number): Promise<void> => {
  await database.query(
    `INSERT INTO kme_process (process_id, host, pid, seen_at) VALUES ($1, 'host', 1, now() - $2::int * interval '1 second')
     ON CONFLICT (process_id) DO UPDATE SET seen_at = excluded.seen_at`,
    [processId, ageS],
  )
}
const idsOf = async (end: End, of?: 'own' | 'dead' | 'all'): Promise<AssignmentId[]> =>
  (await end.store.unsettled(of)).map(({ aid }) => aid).sort()

describe('what a process may settle', () => {
  it.each(['RESERVED', 'ABORTING', 'BURNT'] as const)('a %s reservation of a live process is nobody else’s', async (state) => {
    const blockId = await addBlock(stores, 4)
    const { assignment } = await claimUnits(other, [{ blockId, units: [0] }])
    const { aid } = assignment
    if (state === 'ABORTING') await other.store.markAborting(aid, 'test')
    if (state === 'BURNT') await other.store.burn(aid, 'test')
    await seen(other, 0)
    expect(await idsOf(stores.a)).toEqual([])
    // A request still works on the first of the three.
    expect(await idsOf(other)).toEqual(state === 'RESERVED' ? [] : [aid])

    await seen(other, 5)
    expect(await idsOf(stores.a)).toEqual([])
    await seen(other, 11)
    expect(await idsOf(stores.a, 'own')).toEqual([])
    expect(await idsOf(stores.a, 'dead')).toEqual([aid])
    expect(await idsOf(stores.a)).toEqual([aid])
  })

  it('a request goes on while another process settles for the dead, and so does one of a process that could not show itself', async () => {
    const blockId = await addBlock(stores, 4)
    const own = await claimUnits(stores.a, [{ blockId, units: [0] }])
    const others = await claimUnits(other, [{ blockId, units: [2] }])
    await seen(stores.a, 11)
    await seen(other, 0)
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    await delivery.settlement.settle()
    await issueAt(stores.a, own)
    await issueAt(other, others)
  })

  it('a process that is gone without a trace is dead', async () => {
    const blockId = await addBlock(stores, 4)
    const { assignment } = await claimUnits(other, [{ blockId, units: [0] }])
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    expect(await idsOf(stores.a, 'dead')).toEqual([assignment.aid])
    await delivery.settlement.settle()
    expect(await countAt(stores.a, 'reservation')).toBe(0)
  })

  it('several may settle for the dead at once: what comes back comes back once', async () => {
    const blockId = await addBlock(stores, 64)
    const dead = await stores.anotherProcess(stores.a)
    for (let unit = 0; unit < 32; unit += 2) await claimUnits(dead, [{ blockId, units: [unit] }])
    const deliveries = [await startDelivery(stores.a, loopBackPeer(stores.b)), await startDelivery(other, loopBackPeer(stores.b))]
    await Promise.all(deliveries.map(({ settlement }) => settlement.settle()))
    expect(await countAt(stores.a, 'reservation')).toBe(0)
    expect(await countAt(stores.a, `audit_record WHERE event = 'key.returned'`)).toBe(16)
    expect(await countAt(stores.a, `audit_record WHERE event = 'key.burnt'`)).toBe(0)
  })
})

describe('equal requests that reach two processes at the same moment', () => {
  const requestId = systemRandom.uuid()
  const request: KeyRequest = { ...oneKey, extensions: { requestId, requestIdIsMandatory: false, qkdOnly: false } }

  /** Two deliveries, the first of which has seen that nothing was issued before and then waits until the second is done. */
  const bothAt = async (slave: SaeId) => {
    const gate = createGate()
    let asked = 0
    const store: KeyStore = {
      ...stores.a.store,
      priorIssue: async (...about) => {
        const prior = await stores.a.store.priorIssue(...about)
        if ((asked += 1) === 1) await gate.pass()
        return prior
      },
    }
    const late = await startDelivery(stores.a, loopBackPeer(stores.b), { store })
    const early = await startDelivery(other, loopBackPeer(stores.b))
    const answered = late.getKey(ALICE, slave, request)
    await gate.reached
    const first = await early.getKey(ALICE, slave, request)
    gate.open()
    return { first, second: await answered, late }
  }

  it('get one container', async () => {
    await addBlock(stores, 8)
    const { first, second, late } = await bothAt(BOB)
    expect(second.keys).toEqual(first.keys)
    expect(hexOf(second)).toBe(hexOf(first))
    expect(await countAt(stores.a, 'assigned_key')).toBe(1)
    // What the second one had claimed is free again, at both ends.
    await late.settlement.settle()
    expect(await countAt(stores.a, 'reservation')).toBe(0)
    await expect(stores.b.store.counts()).resolves.toMatchObject([{ unitsMine: 4, unitsTheirs: 3 }])
    expect(hexOf(await fetchForBob(stores.b, ALICE, first))).toBe(hexOf(first))
  })

  it('get one container also when the slave is homed here', async () => {
    const blockId = systemRandom.uuid() as BlockId
    const key = SecretBytes.adopt(systemRandom.fill(Buffer.alloc(32 + 4 * 32)))
    const block = { blockId, linkId: 'local' as LinkId, deviceBlock: blockId, peerKmeId: KME_A, issuedHere: 'all' as const, key }
    await stores.a.store.deposit(block)
    await stores.a.store.release(blockId)
    const { first, second } = await bothAt(CAROL)
    expect(second.keys).toEqual(first.keys)
    expect(hexOf(second)).toBe(hexOf(first))
    expect(await countAt(stores.a, 'assigned_key')).toBe(1)
  })
})
