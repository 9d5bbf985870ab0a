/** Who may take the last units of a pool. While there is plenty, anyone takes what is there. What must not happen is that one
 *  greedy SAE leaves nothing to the others, so units are kept aside:
 *
 *  - for each account its *floor*, if the operator gave it one;
 *  - for each account that asked lately its *fair share* of the last `fairUnits` units, by weight;
 *  - for named accounts an *emergency* reserve.
 *
 *  Units kept for no one are used first. Shares that are not full are filled first when new key arrives, by weight.
 *  lua/share-out.lua does the same in Redis; one contract suite holds both to it. */
import type { Account } from './key-pool.ts'

export interface AccountShare {
  /** Units always kept for it, as far as there are any. */
  readonly floorUnits: number
  /** Its part of the fair shares and of new key, beside the others' weights. */
  readonly weight: number
  /** Whether it may use the emergency reserve. */
  readonly emergency: boolean
}

export interface SharePolicy {
  /** The last so many units of a pool are shared out among those who ask; 0 switches fair sharing off. */
  readonly fairUnits: number
  readonly emergencyUnits: number
  /** For so long after it asked an account has its fair share. */
  readonly activeMs: number
  /** Accounts that are treated in their own way. */
  readonly accounts: ReadonlyMap<Account, AccountShare>
}

/** Everybody takes what is there. */
export const withoutShares: SharePolicy = { fairUnits: 0, emergencyUnits: 0, activeMs: 0, accounts: new Map() }

export const ORDINARY: AccountShare = { floorUnits: 0, weight: 1, emergency: false }

/** What is kept aside in one pool. */
export interface Shares {
  readonly reserved: Map<Account, number>
  readonly askedMs: Map<Account, number>
  emergency: number
}

export const noShares = (): Shares => ({ reserved: new Map(), askedMs: new Map(), emergency: 0 })

/** Frees all units; who asked lately stays known. */
export const keepNothing = (shares: Shares): void => {
  shares.reserved.clear()
  shares.emergency = 0
}

/** Units of a pool kept for anyone. */
export const reservedUnits = (shares: Shares): number => {
  let sum = shares.emergency
  for (const units of shares.reserved.values()) sum += units
  return sum
}

/** Shares `mine` units out anew: shares that became smaller are cut, then what is kept for no one fills those not full.
 *  @returns nothing is left to share out, or every share is full. */
export const shareOut = (shares: Shares, mine: number, policy: SharePolicy, nowMs: number): void => {
  const { reserved, askedMs } = shares
  for (const [account, atMs] of askedMs) if (nowMs - atMs > policy.activeMs) askedMs.delete(account)
  const targets = targetsOf(shares, policy)
  for (const [account, units] of reserved) {
    const target = targets.get(account) ?? 0
    if (target === 0) reserved.delete(account)
    else if (units > target) reserved.set(account, target)
  }
  shares.emergency = Math.min(shares.emergency, policy.emergencyUnits)
  let free = mine - reservedUnits(shares)
  const forEmergencies = Math.max(0, Math.min(free, policy.emergencyUnits - shares.emergency))
  shares.emergency += forEmergencies
  free -= forEmergencies
  const weightOf = (account: Account): number => (policy.accounts.get(account) ?? ORDINARY).weight
  while (free > 0) {
    const lacking = [...targets].filter(([account, target]) => target > (reserved.get(account) ?? 0))
    if (lacking.length === 0) return
    const weights = lacking.reduce((sum, [account]) => sum + weightOf(account), 0)
    const round = free
    for (const [account, target] of lacking) {
      const has = reserved.get(account) ?? 0
      const part = Math.min(free, target - has, Math.max(1, Math.floor((round * weightOf(account)) / weights)))
      if (part > 0) reserved.set(account, has + part)
      free -= part
    }
  }
}

/** How much is to be kept for whom, in the order of names. */
const targetsOf = ({ askedMs }: Shares, policy: SharePolicy): ReadonlyMap<Account, number> => {
  const shareOf = (account: Account): AccountShare => policy.accounts.get(account) ?? ORDINARY
  let weights = 0
  for (const account of askedMs.keys()) weights += shareOf(account).weight
  const accounts = new Set(askedMs.keys())
  for (const [account, { floorUnits }] of policy.accounts) if (floorUnits > 0) accounts.add(account)
  const targets = new Map<Account, number>()
  for (const account of [...accounts].sort()) {
    const { floorUnits, weight } = shareOf(account)
    const fair = askedMs.has(account) ? Math.floor((policy.fairUnits * weight) / weights) : 0
    const target = Math.max(floorUnits, fair)
    if (target > 0) targets.set(account, target)
  }
  return targets
}
