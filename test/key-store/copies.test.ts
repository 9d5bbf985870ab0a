/** A key for slave SAEs at several KMEs: one of them shares the units the key is made of, each other one gets a copy. All hold it before
 *  the master has it; and whatever fails on the way, nobody has it, and no unit that covered a copy is ever used again. */
import { randomBytes } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import type { Database } from '../../src/database/database.ts'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import { KeyDataAccess, KeyNotFound, KeysExhausted, PeerUnavailable, UnknownSlave } from '../../src/kernel/errors.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import type { KeyId, KmeId, SaeId } from '../../src/kernel/identifiers.ts'
import type { AssignmentAnswer, AssignmentOffer, PeerKme } from '../../src/peer/peer.ts'
import {
  fetchableAt,
  fetchBy,
  HUB,
  homeOf,
  MASTER,
  MONA,
  multicast,
  openHub,
  takenAt,
  takenEvenly,
  type Hub,
  type Spoke,
} from './hub.ts'
import { eventually } from '../setup/eventually.ts'
import { blockAt, countAt, hexOf, loopBackPeer, startDelivery, type Delivery, type DeliveryOptions } from './two-stores.ts'

let hub: Hub
/** What the block of each spoke had taken when the test began. */
let before: Record<string, number>
beforeAll(async () => {
  hub = await openHub(2048)
})
beforeEach(async () => {
  before = {}
  for (const spoke of spokes()) before[spoke.slave] = (await takenAt(spoke.hub, spoke)).length
  for (const { database } of [hub.hub, ...spokes().map((spoke) => spoke.holder)]) {
    await database.query(`TRUNCATE assignment, assigned_key`)
  }
})
/** Whatever a test left is settled once all KMEs answer, and then the two ends of every link agree on every unit. */
afterEach(async () => {
  const { settlement } = await start()
  await settlement.settle()
  await settlement.settle()
  expect(await countAt(hub.hub, 'reservation')).toBe(0)
  for (const spoke of spokes()) await takenEvenly(spoke)
})
afterAll(async () => {
  await hub[Symbol.asyncDispose]()
})

/** How many units of a spoke's block were taken in this test, equally at both ends. */
const taken = async (spoke: Spoke): Promise<number> => (await takenEvenly(spoke)) - before[spoke.slave]!

const spokes = (): Spoke[] => [hub.x, hub.y, hub.z]
const XENA = 'xena' as SaeId
const YARA = 'yara' as SaeId
const ZOE = 'zoe' as SaeId

type Assign = (offer: AssignmentOffer, hold: () => Promise<AssignmentAnswer>) => Promise<AssignmentAnswer>

/** What answers at kme-m. @param assign what KMEs do with an offer instead of holding it. */
const start = (assign: Partial<Record<'x' | 'y' | 'z', Assign>> = {}, options: DeliveryOptions = {}): Promise<Delivery> => {
  const peer = (name: 'x' | 'y' | 'z'): PeerKme => {
    const honest = loopBackPeer(hub[name].holder)
    const instead = assign[name]
    return instead === undefined ? honest : { ...honest, assign: (offer) => instead(offer, () => honest.assign(offer)) }
  }
  return startDelivery(hub.hub, [peer('x'), peer('y'), peer('z')], { homeOf, ...options })
}

const expectEverySlaveHas = async (slaves: readonly SaeId[], delivered: Awaited<ReturnType<Delivery['getKey']>>) => {
  const keys = hexOf(delivered)
  for (const slave of slaves) {
    const end = [hub.hub, ...spokes().map((spoke) => spoke.holder)].find((one) => one.kmeId === homeOf(slave))!
    const fetched = await fetchBy(end, slave, delivered)
    expect(hexOf(fetched)).toBe(keys)
    expect(fetched.keys.map((key) => key.keyId)).toEqual(delivered.keys.map((key) => key.keyId))
    await expect(fetchBy(end, slave, delivered)).rejects.toThrow(KeyNotFound)
  }
}

/** Nobody can fetch anything, at any KME. */
const expectNothingHeld = async (): Promise<void> => {
  expect(await fetchableAt(hub.hub)).toBe(0)
  for (const { holder } of spokes()) expect(await fetchableAt(holder)).toBe(0)
}

describe('keys for slaves at several KMEs', () => {
  it.each([
    ['two KMEs', 'xena', [YARA]],
    ['three KMEs', 'yara', [ZOE, XENA]],
    ['another KME and the master’s own', 'xena', [MONA]],
    ['the master’s own KME and another', 'mona', [XENA]],
    ['the master’s own KME and three others', 'mona', [ZOE, XENA, YARA]],
    ['three others and the master’s own', 'xena', [MONA, ZOE, YARA]],
  ] as [string, string, SaeId[]][])(
    'at %s are the same bytes under the same IDs, and each slave has them once',
    async (_where, slave, others) => {
      const delivery = await start()
      for (const [number, sizeBits] of [
        [1, 256],
        [3, 1000],
        [5, 64],
      ] as const) {
        const delivered = await delivery.getKey(MASTER, slave, multicast(others, { number, sizeBits }))
        expect(delivered.keys).toHaveLength(number)
        await expectEverySlaveHas([slave as SaeId, ...others], delivered)
      }
      // 1, 3 of 4, and 5 units at every KME that is not the master's, and no more.
      for (const spoke of spokes()) {
        expect(await taken(spoke)).toBe([slave, ...others].includes(spoke.slave) ? 18 : 0)
        // What was issued and fetched is used up at both ends, and leaves nothing behind at the holder.
        for (const end of [spoke.hub, spoke.holder]) {
          const { taken: all, done } = await blockAt(end, spoke.blockId)
          expect(done).toBe(all)
        }
        expect(await countAt(spoke.holder, 'assignment WHERE difference IS NOT NULL')).toBe(0)
      }
      expect(await countAt(hub.hub, 'reservation')).toBe(0)
    },
  )

  it('cost no units of the pool between SAEs of the master’s KME, which may be empty', async () => {
    const delivery = await start()
    expect(await delivery.pool.level(HUB)).toMatchObject({ mine: 0 })
    await expectEverySlaveHas([MONA, XENA], await delivery.getKey(MASTER, 'mona', multicast([XENA])))
  })

  it('are fetched one by one where several were issued together', async () => {
    const delivery = await start()
    const delivered = await delivery.getKey(MASTER, 'xena', multicast([YARA], { number: 4, sizeBits: 264 }))
    const keys = hexOf(delivered)
    for (const at of [2, 0, 3, 1]) {
      const fetched = await fetchBy(hub.y.holder, YARA, { keys: [delivered.keys[at]!] })
      expect(hexOf(fetched)).toBe(keys.slice(at * 66, (at + 1) * 66))
    }
    expect(await countAt(hub.y.holder, `assignment WHERE state = 'DELIVERED' AND difference IS NULL`)).toBe(1)
  })

  it('go into one audit record at the issuing KME, which names every KME and its slaves', async () => {
    const delivery = await start()
    await delivery.getKey(MASTER, 'xena', multicast([MONA, YARA]))
    const records = await hub.hub.database.query<{ subject: object }>(
      `SELECT subject FROM audit_record WHERE event = 'key.issued' ORDER BY seq DESC LIMIT 1`,
    )
    expect(records.map(({ subject }) => subject)).toMatchObject([
      { peerKmeId: 'kme-x', slaves: ['xena', 'mona', 'yara'], copies: [{ peerKmeId: 'kme-y', slaves: ['yara'] }] },
    ])
  })

  it('are the same again for the same request ID, without another unit', async () => {
    const delivery = await start()
    const requestId = '6c9a1f0e-23a0-4b6e-8f0a-0a2b64a4b1ff'
    const request = multicast([MONA, YARA], {
      number: 2,
      extensions: { requestId, requestIdIsMandatory: true, qkdOnly: true },
    })
    const first = hexOf(await delivery.getKey(MASTER, 'xena', request))
    const repeated = await delivery.getKey(MASTER, 'xena', request)
    expect(hexOf(repeated)).toBe(first)
    expect(await taken(hub.x)).toBe(2)
    expect(await taken(hub.y)).toBe(2)
    // With other slaves it is another request.
    await expect(delivery.getKey(MASTER, 'xena', { ...request, additionalSlaveSaeIds: [YARA] })).rejects.toThrow('bad request')
    await expectEverySlaveHas([XENA, YARA, MONA], repeated)
  })

  it('are not there when one pool has too few, and no unit of the others is gone', async () => {
    const delivery = await start()
    const level = async (kme: string): Promise<number> => (await delivery.pool.level(kme as KmeId)).mine
    const left = await level('kme-y')
    await delivery.pool.take('kme-y' as KmeId, MASTER, left - 2)
    const [atX, atZ] = [await level('kme-x'), await level('kme-z')]
    await expect(delivery.getKey(MASTER, 'xena', multicast([YARA, ZOE], { number: 3 }))).rejects.toThrow(KeysExhausted)
    expect([await level('kme-x'), await level('kme-y'), await level('kme-z')]).toEqual([atX, 2, atZ])
    for (const spoke of spokes()) expect(await taken(spoke)).toBe(0)
    // What is left is served.
    await expectEverySlaveHas([XENA, YARA, ZOE], await delivery.getKey(MASTER, 'xena', multicast([YARA, ZOE], { number: 2 })))
  })

  it('are never made of the fallback source, which helps a key of one KME alone', async () => {
    const asked: string[] = []
    const takeFallback = (peerKmeId: KmeId): Promise<undefined> => Promise.resolve(void asked.push(peerKmeId))
    const delivery = await start({}, { takeFallback })
    await delivery.pool.take('kme-y' as KmeId, MASTER, (await delivery.pool.level('kme-y' as KmeId)).mine)
    await expect(delivery.getKey(MASTER, 'xena', multicast([YARA]))).rejects.toThrow(KeysExhausted)
    await expect(delivery.getKey(MASTER, 'yara', multicast([XENA]))).rejects.toThrow(KeysExhausted)
    expect(asked).toEqual([])
    await expect(delivery.getKey(MASTER, 'yara', multicast([MONA]))).rejects.toThrow(KeysExhausted)
    expect(asked).toEqual(['kme-y'])
  })

  it('are not there when one KME is known to be away, and nothing is claimed', async () => {
    const peers = spokes().map(({ holder }) => loopBackPeer(holder, { available: () => holder.kmeId !== 'kme-z' }))
    const delivery = await startDelivery(hub.hub, peers, { homeOf })
    await expect(delivery.getKey(MASTER, 'xena', multicast([ZOE]))).rejects.toThrow(PeerUnavailable)
    for (const spoke of spokes()) expect(await taken(spoke)).toBe(0)
    expect(await countAt(hub.hub, 'reservation')).toBe(0)
  })
})

describe('when not every KME holds its copy', () => {
  const lost = (maybeReceived: boolean) => new CallFailed('lost', maybeReceived)
  const failures: [string, Assign, unknown][] = [
    ['is not reached at all', () => Promise.reject(lost(false)), PeerUnavailable],
    ['gets nothing, but might have', () => Promise.reject(lost(true)), PeerUnavailable],
    ['holds it, and its answer is lost', (_, hold) => hold().then(() => Promise.reject(lost(true))), PeerUnavailable],
    [
      'holds it and confirms other bytes',
      (_, hold) => hold().then(() => ({ outcome: 'held', confirmation: randomBytes(32) })),
      PeerUnavailable,
    ],
    ['does not know whether it holds it', (_, hold) => hold().then(() => ({ outcome: 'failed' })), PeerUnavailable],
    ['has other bytes', () => Promise.resolve({ outcome: 'refused', reason: 'different' }), PeerUnavailable],
    ['is not done with the block', () => Promise.resolve({ outcome: 'refused', reason: 'block-pending' }), PeerUnavailable],
    ['does not pair the SAEs', () => Promise.resolve({ outcome: 'refused', reason: 'pair-not-permitted' }), UnknownSlave],
  ]

  it.each(failures.flatMap(([what, ...more]) => (['x', 'y', 'z'] as const).map((name) => [name, what, ...more] as const)))(
    'because kme-%s %s, nobody has the key, the books balance, and no pad is used again',
    async (name, _what, assign, expected) => {
      const delivery = await start({ [name]: assign })
      await expect(delivery.getKey(MASTER, 'xena', multicast([YARA, ZOE, MONA], { number: 2 }))).rejects.toThrow(expected)
      expect(await countAt(hub.hub, 'assignment')).toBe(0)

      // Settles what is in doubt, then tells the peers what was burnt.
      await delivery.settlement.settle()
      await delivery.settlement.settle()
      expect(await countAt(hub.hub, 'reservation')).toBe(0)
      await expectNothingHeld()
      const notSent = _what.includes('not reached')
      // The first KME's units are the key, which another KME knows. The others' covered a copy: gone unless they were not sent.
      expect(await taken(hub.x)).toBe(2)
      expect(await taken(hub.y)).toBe(name === 'y' && notSent ? 0 : 2)
      expect(await taken(hub.z)).toBe(name === 'z' && notSent ? 0 : 2)
    },
  )

  it.each(['before its offers', 'after all hold', 'after one holds'] as const)(
    'because the KME of the master died %s, another process settles it: nobody has the key, and no pad is used again',
    async (when) => {
      const dead = new Error('killed')
      const never = new Promise<AssignmentAnswer>(() => undefined)
      const gone = Promise.withResolvers<undefined>()
      // Offers that never end: the process that made them is gone for all the others know.
      const silent: Assign = () => never
      const held = (hold: () => Promise<AssignmentAnswer>) => hold().then(() => (gone.resolve(undefined), never))
      const delivery = await start({
        x: when === 'before its offers' ? (gone.resolve(undefined), silent) : (_, hold) => held(hold),
        y: when === 'after all hold' ? (_, hold) => held(hold) : silent,
        z: when === 'after all hold' ? (_, hold) => held(hold) : silent,
      })
      void delivery.getKey(MASTER, 'xena', multicast([YARA, ZOE])).catch(() => dead)
      await gone.promise
      await eventually('the reservations', async () => (await countAt(hub.hub, 'reservation')) === 3)
      if (when === 'after all hold') {
        await eventually('the copies', async () => (await fetchableAt(hub.y.holder)) + (await fetchableAt(hub.z.holder)) === 2)
      }

      const other = await hub.anotherProcess()
      const settlement = (
        await startDelivery(
          other,
          spokes().map(({ holder }) => loopBackPeer(holder)),
          { homeOf },
        )
      ).settlement
      await settlement.settle()
      await settlement.settle()
      expect(await countAt(hub.hub, 'reservation')).toBe(0)
      await expectNothingHeld()
      expect(await taken(hub.x)).toBe(1)
      expect(await taken(hub.y)).toBe(1)
      expect(await taken(hub.z)).toBe(1)
    },
  )

  it('the KME that holds its copy never knows a key that others get later', async () => {
    const seen: { keyIds: readonly KeyId[] }[] = []
    const delivery = await start({
      x: () => Promise.resolve({ outcome: 'refused', reason: 'block-pending' }),
      y: (offer, hold) => (seen.push(offer.assignment), hold()),
    })
    await expect(delivery.getKey(MASTER, 'xena', multicast([YARA], { number: 4 }))).rejects.toThrow(PeerUnavailable)
    // kme-y opens what it was sent, as only a KME can: no SAE has the IDs.
    const keys = seen[0]!.keyIds.map((keyId) => ({ keyId, sizeBits: 256, fromFallback: false }))
    const known = hexOf(await fetchBy(hub.y.holder, YARA, { keys }))
    await delivery.settlement.settle()
    await delivery.settlement.settle()
    const later = hexOf(await (await start()).getKey(MASTER, 'xena', multicast([], { number: 100 })))
    for (let at = 0; at < known.length; at += 64) expect(later.includes(known.slice(at, at + 64))).toBe(false)
  })

  it('and the answer to the commit is lost, the keys are issued all the same', async () => {
    const store: typeof hub.hub.store = {
      ...hub.hub.store,
      issue: async (issue) => {
        await hub.hub.store.issue(issue)
        throw new Error('Connection terminated unexpectedly')
      },
    }
    const delivery = await start({}, { store })
    await expectEverySlaveHas([XENA, MONA, YARA], await delivery.getKey(MASTER, 'xena', multicast([MONA, YARA])))
    await delivery.settlement.settle()
    expect(await taken(hub.y)).toBe(1)
  })

  it('and the commit fails, nobody has the key, and its units and the pad are burnt', async () => {
    const store: typeof hub.hub.store = { ...hub.hub.store, issue: () => Promise.reject(new Error('disk full')) }
    const delivery = await start({}, { store })
    await expect(delivery.getKey(MASTER, 'xena', multicast([MONA, YARA]))).rejects.toThrow('disk full')
    await delivery.settlement.settle()
    await delivery.settlement.settle()
    await expectNothingHeld()
    expect(await taken(hub.x)).toBe(1)
    expect(await taken(hub.y)).toBe(1)
  })

  it('because not one byte was sent to any of them, all units are free again at once', async () => {
    const lost: Assign = () => Promise.reject(new CallFailed('lost', false))
    const delivery = await start({ x: lost, y: lost })
    await expect(delivery.getKey(MASTER, 'xena', multicast([YARA]))).rejects.toThrow(PeerUnavailable)
    expect(await countAt(hub.hub, 'reservation')).toBe(0)
    expect([await taken(hub.x), await taken(hub.y)]).toEqual([0, 0])
  })

  it('a slave that repeats its request does not empty the pools: the KME that did not agree rests, for its own requests only', async () => {
    let nowMs = 0
    const clock: Clock = { ...systemClock, monotonicMs: () => nowMs }
    let refuses = true
    const delivery = await start(
      { z: (_, hold) => (refuses ? Promise.resolve({ outcome: 'refused', reason: 'pair-not-permitted' }) : hold()) },
      { clock },
    )
    const ask = () => delivery.getKey(MASTER, 'xena', multicast([YARA, ZOE]))
    await expect(ask()).rejects.toThrow(UnknownSlave)
    const rests: number[] = []
    for (let round = 0; round < 8; round += 1) {
      const takenBefore = await takenAt(hub.hub, hub.y)
      const refused = await ask().catch((error: unknown) => error)
      expect(refused).toBeInstanceOf(PeerUnavailable)
      rests.push((refused as PeerUnavailable).retryAfterS!)
      expect(await takenAt(hub.hub, hub.y)).toEqual(takenBefore)
      nowMs += (refused as PeerUnavailable).retryAfterS! * 1000
      await expect(ask()).rejects.toThrow(UnknownSlave)
    }
    expect(rests.at(-1)).toBeGreaterThan(rests[0]!)
    expect(Math.max(...rests)).toBeLessThanOrEqual(60)
    // Others of the same SAE, and the same of other SAEs, go on.
    await delivery.getKey(MASTER, 'xena', multicast([YARA]))
    await delivery.getKey(MASTER, 'zoe', multicast([])).catch((error: unknown) => expect(error).toBeInstanceOf(UnknownSlave))
    await expect(delivery.getKey('marc' as SaeId, 'xena', multicast([YARA, ZOE]))).rejects.toThrow(UnknownSlave)
    // And once it agrees, there is no rest any more.
    refuses = false
    nowMs += 60_000
    await expectEverySlaveHas([XENA, YARA, ZOE], await ask())
    await expectEverySlaveHas([XENA, YARA, ZOE], await ask())
  })
})

describe('the units of a key of several KMEs', () => {
  it('are claimed durably before anything is sent; units of a key alone need not be', async () => {
    const modes: { sql: string; mode: string }[] = []
    const watched = (real: Database): Database => ({
      ...real,
      query: (sql, parameters) =>
        sql.includes('INSERT INTO reservation')
          ? real.transaction(async (statements) => {
              const rows = await statements.query(sql, parameters)
              const [shown] = await statements.query<{ synchronous_commit: string }>('SHOW synchronous_commit')
              modes.push({ sql: 'claim', mode: shown!.synchronous_commit })
              return rows as never
            })
          : real.query(sql, parameters),
    })
    const process = await hub.anotherProcess({ database: watched })
    const delivery = await startDelivery(
      process,
      spokes().map(({ holder }) => loopBackPeer(holder)),
      { homeOf },
    )
    await delivery.getKey(MASTER, 'xena', multicast([]))
    await delivery.getKey(MASTER, 'xena', multicast([YARA]))
    expect(modes.map(({ mode }) => mode)).toEqual(['off', 'on'])
  })

  it('do not come back by rule R2', async () => {
    const gate = Promise.withResolvers<AssignmentAnswer>()
    const delivery = await start({ x: () => gate.promise, y: () => gate.promise })
    const asked = delivery.getKey(MASTER, 'xena', multicast([YARA]))
    const settled = asked.catch((error: unknown) => error)
    await eventually('the reservations', async () => (await countAt(hub.hub, 'reservation')) === 2)
    const [row] = await hub.hub.database.query<{ aid: never }>('SELECT aid FROM reservation LIMIT 1')
    const { store } = hub.hub
    await store.markAborting(row!.aid, 'test')
    await expect(store.giveBack(row!.aid, 'kme-y' as KmeId, 'R2')).resolves.toEqual([])
    await expect(store.giveBack(row!.aid, 'kme-x' as KmeId, 'R2')).resolves.toEqual([])
    gate.resolve({ outcome: 'failed' })
    expect(await settled).toBeInstanceOf(PeerUnavailable)
    expect(await takenAt(hub.hub, hub.x)).toHaveLength(before[XENA]! + 1)
    expect(await takenAt(hub.hub, hub.y)).toHaveLength(before[YARA]! + 1)
  })

  it('never cover two keys: every difference ever sent is of other units', async () => {
    const covered: string[] = []
    let calls = 0
    const note: Assign = (offer, hold) => {
      if (offer.difference !== undefined) {
        for (const { blockId, units } of offer.assignment.units) covered.push(...units.map((unit) => `${blockId}:${unit}`))
      }
      calls += 1
      return calls % 5 === 0 ? Promise.reject(new CallFailed('lost', true)) : hold()
    }
    let nowMs = 0
    const clock: Clock = { ...systemClock, monotonicMs: () => (nowMs += 120_000) }
    const delivery = await start({ x: note, y: note, z: note }, { clock })
    const asks = Array.from({ length: 12 }, (_, at) =>
      delivery.getKey(MASTER, ['xena', 'yara', 'zoe'][at % 3]!, multicast([[YARA, ZOE, XENA][at % 3]!])),
    )
    const outcomes = await Promise.allSettled(asks)
    for (let round = 0; round < 3; round += 1) await delivery.settlement.settle()
    const more = await Promise.allSettled(
      Array.from({ length: 12 }, () => delivery.getKey(MASTER, 'xena', multicast([YARA, ZOE]))),
    )
    expect(outcomes.filter(({ status }) => status === 'rejected').length).toBeGreaterThan(0)
    expect(more.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThan(0)
    expect(new Set(covered).size).toBe(covered.length)
    await delivery.settlement.settle()
    await delivery.settlement.settle()
    for (const spoke of spokes()) await takenEvenly(spoke)
  })
})

describe('a copy at the KME that holds it', () => {
  /** An offer of a copy to kme-y, as kme-m made it. */
  const offered = async (number = 1): Promise<AssignmentOffer> => {
    const seen = Promise.withResolvers<AssignmentOffer>()
    const delivery = await start({
      y: (offer) => {
        seen.resolve(offer)
        return Promise.reject(new CallFailed('lost', true))
      },
    })
    await delivery.getKey(MASTER, 'xena', multicast([YARA], { number })).catch(() => undefined)
    return seen.promise
  }
  const hold = ({ assignment, commitment, difference }: AssignmentOffer) =>
    hub.y.holder.store.hold(HUB, assignment, commitment, difference)
  const altered = (bytes: Buffer): Buffer => Buffer.from(bytes.map((byte, at) => (at === 7 ? byte ^ 1 : byte)))

  it('is refused when its difference was altered, left out, or is too short, and nothing is stored', async () => {
    const offer = await offered()
    expect(await hold({ ...offer, difference: altered(offer.difference!) })).toMatchObject({ reason: 'different' })
    expect(await hold({ ...offer, difference: undefined })).toMatchObject({ reason: 'different' })
    expect(await hold({ ...offer, difference: offer.difference!.subarray(1) })).toMatchObject({ outcome: 'refused' })
    expect(await countAt(hub.y.holder, 'assignment')).toBe(0)
  })

  it('is held again for the same offer, and refused for another difference under the same ID', async () => {
    const offer = await offered()
    const answer = await hold(offer)
    expect(answer).toMatchObject({ outcome: 'held' })
    expect(await hold(offer)).toEqual(answer)
    // Even when its proof fits: as a copy of another key it would be.
    const rows = await hub.y.holder.database.query<{ difference: Buffer }>(`SELECT difference FROM assignment`)
    expect(rows).toHaveLength(1)
    expect(await hold({ ...offer, difference: undefined })).toMatchObject({ outcome: 'refused' })
    expect(await hold({ ...offer, difference: altered(offer.difference!) })).toMatchObject({ outcome: 'refused' })
  })

  it('has its difference sealed at rest; it opens in its own place only, and a key that does not open is not consumed', async () => {
    const delivery = await start()
    const one = await delivery.getKey(MASTER, 'xena', multicast([YARA]))
    const two = await delivery.getKey(MASTER, 'xena', multicast([YARA]))
    const { database } = hub.y.holder
    const swap = () =>
      database.query(
        `UPDATE assignment a SET difference = b.difference, difference_dek = b.difference_dek FROM assignment b WHERE a.aid <> b.aid`,
      )
    await swap()
    for (const delivered of [one, two]) {
      await expect(fetchBy(hub.y.holder, YARA, delivered)).rejects.toThrow(KeyDataAccess)
    }
    await swap()
    await expectEverySlaveHas([YARA, XENA], one)
    await expectEverySlaveHas([YARA, XENA], two)
  })

  it('is not in the database in the form it was sent', async () => {
    const offer = await offered(2)
    await hold(offer)
    const [row] = await hub.y.holder.database.query<{ difference: Buffer }>('SELECT difference FROM assignment')
    expect(row!.difference.includes(offer.difference!.subarray(0, 16))).toBe(false)
    expect(row!.difference).toHaveLength(offer.difference!.length + 16)
  })

  it.each(['voided', 'expired'] as const)('leaves no difference behind when it is %s', async (how) => {
    const offer = await offered()
    await hold(offer)
    const { store, database } = hub.y.holder
    if (how === 'voided') await store.voidAssignment(HUB, offer.assignment.aid)
    else {
      await database.query(`UPDATE assignment SET expires_at = now() - interval '1 second'`)
      await store.expire()
    }
    const rows = await database.query(`SELECT state, difference, difference_dek, difference_term FROM assignment`)
    expect(rows).toEqual([{ state: how.toUpperCase(), difference: null, difference_dek: null, difference_term: null }])
  })
})

describe('whatever is asked and whatever fails', () => {
  it('all slaves have the key of a master that has it, and nobody has another', async () => {
    const slaves = [XENA, YARA, ZOE, MONA]
    type Trouble = 'none' | 'not-sent' | 'lost' | 'held-lost' | 'refused'
    let troubles: readonly Trouble[] = []
    const trouble =
      (at: number): Assign =>
      async (_, hold) => {
        const kind = troubles[at] ?? 'none'
        if (kind === 'not-sent' || kind === 'lost') throw new CallFailed('lost', kind === 'lost')
        if (kind === 'refused') return { outcome: 'refused', reason: 'block-pending' }
        const answer = await hold()
        if (kind === 'held-lost') throw new CallFailed('lost', true)
        return answer
      }
    let nowMs = 0
    const clock: Clock = { ...systemClock, monotonicMs: () => (nowMs += 120_000) }
    const delivery = await start({ x: trouble(0), y: trouble(1), z: trouble(2) }, { clock })
    let granted = 0
    await fc.assert(
      fc.asyncProperty(
        fc.shuffledSubarray(slaves, { minLength: 1 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 8, max: 80 }).map((bytes) => bytes * 8),
        fc.tuple(
          ...slaves
            .slice(1)
            .map(() => fc.constantFrom<Trouble>('none', 'none', 'none', 'not-sent', 'lost', 'held-lost', 'refused')),
        ),
        async ([slave, ...others], number, sizeBits, happens) => {
          troubles = happens
          if (slave === MONA && others.length === 0) return
          const delivered = await delivery
            .getKey(MASTER, slave!, multicast(others, { number, sizeBits }))
            .catch((error: unknown) => {
              expect(error).toBeInstanceOf(PeerUnavailable)
              return undefined
            })
          troubles = []
          await delivery.settlement.settle()
          await delivery.settlement.settle()
          if (delivered !== undefined) {
            granted += 1
            await expectEverySlaveHas([slave!, ...others], delivered)
          }
          await expectNothingHeld()
          for (const spoke of spokes()) await takenEvenly(spoke)
        },
      ),
      { numRuns: 60 },
    )
    expect(granted).toBeGreaterThan(0)
  })
})
