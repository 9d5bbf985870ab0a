/** The registered SAEs in PostgreSQL and their copy in memory. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import { createSaeDirectory, type StoredSaeDirectory } from '../../src/delivery/prisma-sae-directory.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { parseKmeId, parseSaeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { createTestDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'

const [alice, bob, carol] = ['alice', 'bob', 'carol'].map((id) => parseSaeId(id)!) as [never, never, never]
const kme = parseKmeId('kme-a')!

let stored: TestDatabase
let database: Database
let directory: StoredSaeDirectory
/** What every answer of the database waits for before the directory sees it. */
let answersWaitFor: Promise<void> | undefined
let committed: PromiseWithResolvers<void>

beforeAll(async () => {
  stored = await createTestDatabase()
  database = openTestDatabase(stored.url, 4)
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await stored.drop()
})
beforeEach(async () => {
  await database.query('DELETE FROM sae')
  answersWaitFor = undefined
  committed = Promise.withResolvers()
  const slow: Database = {
    ...database,
    query: async (sql, parameters) => {
      const waitFor = answersWaitFor
      answersWaitFor = undefined
      const rows = await database.query(sql, parameters)
      await waitFor
      return rows as never
    },
    transaction: async (work) => {
      const result = await database.transaction(work)
      committed.resolve()
      return result
    },
  }
  directory = createSaeDirectory({ database: slow, clock: systemClock, log: createLogger('silent', {}) })
  await directory.seed([
    { id: alice, kme, sharesWith: [bob] },
    { id: bob, kme, sharesWith: [] },
    { id: carol, kme, sharesWith: [] },
  ])
  committed = Promise.withResolvers()
})

const records = async (): Promise<unknown[]> =>
  (await database.query(`SELECT subject FROM audit_record WHERE actor = 'admin:erika' ORDER BY seq`)).map(
    ({ subject }) => subject,
  )

describe('the SAE directory', () => {
  it('knows what the configuration seeded, and leaves alone what is known', async () => {
    expect(directory.mayShare(bob, alice)).toBe(true)
    expect(directory.mayShare(bob, carol)).toBe(false)
    await directory.setPair(alice, bob, false, 'admin:otto')
    await directory.seed([{ id: alice, kme, sharesWith: [bob] }])
    expect(directory.mayShare(bob, alice)).toBe(false)
    expect(directory.list().map(({ saeId }) => saeId)).toEqual([alice, bob, carol])
  })

  it.each([
    ['a disabled SAE', () => directory.setEnabled(bob, false, 'admin:otto')],
    ['a removed pair', () => directory.setPair(alice, bob, false, 'admin:otto')],
  ])('does not bring back %s when a reading from before the change ends after it', async (_what, change) => {
    const held = Promise.withResolvers<void>()
    answersWaitFor = held.promise
    const early = directory.reload()
    // The reading has its rows before the change begins.
    await database.query('SELECT 1')
    const changed = change()
    await committed.promise
    // A change that did not wait for the early reading would be over by then.
    const isDone = await Promise.race([changed.then(() => true), systemClock.sleep(100).then(() => false)])
    held.resolve()
    await Promise.all([early, changed])
    expect(directory.mayShare(alice, bob)).toBe(false)
    expect(isDone).toBe(false)
  })

  it('goes on reading after a reading that failed', async () => {
    answersWaitFor = Promise.reject(new Error('the connection was lost'))
    await expect(directory.reload()).rejects.toThrow('the connection was lost')
    await database.query(`UPDATE sae SET enabled = false WHERE sae_id = 'alice'`)
    await directory.reload()
    expect(directory.find(alice)?.enabled).toBe(false)
  })

  it('records each change once, and nothing that changed nothing', async () => {
    await directory.setEnabled(bob, false, 'admin:erika')
    await directory.setPair(alice, carol, true, 'admin:erika')
    await directory.setPair(alice, carol, true, 'admin:erika')
    await expect(directory.register({ saeId: bob, kmeId: kme }, 'admin:erika')).rejects.toMatchObject({ code: 'conflict' })
    await expect(directory.setEnabled(parseSaeId('eve')!, true, 'admin:erika')).rejects.toMatchObject({ code: 'not-found' })
    expect(await records()).toEqual([
      { change: 'disabled', saeId: 'bob' },
      { change: 'paired', one: 'alice', other: 'carol' },
    ])
  })

  it('tells of each SAE that was locked out', async () => {
    const told: string[] = []
    directory.onChange((saeId) => told.push(saeId))
    await directory.setEnabled(bob, false, 'admin:otto')
    await directory.setEnabled(bob, true, 'admin:otto')
    expect(told).toEqual(['bob'])
  })

  it('changes nothing that cannot be recorded', async () => {
    await database.query(`ALTER TABLE audit_record ADD CONSTRAINT full_disk CHECK (event <> 'sae.changed') NOT VALID`)
    try {
      await expect(directory.setEnabled(bob, false, 'admin:otto')).rejects.toThrow('full_disk')
      await expect(directory.setPair(alice, bob, false, 'admin:otto')).rejects.toThrow('full_disk')
      await expect(directory.register({ saeId: parseSaeId('eve')!, kmeId: kme }, 'admin:otto')).rejects.toThrow('full_disk')
    } finally {
      await database.query('ALTER TABLE audit_record DROP CONSTRAINT full_disk')
    }
    await directory.reload()
    expect(directory.mayShare(alice, bob)).toBe(true)
    expect(directory.list()).toHaveLength(3)
  })
})
