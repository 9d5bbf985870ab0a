/** Races in the life of a reservation, each forced step by step: between a request and the settlement of another process, its
 *  own settlement, a restart, a device that altered, and an end of the link that is one step behind. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import { Conflict, KeyNotFound, PeerUnavailable, Unavailable } from '../../src/kernel/errors.ts'
import type { AvailableUnits, KeyStore } from '../../src/key-store/key-store.ts'
import type { PeerKme } from '../../src/peer/peer.ts'
import {
  addBlock,
  ALICE,
  blockAt,
  BOB,
  CAROL,
  claimUnits,
  countAt,
  createGate,
  depositBlock,
  fetchAt,
  fetchForBob,
  hexOf,
  holdAt,
  KME_B,
  issueAt,
  loopBackPeer,
  oneKey,
  openTwoStores,
  releaseAt,
  startDelivery,
  type Delivery,
  type TwoStores,
} from './two-stores.ts'

let stores: TwoStores

beforeEach(async () => {
  stores = await openTwoStores()
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

/** A peer that holds what it is offered and then, before its answer arrives, lets `happen` happen once. */
const peerWhere = (happen: () => Promise<unknown>): PeerKme => {
  let once = true
  const peer = loopBackPeer(stores.b)
  return {
    ...peer,
    assign: async (offer) => {
      const answer = await peer.assign(offer)
      if (once) {
        once = false
        await happen()
      }
      return answer
    },
  }
}

const askForKey = (delivery: Delivery, master = ALICE) => delivery.getKey(master, BOB, oneKey)

/** The next key goes to carol, and bob gets the same one. */
const expectKeyForCarol = async (delivery: Delivery): Promise<void> => {
  const delivered = await askForKey(delivery, CAROL)
  expect(hexOf(await fetchForBob(stores.b, CAROL, delivered))).toBe(hexOf(delivered))
}

describe('a reservation that is gone does not count as issued', () => {
  it('when another process settled it before the issue', async () => {
    const other = await stores.anotherProcess(stores.a)
    await addBlock(stores, 4)
    const otherDelivery = await startDelivery(other, loopBackPeer(stores.b))
    const delivery = await startDelivery(
      stores.a,
      peerWhere(() => otherDelivery.settlement.settle()),
    )

    await expect(askForKey(delivery)).rejects.toThrow(Unavailable)
    expect(await countAt(stores.a, 'assigned_key')).toBe(0)
    expect(await countAt(stores.a, `audit_record WHERE event = 'key.issued'`)).toBe(0)
    // Its unit is free again and somebody else's: whoever gets it is the only one.
    await expectKeyForCarol(otherDelivery)
  })

  it('when the settlement of its own process overtakes the request that gave it up', async () => {
    const gate = createGate()
    let armed = false
    // The request finds no free connection, the settlement does.
    const slowOnce = (real: Database): Database => ({
      ...real,
      transaction: async (work) => {
        if (armed) {
          armed = false
          await gate.pass()
        }
        return real.transaction(work)
      },
    })
    const issuer = await stores.anotherProcess(stores.a, { database: slowOnce })
    await addBlock(stores, 4)
    let failing = true
    const store: KeyStore = {
      ...issuer.store,
      issue: (issue) => {
        if (!failing) return issuer.store.issue(issue)
        failing = false
        armed = true
        return Promise.reject(new Error('Connection terminated unexpectedly'))
      },
    }
    const delivery = await startDelivery(issuer, loopBackPeer(stores.b), { store })

    const refused = expect(askForKey(delivery)).rejects.toThrow('Connection terminated unexpectedly')
    await gate.reached
    await delivery.settlement.settle()
    gate.open()
    await refused
    expect(await countAt(stores.a, 'assigned_key')).toBe(0)
    await expectKeyForCarol(delivery)
  })

  it('when the database forgot it in a crash', async () => {
    await addBlock(stores, 4)
    const delivery = await startDelivery(
      stores.a,
      peerWhere(async () => {
        await stores.a.database.query('DELETE FROM reservation')
        await stores.a.database.query('UPDATE key_block SET taken = done')
      }),
    )

    await expect(askForKey(delivery)).rejects.toThrow(Unavailable)
    expect(await countAt(stores.a, 'assigned_key')).toBe(0)
    expect(await countAt(stores.a, `audit_record WHERE event = 'key.issued'`)).toBe(0)
    await expectKeyForCarol(delivery)
  })
})

describe('settlement never voids an issued assignment', () => {
  /** A process whose list of reservations, once `arm` was called, is handed on only when the gate opens. */
  const processWithSlowList = async () => {
    const gate = createGate()
    let armed = false
    const slowList = (real: Database): Database => ({
      ...real,
      query: async (sql, parameters) => {
        const rows = await real.query<never>(sql, parameters)
        if (armed && /^SELECT[^]*FROM reservation/.test(sql)) {
          armed = false
          await gate.pass()
        }
        return rows
      },
    })
    return { gate, issuer: await stores.anotherProcess(stores.a, { database: slowList }), arm: () => (armed = true) }
  }

  it('when the request finishes while its own process looks for what is unsettled', async () => {
    const { gate, issuer, arm } = await processWithSlowList()
    await addBlock(stores, 4)
    let settled: Promise<void> | undefined
    const delivery: Delivery = await startDelivery(
      issuer,
      peerWhere(async () => {
        arm()
        settled = delivery.settlement.settle()
        await gate.reached
      }),
    )

    const delivered = await askForKey(delivery)
    gate.open()
    await settled
    expect(hexOf(await fetchForBob(stores.b, ALICE, delivered))).toBe(hexOf(delivered))
  })

  it('and does not list a request that finishes while the list is read', async () => {
    const { gate, issuer, arm } = await processWithSlowList()
    const blockId = await addBlock(stores, 4)
    const claimed = await claimUnits(issuer, [{ blockId, units: [0] }])
    arm()
    const listed = issuer.store.unsettled()
    await gate.reached
    await issueAt(issuer, claimed)
    gate.open()
    await expect(listed).resolves.toEqual([])
  })

  it('when the request finishes before another process works through its list', async () => {
    const gate = createGate()
    const other = await stores.anotherProcess(stores.a)
    await addBlock(stores, 4)
    const store: KeyStore = {
      ...other.store,
      unsettled: async () => {
        const list = await other.store.unsettled()
        await gate.pass()
        return list
      },
    }
    const otherDelivery = await startDelivery(other, loopBackPeer(stores.b), { store })
    let settled: Promise<void> | undefined
    const delivery = await startDelivery(
      stores.a,
      peerWhere(async () => {
        settled = otherDelivery.settlement.settle()
        await gate.reached
      }),
    )

    const delivered = await askForKey(delivery)
    gate.open()
    await settled
    expect(hexOf(await fetchForBob(stores.b, ALICE, delivered))).toBe(hexOf(delivered))
  })
})

describe('marking a reservation as aborting', () => {
  it('answers "aborting" for one that is reserved, and again when repeated', async () => {
    const blockId = await addBlock(stores, 4)
    const { assignment } = await claimUnits(stores.a, [{ blockId, units: [0] }])
    await expect(stores.a.store.markAborting(assignment.aid, 'test')).resolves.toBe('aborting')
    await expect(stores.a.store.markAborting(assignment.aid, 'test')).resolves.toBe('aborting')
    expect(await countAt(stores.a, `audit_record WHERE event = 'key.unsettled'`)).toBe(1)
  })

  it('answers "issued" for one that became an issue', async () => {
    const blockId = await addBlock(stores, 4)
    const claimed = await claimUnits(stores.a, [{ blockId, units: [0] }])
    await issueAt(stores.a, claimed)
    await expect(stores.a.store.markAborting(claimed.assignment.aid, 'test')).resolves.toBe('issued')
  })

  it.each(['given back', 'burnt', 'never made'] as const)('answers "gone" for one that was %s', async (fate) => {
    const blockId = await addBlock(stores, 4)
    const { store } = stores.a
    const { assignment } = await claimUnits(stores.a, [{ blockId, units: [0] }])
    if (fate === 'given back') await store.giveBack(assignment.aid, KME_B, 'R1')
    if (fate === 'burnt') await store.burn(assignment.aid, 'test')
    if (fate === 'never made') await stores.a.database.query('DELETE FROM reservation')
    await expect(store.markAborting(assignment.aid, 'test')).resolves.toBe('gone')
  })

  it('answers "gone" to the holder of an assignment of that ID, which issued nothing', async () => {
    const blockId = await addBlock(stores, 4)
    const claimed = await claimUnits(stores.a, [{ blockId, units: [0] }])
    await holdAt(stores.b, claimed)
    await expect(stores.b.store.markAborting(claimed.assignment.aid, 'test')).resolves.toBe('gone')
  })

  it('makes the issue that comes too late fail', async () => {
    const blockId = await addBlock(stores, 4)
    const claimed = await claimUnits(stores.a, [{ blockId, units: [0] }])
    await stores.a.store.markAborting(claimed.assignment.aid, 'test')
    await expect(issueAt(stores.a, claimed)).rejects.toThrow(Conflict)
  })
})

describe('a holder that just started', () => {
  it('voids more assignments at once than it has connections', async () => {
    const blockId = await addBlock(stores, 80)
    const claimed = await Promise.all(Array.from({ length: 40 }, (_, i) => claimUnits(stores.a, [{ blockId, units: [2 * i] }])))
    for (const each of claimed) expect(await holdAt(stores.b, each)).toBe('held')
    const restarted = await stores.anotherProcess(stores.b, { connections: 4 })

    const answers = await Promise.all(
      claimed.map(({ assignment }) => restarted.store.voidAssignment(stores.a.kmeId, assignment.aid)),
    )
    expect(new Set(answers.map((answer) => answer.outcome))).toEqual(new Set(['voided']))
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 0 })
    await expect(fetchAt(stores.b, claimed[0]!)).rejects.toThrow(KeyNotFound)
  })
})

describe('a unit that does not open at the holder', () => {
  const alterFirstUnit = (): Promise<unknown> =>
    stores.b.database.query('UPDATE key_block SET sealed = set_byte(sealed, 3, get_byte(sealed, 3) # 1)')

  it('is burnt and costs one request only, one after the other', async () => {
    const blockId = await addBlock(stores, 8)
    await alterFirstUnit()
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))

    await expect(askForKey(delivery)).rejects.toThrow(PeerUnavailable)
    await delivery.settlement.settle()
    for (let i = 0; i < 3; i += 1) await expectKeyForCarol(delivery)
    expect(await blockAt(stores.a, blockId)).toMatchObject({ done: 4 })
    expect(await blockAt(stores.b, blockId)).toMatchObject({ done: 4 })
  })

  it('fails none of the requests that travel together with it', async () => {
    await addBlock(stores, 8)
    await alterFirstUnit()
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))

    const outcomes = await Promise.allSettled(Array.from({ length: 4 }, () => askForKey(delivery)))
    expect(outcomes.map((outcome) => outcome.status).sort()).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected'])
  })
})

describe('a block that the peer has not released yet', () => {
  it('brings a passing error, burns nothing, and serves when the peer is ready', async () => {
    const blockId = await depositBlock(stores, 32)
    await releaseAt(stores.a, blockId)
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    const askForAll = () => Promise.allSettled(Array.from({ length: 16 }, () => askForKey(delivery)))

    for (const outcome of await askForAll()) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'peer-unavailable', retryAfterS: 2 } })
    }
    await delivery.settlement.settle()
    expect(await blockAt(stores.a, blockId)).toMatchObject({ taken: 0, done: 0 })
    expect(await blockAt(stores.b, blockId)).toMatchObject({ state: 'INGESTED', taken: 0, done: 0 })

    await releaseAt(stores.b, blockId)
    const delivered = await askForAll()
    expect(delivered.filter((outcome) => outcome.status === 'rejected')).toEqual([])
    expect(await blockAt(stores.a, blockId)).toMatchObject({ done: 16 })
  })
})

describe('a call whose answer was lost', () => {
  it('costs no key: the peer voids it and its unit is issued again', async () => {
    const blockId = await addBlock(stores, 2)
    const peer = loopBackPeer(stores.b)
    let lost = true
    const delivery = await startDelivery(stores.a, {
      ...peer,
      assign: async (offer) => {
        const answer = await peer.assign(offer)
        if (!lost) return answer
        lost = false
        throw new CallFailed('the connection was cut', true)
      },
    })

    await expect(askForKey(delivery)).rejects.toThrow(PeerUnavailable)
    expect(await blockAt(stores.a, blockId)).toMatchObject({ taken: 1, done: 0 })
    await delivery.settlement.settle()
    await expectKeyForCarol(delivery)
  })
})

describe('a pool that is rebuilt while requests come in', () => {
  it('costs requests nothing when it holds a few hints that are stale', async () => {
    await addBlock(stores, 32)
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    const read: AvailableUnits[] = []
    for await (const units of stores.a.store.availableUnits()) read.push(units)
    // These three units are used between the reading and the end of the rebuild.
    for (let i = 0; i < 3; i += 1) await askForKey(delivery)
    await delivery.pool.rebuild(
      (async function* () {
        yield* read
      })(),
    )

    for (let i = 0; i < 13; i += 1) await expectKeyForCarol(delivery)
    await expect(askForKey(delivery)).rejects.toMatchObject({ code: 'keys-exhausted' })
  })

  it('gives no two requests one key and refuses for a passing reason only', async () => {
    for (let i = 0; i < 40; i += 1) await addBlock(stores, 32)
    const delivery = await startDelivery(stores.a, loopBackPeer(stores.b))
    const keys: string[] = []
    let busy = true
    const rebuildAgainAndAgain = async (): Promise<void> => {
      while (busy) await delivery.pool.rebuild(stores.a.store.availableUnits())
    }
    const client = async (): Promise<void> => {
      for (let i = 0; i < 40; i += 1) {
        try {
          keys.push(hexOf(await askForKey(delivery)))
        } catch (error) {
          expect(error).toBeInstanceOf(Unavailable)
        }
      }
    }

    const rebuilding = rebuildAgainAndAgain()
    await Promise.all(Array.from({ length: 8 }, client)).finally(() => (busy = false))
    await rebuilding
    expect(new Set(keys).size).toBe(keys.length)
    expect(keys).not.toEqual([])
  })
})

describe('upkeep', () => {
  it('ends all that is past its time in one call, however much it is', async () => {
    const blockId = await addBlock(stores, 2400)
    const claimed = await Promise.all(
      Array.from({ length: 1200 }, (_, i) => claimUnits(stores.a, [{ blockId, units: [2 * i] }], 0)),
    )
    const answers = await Promise.all(claimed.map((each) => holdAt(stores.b, each)))
    expect(new Set(answers)).toEqual(new Set(['held']))

    await expect(stores.b.store.expire()).resolves.toEqual({ expiredKeys: 1200 })
    await expect(stores.b.store.expire()).resolves.toEqual({ expiredKeys: 0 })
    expect(await countAt(stores.b, `assignment WHERE state = 'EXPIRED'`)).toBe(1200)
    expect(await blockAt(stores.b, blockId)).toMatchObject({ taken: 1200, done: 1200 })
  })
})
