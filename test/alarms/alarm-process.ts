/** What one process of a KME has of alarms, on a real database: reporting, writing, sending. */
import type { Clock } from '../../src/kernel/clock.ts'
import { createAlarmStore } from '../../src/alarms/prisma-alarms.ts'
import { createAlarms, type RunningAlarms } from '../../src/alarms/report-alarms.ts'
import { createNoticeSender } from '../../src/alarms/send-notices.ts'
import type { Database } from '../../src/database/database.ts'
import type { Logger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { FakeClock } from '../admin/admin-world.ts'
import { eventually } from '../setup/eventually.ts'
import { SECRET, type Receiver } from './receiver.ts'
import { openTestDatabase } from '../setup/test-database.ts'

export interface AlarmProcess {
  readonly alarms: RunningAlarms
  readonly database: Database
  /** Messages of the log, with their level. */
  readonly logged: readonly string[]
  readonly givenUp: () => number
  stop(): Promise<void>
}

export const startAlarmProcess = (options: {
  readonly databaseUrl: string
  readonly clock: Clock
  readonly receivers?: readonly Pick<Receiver, 'url' | 'caPem'>[]
  readonly quietS?: number
}): AlarmProcess => {
  const { clock, receivers = [] } = options
  const logged: string[] = []
  const log: Logger = {
    debug: () => undefined,
    info: (_fields, message) => logged.push(`info ${message}`),
    warn: (_fields, message) => logged.push(`warn ${message}`),
    error: (_fields, message) => logged.push(`error ${message}`),
    slice: () => log,
  }
  let givenUp = 0
  const database = openTestDatabase(options.databaseUrl, 4)
  const store = createAlarmStore({
    database,
    kmeId: 'kme-a',
    webhooks: receivers.map(({ url }) => url),
    quietMs: (options.quietS ?? 60) * 1000,
    nowMs: () => clock.nowMs(),
    uuid: systemRandom.uuid,
  })
  const parts = { store, clock, random: systemRandom, log }
  const alarms = createAlarms({ ...parts, onGivenUp: (count) => (givenUp += count) })
  const webhooks = receivers.map(({ url, caPem }) => ({ url, caPem, secret: SecretBytes.take(Buffer.from(SECRET)) }))
  const sender = createNoticeSender({ ...parts, webhooks })
  const running = new AbortController()
  const loops = [alarms.run(running.signal), sender.run(running.signal)]
  return {
    alarms,
    database,
    logged,
    givenUp: () => givenUp,
    stop: async () => {
      running.abort()
      await Promise.all(loops)
      await sender[Symbol.asyncDispose]()
      await database[Symbol.asyncDispose]()
    },
  }
}

/** Looks until it sees something true while the clock goes on, slowly enough for an answer over the network to be in time. */
export const passing = <T>(clock: FakeClock, what: string, look: () => Promise<T> | T): Promise<NonNullable<T>> =>
  eventually(what, async () => {
    clock.advanceMs(50)
    return look()
  })
