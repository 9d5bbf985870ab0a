/** What two KMEs know alike because a QKD link gave both the same block: a secret for their sessions that uses up no key. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import type { BlockId, KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { addBlock, depositBlock, KME_A, KME_B, openTwoStores, type End, type TwoStores } from './two-stores.ts'

const links = ['link' as LinkId]
let stores: TwoStores
beforeEach(async () => {
  stores = await openTwoStores()
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

const secretAt = async (end: End, blockId: BlockId, peerKmeId = end.peerKmeId, linkIds = links): Promise<string | undefined> => {
  using secret = await end.store.sharedSecret(blockId, { linkIds, peerKmeId })
  return secret?.use((bytes) => bytes.toString('hex'))
}

describe('the secret of a block', () => {
  it('is the same at both ends, another for each block, and costs no unit', async () => {
    const [one, other] = [await addBlock(stores, 4), await addBlock(stores, 4)]
    const counts = await stores.a.store.counts()
    expect(await secretAt(stores.a, one)).toMatch(/^[0-9a-f]{64}$/)
    expect(await secretAt(stores.b, one)).toBe(await secretAt(stores.a, one))
    expect(await secretAt(stores.a, other)).not.toBe(await secretAt(stores.a, one))
    expect(await stores.a.store.counts()).toEqual(counts)
  })

  it("is nobody else's", async () => {
    const blockId = await addBlock(stores, 4)
    expect(await secretAt(stores.a, blockId, 'kme-c' as KmeId)).toBeUndefined()
    expect(await secretAt(stores.a, blockId, KME_B, ['another' as LinkId])).toBeUndefined()
    expect(await secretAt(stores.a, '3f0c1c2e-8f4d-8d8e-9a51-0f2a6f4b7c11' as BlockId)).toBeUndefined()
  })

  it('is taken of agreed blocks of the link, the newest first', async () => {
    const of = { linkIds: links, peerKmeId: KME_B }
    const added: BlockId[] = []
    for (let i = 0; i < 6; i += 1) added.unshift(await addBlock(stores, 2))
    await depositBlock(stores, 2)
    expect(await stores.a.store.sharedBlocks(of)).toEqual(added.slice(0, 4))
    expect(await stores.a.store.sharedBlocks({ ...of, peerKmeId: KME_A })).toEqual([])
    expect(await stores.a.store.sharedBlocks({ ...of, linkIds: [] })).toEqual([])
  })
})
