/** From the configured shares to the accounts that a pool keeps units for. An SAE is one account; a pair of SAEs that has a share
 *  of its own is another. */
import type { SaeId } from '../kernel/identifiers.ts'
import type { Account } from './key-pool.ts'
import type { AccountShare, SharePolicy } from './share-out.ts'

interface ConfiguredShare {
  readonly floorKeys: number
  readonly weight: number
  readonly emergency: boolean
}

export interface ConfiguredShares {
  readonly fairKeys: number
  readonly activeS: number
  readonly emergencyKeys: number
  readonly saes: readonly (ConfiguredShare & { readonly sae: SaeId })[]
  readonly pairs: readonly (ConfiguredShare & { readonly master: SaeId; readonly slave: SaeId })[]
}

/** No SAE ID holds this character. */
const pairAccount = (master: SaeId, slave: SaeId): Account => `${master}>${slave}`

export const toSharePolicy = (shares: ConfiguredShares): SharePolicy => {
  const toShare = ({ floorKeys, weight, emergency }: ConfiguredShare): AccountShare => ({
    floorUnits: floorKeys,
    weight,
    emergency,
  })
  return {
    fairUnits: shares.fairKeys,
    activeMs: shares.activeS * 1000,
    emergencyUnits: shares.emergencyKeys,
    accounts: new Map<Account, AccountShare>([
      ...shares.saes.map((share) => [share.sae as Account, toShare(share)] as const),
      ...shares.pairs.map((share) => [pairAccount(share.master, share.slave), toShare(share)] as const),
    ]),
  }
}

/** Whom a request of `master` for keys shared with `slave` is counted for. */
export const accountOf =
  ({ accounts }: SharePolicy) =>
  (master: SaeId, slave: SaeId): Account => {
    const pair = pairAccount(master, slave)
    return accounts.has(pair) ? pair : master
  }
