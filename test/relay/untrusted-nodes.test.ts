/** Keys that no single KME on the way learns: split over ways without a KME in common, or wrapped end to end, or both. */
import { afterEach, describe, expect, it } from '@jest/globals'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { RelayAnswer, RelayParcel } from '../../src/peer/peer.ts'
import { writeRelayParcel } from '../../src/peer/wire.ts'
import { createWrapping, wrapAtDestination } from '../../src/relay/end-to-end.ts'
import { answerTag, decryptFromHop, digestOf, encryptForHop } from '../../src/relay/hop-cipher.ts'
import { A, B, C, D, issueAcross, padsUsedTwice, startDiamond, type RelayWorld } from './relay-world.ts'

let world: RelayWorld
afterEach(async () => {
  expect(padsUsedTwice(world.caught)).toEqual([])
  await world[Symbol.asyncDispose]()
})

/** Which of the KMEs saw any of these keys. */
const whoSaw = (keys: string): KmeId[] =>
  [B, D].filter((node) =>
    world.seenBy(node).some((bytes) => keys.match(/.{64}/g)!.some((key) => bytes.toString('hex').includes(key))),
  )

it('without either the trusted node sees the keys, as the other tests would notice', async () => {
  world = await startDiamond()
  await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
  const { issued, fetched } = await issueAcross(world, A, C, 8)
  expect(fetched).toBe(issued)
  expect(whoSaw(issued)).toEqual([B])
})

describe('a block split over two ways', () => {
  const bothWays = JSON.stringify({ ways: [[B], [D]], endToEnd: false })

  it('is equal at both ends, and only both ways together hold it', async () => {
    world = await startDiamond({ policy: { paths: 2 } })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
    const { issued, fetched } = await issueAcross(world, A, C, 7)
    expect(fetched).toBe(issued)
    expect(whoSaw(issued)).toEqual([])
    const [[ofB], [ofD]] = [world.seenBy(B), world.seenBy(D)]
    expect(Buffer.from(ofB!.map((byte, i) => byte ^ ofD![i]!)).toString('hex')).toContain(issued)
    expect(await world.count(C, `key_block WHERE link_id LIKE 'relay:%' AND state = 'DESTROYED'`)).toBe(2)
    for (const node of [A, C])
      expect(await world.count(node, `key_block WHERE state = 'AVAILABLE' AND relayed = '${bothWays}'`)).toBe(1)
  })

  it('gives no key when one share does not arrive', async () => {
    world = await startDiamond({ policy: { paths: 2 } })
    world.carry(({ to, parcel }, forward) =>
      to === D ? Promise.resolve<RelayAnswer>({ outcome: 'refused', reason: 'insufficient', at: D }) : forward(parcel),
    )
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    expect(await world.count(A, `key_block WHERE link_id LIKE 'relay:%' AND state = 'DESTROYED'`)).toBe(1)
    expect(await world.count(C, `key_block WHERE link_id LIKE 'relay:%' AND state = 'AVAILABLE'`)).toBe(0)
    expect((await world.node(A).pool.level(C)).mine).toBe(0)
  })

  it('costs nothing while one of the ways cannot be used', async () => {
    world = await startDiamond({ policy: { paths: 2 } })
    world.away.add(D)
    await expect(world.node(A).relay.sources[0]!.replenish(undefined as never)).rejects.toThrow('kme-d does not answer')
    expect(world.caught).toEqual([])
  })

  it('is not sent over one way instead', async () => {
    world = await startDiamond({ policy: { paths: 2, avoid: [D] } })
    await expect(world.node(A).relay.sources[0]!.replenish(undefined as never)).rejects.toThrow('no 2 ways to kme-c')
    expect(world.caught).toEqual([])
  })
})

it('a KME that hangs leaves time for the next way', async () => {
  world = await startDiamond()
  world.mute.add(B)
  await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
  expect(world.caught.map(({ from, to }) => `${from} ${to}`)).toEqual(['kme-a kme-d', 'kme-d kme-c'])
})

describe('a block wrapped end to end', () => {
  it('is equal at both ends, and the trusted node sees nothing of it', async () => {
    world = await startDiamond({ policy: { endToEnd: true } })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
    const { issued, fetched } = await issueAcross(world, A, C, 8)
    expect(fetched).toBe(issued)
    expect(whoSaw(issued)).toEqual([])
  })

  it('may be split as well', async () => {
    world = await startDiamond({ policy: { endToEnd: true, paths: 2 } })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
    const { issued, fetched } = await issueAcross(world, A, C, 8)
    expect(fetched).toBe(issued)
    const [[ofB], [ofD]] = [world.seenBy(B), world.seenBy(D)]
    expect(Buffer.from(ofB!.map((byte, i) => byte ^ ofD![i]!)).toString('hex')).not.toContain(issued)
  })

  /** What kme-b does with a parcel when it plays kme-c to kme-a, and kme-a to kme-c. @returns the keys it made with kme-a. */
  const betray = async (parcel: RelayParcel, passOn: boolean): Promise<{ answer: RelayAnswer; keysWithA: string }> => {
    const { store, pool } = world.node(B)
    let opened: ReturnType<typeof decryptFromHop>
    await store.redeemPad({
      peerKmeId: A,
      relayId: parcel.relayId,
      units: parcel.pad,
      digest: digestOf(parcel),
      subject: {},
      decrypt: (pad) => (opened = decryptFromHop(parcel, pad)) !== undefined,
    })
    const { block, answerKey } = opened!
    if (passOn) {
      const taken = await pool.take(C, '', 11)
      const draft = { ...parcel, hop: 2, pad: 'units' in taken ? taken.units : [], wrap: createWrapping(parcel).offer }
      let forged: RelayParcel | undefined
      await store.spendPad({
        peerKmeId: C,
        relayId: parcel.relayId,
        units: draft.pad,
        subject: {},
        encrypt: (pad) => writeRelayParcel((forged = encryptForHop(draft, block, pad).parcel)),
      })
      await expect(world.node(C).relay.acceptor.accept(B, forged)).resolves.toMatchObject({ outcome: 'delivered' })
    }
    const reply = passOn ? wrapAtDestination(block, parcel, parcel.wrap!)! : undefined
    const mac = answerTag(parcel, reply, answerKey)
    return {
      answer: { outcome: 'delivered', mac, ...(reply !== undefined && { reply }) },
      keysWithA: block.use((bytes) => bytes.subarray(32).toString('hex')),
    }
  }

  it('by a trusted node that plays both ends is destroyed by both', async () => {
    world = await startDiamond({ policy: { endToEnd: true } })
    let keysWithA = ''
    world.carry(async ({ to, parcel }, forward) => {
      if (to !== B) return forward()
      const betrayal = await betray(parcel, true)
      keysWithA = betrayal.keysWithA
      return betrayal.answer
    })
    await world.node(A).relay.fetch(C, 8)
    expect(keysWithA).toHaveLength(8 * 64)
    for (const node of [A, C])
      expect(await world.count(node, `key_block WHERE link_id LIKE 'relay:%' AND state = 'DESTROYED'`)).toBe(1)
    expect((await world.node(A).pool.level(C)).mine).toBe(0)
  })

  it('that a trusted node unwraps on the way is not used', async () => {
    world = await startDiamond({ policy: { endToEnd: true } })
    world.carry(async ({ to, parcel }, forward) => (to === B ? (await betray(parcel, false)).answer : forward()))
    await expect(world.node(A).relay.sources[0]!.replenish(undefined as never)).rejects.toThrow('kme-c did not wrap')
    expect(await world.count(A, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(0)
  })

  it.each([
    ['cut short', (reply: Buffer) => reply.subarray(1)],
    ['with a point that gives no secret', (reply: Buffer) => Buffer.concat([Buffer.alloc(32), reply.subarray(32)])],
  ])('with a reply %s gives no block', async (_what, change) => {
    world = await startDiamond()
    const context = { path: [A, B, C], block: systemRandom.uuid(), share: { index: 0, count: 1 } }
    const wrapping = createWrapping(context)
    const block = () => SecretBytes.adopt(Buffer.alloc(64))
    const reply = wrapAtDestination(block(), context, wrapping.offer)!
    expect(wrapping.apply(block(), change(reply))).toBe(false)
    expect(wrapping.apply(block(), reply)).toBe(true)
  })

  it.each([
    ['cut short', (offer: Buffer) => offer.subarray(1)],
    ['with a point that gives no secret', (offer: Buffer) => Buffer.concat([Buffer.alloc(32), offer.subarray(32)])],
    ['that is no ML-KEM key', (offer: Buffer) => Buffer.concat([offer.subarray(0, 32), Buffer.alloc(1184, 255)])],
  ])('for an offer %s is refused', async (_what, change) => {
    world = await startDiamond()
    const context = { path: [A, B, C], block: systemRandom.uuid(), share: { index: 0, count: 1 } }
    const block = SecretBytes.adopt(Buffer.alloc(64))
    expect(wrapAtDestination(block, context, change(createWrapping(context).offer))).toBeUndefined()
  })
})
