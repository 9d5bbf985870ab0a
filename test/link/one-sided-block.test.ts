/** A block that only one end of a link stored, or that the ends stored with different bytes, is destroyed wherever it is and gives no key:
 *  what a link leaves behind when a station is killed between the two last tags of a block. */
import { afterEach, beforeEach, expect, it } from '@jest/globals'
import type { Clock } from '../../src/kernel/clock.ts'
import type { BlockId, LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { createBlockAgreement, type AgreeBlockParts, type BlockAgreement } from '../../src/link/agree-block.ts'
import type { PeerKme } from '../../src/peer/peer.ts'
import {
  blockAt,
  KME_A,
  loopBackPeer,
  onlyPeers,
  openTwoStores,
  silent,
  type End,
  type TwoStores,
} from '../key-store/two-stores.ts'

const LINK = 'link' as LinkId
const BLOCK_BYTES = 32 + 4 * 32

let stores: TwoStores
let agreements: Record<'a' | 'b', BlockAgreement>
let clock: Clock & { advance(ms: number): void }
let discarded: string[]
let agreed: number

/** Sleeping takes no time, but the clock goes on. */
const createHastyClock = (): typeof clock => {
  let nowMs = 0
  return {
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    sleep: async (durationMs) => {
      await new Promise((resolve) => setImmediate(resolve))
      nowMs += durationMs
    },
    advance: (ms) => (nowMs += ms),
  }
}

const agreementOf = (
  own: End,
  other: () => BlockAgreement,
  otherEnd: End,
  changes: Partial<AgreeBlockParts> = {},
): BlockAgreement => {
  const peer: PeerKme = loopBackPeer(otherEnd, { confirmBlock: (proposal) => other().answer(proposal) })
  return createBlockAgreement({
    kmeId: own.kmeId,
    linkId: LINK,
    peerKmeId: own.peerKmeId,
    store: own.store,
    pool: { offer: () => Promise.resolve() },
    peers: onlyPeers(peer),
    clock,
    log: silent,
    onAgreed: () => (agreed += 1),
    onDiscarded: (reason) => discarded.push(reason),
    onDifferent: () => undefined,
    ...changes,
  })
}

const depositAt = async (end: End, blockId: BlockId, bytes: Uint8Array): Promise<void> => {
  await end.store.deposit({
    blockId,
    linkId: LINK,
    deviceBlock: blockId,
    peerKmeId: end.peerKmeId,
    issuedHere: end.kmeId === KME_A ? 'even' : 'odd',
    key: SecretBytes.take(Buffer.from(bytes)),
  })
}

beforeEach(async () => {
  stores = await openTwoStores()
  clock = createHastyClock()
  discarded = []
  agreed = 0
  agreements = {
    a: agreementOf(stores.a, () => agreements.b, stores.b),
    b: agreementOf(stores.b, () => agreements.a, stores.a),
  }
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

const newBlock = (): { blockId: BlockId; bytes: Buffer } => ({
  blockId: systemRandom.uuid() as BlockId,
  bytes: systemRandom.fill(Buffer.alloc(BLOCK_BYTES)),
})

it('that the proposing end alone has is given up when the other end has not known it for 30 s', async () => {
  const { blockId, bytes } = newBlock()
  await depositAt(stores.a, blockId, bytes)
  await expect(agreements.a.propose(blockId)).resolves.toBe(false)
  clock.advance(29_000)
  await expect(agreements.a.propose(blockId)).resolves.toBe(false)
  await expect(blockAt(stores.a, blockId)).resolves.toMatchObject({ state: 'INGESTED', has_material: true })
  clock.advance(1000)
  await expect(agreements.a.propose(blockId)).resolves.toBe(true)
  await expect(blockAt(stores.a, blockId)).resolves.toMatchObject({ has_material: false })
  expect(discarded).toEqual(['the other end never got it'])
  expect(agreed).toBe(0)
})

it('that the answering end alone has is given up when nobody has proposed it for ten minutes', async () => {
  const { blockId, bytes } = newBlock()
  await depositAt(stores.b, blockId, bytes)
  const stopping = new AbortController()
  const running = agreements.b.run(stopping.signal)
  while (discarded.length === 0 && clock.monotonicMs() < 1_200_000) await new Promise((resolve) => setImmediate(resolve))
  expect(clock.monotonicMs()).toBeGreaterThan(590_000)
  stopping.abort()
  await running
  await expect(blockAt(stores.b, blockId)).resolves.toMatchObject({ has_material: false })
  expect(discarded).toEqual(['the other end never proposed it'])
  expect(agreed).toBe(0)
})

it('that the answering end alone has is given up no sooner because other blocks come in all the time', async () => {
  const { blockId, bytes } = newBlock()
  await depositAt(stores.b, blockId, bytes)
  let nowMs = 0
  const busy: BlockAgreement = agreementOf(stores.b, () => agreements.a, stores.a, {
    unproposedDeadlineMs: 3000,
    clock: {
      nowMs: () => nowMs,
      monotonicMs: () => nowMs,
      // The next block is there after 10 ms.
      sleep: async () => {
        await new Promise((resolve) => setImmediate(resolve))
        nowMs += 10
        busy.wake()
      },
    },
  })
  const stopping = new AbortController()
  const running = busy.run(stopping.signal)
  while (discarded.length === 0 && nowMs < 10_000) await new Promise((resolve) => setImmediate(resolve))
  const discardedMs = nowMs
  stopping.abort()
  await running
  expect(discarded).toEqual(['the other end never proposed it'])
  expect(discardedMs).toBeGreaterThan(3000)
  expect(discardedMs).toBeLessThan(4000)
})

it('that the answering end alone has is not given up for the time the other end was away', async () => {
  const { blockId, bytes } = newBlock()
  await depositAt(stores.b, blockId, bytes)
  let nowMs = 0
  let isThere = true
  const peer: PeerKme = loopBackPeer(stores.a)
  const agreement = agreementOf(stores.b, () => agreements.a, stores.a, {
    unproposedDeadlineMs: 3000,
    peers: onlyPeers({ ...peer, available: () => isThere }),
    clock: {
      nowMs: () => nowMs,
      monotonicMs: () => nowMs,
      // There for a second, away for a minute, and so on.
      sleep: async (durationMs) => {
        await new Promise((resolve) => setImmediate(resolve))
        nowMs += durationMs
        isThere = nowMs % 61_000 < 1000
      },
    },
  })
  const stopping = new AbortController()
  const running = agreement.run(stopping.signal)
  while (discarded.length === 0 && nowMs < 600_000) await new Promise((resolve) => setImmediate(resolve))
  const discardedMs = nowMs
  stopping.abort()
  await running
  expect(discarded).toEqual(['the other end never proposed it'])
  expect(discardedMs).toBeGreaterThan(2 * 61_000)
})

it('that has other bytes at the other end is destroyed at both at once', async () => {
  const { blockId, bytes } = newBlock()
  await depositAt(stores.a, blockId, bytes)
  bytes[40] = (bytes[40] as number) ^ 1
  await depositAt(stores.b, blockId, bytes)
  await expect(agreements.a.propose(blockId)).resolves.toBe(true)
  for (const end of [stores.a, stores.b]) await expect(blockAt(end, blockId)).resolves.toMatchObject({ has_material: false })
  expect(discarded).toEqual(['the two ends hold different bytes', 'the two ends hold different bytes'])
  expect(agreed).toBe(0)
})

it('while one that both have is key at both', async () => {
  const { blockId, bytes } = newBlock()
  await depositAt(stores.a, blockId, bytes)
  await depositAt(stores.b, blockId, bytes)
  await expect(agreements.a.propose(blockId)).resolves.toBe(true)
  for (const end of [stores.a, stores.b]) await expect(blockAt(end, blockId)).resolves.toMatchObject({ state: 'AVAILABLE' })
  expect(discarded).toEqual([])
  expect(agreed).toBe(2)
})
