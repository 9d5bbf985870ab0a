/** What peers say and may not say is recorded and told, and nobody fills the audit log with it. */
import { beforeEach, expect, it } from '@jest/globals'
import { tellOfRefusals } from '../../src/alarms/tell-of-refusals.ts'
import type { AuditEvent, AuditLog } from '../../src/audit/audit.ts'
import { FakeClock } from '../admin/admin-world.ts'

const AT_ONCE = 256

let clock: FakeClock
let recorded: AuditEvent[]
let raised: string[]
let isAway: boolean
let audit: AuditLog
beforeEach(() => {
  clock = new FakeClock()
  recorded = []
  raised = []
  isAway = false
  const written: AuditLog = {
    append: async (event) => {
      if (isAway) throw new Error('the database is away')
      recorded.push(event)
    },
    page: () => Promise.reject(new Error('not expected')),
  }
  audit = tellOfRefusals(written, { raise: (name) => void raised.push(name) }, clock)
})

const refusal = (kme: string): AuditEvent => ({
  event: 'peer.refused',
  actor: `kme:${kme}`,
  outcome: 'refused',
  subject: { call: 'assignments', reason: 'malformed' },
})
const refuse = async (kme: string, count = 1): Promise<void> => {
  for (let i = 0; i < count; i += 1) await audit.append(refusal(kme))
}

it('of many refusals of one KME the first are recorded, and later two a second with the number of those left out', async () => {
  await refuse('kme-b', AT_ONCE + 1000)
  expect(recorded).toEqual(Array(AT_ONCE).fill(refusal('kme-b')))
  clock.advanceMs(1000)
  await refuse('kme-b', 100)
  const { subject, ...rest } = refusal('kme-b')
  expect(recorded.slice(AT_ONCE)).toEqual([{ ...rest, subject: { ...subject, unrecorded: 1000 } }, refusal('kme-b')])
  clock.advanceMs(500)
  await refuse('kme-b')
  expect(recorded.at(-1)?.subject).toMatchObject({ unrecorded: 98 })
  // Another time.
  clock.advanceMs(1_000_000)
  await refuse('kme-b', AT_ONCE)
  expect(recorded).toHaveLength(2 * AT_ONCE + 3)
})

it('the alarm is raised for each of them', async () => {
  await refuse('kme-b', 2 * AT_ONCE)
  expect(raised).toEqual(Array(2 * AT_ONCE).fill('peer.request-refused:kme-b'))
})

it('other KMEs, and records of everything else, are not affected', async () => {
  await refuse('kme-b', 2 * AT_ONCE)
  await refuse('kme-c')
  const event: AuditEvent = { event: 'key.voided', actor: 'kme:kme-b', outcome: 'done', subject: {} }
  for (let i = 0; i < 2 * AT_ONCE; i += 1) await audit.append(event)
  expect(recorded.slice(AT_ONCE)).toEqual([refusal('kme-c'), ...Array(2 * AT_ONCE).fill(event)])
})

it('how many were left out is not forgotten when the record of it cannot be written', async () => {
  await refuse('kme-b', AT_ONCE + 5)
  clock.advanceMs(500)
  isAway = true
  await expect(refuse('kme-b')).rejects.toThrow('away')
  isAway = false
  clock.advanceMs(500)
  await refuse('kme-b')
  expect(recorded.at(-1)?.subject).toMatchObject({ unrecorded: 5 })
})
