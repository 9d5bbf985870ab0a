/** Two real key stores, each on a database of its own, with the same blocks at both ends of a link: kme-a, where `alice` and
 *  `carol` live, and kme-b, where `bob` lives. The ends speak through a loop-back PeerKme, so that a test decides what happens
 *  between any two steps of a request. Nothing runs on its own: a test settles when it wants to. */
import { createAuditLog } from '../../src/audit/prisma-audit-log.ts'
import { openKeyring } from '../../src/custody/prisma-keyring.ts'
import type { Database } from '../../src/database/database.ts'
import type { DeliveryLimits, SaeDirectory } from '../../src/delivery/delivery.ts'
import type { DeliveredKeys } from '../../src/delivery/key-container.ts'
import type { KeyRequest } from '../../src/delivery/key-request.ts'
import { NO_EXTENSIONS } from '../../src/delivery/extensions.ts'
import { makeGetKey, type GetKey, type GetKeyParts } from '../../src/delivery/get-key.ts'
import { createSettlement, type Settlement } from '../../src/delivery/settle-reservations.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import type { AssignmentId, BlockId, KeyId, KmeId, LinkId, SaeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { KeyPool } from '../../src/key-pool/key-pool.ts'
import { UNSHARED } from '../key-pool/key-pool.contract.ts'
import { createMemoryKeyPool } from '../../src/key-pool/memory-key-pool.ts'
import type {
  Assignment,
  AvailableUnits,
  Claim,
  FetchedKeys,
  IssuedHere,
  KeyStore,
  ReceivedKeyStore,
  UnitRun,
} from '../../src/key-store/key-store.ts'
import { createKeyStore } from '../../src/key-store/prisma-key-store.ts'
import type { PeerDirectory, PeerKme } from '../../src/peer/peer.ts'
import { createTestDatabase, openTestDatabase } from '../setup/test-database.ts'

export const KME_A = 'kme-a' as KmeId
export const KME_B = 'kme-b' as KmeId
export const ALICE = 'alice' as SaeId
export const BOB = 'bob' as SaeId
export const CAROL = 'carol' as SaeId

export const silent = createLogger('silent')

export const UNIT_SIZE_BITS = 256
const UNIT_BYTES = UNIT_SIZE_BITS / 8
const LINK = 'link' as LinkId
export const BURN_AFTER_S = 600

const limits: DeliveryLimits = {
  keySizeBits: UNIT_SIZE_BITS,
  minKeySizeBits: 64,
  maxKeySizeBits: 4096,
  maxKeysPerRequest: 128,
  maxStoredKeys: 100_000,
  maxSaeIdCount: 4,
  heldForS: 86_400,
  retryWindowS: 60,
  lendFloorKeys: () => 0,
}

/** A process of one KME: its store, and the database the store speaks to. */
export interface End {
  readonly kmeId: KmeId
  readonly peerKmeId: KmeId
  readonly processId: string
  readonly store: KeyStore & ReceivedKeyStore
  readonly database: Database
}

export interface EndOptions {
  readonly connections?: number
  /** Puts something between the store and its database. */
  readonly database?: (real: Database) => Database
}

export interface TwoStores extends AsyncDisposable {
  /** kme-a and kme-b. */
  readonly a: End
  readonly b: End
  /** Another process on the database of `end`. */
  anotherProcess(end: End, options?: EndOptions): Promise<End>
}

/** A process of a KME. @param peerKmeId the KME at the other end of its link. */
export const openEnd = async (kmeId: KmeId, peerKmeId: KmeId, url: string, options: EndOptions = {}): Promise<End> => {
  const real = openTestDatabase(url, options.connections ?? 12)
  const passphrase = SecretBytes.take(Buffer.from('correct horse battery staple'))
  const keyring = await openKeyring({
    database: real,
    random: systemRandom,
    kmeId,
    passphrase,
    argon2MemoryKib: 8192,
    argon2Passes: 1,
  })
  const database = options.database?.(real) ?? real
  const processId = systemRandom.uuid()
  const store = createKeyStore({
    database,
    keyring,
    kmeId,
    unitSizeBits: UNIT_SIZE_BITS,
    retryWindowS: limits.retryWindowS,
    processId,
  })
  return { kmeId, peerKmeId, processId, store, database: real }
}

export const openTwoStores = async (): Promise<TwoStores> => {
  const databases = { [KME_A]: await createTestDatabase(), [KME_B]: await createTestDatabase() }
  const opened: Database[] = []

  const open = async (kmeId: KmeId, options: EndOptions = {}): Promise<End> => {
    const end = await openEnd(kmeId, kmeId === KME_A ? KME_B : KME_A, databases[kmeId]!.url, options)
    opened.push(end.database)
    return end
  }

  return {
    a: await open(KME_A),
    b: await open(KME_B),
    anotherProcess: (end, options) => open(end.kmeId, options),
    [Symbol.asyncDispose]: async () => {
      for (const database of opened) await database[Symbol.asyncDispose]()
      for (const database of Object.values(databases)) await database.drop()
    },
  }
}

/** One block at both ends, not released at either: `a` issues its even units, `b` the odd ones. */
export const depositBlock = async ({ a, b }: Pick<TwoStores, 'a' | 'b'>, unitCount: number): Promise<BlockId> => {
  const blockId = systemRandom.uuid() as BlockId
  const bytes = systemRandom.fill(Buffer.alloc(UNIT_BYTES + unitCount * UNIT_BYTES))
  const depositAt = (end: End, issuedHere: IssuedHere): Promise<unknown> =>
    end.store.deposit({
      blockId,
      linkId: LINK,
      deviceBlock: blockId,
      peerKmeId: end.peerKmeId,
      issuedHere,
      key: SecretBytes.take(Buffer.from(bytes)),
    })
  await depositAt(a, 'even')
  await depositAt(b, 'odd')
  return blockId
}

/** INGESTED to AVAILABLE at one end. */
export const releaseAt = async (end: End, blockId: BlockId): Promise<AvailableUnits> => {
  const units = await end.store.release(blockId)
  if (units === undefined) throw new Error('the block was released before')
  return units
}

/** A block that both ends may use. */
export const addBlock = async (stores: Pick<TwoStores, 'a' | 'b'>, unitCount: number): Promise<BlockId> => {
  const blockId = await depositBlock(stores, unitCount)
  await releaseAt(stores.a, blockId)
  await releaseAt(stores.b, blockId)
  return blockId
}

/** The KME at `end`, called by the KME at its other end as its peer API would be; `instead` replaces calls. */
export const loopBackPeer = (end: End, instead: Partial<PeerKme> = {}): PeerKme => {
  const { kmeId, peerKmeId: caller, store } = end
  return {
    kmeId,
    available: () => true,
    assign: ({ assignment, commitment, difference }) => store.hold(caller, assignment, commitment, difference),
    abort: async (aid) => (await store.voidAssignment(caller, aid)).outcome,
    retire: async ({ aid, units }) => {
      await store.voidAssignment(caller, aid)
      await store.retire(caller, units)
      return 'retired'
    },
    confirmBlock: () => Promise.resolve({ outcome: 'unknown' }),
    requestLoan: () => Promise.resolve([]),
    sendFallbackBlock: () => Promise.resolve('refused'),
    ...instead,
  }
}

/** The only peers a KME has. */
export const onlyPeers = (...peers: readonly PeerKme[]): PeerDirectory => ({
  named: (kmeId) => peers.find((peer) => peer.kmeId === kmeId),
  statuses: () => [],
})

const everybodyShares = (homeOf: (saeId: SaeId) => KmeId): SaeDirectory => ({
  find: (saeId) => ({ saeId, kmeId: homeOf(saeId), enabled: true, sharesWith: [] }),
  mayShare: () => true,
  list: () => [],
  register: () => Promise.resolve(),
  setEnabled: () => Promise.resolve(),
  setPair: () => Promise.resolve(),
  reload: () => Promise.resolve(),
  onChange: () => undefined,
})

/** What answers SAEs at one end. */
export interface Delivery {
  readonly pool: KeyPool
  readonly settlement: Settlement
  readonly getKey: GetKey
}

export interface DeliveryOptions {
  /** What to use instead of the end's own store. */
  readonly store?: KeyStore
  readonly clock?: Clock
  /** Where SAEs are; bob at kme-b and all others at kme-a if left out. */
  readonly homeOf?: (saeId: SaeId) => KmeId
  /** None if left out. */
  readonly takeFallback?: GetKeyParts['takeFallback']
}

const homeOfTwo = (saeId: SaeId): KmeId => (saeId === BOB ? KME_B : KME_A)

export const startDelivery = async (
  end: End,
  peer: PeerKme | readonly PeerKme[],
  {
    store = end.store,
    clock = systemClock,
    homeOf = homeOfTwo,
    takeFallback = () => Promise.resolve(undefined),
  }: DeliveryOptions = {},
): Promise<Delivery> => {
  const pool = createMemoryKeyPool({ policy: UNSHARED, clock })
  const peers = onlyPeers(...[peer].flat())
  const onBurnt = (): void => undefined
  const neighbours = { named: () => undefined }
  const settlement = createSettlement({ store, pool, peers, neighbours, burnAfterS: BURN_AFTER_S, onBurnt, clock, log: silent })
  const getKey = makeGetKey({
    kmeId: end.kmeId,
    directory: everybodyShares(homeOf),
    pool,
    store,
    peers,
    neighbours,
    limits,
    settlement,
    borrow: () => Promise.resolve(false),
    takeFallback,
    takeRelayed: () => Promise.resolve('not-relayed'),
    relayPolicyOf: () => undefined,
    retryAfterS: () => 2,
    accountOf: (masterSaeId) => masterSaeId,
    audit: createAuditLog(end.database),
    clock,
    random: systemRandom,
    log: silent,
  })
  await pool.rebuild(store.availableUnits())
  return { pool, settlement, getKey }
}

/** One key of the size of a unit. */
export const oneKey: KeyRequest = {
  number: 1,
  sizeBits: UNIT_SIZE_BITS,
  additionalSlaveSaeIds: [],
  extensions: NO_EXTENSIONS,
}

/** An assignment of one key per unit, claimed at `end`, its offer not yet sent. */
export interface Claimed {
  readonly assignment: Assignment
  readonly claim: Claim
}

export const claimUnits = async (end: End, units: readonly UnitRun[], ttlS = limits.heldForS): Promise<Claimed> => {
  const assignment: Assignment = {
    aid: systemRandom.uuid() as AssignmentId,
    masterSaeId: end.kmeId === KME_A ? ALICE : BOB,
    slaveSaeIds: [end.kmeId === KME_A ? BOB : ALICE],
    sizeBits: UNIT_SIZE_BITS,
    keyIds: units.flatMap((run) => run.units.map(() => systemRandom.uuid() as KeyId)),
    units,
    ttlS,
  }
  const claim = await end.store.claim({ peerKmeId: end.peerKmeId, assignment })
  if (claim === 'conflict') throw new Error('the units are not free')
  return { assignment, claim }
}

/** @returns how the other end answered. */
export const holdAt = async (holder: End, { assignment, claim }: Claimed): Promise<string> =>
  (await holder.store.hold(holder.peerKmeId, assignment, claim.commitment)).outcome

export const issueAt = (issuer: End, { assignment }: Claimed): Promise<void> =>
  issuer.store.issue({ peerKmeId: issuer.peerKmeId, assignment, requestId: undefined, retryWindowS: limits.retryWindowS })

/** Method "Get key with key IDs" of the slave SAE of an assignment. */
export const fetchAt = (holder: End, { assignment }: Pick<Claimed, 'assignment'>): Promise<FetchedKeys> =>
  holder.store.fetch({
    callerSaeId: assignment.slaveSaeIds[0]!,
    masterSaeId: assignment.masterSaeId,
    keyIds: assignment.keyIds,
  })

/** What bob gets at kme-b for keys that `master` was given at kme-a. */
export const fetchForBob = (holder: End, master: SaeId, delivered: DeliveredKeys): Promise<FetchedKeys> =>
  holder.store.fetch({ callerSaeId: BOB, masterSaeId: master, keyIds: delivered.keys.map((key) => key.keyId) })

/** Keys as text, to compare them. */
export const hexOf = ({ bytes }: { readonly bytes: SecretBytes }): string => bytes.use((buffer) => buffer.toString('hex'))

/** What the database of `end` says about a block. */
export interface BlockRow extends Record<string, unknown> {
  readonly state: string
  readonly taken: number
  readonly done: number
  /** Whether material or a key that opens it is left. */
  readonly has_material: boolean
}

export const blockAt = async (end: End, blockId: BlockId): Promise<BlockRow> => {
  const rows = await end.database.query<BlockRow>(
    `SELECT state, bit_count(taken)::int AS taken, bit_count(done)::int AS done,
       sealed IS NOT NULL OR sealed_tag_key IS NOT NULL OR wrapped_dek IS NOT NULL AS has_material
     FROM key_block WHERE block_id = $1`,
    [blockId],
  )
  return rows[0]!
}

/** How many rows of a kind `end` has. @param from what follows FROM. */
export const countAt = async (end: End, from: string): Promise<number> => {
  const rows = await end.database.query<{ count: number }>(`SELECT count(*)::int AS count FROM ${from}`)
  return rows[0]!.count
}

/** A point that one side waits at until the other opens it. */
export interface Gate {
  /** Whoever must wait calls this. */
  pass(): Promise<void>
  /** Resolves when somebody waits. */
  readonly reached: Promise<void>
  open(): void
}

export const createGate = (): Gate => {
  const reached = Promise.withResolvers<undefined>()
  const opened = Promise.withResolvers<undefined>()
  return {
    pass: async () => {
      reached.resolve(undefined)
      await opened.promise
    },
    reached: reached.promise,
    open: () => opened.resolve(undefined),
  }
}
