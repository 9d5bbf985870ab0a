/** Blocks that came in parts over ways without a KME in common: whoever lacks one part knows nothing of the block.
 *  Each part lies here as a block nobody proposes, so that any process of a KME may take the last one. */
import type { Statements } from '../database/database.ts'
import type { BlockId } from '../kernel/identifiers.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { openUnit, sealedUnitBytes, TAG_KEY_BYTES } from './key-envelope.ts'
import type { RelayedOver, ShareStore } from './key-store.ts'
import { appendAudit, prepareInsert, type BlockParts } from './prisma-blocks.ts'
import type { OpenBlock } from './prisma-open-blocks.ts'

interface ShareRow extends Record<string, unknown> {
  block_id: BlockId
  state: string
  sealed: Buffer | null
  relayed: RelayedOver | null
}

/** Adds a share's tag key and units to `whole`. @throws KeyDataAccess. */
const addShare = (whole: Buffer, share: OpenBlock, sealed: Buffer): void => {
  const unitBytes = share.unitSizeBits / 8
  const sealedBytes = sealedUnitBytes(share.unitSizeBits)
  const part = Buffer.allocUnsafeSlow(whole.length)
  const tagKey = share.tagKey.export()
  tagKey.copy(part)
  tagKey.fill(0)
  try {
    for (let unit = 0; unit < share.unitCount; unit += 1) {
      const slice = sealed.subarray(unit * sealedBytes, (unit + 1) * sealedBytes)
      openUnit(share.dek, share.place, unit, slice, part, TAG_KEY_BYTES + unit * unitBytes)
    }
    for (let i = 0; i < whole.length; i += 1) whole[i] = (whole[i] as number) ^ (part[i] as number)
  } finally {
    part.fill(0)
  }
}

export const shareMethods = ({ database, keyring, reader, kmeId, unitSizeBits }: BlockParts): ShareStore => ({
  joinShares: async (shares, block) => {
    const opened = await reader.open(shares)
    const [first] = opened.values()
    if (first === undefined || opened.size < shares.length) return false
    const isAlike = ({ unitCount, unitSizeBits: bits }: OpenBlock): boolean =>
      unitCount === first.unitCount && bits === unitSizeBits
    if (![...opened.values()].every(isAlike)) return false
    const joined = await database.transaction(async (statements: Statements) => {
      // Two that come at the same moment wait for each other; the second finds both.
      const rows = await statements.query<ShareRow>(
        `SELECT block_id, state, sealed, relayed FROM key_block WHERE block_id = ANY($1::uuid[]) ORDER BY block_id FOR NO KEY UPDATE`,
        [shares],
      )
      if (rows.length < shares.length || rows.some(({ state, sealed }) => state !== 'INGESTED' || sealed === null)) return false
      using key = SecretBytes.adopt(Buffer.alloc(TAG_KEY_BYTES + (first.unitCount * unitSizeBits) / 8))
      key.use((whole) => {
        for (const row of rows) addShare(whole, opened.get(row.block_id) as OpenBlock, row.sealed as Buffer)
      })
      const relayedOf = new Map(rows.map((row) => [row.block_id, row.relayed]))
      const relayed = {
        ways: shares.flatMap((share) => relayedOf.get(share)?.ways ?? []),
        endToEnd: rows.every((row) => row.relayed?.endToEnd === true),
      }
      if (!(await prepareInsert({ keyring, kmeId, unitSizeBits }, { ...block, relayed, key })(statements))) return false
      await statements.query(
        `UPDATE key_block SET state = 'DESTROYED', sealed = NULL, sealed_tag_key = NULL, wrapped_dek = NULL, ended_at = now()
         WHERE block_id = ANY($1::uuid[])`,
        [shares],
      )
      const reason = `joined to ${block.blockId}`
      await appendAudit(
        statements,
        shares.map((blockId) => ({ event: 'block.discarded', actor: 'system', outcome: 'done', subject: { blockId, reason } })),
      )
      return true
    })
    if (joined) for (const blockId of shares) reader.forget(blockId)
    return joined
  },
})
