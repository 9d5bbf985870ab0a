/** Method "Get status" (ETSI GS QKD 014, 5.2): what the caller could ask for now. Asks the pool and changes nothing. */
import { Unavailable } from '../kernel/errors.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Account, KeyPool } from '../key-pool/key-pool.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import type { DeliveryLimits, NeighbourDirectory, SaeDirectory } from './delivery.ts'
import { findPartner } from './route-to-slaves.ts'

export interface GetStatusParts {
  readonly kmeId: KmeId
  readonly directory: SaeDirectory
  readonly pool: KeyPool
  readonly peers: PeerDirectory
  readonly neighbours: NeighbourDirectory
  readonly limits: DeliveryLimits
  /** Whether the database answers. Without it no key can be drawn, and status must not promise any. */
  readonly databaseAnswers: () => boolean
  /** Whom the pool counts a request for. */
  readonly accountOf: (masterSaeId: SaeId, slaveSaeId: SaeId) => Account
}

/** Status, table 9. Sizes in bits. */
export interface Status {
  readonly source_KME_ID: string
  readonly target_KME_ID: string
  readonly master_SAE_ID: string
  readonly slave_SAE_ID: string
  readonly key_size: number
  readonly stored_key_count: number
  readonly max_key_count: number
  readonly max_key_per_request: number
  readonly max_key_size: number
  readonly min_key_size: number
  readonly max_SAE_ID_count: number
}

/** Keys of default size that could be drawn now: those this KME issues, as far as they are not kept for others, and those the
 *  peer would lend. None while the peer does not answer, because no key leaves without its consent. */
const deliverableKeys = async (
  { kmeId, pool, peers, neighbours, limits }: GetStatusParts,
  target: KmeId,
  account: Account,
): Promise<number> => {
  const neighbour = neighbours.named(target)
  if (neighbour?.available() === false) return 0
  // Keys for a neighbour come from the same source as those for SAEs here.
  if (target === kmeId || neighbour !== undefined) return Math.min(await pool.drawable(kmeId, account), limits.maxStoredKeys)
  if (peers.named(target)?.available() !== true) return 0
  const [drawable, { theirs }] = await Promise.all([pool.drawable(target, account), pool.level(target)])
  return Math.min(drawable + Math.max(0, theirs - limits.lendFloorKeys(target)), limits.maxStoredKeys)
}

export const makeGetStatus =
  (parts: GetStatusParts) =>
  async (caller: SaeId, other: string): Promise<Status> => {
    const { kmeId, limits } = parts
    if (!parts.databaseAnswers()) throw new Unavailable()
    const partner = findPartner(parts.directory, caller, other)
    return {
      source_KME_ID: kmeId,
      target_KME_ID: partner.kmeId,
      master_SAE_ID: caller,
      slave_SAE_ID: partner.saeId,
      key_size: limits.keySizeBits,
      stored_key_count: await deliverableKeys(parts, partner.kmeId, parts.accountOf(caller, partner.saeId)),
      max_key_count: limits.maxStoredKeys,
      max_key_per_request: limits.maxKeysPerRequest,
      max_key_size: limits.maxKeySizeBits,
      min_key_size: limits.minKeySizeBits,
      max_SAE_ID_count: limits.maxSaeIdCount,
    }
  }
