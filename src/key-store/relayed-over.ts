/** How keys that pass other KMEs on their way are relayed, and how somebody wants them to be. */
import type { KmeId } from '../kernel/identifiers.ts'

/** How a block came to a KME that no link leads to. */
export interface RelayedOver {
  /** The KMEs in between, of each way that a part of the block took. */
  readonly ways: readonly (readonly KmeId[])[]
  /** Whether the two ends wrapped every part, so that no KME in between could read it. */
  readonly endToEnd: boolean
}

/** What is wanted of relayed keys. Keys that a link gave to both ends pass nobody and meet all of it. */
export interface RelayPolicy {
  /** Over so many ways without a KME in common a block is split: only KMEs on all of them together could read it. */
  readonly paths: number
  /** Whether KMEs in between see nothing they could use. */
  readonly endToEnd: boolean
  /** Most links of a way. */
  readonly maxHops: number
  readonly avoid: readonly KmeId[]
  /** Undefined: all but those to avoid. */
  readonly only: readonly KmeId[] | undefined
}

/** Most links of a way. */
const HOPS_MAX = 16

/** Whatever way there is. */
export const ANY_WAY: RelayPolicy = { paths: 1, endToEnd: false, maxHops: HOPS_MAX, avoid: [], only: undefined }

export const meetsPolicy = ({ ways, endToEnd }: RelayedOver, policy: RelayPolicy): boolean =>
  ways.length >= policy.paths &&
  (endToEnd || !policy.endToEnd) &&
  ways.every(
    (between) =>
      between.length + 1 <= policy.maxHops &&
      between.every((node) => !policy.avoid.includes(node) && policy.only?.includes(node) !== false),
  )

/** @returns what meets both. */
export const bothPolicies = (one: RelayPolicy, other: RelayPolicy): RelayPolicy => ({
  paths: Math.max(one.paths, other.paths),
  endToEnd: one.endToEnd || other.endToEnd,
  maxHops: Math.min(one.maxHops, other.maxHops),
  avoid: [...new Set([...one.avoid, ...other.avoid])],
  only: one.only === undefined ? other.only : one.only.filter((node) => other.only?.includes(node) !== false),
})

/** Whether whatever meets `strict` meets `other` too. */
export const coversPolicy = (strict: RelayPolicy, other: RelayPolicy): boolean =>
  strict.paths >= other.paths &&
  (strict.endToEnd || !other.endToEnd) &&
  strict.maxHops <= other.maxHops &&
  other.avoid.every((node) => strict.avoid.includes(node)) &&
  (other.only === undefined || strict.only?.every((node) => other.only?.includes(node)) === true)
