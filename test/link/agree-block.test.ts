/** A peer speaks of the blocks of its own links only: it learns nothing of others, and can neither release nor discard them. */
import { afterEach, beforeEach, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import type { BlockId, KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { createBlockAgreement, type BlockAgreement } from '../../src/link/agree-block.ts'
import {
  blockAt,
  depositBlock,
  KME_A,
  KME_B,
  loopBackPeer,
  onlyPeers,
  openTwoStores,
  silent,
  type TwoStores,
} from '../key-store/two-stores.ts'

/** As depositBlock() names it. */
const LINK = 'link' as LinkId
const WRONG_TAG = Buffer.alloc(32)

let stores: TwoStores
let blockId: BlockId
let released: number
beforeEach(async () => {
  stores = await openTwoStores()
  blockId = await depositBlock(stores, 4)
  released = 0
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

/** At kme-b, of a link to `peerKmeId`. */
const agreementOf = (linkId: LinkId, peerKmeId: KmeId): BlockAgreement =>
  createBlockAgreement({
    kmeId: KME_B,
    linkId,
    peerKmeId,
    store: stores.b.store,
    pool: { offer: () => Promise.resolve() },
    peers: onlyPeers(loopBackPeer(stores.a)),
    clock: systemClock,
    log: silent,
    onAgreed: () => (released += 1),
    onDiscarded: () => undefined,
    onDifferent: () => undefined,
  })

it.each([
  ['another peer', LINK, 'kme-c' as KmeId],
  ['another link of the same peer', 'link-2' as LinkId, KME_A],
])('%s is told that there is no such block, with the right tag and with a wrong one', async (_name, linkId, peerKmeId) => {
  const tags = await stores.a.store.blockTags(blockId, { linkId: LINK, peerKmeId: KME_B })
  const foreign = agreementOf(linkId, peerKmeId)
  for (const tag of [tags!.own, WRONG_TAG]) {
    await expect(foreign.answer({ linkId, blockId, tag })).resolves.toEqual({ outcome: 'unknown' })
  }
  await expect(blockAt(stores.b, blockId)).resolves.toMatchObject({ state: 'INGESTED', has_material: true })
  expect(released).toBe(0)

  const own = agreementOf(LINK, KME_A)
  await expect(own.answer({ linkId: LINK, blockId, tag: tags!.own })).resolves.toEqual({ outcome: 'agreed', tag: tags!.peers })
  expect(released).toBe(1)
  // Also of a block in use.
  await expect(foreign.answer({ linkId, blockId, tag: WRONG_TAG })).resolves.toEqual({ outcome: 'unknown' })
  await expect(blockAt(stores.b, blockId)).resolves.toMatchObject({ state: 'AVAILABLE' })
})
