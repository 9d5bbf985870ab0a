/** Loans between the two ends of a link: units change their issuing KME, none is ever issued by both, and a loan that cannot be
 *  used in full is used as far as possible. Here kme-a lends and kme-b borrows. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import type { BlockId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createMemoryKeyPool } from '../../src/key-pool/memory-key-pool.ts'
import { UNSHARED } from '../key-pool/key-pool.contract.ts'
import { unitCountOf, type KeyPool } from '../../src/key-pool/key-pool.ts'
import { createLending, type Lending } from '../../src/link/lend-units.ts'
import type { PeerKme } from '../../src/peer/peer.ts'
import {
  addBlock,
  claimUnits,
  depositBlock,
  fetchAt,
  holdAt,
  issueAt,
  KME_A,
  KME_B,
  loopBackPeer,
  onlyPeers,
  openTwoStores,
  releaseAt,
  silent,
  type End,
  type TwoStores,
} from './two-stores.ts'

let stores: TwoStores

beforeEach(async () => {
  stores = await openTwoStores()
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

interface Party {
  readonly lending: Lending
  readonly pool: KeyPool
}

const startLending = async (end: End, peer: PeerKme, clock: Clock = systemClock): Promise<Party> => {
  const pool = createMemoryKeyPool({ policy: UNSHARED, clock: systemClock })
  await pool.rebuild(end.store.availableUnits())
  const parts = { store: end.store, pool, peers: onlyPeers(peer), random: systemRandom, clock, log: silent }
  return { lending: createLending({ ...parts, lendFloorUnits: 0 }), pool }
}

const startLender = (): Promise<Party> => startLending(stores.a, loopBackPeer(stores.b))

/** The lender as the borrower sees it. */
const lenderOf = ({ lending }: Party): PeerKme =>
  loopBackPeer(stores.a, { requestLoan: (loanId, unitCount) => lending.lend(KME_B, loanId, unitCount) })

/** The work in the background, once. */
const runOnce = async (start: (clock: Clock) => Promise<Party>): Promise<Party> => {
  const stop = new AbortController()
  const party = await start({ ...systemClock, sleep: async () => stop.abort() })
  await party.lending.run(stop.signal)
  return party
}

/** As if so much time had passed that no process can be waiting for an answer. */
const ageLoans = (): Promise<unknown> => stores.b.database.query(`UPDATE loan SET at = at - interval '1 minute'`)

/** bob is given a key made of this unit at kme-b, and alice fetches it at kme-a. */
const expectIssuedByBorrower = async (blockId: BlockId, unit: number): Promise<void> => {
  const claimed = await claimUnits(stores.b, [{ blockId, units: [unit] }])
  expect(await holdAt(stores.a, claimed)).toBe('held')
  await issueAt(stores.b, claimed)
  await fetchAt(stores.a, claimed)
}

describe('a loan', () => {
  it('makes units the borrower issues out of units the lender issued', async () => {
    const blockId = await addBlock(stores, 256)
    const lender = await startLender()
    const borrower = await startLending(stores.b, lenderOf(lender))

    await expect(borrower.lending.borrow(KME_A, 1)).resolves.toBe(true)
    expect(await borrower.pool.level(KME_A)).toMatchObject({ mine: 256, theirs: 0 })
    expect(await lender.pool.level(KME_B)).toMatchObject({ mine: 0, theirs: 256 })
    await expectIssuedByBorrower(blockId, 0)
    await expect(claimUnits(stores.a, [{ blockId, units: [2] }])).rejects.toThrow('not free')
  })

  it('that was asked for twice gives the same units once', async () => {
    await addBlock(stores, 256)
    const lender = await startLender()
    const loanId = systemRandom.uuid()
    const first = await lender.lending.lend(KME_B, loanId, 10)
    expect(unitCountOf(first)).toBe(10)
    await expect(lender.lending.lend(KME_B, loanId, 99)).resolves.toEqual(first)

    await stores.b.store.openLoan(KME_A, loanId)
    await expect(stores.b.store.borrow(KME_A, loanId, first)).resolves.toEqual(first)
    await expect(stores.b.store.borrow(KME_A, loanId, first)).resolves.toBeUndefined()
    await expect(stores.b.store.counts()).resolves.toMatchObject([{ unitsMine: 138, unitsTheirs: 118 }])
    await expect(stores.a.store.counts()).resolves.toMatchObject([{ unitsMine: 118, unitsTheirs: 138 }])
  })

  it('of a unit that is not free is refused as a whole', async () => {
    const blockId = await addBlock(stores, 8)
    await claimUnits(stores.a, [{ blockId, units: [2] }])
    await expect(stores.a.store.lend(KME_B, systemRandom.uuid(), [{ blockId, units: [0, 2] }])).rejects.toThrow()
    await claimUnits(stores.a, [{ blockId, units: [0] }])
  })

  it('nobody asked for is not taken up', async () => {
    const blockId = await addBlock(stores, 8)
    await expect(stores.b.store.borrow(KME_A, systemRandom.uuid(), [{ blockId, units: [0] }])).resolves.toBeUndefined()
    await expect(claimUnits(stores.b, [{ blockId, units: [0] }])).rejects.toThrow('not free')
  })

  it('whose answer was lost is finished in the background with the same units', async () => {
    await addBlock(stores, 256)
    const lender = await startLender()
    const asked: string[] = []
    const peer = lenderOf(lender)
    const start = (clock: Clock): Promise<Party> =>
      startLending(
        stores.b,
        {
          ...peer,
          requestLoan: async (loanId, unitCount) => {
            asked.push(loanId)
            const runs = await peer.requestLoan(loanId, unitCount)
            if (asked.length === 1) throw new CallFailed('the connection was cut', true)
            return runs
          },
        },
        clock,
      )
    const first = await start(systemClock)
    await expect(first.lending.borrow(KME_A, 1)).resolves.toBe(false)
    await expect(stores.b.store.openLoans()).resolves.toHaveLength(1)

    // Another process cannot know whether the first still waits for the answer.
    await runOnce(start)
    expect(asked).toHaveLength(1)
    await ageLoans()
    const { pool } = await runOnce(start)
    expect(asked).toEqual([asked[0], asked[0]])
    await expect(stores.b.store.openLoans()).resolves.toEqual([])
    expect(await pool.level(KME_A)).toMatchObject({ mine: 256, theirs: 0 })
    expect(await lender.pool.level(KME_B)).toMatchObject({ mine: 0, theirs: 256 })
  })

  it('whose answer was lost is finished at once by the process that asked for it', async () => {
    await addBlock(stores, 256)
    const lender = lenderOf(await startLender())
    let answers = 0
    const stop = new AbortController()
    const { lending, pool } = await startLending(
      stores.b,
      {
        ...lender,
        requestLoan: async (loanId, unitCount) => {
          const runs = await lender.requestLoan(loanId, unitCount)
          if ((answers += 1) === 1) throw new CallFailed('the connection was cut', true)
          return runs
        },
      },
      { ...systemClock, sleep: async () => stop.abort() },
    )
    await expect(lending.borrow(KME_A, 1)).resolves.toBe(false)
    await lending.run(stop.signal)
    expect(await pool.level(KME_A)).toMatchObject({ mine: 256, theirs: 0 })
  })
})

describe('a loan with units the borrower cannot use', () => {
  it('is used as far as possible when one of its blocks was discarded', async () => {
    const discarded = await depositBlock(stores, 64)
    await releaseAt(stores.a, discarded)
    await stores.b.store.discard(discarded, 'could not be opened')
    const good = await addBlock(stores, 512)
    const lender = await startLender()
    const borrower = await startLending(stores.b, lenderOf(lender))

    await expect(borrower.lending.borrow(KME_A, 1)).resolves.toBe(true)
    // 128 were lent: the 32 of the discarded block, which came first, and 96 of the other.
    expect(await borrower.pool.level(KME_A)).toMatchObject({ mine: 256 + 96, theirs: 256 - 96 })
    await expect(stores.b.store.openLoans()).resolves.toEqual([])
    await expectIssuedByBorrower(good, 0)
  })

  it('leaves out units that are taken at the borrower, unknown, or do not exist', async () => {
    const blockId = await addBlock(stores, 8)
    const claimed = await claimUnits(stores.a, [{ blockId, units: [0] }])
    await holdAt(stores.b, claimed)
    const loanId = systemRandom.uuid()
    await stores.b.store.openLoan(KME_A, loanId)
    const lent = [
      { blockId, units: [0, 2, 4, 8, 1000] },
      { blockId: systemRandom.uuid() as BlockId, units: [0] },
    ]

    await expect(stores.b.store.borrow(KME_A, loanId, lent)).resolves.toEqual([{ blockId, units: [2, 4] }])
    // The key that was held stays the lender's and bob's.
    await issueAt(stores.a, claimed)
    await fetchAt(stores.b, claimed)
  })

  it('gives nothing of a block that belongs to another peer', async () => {
    const blockId = await addBlock(stores, 8)
    const loanId = systemRandom.uuid()
    const stranger = 'kme-c' as typeof KME_A
    await stores.b.store.openLoan(stranger, loanId)
    await expect(stores.b.store.borrow(stranger, loanId, [{ blockId, units: [0, 2] }])).resolves.toEqual([])
    await expect(claimUnits(stores.b, [{ blockId, units: [0] }])).rejects.toThrow('not free')
  })

  it('is offered with its block when that is released later', async () => {
    const blockId = await depositBlock(stores, 8)
    await releaseAt(stores.a, blockId)
    const loanId = systemRandom.uuid()
    const runs = [{ blockId, units: [0, 2] }]
    await stores.a.store.lend(KME_B, loanId, runs)
    await stores.b.store.openLoan(KME_A, loanId)

    await expect(stores.b.store.borrow(KME_A, loanId, runs)).resolves.toEqual([])
    await expect(releaseAt(stores.b, blockId)).resolves.toMatchObject({ mine: { units: [0, 1, 2, 3, 5, 7] }, theirs: 2 })
  })
})

describe('several open loans', () => {
  it('are finished each on its own: one that fails does not hold up the others', async () => {
    await addBlock(stores, 1024)
    const lender = await startLender()
    const loanIds = [systemRandom.uuid(), systemRandom.uuid(), systemRandom.uuid()]
    for (const loanId of loanIds) await stores.b.store.openLoan(KME_A, loanId)
    await ageLoans()
    const impossible = loanIds[0]
    const peer = lenderOf(lender)
    const { pool } = await runOnce((clock) =>
      startLending(
        stores.b,
        {
          ...peer,
          requestLoan: (loanId, unitCount) =>
            loanId === impossible
              ? Promise.reject(new CallFailed('cannot be answered', true))
              : peer.requestLoan(loanId, unitCount),
        },
        clock,
      ),
    )

    await expect(stores.b.store.openLoans()).resolves.toMatchObject([{ peerKmeId: KME_A, loanId: impossible }])
    expect(await pool.level(KME_A)).toMatchObject({ mine: 512 + 256, theirs: 512 - 256 })
  })
})
