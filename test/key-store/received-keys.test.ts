/** Keys that another KME sends whole: as many as may wait for their slaves, however many requests bring them. */
import { afterEach, beforeEach, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import type { KeyId, KmeId, SaeId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { openTwoStores, UNIT_SIZE_BITS, type End, type TwoStores } from './two-stores.ts'

const X = 'kme-x' as KmeId
let stores: TwoStores
let counts: number
let end: End

beforeEach(async () => {
  stores = await openTwoStores()
  counts = 0
  const counting = (real: Database): Database => ({
    ...real,
    query: (sql, parameters) => {
      if (sql.includes('sum(unit_count')) counts += 1
      return real.query(sql, parameters)
    },
  })
  end = await stores.anotherProcess(stores.a, { database: counting })
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

const send = async (keyCount: number): Promise<string> => {
  const keys = Array.from({ length: keyCount }, () => ({ keyId: systemRandom.uuid() as KeyId, sizeBits: UNIT_SIZE_BITS }))
  using bytes = SecretBytes.adopt(systemRandom.fill(Buffer.alloc((keyCount * UNIT_SIZE_BITS) / 8)))
  return await end.store.receive({
    peerKmeId: X,
    masterSaeId: 'xavier' as SaeId,
    slaveSaeIds: ['alice' as SaeId],
    keys,
    bytes,
    ttlS: 60,
    heldUnitsMax: 100,
  })
}

it('requests that come together bring no more keys than may wait, and are not counted one by one', async () => {
  const outcomes = await Promise.all(Array.from({ length: 30 }, () => send(10)))
  expect(outcomes.filter((outcome) => outcome === 'held')).toHaveLength(10)
  expect(outcomes.filter((outcome) => outcome === 'too-many')).toHaveLength(20)
  // Once at first, and once for each second the whole took.
  expect(counts).toBeLessThan(30)
})
