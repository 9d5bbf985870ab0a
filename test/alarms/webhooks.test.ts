/** What arrives at a webhook, from processes that share one database. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { FakeClock } from '../admin/admin-world.ts'
import { eventually } from '../setup/eventually.ts'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'
import { timeLimitMs } from '../setup/time-limit.ts'
import { passing, startAlarmProcess, type AlarmProcess } from './alarm-process.ts'
import { startReceiver, type Receiver } from './receiver.ts'

const HOUR_MS = 3_600_000

let testDatabase: TestDatabase
let clock: FakeClock
let receiver: Receiver
let processes: AlarmProcess[]

beforeEach(async () => {
  testDatabase = await createTestDatabase()
  clock = new FakeClock()
  receiver = await startReceiver()
  processes = []
})
afterEach(async () => {
  await Promise.all(processes.map((started) => started.stop()))
  await receiver.stop()
  await testDatabase.drop()
})

const start = (options: { quietS?: number; caPem?: string } = {}): AlarmProcess => {
  const { quietS = 60, caPem = receiver.caPem } = options
  const receivers = [{ url: receiver.url, caPem }]
  const started = startAlarmProcess({ databaseUrl: testDatabase.url, clock, receivers, quietS })
  processes.push(started)
  return started
}

const waiting = async ({ database }: AlarmProcess): Promise<{ event: string; attempts: number }[]> =>
  database.query('SELECT event, attempts FROM alarm_notice ORDER BY seq')

/** Waits until it is written that the alarm is over, and lets the quiet time pass. */
const passQuietTime = async (started: AlarmProcess): Promise<void> => {
  await passing(clock, 'the end is written', async () => (await waiting(started)).some(({ event }) => event === 'cleared'))
  expect(receiver.accepted()).toHaveLength(1)
  clock.advanceMs(60_000)
}

const audited = async ({ database }: AlarmProcess): Promise<string[]> => {
  const rows = await database.query<{ event: string }>('SELECT event FROM audit_record ORDER BY seq')
  return rows.map(({ event }) => event)
}

const raiseLinkDown = ({ alarms }: AlarmProcess): void =>
  alarms.raise('link.down:a-b', 'critical', 'link a-b is down', { linkId: 'a-b' })

const events = (): unknown[] => receiver.accepted().map(({ notice }) => notice['event'])

describe('a webhook', () => {
  it('is told of an alarm by a signed notice, once, and when it is over', async () => {
    const own = start()
    raiseLinkDown(own)
    await passing(clock, 'the alarm is told', () => receiver.accepted().length === 1)
    expect(receiver.received[0]).toEqual({
      path: '/hooks/kme',
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      isSigned: true,
      notice: {
        id: receiver.received[0]?.id,
        at: '2030-01-01T12:00:00.000Z',
        kmeId: 'kme-a',
        event: 'raised',
        name: 'link.down:a-b',
        severity: 'critical',
        text: 'link a-b is down',
        subject: { linkId: 'a-b' },
      },
      status: 200,
    })
    own.alarms.clear('link.down:a-b')
    await passQuietTime(own)
    await passing(clock, 'the end is told', () => receiver.accepted().length === 2)
    expect(receiver.received[1]).toMatchObject({ isSigned: true, notice: { event: 'cleared', name: 'link.down:a-b' } })
    expect(receiver.received[1]?.id).not.toBe(receiver.received[0]?.id)
    await passing(clock, 'nothing waits any more', async () => (await waiting(own)).length === 0)
    expect(receiver.received).toHaveLength(2)
  })

  it('that fails is tried again under the same ID until it accepts, and then no more', async () => {
    receiver.answer(500)
    const own = start()
    raiseLinkDown(own)
    await passing(clock, 'three tries', () => receiver.received.length === 3)
    receiver.answer(200)
    await passing(clock, 'the alarm is told', () => receiver.accepted().length === 1)
    await passing(clock, 'nothing waits any more', async () => (await waiting(own)).length === 0)
    clock.advanceMs(HOUR_MS)
    own.alarms.raise('peer.unavailable:kme-b', 'critical', 'kme-b does not answer')
    await passing(clock, 'another alarm is told', () => receiver.accepted().length === 2)
    expect(new Set(receiver.received.slice(0, -1).map(({ id }) => id)).size).toBe(1)
    expect(receiver.received.every(({ isSigned }) => isSigned)).toBe(true)
  })

  it('is tried ever more slowly', async () => {
    receiver.answer(500)
    const own = start()
    raiseLinkDown(own)
    const triedAtMs: number[] = []
    await passing(clock, 'four tries', () => {
      if (receiver.received.length > triedAtMs.length) triedAtMs.push(clock.nowMs())
      return triedAtMs.length === 4
    })
    const pauses = triedAtMs.slice(1).map((atMs, i) => atMs - triedAtMs[i]!)
    // Half to the whole of 1, 2 and 4 s, and up to 2 s until it is noticed that the time has come.
    pauses.forEach((pauseMs, i) => {
      expect(pauseMs).toBeGreaterThanOrEqual(500 * 2 ** i - 200)
      expect(pauseMs).toBeLessThanOrEqual(timeLimitMs(1000 * 2 ** i + 2500))
    })
  })

  it('hears of an alarm once when two processes report it', async () => {
    const [one, other] = [start(), start()]
    // So that what they say is written at about the same time.
    for (const { database } of [one, other]) await eventually('the database answers', () => database.answers())
    raiseLinkDown(one)
    raiseLinkDown(other)
    await passing(clock, 'the alarm is told', () => receiver.accepted().length > 0)
    one.alarms.clear('link.down:a-b')
    other.alarms.clear('link.down:a-b')
    await passQuietTime(one)
    await passing(clock, 'the end is told', () => receiver.accepted().length > 1)
    await passing(clock, 'nothing waits any more', async () => (await waiting(one)).length === 0)
    expect(receiver.received.map(({ notice }) => notice['event'])).toEqual(['raised', 'cleared'])
    expect(await audited(one)).toEqual(['alarm.raised', 'alarm.cleared'])
  })

  it('hears nothing of an alarm that is over and back within the quiet time, and then that it is over for good', async () => {
    const own = start()
    raiseLinkDown(own)
    await passing(clock, 'the alarm is told', () => receiver.accepted().length === 1)
    for (let i = 1; i <= 3; i += 1) {
      own.alarms.clear('link.down:a-b')
      raiseLinkDown(own)
      await passing(clock, 'it is back', async () => (await audited(own)).length === 1 + 2 * i)
    }
    expect(own.logged.filter((line) => line === 'error alarm raised')).toHaveLength(4)
    own.alarms.clear('link.down:a-b')
    await passQuietTime(own)
    await passing(clock, 'the end is told', () => receiver.accepted().length === 2)
    expect(events()).toEqual(['raised', 'cleared'])
  })

  it('hears of an alarm that is back after the quiet time', async () => {
    const own = start({ quietS: 0 })
    raiseLinkDown(own)
    await passing(clock, 'the alarm is told', () => receiver.accepted().length === 1)
    own.alarms.clear('link.down:a-b')
    await passing(clock, 'the end is told', () => receiver.accepted().length === 2)
    raiseLinkDown(own)
    await passing(clock, 'the alarm is told again', () => receiver.accepted().length === 3)
    expect(events()).toEqual(['raised', 'cleared', 'raised'])
  })

  it('with a certificate of another authority is sent nothing, and tried again', async () => {
    receiver.present('foreign')
    const own = start()
    raiseLinkDown(own)
    await passing(clock, 'two refused handshakes', () => receiver.failedHandshakes() >= 2)
    expect(receiver.received).toEqual([])
    expect(own.logged).toContain('warn a webhook failed')
    receiver.present('own')
    await passing(clock, 'the alarm is told', () => receiver.accepted().length === 1)
  })

  it('that redirects is not followed, and tried again', async () => {
    const elsewhere = await startReceiver()
    receiver.answer(307, { location: elsewhere.url })
    const own = start({ caPem: `${receiver.caPem}\n${elsewhere.caPem}` })
    raiseLinkDown(own)
    await passing(clock, 'two tries', () => receiver.received.length === 2)
    expect(elsewhere.received).toEqual([])
    expect(elsewhere.failedHandshakes()).toBe(0)
    await elsewhere.stop()
  })

  it('that accepts nothing for a day is given up, and the loss is counted', async () => {
    receiver.answer(500)
    const own = start()
    raiseLinkDown(own)
    await passing(clock, 'a try', () => receiver.received.length > 0)
    clock.advanceMs(23 * HOUR_MS)
    await passing(clock, 'another try', () => receiver.received.length > 1)
    expect(own.givenUp()).toBe(0)
    clock.advanceMs(HOUR_MS)
    await passing(clock, 'it is given up', () => own.givenUp() === 1)
    expect(await waiting(own)).toEqual([])
    expect(own.logged).toContain('error a webhook did not accept a notice for a day; it was given up')
  })

  it('is told by another process when the one that raised the alarm is gone', async () => {
    receiver.answer(500)
    const gone = start()
    raiseLinkDown(gone)
    await passing(clock, 'a try', () => receiver.received.length > 0)
    await gone.stop()
    processes.splice(0)
    receiver.answer(200)
    start()
    await passing(clock, 'the alarm is told', () => receiver.accepted().length === 1)
  })
})
