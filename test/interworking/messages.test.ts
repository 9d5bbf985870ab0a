/** What neighbours must be told waits in the database, for whichever process comes first. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, expect, it } from '@jest/globals'
import { openDatabase, type Database } from '../../src/database/database.ts'
import { createTransferStore } from '../../src/interworking/prisma-transfers.ts'
import type { KeyId, KmeId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'

const X = 'kme-x' as KmeId
const LEASE_MS = 60_000
const message = { kind: 'void', initiator: 'alice', targets: ['xavier'], keyIds: [randomUUID() as KeyId] } as const

let server: TestDatabase
let database: Database
const store = () => createTransferStore({ database, random: systemRandom })

beforeAll(async () => {
  server = await createTestDatabase()
  database = openDatabase({ url: server.url, connections: 8, onError: () => undefined })
})
beforeEach(() => database.query('DELETE FROM neighbour_message'))
afterAll(async () => {
  await database?.[Symbol.asyncDispose]()
  await server?.drop()
})

it('a message is due the moment it is there', async () => {
  const { tell, takeDue } = store()
  for (let round = 0; round < 100; round += 1) {
    await tell(X, message)
    expect(await takeDue([X], LEASE_MS)).toEqual([expect.objectContaining({ kmeId: X, message, attempts: 1, isOver: false })])
  }
})

it('of several processes each takes others', async () => {
  const { tell } = store()
  for (let count = 0; count < 20; count += 1) await tell(X, message)
  const taken = (await Promise.all(Array.from({ length: 6 }, () => store().takeDue([X], LEASE_MS)))).flat()
  expect(taken).toHaveLength(20)
  expect(new Set(taken.map(({ id }) => id)).size).toBe(20)
})

it('one that was taken and not posted is due again after a while, unless it was told', async () => {
  const { tell, takeDue, tryLater, told } = store()
  await tell(X, message)
  const [first] = await takeDue([X], LEASE_MS)
  await tryLater(first!.id, 0)
  expect(await takeDue([X], 0)).toEqual([expect.objectContaining({ id: first!.id, attempts: 2 })])
  await told(first!.id)
  expect(await takeDue([X], LEASE_MS)).toEqual([])
})

it('one to a neighbour that is away waits, until nobody wants to know any more', async () => {
  const { tell, takeDue } = store()
  await tell(X, message)
  expect(await takeDue([], LEASE_MS)).toEqual([])
  await database.query(`UPDATE neighbour_message SET expires_at = now() - interval '1 second'`)
  expect(await takeDue([], LEASE_MS)).toEqual([expect.objectContaining({ isOver: true })])
})
