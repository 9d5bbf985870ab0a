/** Processes of one KME change the same blocks at the same moment: each statement locks them in one order, so that no two wait for each
 *  other. Here the block with the lower ID is held by somebody else; an operation that waits for it must not yet have locked the other,
 *  although that one comes first in the table, in the indexes other than the primary key, and in what the operation names. */
import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, expect, it } from '@jest/globals'
import type { Database } from '../../src/database/database.ts'
import type { BlockId } from '../../src/kernel/identifiers.ts'
import { unitCountOf } from '../../src/key-pool/key-pool.ts'
import type { UnitRun } from '../../src/key-store/key-store.ts'
import { eventually } from '../setup/eventually.ts'
import {
  addBlock,
  ALICE,
  BOB,
  claimUnits,
  fetchAt,
  holdAt,
  issueAt,
  KME_A,
  KME_B,
  openTwoStores,
  type Claimed,
  type End,
  type TwoStores,
} from './two-stores.ts'

let stores: TwoStores
let low: BlockId
let high: BlockId

beforeEach(async () => {
  stores = await openTwoStores()
  high = await addBlock(stores, 8)
  low = await addBlock(stores, 8)
  while (low > high) {
    high = low
    low = await addBlock(stores, 8)
  }
})
afterEach(async () => {
  await stores[Symbol.asyncDispose]()
})

const someoneWaits = async ({ database }: End): Promise<boolean> => {
  const rows = await database.query(
    `SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
  )
  return rows.length > 0
}

/** Starts `operation` while another connection holds the lower block. @returns its outcome, and whether the higher block was still free. */
const whileLowIsHeld = async <T>(end: End, operation: () => Promise<T>): Promise<{ outcome: T; highWasFree: boolean }> => {
  let running: Promise<T> | undefined
  const highWasFree = await end.database.transaction(async (statements) => {
    await statements.query(`SELECT FROM key_block WHERE block_id = $1 FOR UPDATE`, [low])
    running = operation()
    running.catch(() => undefined)
    await eventually('the operation waits for the block', () => someoneWaits(end))
    const rows = await statements.query(`SELECT FROM key_block WHERE block_id = $1 FOR UPDATE SKIP LOCKED`, [high])
    return rows.length === 1
  })
  return { outcome: await (running as Promise<T>), highWasFree }
}

/** Two units that kme-a issues, the one of the higher block first. */
const bothBlocks = (): UnitRun[] => [
  { blockId: high, units: [0] },
  { blockId: low, units: [0] },
]

const heldAtB = async (ttlS?: number): Promise<Claimed> => {
  const claimed = await claimUnits(stores.a, bothBlocks(), ttlS)
  await expect(holdAt(stores.b, claimed)).resolves.toBe('held')
  return claimed
}

interface Case {
  readonly name: string
  /** What happens before; returns where the operation runs and the operation, which returns how much of its two units it did. */
  readonly prepare: () => Promise<{ end: End; operation: () => Promise<unknown> }>
  readonly outcome: unknown
}

const cases: Case[] = [
  {
    name: 'claim',
    prepare: async () => ({
      end: stores.a,
      operation: async () => (await claimUnits(stores.a, bothBlocks())).claim.material.count,
    }),
    outcome: 2,
  },
  {
    name: 'issue',
    prepare: async () => {
      const claimed = await heldAtB()
      return { end: stores.a, operation: () => issueAt(stores.a, claimed) }
    },
    outcome: undefined,
  },
  {
    name: 'hold',
    prepare: async () => {
      const claimed = await claimUnits(stores.a, bothBlocks())
      return { end: stores.b, operation: () => holdAt(stores.b, claimed) }
    },
    outcome: 'held',
  },
  {
    name: 'fetch',
    prepare: async () => {
      const claimed = await heldAtB()
      return { end: stores.b, operation: async () => (await fetchAt(stores.b, claimed)).keys.length }
    },
    outcome: 2,
  },
  {
    name: 'void an assignment',
    prepare: async () => {
      const { assignment } = await heldAtB()
      return { end: stores.b, operation: () => stores.b.store.voidAssignment(KME_A, assignment.aid) }
    },
    outcome: { outcome: 'voided', freedTheirs: 2 },
  },
  {
    name: 'retire',
    prepare: async () => ({ end: stores.b, operation: () => stores.b.store.retire(KME_A, bothBlocks()) }),
    outcome: 2,
  },
  {
    name: 'give back',
    prepare: async () => {
      const { assignment } = await claimUnits(stores.a, bothBlocks())
      return { end: stores.a, operation: async () => unitCountOf(await stores.a.store.giveBack(assignment.aid, KME_B, 'R1')) }
    },
    outcome: 2,
  },
  {
    name: 'burn',
    prepare: async () => {
      const { assignment } = await claimUnits(stores.a, bothBlocks())
      return { end: stores.a, operation: () => stores.a.store.burn(assignment.aid, 'test') }
    },
    outcome: 2,
  },
  {
    name: 'expire',
    prepare: async () => {
      await heldAtB(0)
      return { end: stores.b, operation: () => stores.b.store.expire() }
    },
    outcome: { expiredKeys: 2 },
  },
  {
    name: 'lend',
    prepare: async () => ({ end: stores.a, operation: () => stores.a.store.lend(KME_B, randomUUID(), bothBlocks()) }),
    outcome: undefined,
  },
  {
    name: 'borrow',
    prepare: async () => {
      const loanId = randomUUID()
      await stores.b.store.openLoan(KME_A, loanId)
      return {
        end: stores.b,
        operation: async () => unitCountOf((await stores.b.store.borrow(KME_A, loanId, bothBlocks())) ?? []),
      }
    },
    outcome: 2,
  },
]

it.each(cases)('$name locks blocks in the order of their IDs', async ({ prepare, outcome }) => {
  const { end, operation } = await prepare()
  await expect(whileLowIsHeld(end, operation)).resolves.toEqual({ outcome, highWasFree: true })
})

it('a fetch locks assignments in the order of their IDs', async () => {
  const { a, b } = stores
  const [later, earlier] = [
    await claimUnits(a, [{ blockId: low, units: [0] }]),
    await claimUnits(a, [{ blockId: low, units: [2] }]),
  ].sort((one, other) => (one.assignment.aid < other.assignment.aid ? 1 : -1))
  // The later one comes first in the table too.
  for (const claimed of [later, earlier]) await holdAt(b, claimed!)
  const keyIds = [later, earlier].flatMap((claimed) => claimed!.assignment.keyIds)
  const lock = (suffix = ''): string => `SELECT FROM assignment WHERE aid = $1 FOR UPDATE ${suffix}`
  let fetched: Promise<unknown> | undefined
  const laterWasFree = await b.database.transaction(async (statements) => {
    await statements.query(lock(), [earlier!.assignment.aid])
    fetched = b.store.fetch({ callerSaeId: BOB, masterSaeId: ALICE, keyIds })
    await eventually('the fetch waits for the assignment', () => someoneWaits(b))
    return (await statements.query(lock('SKIP LOCKED'), [later!.assignment.aid])).length === 1
  })
  expect(laterWasFree).toBe(true)
  await expect(fetched).resolves.toMatchObject({ keys: [{}, {}] })
})

it('requests that may be repeated are issued in the order of their IDs', async () => {
  const { a, b } = stores
  const requestIds = [randomUUID(), randomUUID()].sort()
  const [first, second] = requestIds
  const insert = `INSERT INTO assignment (aid, role, peer_kme_id, state, master_sae_id, slave_sae_ids, size_bits, key_count, units, fetched,
    request_id, expires_at) VALUES ($1, 'issuer', 'kme-b', 'ISSUED', $2, '{}', 256, 0, '[]', ''::varbit, $3, now())`
  const claimed = [await claimUnits(a, [{ blockId: low, units: [0] }]), await claimUnits(a, [{ blockId: low, units: [2] }])]
  for (const one of claimed) await holdAt(b, one)
  let issued: Promise<PromiseSettledResult<void>[]> | undefined
  // Another process issues both requests, the first before the second, while this one is given them the other way round, in one batch.
  await a.database.transaction(async (statements: Pick<Database, 'query'>) => {
    await statements.query(insert, [randomUUID(), ALICE, first])
    issued = Promise.allSettled(
      claimed.map(({ assignment }, at) =>
        a.store.issue({ peerKmeId: KME_B, assignment, requestId: requestIds[1 - at], retryWindowS: 60 }),
      ),
    )
    await eventually('the issue waits for the request', () => someoneWaits(a))
    await statements.query(insert, [randomUUID(), ALICE, second])
  })
  // Neither was ended for a deadlock: both are told that the request was answered.
  const settled = await (issued as Promise<PromiseSettledResult<void>[]>)
  expect(settled.map((one) => one.status === 'rejected' && (one.reason as Error).name)).toEqual(['Conflict', 'Conflict'])
  const [{ deadlocks }] = (await a.database.query<{ deadlocks: number }>(
    `SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()`,
  )) as [{ deadlocks: number }]
  expect(deadlocks).toBe(0)
})
