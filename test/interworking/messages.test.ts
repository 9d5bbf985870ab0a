/** What neighbours must be told waits in the database, for whichever process comes first. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import { CONNECTIONS_PER_NEIGHBOUR } from '../../src/interworking/interworking.ts'
import type { NeighbourAnswer, NeighbourClient } from '../../src/interworking/neighbour-client.ts'
import { createTransferStore } from '../../src/interworking/prisma-transfers.ts'
import { createNeighbourMessenger } from '../../src/interworking/tell-neighbours.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KeyId, KmeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { eventually } from '../setup/eventually.ts'
import { createTestDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const X = 'kme-x' as KmeId
const Y = 'kme-y' as KmeId
const LEASE_MS = 60_000
const message = { kind: 'void', initiator: 'alice', targets: ['xavier'], keyIds: [randomUUID() as KeyId] } as const

let server: TestDatabase
let database: Database
const store = () => createTransferStore({ database, random: systemRandom })

const unexpected = (): Promise<never> => Promise.reject(new Error('not expected'))
const clientOf = (kmeId: KmeId, post: NeighbourClient['post']): [KmeId, NeighbourClient] => [
  kmeId,
  {
    neighbour: {
      kmeId,
      certificate: { commonName: kmeId },
      url: `https://${kmeId}.example`,
      callbackUrl: `https://${kmeId}.example/ack`,
      synchronous: false,
      deadlineMs: 5000,
      requestsPerS: 500,
      keysPerS: 10_000,
    },
    available: () => true,
    isSynchronous: () => false,
    post,
    status: () => {
      throw new Error('not expected')
    },
    watch: unexpected,
    updateTls: () => undefined,
    close: unexpected,
  },
]

beforeAll(async () => {
  server = await createTestDatabase()
  database = openTestDatabase(server.url, 8)
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
    expect(await takeDue(X, LEASE_MS)).toEqual([expect.objectContaining({ kmeId: X, message, attempts: 1 })])
  }
})

it('of several processes each takes others', async () => {
  const { tell } = store()
  for (let count = 0; count < 20; count += 1) await tell(X, message)
  const taken: string[] = []
  for (let round = 0; round < 5; round += 1) {
    const lots = await Promise.all(Array.from({ length: 6 }, () => store().takeDue(X, LEASE_MS)))
    taken.push(...lots.flat().map(({ id }) => id))
  }
  expect(taken).toHaveLength(20)
  expect(new Set(taken).size).toBe(20)
})

it('one that was taken and not posted is due again after a while, unless it was told', async () => {
  const { tell, takeDue, tryLater, told } = store()
  await tell(X, message)
  const [first] = await takeDue(X, LEASE_MS)
  await tryLater(first!.id, 0)
  expect(await takeDue(X, 0)).toEqual([expect.objectContaining({ id: first!.id, attempts: 2 })])
  await told(first!.id)
  expect(await takeDue(X, LEASE_MS)).toEqual([])
})

it('one to a neighbour that is away waits, until nobody wants to know any more', async () => {
  const { tell, takeDue, takeExpired } = store()
  await tell(X, message)
  expect(await takeDue(Y, LEASE_MS)).toEqual([])
  expect(await takeExpired(LEASE_MS)).toEqual([])
  await database.query(`UPDATE neighbour_message SET expires_at = now() - interval '1 second'`)
  expect(await takeDue(X, LEASE_MS)).toEqual([])
  expect(await takeExpired(LEASE_MS)).toEqual([expect.objectContaining({ kmeId: X, message, attempts: 1 })])
  expect(await takeExpired(LEASE_MS)).toEqual([])
})

it('what names no key costs nothing, however often it is said', async () => {
  const { note } = createTransferStore({ database: { ...database, transaction: unexpected }, random: systemRandom })
  const nothing = { status: 'voided', initiator: 'alice', targets: ['xavier'], keyIds: [] } as const
  expect(
    await note(
      X,
      Array.from({ length: 1024 }, () => nothing),
    ),
  ).toBe(true)
})

it('a neighbour that answers none of many delays those to another one not at all', async () => {
  const transfers = store()
  const never = new Promise<NeighbourAnswer>(() => undefined)
  let postedToX = 0
  let toldY = 0
  const clients = new Map([
    clientOf(X, () => {
      postedToX += 1
      return never
    }),
    clientOf(Y, () => {
      toldY += 1
      return Promise.resolve({ status: 202, body: undefined })
    }),
  ])
  const messenger = createNeighbourMessenger({
    clients,
    transfers,
    store: { receive: unexpected, voidReceived: unexpected },
    callbackUrl: 'https://here.example/ack',
    // Nobody looks now and then: only who is woken finds anything.
    clock: { ...systemClock, sleep: (_durationMs, signal) => systemClock.sleep(2 ** 31 - 1, signal) },
    random: systemRandom,
    log: createLogger('silent', {}),
  })
  for (let count = 0; count < 50; count += 1) await transfers.tell(X, message)
  const stop = new AbortController()
  // What X was posted is never answered: neither does this end.
  void messenger.run(stop.signal)
  try {
    await eventually('X has as many as it can take', () => postedToX === CONNECTIONS_PER_NEIGHBOUR)
    await transfers.tell(Y, message)
    messenger.wake()
    await eventually('Y is told', () => toldY === 1, timeLimitMs(5000))
    expect(postedToX).toBe(CONNECTIONS_PER_NEIGHBOUR)
  } finally {
    stop.abort()
  }
})
