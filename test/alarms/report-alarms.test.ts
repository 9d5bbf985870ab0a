/** Alarms as they are raised, cleared and kept. */
import { afterEach, beforeEach, expect, it } from '@jest/globals'
import { FakeClock } from '../admin/admin-world.ts'
import { createTestDatabase, databaseSwitch, type TestDatabase } from '../setup/test-database.ts'
import { passing, startAlarmProcess, type AlarmProcess } from './alarm-process.ts'

const DAY_MS = 86_400_000

let testDatabase: TestDatabase
let clock: FakeClock
let own: AlarmProcess

beforeEach(async () => {
  testDatabase = await createTestDatabase()
  clock = new FakeClock()
  own = startAlarmProcess({ databaseUrl: testDatabase.url, clock })
})
afterEach(async () => {
  await own.stop()
  await testDatabase.drop()
})

const shown = async (): Promise<string[]> =>
  (await own.alarms.list()).map(({ name, clearedAt }) => (clearedAt === undefined ? name : `(${name})`))
const areActive = (...names: string[]) => passing(clock, `active: ${names.join()}`, () => activeNames() === names.join())
const activeNames = (): string =>
  own.alarms
    .active()
    .map(({ name }) => name)
    .join()

/** Lets nobody connect, or everybody again. */
it('shows raised alarms first, the newest of each kind first, and forgets what was cleared a week ago', async () => {
  for (const name of ['one', 'two', 'three', 'four']) {
    own.alarms.raise(name, 'warning', name)
    clock.advanceMs(1000)
  }
  await areActive('four', 'three', 'two', 'one')
  own.alarms.clear('four')
  await areActive('three', 'two', 'one')
  own.alarms.clear('one')
  await areActive('three', 'two')
  expect(await shown()).toEqual(['three', 'two', '(one)', '(four)'])
  clock.advanceMs(7 * DAY_MS)
  expect(await shown()).toEqual(['three', 'two'])
})

it('an alarm raised again is the same alarm, and clearing what is not raised does nothing', async () => {
  own.alarms.clear('one')
  own.alarms.raise('one', 'warning', 'first', { count: 1 })
  await areActive('one')
  clock.advanceMs(60_000)
  own.alarms.raise('one', 'critical', 'second', { count: 2 })
  own.alarms.raise('two', 'critical', 'another')
  await areActive('two', 'one')
  expect(own.alarms.active()[1]).toMatchObject({ severity: 'warning', text: 'first', subject: { count: 1 } })
  const records = await own.database.query('SELECT event, actor, subject FROM audit_record ORDER BY seq')
  expect(records).toEqual([
    { event: 'alarm.raised', actor: 'system', subject: { alarm: 'one', severity: 'warning', count: 1 } },
    { event: 'alarm.raised', actor: 'system', subject: { alarm: 'two', severity: 'critical' } },
  ])
})

it('what is reported while PostgreSQL is away is logged at once and written when it is back', async () => {
  own.alarms.raise('before', 'warning', 'before')
  await areActive('before')
  await databaseSwitch(testDatabase.url).refuse()
  own.alarms.raise('critical', 'critical', 'raised while away')
  own.alarms.raise('over', 'warning', 'raised and cleared while away')
  own.alarms.clear('over')
  own.alarms.clear('before')
  expect(own.logged).toEqual(expect.arrayContaining(['error alarm raised', 'warn alarm raised', 'info alarm cleared']))
  await passing(clock, 'writing fails', () => own.logged.includes('warn alarms could not be written; trying again'))
  await databaseSwitch(testDatabase.url).allow()
  await areActive('critical')
  expect(await shown()).toEqual(['critical', '(before)', '(over)'])
})

it('of more alarms than are kept while PostgreSQL is away, how each ended is known', async () => {
  await databaseSwitch(testDatabase.url).refuse()
  for (let i = 0; i < 1000; i += 1) own.alarms.raise(`alarm-${i}`, 'warning', 'away')
  own.alarms.raise('one-too-many', 'warning', 'away')
  own.alarms.clear('alarm-0')
  for (let i = 0; i < 50; i += 1) {
    own.alarms.clear('alarm-1')
    own.alarms.raise('alarm-1', 'warning', 'away')
  }
  expect(own.logged).toContain('error too many alarms wait for the database; this one is only logged')
  await databaseSwitch(testDatabase.url).allow()
  await passing(clock, 'all are written', () => own.alarms.active().length === 999)
  const names = new Set(own.alarms.active().map(({ name }) => name))
  expect([names.has('alarm-0'), names.has('alarm-1'), names.has('one-too-many')]).toEqual([false, true, false])
})

it('an alarm the database cannot hold stands in nobody\u2019s way', async () => {
  own.alarms.raise('odd', 'warning', 'a text with \0 in it')
  own.alarms.raise('round', 'warning', 'a subject that is no JSON', { count: 1n })
  await areActive('round')
  expect(own.logged).toContain('error the database takes no such alarm; it is only logged')
})

it('what waits when the KME stops is written first', async () => {
  own.alarms.raise('last', 'warning', 'at the end')
  await own.stop()
  own = startAlarmProcess({ databaseUrl: testDatabase.url, clock })
  await areActive('last')
})
