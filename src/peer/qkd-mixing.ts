/** A QKD key in the keys of a session: a secret of a block that a QKD link gave to both KMEs. Then whoever wants to speak in the name of
 *  one of them must break the link too, not only two key exchanges. No unit of the block is used up by it.
 *  Holds: what cannot be read is left out, so that a session can always be opened, and new blocks agreed. */
import type { BlockId, KmeId, LinkId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { KeyStore } from '../key-store/key-store.ts'
import { peerPaths } from './wire.ts'

/** `prefer`: wherever both ends hold a block. `require`: without, a session carries nothing but what makes blocks agreed. */
export type MixQkdKey = 'off' | 'prefer' | 'require'

export interface QkdMixing {
  isRequired(peerKmeId: KmeId): boolean
  /** Blocks to offer. */
  blocks(peerKmeId: KmeId): Promise<readonly BlockId[]>
  /** The secret of the first of these blocks that is here; the caller wipes it. */
  firstOf(
    peerKmeId: KmeId,
    blockIds: readonly BlockId[],
  ): Promise<{ readonly blockId: BlockId; readonly secret: SecretBytes } | undefined>
}

/** What a session without QKD key may carry where one is required: the calls after which there can be one. */
export const worksUnmixed = (path: string): boolean => path === peerPaths.hello || path === peerPaths.blocks

export const createQkdMixing = (parts: {
  readonly store: Pick<KeyStore, 'sharedBlocks' | 'sharedSecret'>
  readonly policyOf: (peerKmeId: KmeId) => MixQkdKey
  /** QKD links to the peer. */
  readonly linksTo: (peerKmeId: KmeId) => readonly LinkId[]
  readonly log: Logger
}): QkdMixing => {
  const { store, policyOf, linksTo, log } = parts
  const orNothing = async <T>(peerKmeId: KmeId, nothing: T, read: (linkIds: readonly LinkId[]) => Promise<T>): Promise<T> => {
    const linkIds = policyOf(peerKmeId) === 'off' ? [] : linksTo(peerKmeId)
    if (linkIds.length === 0) return nothing
    try {
      return await read(linkIds)
    } catch (error) {
      log.warn({ peer: peerKmeId, error }, 'no QKD key could be read for a session')
      return nothing
    }
  }
  return {
    isRequired: (peerKmeId) => policyOf(peerKmeId) === 'require',
    blocks: (peerKmeId) => orNothing(peerKmeId, [], (linkIds) => store.sharedBlocks({ linkIds, peerKmeId })),
    firstOf: (peerKmeId, blockIds) =>
      orNothing(peerKmeId, undefined, async (linkIds) => {
        for (const blockId of blockIds) {
          const secret = await store.sharedSecret(blockId, { linkIds, peerKmeId })
          if (secret !== undefined) return { blockId, secret }
        }
        return undefined
      }),
  }
}
