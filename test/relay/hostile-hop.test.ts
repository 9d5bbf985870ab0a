/** Rows P17 to P21 of the bad-input catalogue: kme-b has a good certificate and all the key it shares with its neighbours, and asks for
 *  what it may not have, or answers what it may not answer. Nothing changes, one audit record and one alarm each. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import type { BlockId, KmeId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { UnitRun } from '../../src/key-store/key-store.ts'
import type { RelayParcel } from '../../src/peer/peer.ts'
import { readRelayAnswer, readRelayParcel, writeRelayParcel } from '../../src/peer/wire.ts'
import { answerTag, encryptForHop, type ParcelDraft } from '../../src/relay/hop-cipher.ts'
import { A, B, C, D, kme, padsUsedTwice, startLine, startWorld, UNIT_BYTES, type RelayWorld } from './relay-world.ts'

const BLOCK_BYTES = 32 + 2 * UNIT_BYTES
const PAD_UNITS = 5

let world: RelayWorld
beforeAll(async () => {
  world = await startWorld({
    links: [
      [A, B],
      [B, C],
      [C, D],
    ],
    routes: () => ({ routes: () => [] }),
  })
  await world.addLinkKey(A, B, 1000)
  await world.addLinkKey(B, C, 1000)
  await world.addLinkKey(C, D, 1000)
})
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
})

const takePad = async (victim: KmeId): Promise<readonly UnitRun[]> => {
  const taken = await world.node(B).pool.take(victim, '', PAD_UNITS)
  return 'units' in taken ? taken.units : []
}

interface Forgery {
  readonly parcel: RelayParcel
  readonly answerKey: SecretBytes
}

/** What kme-b could honestly send to kme-c, with `changes` under the MAC. */
const forge = async (changes: Partial<ParcelDraft> = {}, victim = C): Promise<Forgery> => {
  const draft: ParcelDraft = {
    relayId: systemRandom.uuid(),
    path: [A, B, C],
    hop: 2,
    block: systemRandom.uuid(),
    share: { index: 0, count: 1 },
    budgetMs: 1000,
    pad: await takePad(victim),
    ...changes,
  }
  let made: Forgery | undefined
  using block = SecretBytes.adopt(systemRandom.fill(Buffer.alloc(BLOCK_BYTES)))
  const spent = await world.node(B).store.spendPad({
    peerKmeId: victim,
    relayId: draft.relayId,
    units: draft.pad,
    subject: {},
    encrypt: (pad) => writeRelayParcel((made = encryptForHop(draft, block, pad)).parcel),
  })
  if (spent === 'conflict' || made === undefined) throw new Error('kme-b has no such pad')
  return made
}

const stateOf = (kmeId: KmeId): Promise<unknown> =>
  world.node(kmeId).database.query(
    `SELECT (SELECT string_agg(taken::text || done::text || state || md5(coalesce(sealed, '')), ',' ORDER BY block_id) FROM key_block) AS blocks,
         (SELECT count(*) FROM relay_pad) AS pads, (SELECT count(*) FROM reservation) AS reservations`,
  )
const refusals = (kmeId: KmeId): Promise<number> =>
  world.count(kmeId, `audit_record WHERE event = 'peer.refused' AND actor = 'kme:kme-b' AND outcome = 'refused'`)

/** kme-b says it to kme-c; other KMEs must not even hear of it. */
const expectRefused = async (parcel: RelayParcel, reason: string, caller = B): Promise<void> => {
  const { relay, alarms } = world.node(C)
  alarms.clear()
  const [before, audited, level] = [await stateOf(C), await refusals(C), await world.node(C).pool.level(B)]
  const onward = world.caught.length
  await expect(relay.acceptor.accept(caller, parcel)).resolves.toEqual({ outcome: 'refused', reason, at: C })
  expect(await stateOf(C)).toEqual(before)
  expect(await world.node(C).pool.level(B)).toEqual(level)
  expect(await refusals(C)).toBe(caller === B ? audited + 1 : audited)
  expect(alarms.size).toBe(1)
  expect(world.caught).toHaveLength(onward)
}

it('a parcel that is good in every respect is delivered, so the refusals below have their reason in what was changed', async () => {
  const { parcel, answerKey } = await forge()
  const answer = await world.node(C).relay.acceptor.accept(B, parcel)
  expect(answer).toEqual({ outcome: 'delivered', mac: answerTag(parcel, undefined, answerKey) })
})

describe('a path', () => {
  const long = (nodes: number): KmeId[] => Array.from({ length: nodes }, (_, i) => kme(`x${i}`))
  it.each<[string, Partial<ParcelDraft>]>([
    ['P17 with this KME twice', { path: [C, B, C], hop: 2 }],
    ['P17 that ends at its origin', { path: [C, B, C, D], hop: 2 }],
    ['P17 that names the caller twice', { path: [B, A, B, C], hop: 3 }],
    ['P17 where this KME is not the next one', { path: [A, B, D], hop: 2 }],
    ['P17 where the caller is not the one before', { path: [A, kme('x'), C], hop: 2 }],
    ['P17 that counts a hop too many', { path: [A, B, C], hop: 3 }],
    ['P17 of an origin that is a neighbour of this KME', { path: [B, C], hop: 1 }],
    ['P17 of an origin that is no peer', { path: [kme('x'), B, C], hop: 2 }],
  ])('%s is refused', async (_row, changes) => {
    await expectRefused((await forge(changes)).parcel, 'path-not-allowed')
  })

  it.each([
    ['P17 with hop 0', { hop: 0 }],
    ['P17 with hop 17', { hop: 17 }],
    ['P17 with 18 KMEs', { path: long(18) }],
    ['P17 with no KME but the origin', { path: [A] }],
    ['of another version', { version: 0 }],
    ['with a budget of no time', { budgetMs: 0 }],
    ['with a negative unit', { pad: [{ blockId: systemRandom.uuid(), units: [-1] }] }],
    ['with a share of no whole', { share: { index: 1, count: 1 } }],
    ['with more bytes than a block has', { ciphertext: Buffer.alloc(262_145).toString('base64') }],
    ['with a MAC of 15 bytes', { mac: Buffer.alloc(15).toString('base64') }],
  ])('%s is not understood', async (_row, changes) => {
    const { parcel } = await forge()
    expect(() => readRelayParcel({ ...writeRelayParcel(parcel), ...changes })).toThrow()
  })

  it('what is not understood is refused and recorded', async () => {
    const audited = await refusals(C)
    await expect(world.node(C).relay.acceptor.accept(B, undefined)).resolves.toMatchObject({ reason: 'malformed' })
    expect(await refusals(C)).toBe(audited + 1)
  })

  it.each(['https://evil.example:8451', 'kme-unknown', 'kme-a'])('P18 that leads on to %s is refused', async (next) => {
    await expectRefused((await forge({ path: [kme('x'), B, C, next as KmeId], hop: 2 })).parcel, 'next-hop-unknown')
  })

  it('P18 in a question is refused as well', async () => {
    const check = { path: [A, B, C, 'https://evil.example' as KmeId], hop: 2, budgetMs: 1000, sizeBytes: 96 }
    const audited = await refusals(C)
    await expect(world.node(C).relay.acceptor.check(B, check)).resolves.toMatchObject({ reason: 'next-hop-unknown' })
    expect(await refusals(C)).toBe(audited + 1)
  })
})

describe('a MAC', () => {
  it('P19 that is wrong is refused, and the pad can still be used for the right parcel', async () => {
    const { parcel } = await forge()
    await expectRefused({ ...parcel, mac: systemRandom.fill(Buffer.alloc(16)) }, 'not-authentic')
    await expect(world.node(C).relay.acceptor.accept(B, parcel)).resolves.toMatchObject({ outcome: 'delivered' })
  })

  it('P19 of the other direction is refused', async () => {
    const { parcel, answerKey } = await forge()
    await expectRefused({ ...parcel, mac: answerTag(parcel, undefined, answerKey) }, 'not-authentic')
  })

  it.each<[string, (parcel: RelayParcel) => Partial<RelayParcel>]>([
    ['the relay ID', () => ({ relayId: systemRandom.uuid() })],
    ['the block', () => ({ block: systemRandom.uuid() })],
    ['the path', () => ({ path: [D, A, B, C], hop: 3 })],
    ['the share', () => ({ share: { index: 0, count: 2 } })],
    ['the budget', () => ({ budgetMs: 2000 })],
    ['the order of the pad', ({ pad }) => ({ pad: [{ blockId: pad[0]!.blockId, units: [...pad[0]!.units].reverse() }] })],
    [
      'a byte of the ciphertext',
      ({ ciphertext }) => ({ ciphertext: Buffer.from(ciphertext.map((byte, i) => (i === 7 ? byte ^ 1 : byte))) }),
    ],
    ['the wrapping', () => ({ wrap: Buffer.alloc(32) })],
  ])('P19 of a parcel that differs in %s is refused', async (what, change) => {
    const { parcel } = await forge()
    await expectRefused({ ...parcel, ...change(parcel) }, what === 'the path' ? 'path-not-allowed' : 'not-authentic')
  })
})

describe('a pad', () => {
  it('P20 that was used before is refused', async () => {
    const { parcel } = await forge()
    await world.node(C).relay.acceptor.accept(B, parcel)
    await expectRefused({ ...parcel, relayId: systemRandom.uuid() }, 'pad-used')
    expect(world.node(C).alarms.get('relay.pad:kme-b')).toContain('used before')
  })

  it('P20 of which one unit was used before is refused as a whole', async () => {
    const { parcel } = await forge()
    await world.node(C).relay.acceptor.accept(B, parcel)
    const fresh = await forge()
    const mixed = [...fresh.parcel.pad, { blockId: parcel.pad[0]!.blockId, units: [parcel.pad[0]!.units[0]!] }]
    await expectRefused({ ...fresh.parcel, pad: mixed }, 'pad-used')
  })

  it('P20 that names a unit twice is refused', async () => {
    const { parcel } = await forge()
    await expectRefused({ ...parcel, pad: [...parcel.pad, ...parcel.pad] }, 'pad-used')
  })

  it.each<[string, () => Promise<readonly UnitRun[]>]>([
    ['that kme-c issues', async () => [{ blockId: (await takePad(C))[0]!.blockId, units: [901, 903, 905, 907, 909] }]],
    ['of the link between kme-c and kme-d', async () => [{ blockId: await blockAt(D), units: [1, 3, 5, 7, 9] }]],
    ['of a block nobody knows', async () => [{ blockId: systemRandom.uuid() as BlockId, units: [0, 1, 2, 3, 4] }]],
    ['that the block does not have', async () => [{ blockId: await blockAt(B), units: [2000, 2002, 2004, 2006, 2008] }]],
  ])('of units %s is refused', async (_what, units) => {
    const { parcel } = await forge()
    await expectRefused({ ...parcel, pad: await units() }, 'pad-unavailable')
  })

  it('that is too short for the block is refused', async () => {
    const { parcel } = await forge()
    const [run] = parcel.pad
    await expectRefused({ ...parcel, pad: [{ ...run!, units: run!.units.slice(1) }] }, 'not-authentic')
  })

  const blockAt = async (peer: KmeId): Promise<BlockId> =>
    (
      await world
        .node(C)
        .database.query<{ block_id: BlockId }>(
          `SELECT block_id FROM key_block WHERE peer_kme_id = $1 AND link_id NOT LIKE 'relay:%'`,
          [peer],
        )
    )[0]!.block_id
})

describe('a budget', () => {
  it('that the KMEs still to come could not answer in is refused, and no pad is spent on the way to them', async () => {
    const path = [A, B, C, D]
    const { relay } = world.node(C)
    const { parcel } = await forge({ path, budgetMs: 299 })
    const before = await stateOf(C)
    await expect(relay.acceptor.accept(B, parcel)).resolves.toEqual({ outcome: 'refused', reason: 'deadline', at: C })
    expect(await stateOf(C)).toEqual(before)
    const check = { path, hop: 2, sizeBytes: BLOCK_BYTES }
    await expect(relay.acceptor.check(B, { ...check, budgetMs: 299 })).resolves.toEqual({
      outcome: 'refused',
      reason: 'deadline',
      at: C,
    })
    await expect(relay.acceptor.check(B, { ...check, budgetMs: 300 })).resolves.toEqual({ outcome: 'ready' })
  })
})

describe('a relay ID', () => {
  it('that came with other content is refused', async () => {
    const { parcel } = await forge()
    await world.node(C).relay.acceptor.accept(B, parcel)
    const other = await forge()
    await expectRefused({ ...other.parcel, relayId: parcel.relayId }, 'relay-id-in-use')
  })

  it('of another KME is not answered to kme-d, which repeats what it overheard', async () => {
    const { parcel } = await forge()
    await world.node(C).relay.acceptor.accept(B, parcel)
    await expectRefused(parcel, 'relay-id-in-use', D)
  })
})

describe('an answer', () => {
  const delivered = { outcome: 'delivered', mac: Buffer.alloc(16).toString('base64') }
  it.each([
    ['P21 to another relay', { ...delivered, relayId: systemRandom.uuid() }],
    ['without a MAC', { outcome: 'delivered', relayId: 'own' }],
    ['of an unknown outcome', { ...delivered, outcome: 'kept', relayId: 'own' }],
    ['refused for no reason', { outcome: 'refused', at: 'kme-b', relayId: 'own' }],
    ['refused for a reason nobody knows', { outcome: 'refused', reason: 'toString', at: 'kme-b', relayId: 'own' }],
    ['refused by nobody', { outcome: 'refused', reason: 'failed', relayId: 'own' }],
  ])('%s is none', (_row, answer) => {
    const own = systemRandom.uuid()
    expect(() => readRelayAnswer(own, { ...answer, relayId: answer.relayId === 'own' ? own : answer.relayId })).toThrow()
  })

  it('P21 with a MAC that kme-b cannot make gives no key, and an alarm', async () => {
    const line = await startLine()
    try {
      line.carry(async ({ to }, forward) => {
        if (to !== B) throw new Error('kme-b keeps the parcel to itself')
        await forward()
        return { outcome: 'delivered', mac: Buffer.alloc(16) }
      })
      await expect(line.node(A).relay.fetch(C, 1)).resolves.toBe(false)
      expect(line.node(A).alarms.get('relay.pad:kme-b')).toContain('not authentic')
      expect((await line.node(A).pool.level(C)).mine).toBe(0)
      expect(padsUsedTwice(line.caught)).toEqual([])
    } finally {
      await line[Symbol.asyncDispose]()
    }
  })
})
