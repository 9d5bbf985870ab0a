/** One KME and the KMEs around it, all with real stores on databases of their own: kme-m, where the master SAE and the slave SAE `mona`
 *  live, and kme-x, kme-y, kme-z, where `xena`, `yara` and `zoe` live. A test decides what each of them answers and when anything settles. */
import type { DeliveredKeys } from '../../src/delivery/key-container.ts'
import type { KeyRequest } from '../../src/delivery/key-request.ts'
import type { BlockId, KmeId, SaeId } from '../../src/kernel/identifiers.ts'
import type { FetchedKeys } from '../../src/key-store/key-store.ts'
import { unitsIn } from '../../src/key-store/unit-bits.ts'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'
import { addBlock, countAt, hexOf, oneKey, openEnd, type End, type EndOptions } from './two-stores.ts'

export const MASTER = 'max' as SaeId
export const MONA = 'mona' as SaeId
export const HUB = 'kme-m' as KmeId

/** The slaves and the KME each is at. */
const HOMES: Record<string, KmeId> = {
  max: HUB,
  mona: HUB,
  xena: 'kme-x' as KmeId,
  yara: 'kme-y' as KmeId,
  zoe: 'kme-z' as KmeId,
}
export const homeOf = (saeId: SaeId): KmeId => HOMES[saeId] ?? HUB

export interface Spoke {
  readonly holder: End
  /** kme-m, as the other end of the link to this holder. */
  readonly hub: End
  readonly slave: SaeId
  /** Shared with kme-m, which issues its even units. */
  readonly blockId: BlockId
}

export interface Hub extends AsyncDisposable {
  readonly hub: End
  readonly x: Spoke
  readonly y: Spoke
  readonly z: Spoke
  /** Another process of kme-m. */
  anotherProcess(options?: EndOptions): Promise<End>
}

/** @param unitCount of each block; kme-m issues half of it. */
export const openHub = async (unitCount = 64): Promise<Hub> => {
  const databases: TestDatabase[] = []
  const ends: End[] = []
  const open = async (kmeId: KmeId, peerKmeId: KmeId, database: TestDatabase, options?: EndOptions): Promise<End> => {
    const end = await openEnd(kmeId, peerKmeId, database.url, options)
    ends.push(end)
    return end
  }
  const newDatabase = async (): Promise<TestDatabase> => {
    const database = await createTestDatabase()
    databases.push(database)
    return database
  }
  const ofHub = await newDatabase()
  const hub = await open(HUB, 'kme-x' as KmeId, ofHub)
  const spoke = async (kmeId: KmeId, slave: string): Promise<Spoke> => {
    const holder = await open(kmeId, HUB, await newDatabase())
    const towards = { ...hub, peerKmeId: kmeId }
    return { holder, hub: towards, slave: slave as SaeId, blockId: await addBlock({ a: towards, b: holder }, unitCount) }
  }
  return {
    hub,
    x: await spoke('kme-x' as KmeId, 'xena'),
    y: await spoke('kme-y' as KmeId, 'yara'),
    z: await spoke('kme-z' as KmeId, 'zoe'),
    anotherProcess: (options) => open(HUB, 'kme-x' as KmeId, ofHub, options),
    [Symbol.asyncDispose]: async () => {
      for (const end of ends) await end.database[Symbol.asyncDispose]()
      for (const database of databases) await database.drop()
    },
  }
}

/** A request for keys that `others` get too. */
export const multicast = (others: readonly SaeId[], more: Partial<KeyRequest> = {}): KeyRequest => ({
  ...oneKey,
  additionalSlaveSaeIds: others,
  ...more,
})

/** Method "Get key with key IDs" of a slave at its own KME. */
export const fetchBy = (end: End, slave: SaeId, delivered: Pick<DeliveredKeys, 'keys'>): Promise<FetchedKeys> =>
  end.store.fetch({ callerSaeId: slave, masterSaeId: MASTER, keyIds: delivered.keys.map((key) => key.keyId) })

/** Units of a spoke's block that are taken at one of its ends. */
export const takenAt = async (end: End, { blockId }: Spoke): Promise<number[]> => {
  const [row] = await end.database.query<{ taken: string }>(`SELECT taken::text AS taken FROM key_block WHERE block_id = $1`, [
    blockId,
  ])
  return unitsIn(row!.taken)
}

/** How many units of a spoke's block are taken, by the books of both ends. @throws Error when the two differ. */
export const takenEvenly = async (spoke: Spoke): Promise<number> => {
  const [atHub, atHolder] = [await takenAt(spoke.hub, spoke), await takenAt(spoke.holder, spoke)]
  const [hubOnly, holderOnly] = [
    atHub.filter((unit) => !atHolder.includes(unit)),
    atHolder.filter((unit) => !atHub.includes(unit)),
  ]
  if (hubOnly.length + holderOnly.length === 0) return atHub.length
  throw new Error(`taken at kme-m only: ${hubOnly.join()}; at ${spoke.holder.kmeId} only: ${holderOnly.join()}`)
}

/** Keys that could be fetched at a KME now. */
export const fetchableAt = (end: End): Promise<number> =>
  countAt(end, `assignment a JOIN assigned_key k USING (aid) WHERE a.role <> 'issuer' AND a.state = 'ISSUED'`)

export { hexOf }
