/** Keys that a peer relayed as its operator wants must not become keys of an operator who wants more. */
import { expect, it } from '@jest/globals'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { ANY_WAY, type RelayPolicy } from '../../src/key-store/key-store.ts'
import { makeMayBorrow } from '../../src/relay/may-borrow.ts'

const [NEAR, FAR, OTHER] = ['kme-b', 'kme-c', 'kme-x'] as KmeId[] as [KmeId, KmeId, KmeId]

it.each([
  ['nothing', {}, true],
  ['splitting', { paths: 2 }, false],
  ['wrapping', { endToEnd: true }, false],
  ['a KME avoided', { avoid: [OTHER] }, false],
  ['certain KMEs only', { only: [OTHER] }, false],
  ['a shorter way', { maxHops: 3 }, false],
] as [string, Partial<RelayPolicy>, boolean][])(
  'where %s is wanted of all keys shared with a KME, its loans are taken or not; those over a link always are',
  (_what, wanted, expected) => {
    const mayBorrow = makeMayBorrow({ distantPeers: [FAR], policyOf: () => ({ ...ANY_WAY, maxHops: 8, ...wanted }), maxHops: 8 })
    expect(mayBorrow(FAR)).toBe(expected)
    expect(mayBorrow(NEAR)).toBe(true)
  },
)
