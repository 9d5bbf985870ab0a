import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import type { SignedStatement } from '../../src/peer/peer.ts'
import { createTopologyStore } from '../../src/topology/prisma-topology-store.ts'
import type { TopologyStore } from '../../src/topology/topology-store.ts'
import { eventually } from '../setup/eventually.ts'
import { createTestDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'

const A = 'kme-a' as KmeId
const B = 'kme-b' as KmeId
const signed = (text: string): SignedStatement => ({
  statement: text,
  signature: Buffer.from('signature'),
  certificates: [Buffer.from('certificate')],
})

let testDatabase: TestDatabase
let database: Database
let store: TopologyStore
beforeAll(async () => {
  testDatabase = await createTestDatabase()
  database = openTestDatabase(testDatabase.url, 4)
  store = createTopologyStore(database)
})
afterAll(async () => {
  await database?.[Symbol.asyncDispose]()
  await testDatabase?.drop()
})
beforeEach(async () => {
  await database.query('DELETE FROM topology_statement')
})

describe('statements in PostgreSQL', () => {
  it('are kept when they are newer, and only then', async () => {
    expect(await store.put({ kmeId: A, sequence: 5, signed: signed('five') })).toBe(true)
    expect(await store.put({ kmeId: A, sequence: 5, signed: signed('other') })).toBe(false)
    expect(await store.put({ kmeId: A, sequence: 4, signed: signed('four') })).toBe(false)
    expect(await store.put({ kmeId: A, sequence: 2 ** 52, signed: signed('far') })).toBe(true)
    expect(await store.readAll()).toEqual([{ kmeId: A, sequence: 2 ** 52, signed: signed('far') }])
  })
  it('that somebody already knows are not read again', async () => {
    await store.put({ kmeId: A, sequence: 5, signed: signed('a') })
    await store.put({ kmeId: B, sequence: 7, signed: signed('b') })
    expect(await store.readOthersThan(new Map([[A, 5]]))).toEqual([{ kmeId: B, sequence: 7, signed: signed('b') }])
    expect(
      await store.readOthersThan(
        new Map([
          [A, 5],
          [B, 6],
        ]),
      ),
    ).toHaveLength(1)
    await store.remove([A])
    expect(await store.readAll()).toHaveLength(1)
  })
  it('of this KME get numbers that only grow, whoever makes them at the same moment', async () => {
    const next = (atLeast: number, atMost = 10_000) =>
      store.putNext(A, { atLeast, atMost }, (sequence) => signed(`number ${sequence}`))
    const made = await Promise.all(Array.from({ length: 12 }, () => next(1000)))
    expect(made.map(({ sequence }) => sequence).sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, i) => 1000 + i))
    expect((await next(1)).sequence).toBe(1012)
    expect((await next(2000)).sequence).toBe(2000)
    expect(await store.readAll()).toEqual([{ kmeId: A, sequence: 2000, signed: signed('number 2000') }])
    const noKey = new Error('no key')
    const failing = store.putNext(A, { atLeast: 1, atMost: 10_000 }, () => {
      throw noKey
    })
    await expect(failing).rejects.toMatchObject({ cause: noKey })
    expect((await store.readAll())[0]!.sequence).toBe(2000)
    // Beyond what others believe, it starts again.
    expect((await next(3000, 2001)).sequence).toBe(3000)
    expect((await next(2500, 3000)).sequence).toBe(2500)
  })
  it('that somebody spoiled are left out', async () => {
    await store.put({ kmeId: A, sequence: 5, signed: signed('a') })
    await database.query(`UPDATE topology_statement SET signed = '{"statement":5}'`)
    expect(await store.readAll()).toEqual([])
  })
  it('are announced to the other processes', async () => {
    const listening = new AbortController()
    const heard: (string | undefined)[] = []
    const ended = database.listen('kme_changes', (table) => void heard.push(table), listening.signal)
    await eventually('listening', async () => heard.length > 0)
    await store.put({ kmeId: A, sequence: 5, signed: signed('a') })
    await store.put({ kmeId: A, sequence: 5, signed: signed('a') })
    await store.putNext(B, { atLeast: 1, atMost: 10_000 }, () => signed('b'))
    await eventually('both are heard', async () => heard.length >= 3)
    expect(heard).toEqual([undefined, 'topology', 'topology'])
    listening.abort()
    await ended
  })
})
