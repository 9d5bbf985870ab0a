/** What is raised and cleared without anybody asking. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import type { AlarmRecord } from '../../src/alarms/alarms.ts'
import {
  clearLinkIncidents,
  raiseKeysBurnt,
  raiseNotAuthenticated,
  raiseQber,
  watchConditions,
  watchDatabase,
  type LinkSight,
  type PeerSight,
  type RevocationListSight,
  type WatchConditionsParts,
} from '../../src/alarms/watch-conditions.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { FakeClock } from '../admin/admin-world.ts'

const HOUR_MS = 3_600_000

const link: LinkSight = { linkId: 'a-b', peerKmeId: 'kme-b', state: 'up', reason: undefined }
const peer: PeerSight = { kmeId: 'kme-b', available: true }

let clock: FakeClock
let active: Map<string, AlarmRecord>
let links: LinkSight[]
let peers: PeerSight[]
let revocationLists: RevocationListSight[]
let databaseAnswers: boolean
let redisAnswers: boolean
let processesWithoutRedis: number
let running: AbortController
let alarms: WatchConditionsParts['alarms']

beforeEach(() => {
  clock = new FakeClock()
  active = new Map()
  links = [link]
  peers = [peer]
  revocationLists = []
  databaseAnswers = true
  redisAnswers = true
  processesWithoutRedis = 1
  alarms = {
    raise: (name, severity, text, subject = {}) => {
      active.set(name, { name, severity, text, subject, raisedAt: new Date(clock.nowMs()), clearedAt: undefined })
    },
    clear: (name) => void active.delete(name),
    active: () => [...active.values()],
    list: () => Promise.resolve([]),
  }
  running = new AbortController()
})
afterEach(() => running.abort())

const watch = (): void => {
  const sights = {
    links: () => links,
    peers: () => peers,
    revocationLists: () => revocationLists,
    pools: () => ['kme-b'],
    redisAnswers: () => redisAnswers,
    processesWithoutRedis: () => processesWithoutRedis,
  }
  void watchConditions({ alarms, ...sights, clock, log: createLogger('silent') }, running.signal)
  void watchDatabase({ alarms, databaseAnswers: () => Promise.resolve(databaseAnswers), clock }, running.signal)
}
/** Lets that many seconds pass, each with its look. */
const pass = async (seconds: number): Promise<void> => {
  for (let i = 0; i < seconds; i += 1) {
    clock.advanceMs(1000)
    await new Promise(setImmediate)
  }
}
const names = (): string[] => [...active.keys()]

describe('a condition', () => {
  it.each([
    ['link.down:a-b', () => (links = [{ ...link, state: 'down', reason: 'no answer' }]), () => (links = [link])],
    ['peer.unavailable:kme-b', () => (peers = [{ ...peer, available: false }]), () => (peers = [peer])],
    ['redis.unavailable', () => (redisAnswers = false), () => (redisAnswers = true)],
    ['processes.without-redis', () => (processesWithoutRedis = 2), () => (processesWithoutRedis = 1)],
    ['database.unavailable', () => (databaseAnswers = false), () => (databaseAnswers = true)],
  ])('%s is raised after ten seconds, not before, and cleared when it is over', async (name, breakIt, mendIt) => {
    watch()
    await pass(3)
    breakIt()
    await pass(9)
    expect(names()).toEqual([])
    await pass(3)
    expect(names()).toEqual([name])
    const isWarning = ['redis.unavailable', 'processes.without-redis'].includes(name)
    expect(active.get(name)?.severity).toBe(isWarning ? 'warning' : 'critical')
    mendIt()
    await pass(2)
    expect(names()).toEqual([])
  })

  it('that comes and goes within ten seconds is not raised', async () => {
    watch()
    for (let i = 0; i < 5; i += 1) {
      peers = [{ ...peer, available: false }]
      await pass(6)
      peers = [peer]
      await pass(1)
    }
    expect(names()).toEqual([])
  })

  it('that another process raised is cleared when this one sees it over', async () => {
    alarms.raise('link.down:a-b', 'critical', 'by another process')
    watch()
    await pass(2)
    expect(names()).toEqual([])
  })

  it('of a link or pool that is configured no more is cleared, and an alarm of others is left alone', async () => {
    alarms.raise('link.down:a-x', 'critical', 'from before the restart')
    alarms.raise('pool.exhausted:kme-x', 'critical', 'from before the restart')
    alarms.raise('pool.exhausted:kme-b', 'critical', 'somebody else looks after it')
    watch()
    await pass(2)
    expect(names()).toEqual(['pool.exhausted:kme-b'])
  })

  it('of a revocation list is raised on its last day', async () => {
    revocationLists = [{ setting: 'saeApi.tls.clientCrl', nextUpdateMs: clock.nowMs() + 25 * HOUR_MS }]
    watch()
    await pass(2)
    expect(names()).toEqual([])
    clock.advanceMs(HOUR_MS)
    await pass(2)
    expect(names()).toEqual(['revocation-list.expiring:saeApi.tls.clientCrl'])
    revocationLists = [{ setting: 'saeApi.tls.clientCrl', nextUpdateMs: clock.nowMs() + 48 * HOUR_MS }]
    await pass(2)
    expect(names()).toEqual([])
  })
})

it('what a link says of itself lasts until its next good block, or until there is no such link', async () => {
  const seen = { peerKmeId: 'kme-b', reason: 'the authentication key of the link is used up' }
  raiseNotAuthenticated(alarms, { linkId: 'gone', ...seen })
  raiseNotAuthenticated(alarms, { linkId: 'a-b', ...seen })
  watch()
  await pass(2)
  clock.advanceMs(3_600_000)
  await pass(1)
  expect(names()).toEqual(['link.not-authenticated:a-b'])
  clearLinkIncidents(alarms, 'a-b')
  expect(names()).toEqual([])
})

it('an incident is cleared some time after it happened', async () => {
  raiseKeysBurnt(alarms, 3)
  raiseQber(alarms, { linkId: 'a-b', peerKmeId: 'kme-b', qber: 0.2, qberMax: 0.11 })
  expect([active.get('keys.burnt')?.severity, active.get('link.qber:a-b')?.severity]).toEqual(['warning', 'critical'])
  watch()
  await pass(2)
  expect(names()).toEqual(['keys.burnt', 'link.qber:a-b'])
  clock.advanceMs(300_000)
  await pass(1)
  expect(names()).toEqual(['keys.burnt'])
  clock.advanceMs(300_000)
  await pass(1)
  expect(names()).toEqual([])
})
