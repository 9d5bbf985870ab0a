/** A small network in one process: each KME has a real key store on a database of its own and speaks to its peers through their
 *  wire format, so that a test sees every message and decides what becomes of it. Nothing runs on its own but what a test starts. */
import { createTestDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'
import type { Alarms } from '../../src/alarms/alarms.ts'
import { tellOfRefusals } from '../../src/alarms/tell-of-refusals.ts'
import { openKeyring } from '../../src/custody/prisma-keyring.ts'
import { createAuditLog } from '../../src/audit/prisma-audit-log.ts'
import type { Database } from '../../src/database/database.ts'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import type { BlockId, KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { KeyPool } from '../../src/key-pool/key-pool.ts'
import { createMemoryKeyPool } from '../../src/key-pool/memory-key-pool.ts'
import type { KeyStore, PadStore, RelayPolicy, ShareStore, UnitRun } from '../../src/key-store/key-store.ts'
import { createKeyStore } from '../../src/key-store/prisma-key-store.ts'
import { createBlockAgreement } from '../../src/link/agree-block.ts'
import type { PeerKme, RelayAnswer, RelayParcel, RelayPartner } from '../../src/peer/peer.ts'
import {
  readRelayAnswer,
  readRelayCheck,
  readRelayCheckAnswer,
  readRelayParcel,
  writeRelayAnswer,
  writeRelayCheck,
  writeRelayParcel,
} from '../../src/peer/wire.ts'
import { createRelay, type RunningRelay } from '../../src/relay/create-relay.ts'
import { createFixedRoutes } from '../../src/relay/fixed-routes.ts'
import type { RelaySettings } from '../../src/relay/relay.ts'
import type { RouteFinder } from '../../src/topology/topology.ts'
import { UNSHARED } from '../key-pool/key-pool.contract.ts'
import { padViolations, readBooks, type Message } from './pad-books.ts'

export const UNIT_BYTES = 32
export const kme = (name: string): KmeId => `kme-${name}` as KmeId
export const A = kme('a')
export const B = kme('b')
export const C = kme('c')
export const D = kme('d')
const silent = createLogger('silent')

/** A parcel on its way, as whoever listens sees it. */
export interface Caught {
  readonly from: KmeId
  readonly to: KmeId
  readonly parcel: RelayParcel
}

/** A call to the key store, before it begins or after all of it is durable. */
export interface Step {
  readonly kmeId: KmeId
  readonly call: string
  readonly when: 'before' | 'after'
}

/** What becomes of parcels; `forward` carries one to its receiver. */
export type Carrier = (caught: Caught, forward: (parcel?: RelayParcel) => Promise<RelayAnswer>) => Promise<RelayAnswer>

export interface Node {
  readonly kmeId: KmeId
  readonly database: Database
  readonly store: KeyStore & PadStore & ShareStore
  readonly pool: KeyPool
  readonly relay: RunningRelay
  readonly alarms: Map<string, string>
  readonly life: Life
}

/** Of one process. */
interface Life {
  dead: boolean
  /** Rejects when it is killed. */
  readonly end: Promise<never>
  readonly kill: () => void
}

const beginLife = (): Life => {
  const { promise: end, reject } = Promise.withResolvers<never>()
  void end.catch(() => undefined)
  const life: Life = {
    dead: false,
    end,
    kill: () => {
      life.dead = true
      reject(new CallFailed('was killed', true))
    },
  }
  return life
}
/** What the dead wait for. */
const never = (): Promise<never> => new Promise(() => undefined)

/** What a process does; once it is dead nothing comes of it. */
const whileAlive = async <T>(life: Life, work: () => Promise<T>): Promise<T> => {
  if (life.dead) return never()
  try {
    const result = await work()
    return life.dead ? await never() : result
  } catch (error) {
    if (life.dead) return never()
    throw error
  }
}

export interface RelayWorld extends AsyncDisposable {
  node(kmeId: KmeId): Node
  /** `kill -9`: nothing that is under way in it goes on, and nobody hears of it again until `restart`. */
  kill(kmeId: KmeId): void
  /** Begins a KME anew on its database; what goes on in another process of it, if it was not killed, goes on. */
  restart(kmeId: KmeId): Promise<void>
  /** Looks on from now on. */
  watch(onStep: (step: Step) => void): void
  /** A KME that does not answer. */
  readonly away: Set<KmeId>
  /** A KME that is asked whether it could relay and does not say. */
  readonly mute: Set<KmeId>
  /** Every parcel any KME sent, repetitions included. */
  readonly caught: Caught[]
  /** The blocks, or shares of blocks, that a KME saw in clear. */
  seenBy(kmeId: KmeId): Buffer[]
  /** Carries parcels from now on. */
  carry(carrier: Carrier): void
  /** Puts a block of link key at both ends. */
  addLinkKey(one: KmeId, other: KmeId, units: number): Promise<BlockId>
  count(kmeId: KmeId, from: string): Promise<number>
}

export interface RelayWorldOptions {
  readonly links: readonly (readonly [KmeId, KmeId])[]
  readonly routes: (kmeId: KmeId) => RouteFinder
  readonly settings?: Partial<RelaySettings>
  readonly policy?: Partial<RelayPolicy>
  readonly clock?: Clock
  readonly highWatermark?: number
  readonly criticalWatermark?: number
}

export const SETTINGS: RelaySettings = { floorKeys: 0, blockKeys: 8, maxHops: 16, deadlineMs: 10_000 }

/** Ways along a line of KMEs. */
export const alongLine = (line: readonly KmeId[]) => (): RouteFinder => ({
  routes: ({ from, to }) => {
    const [start, end] = [line.indexOf(from), line.indexOf(to)]
    return [start < end ? line.slice(start, end + 1) : line.slice(end, start + 1).reverse()]
  },
})

export const startWorld = async (options: RelayWorldOptions): Promise<RelayWorld> => {
  const { clock = systemClock } = options
  const kmeIds = [...new Set(options.links.flat())]
  const nodes = new Map<KmeId, Node>()
  const databases = new Map<KmeId, TestDatabase>()
  const opened: Database[] = []
  const away = new Set<KmeId>()
  const mute = new Set<KmeId>()
  const caught: Caught[] = []
  const padsRedeemed = new Map<string, Buffer>()
  let carrier: Carrier = (_caught, forward) => forward()
  let onStep: (step: Step) => void = () => undefined

  const neighboursOf = (kmeId: KmeId): KmeId[] =>
    options.links.flatMap(([one, other]) => (one === kmeId ? [other] : other === kmeId ? [one] : []))
  const nodeOf = (kmeId: KmeId): Node => nodes.get(kmeId)!
  const reach = (kmeId: KmeId): Node => {
    if (away.has(kmeId)) throw new CallFailed('is away', true)
    const node = nodeOf(kmeId)
    if (node.life.dead) throw new CallFailed('is gone', true)
    return node
  }
  /** One KME asks another: neither hears anything when either is killed meanwhile. */
  const ask = <T>(life: Life, to: KmeId, work: (node: Node) => Promise<T>): Promise<T> =>
    whileAlive(life, async () => {
      const node = reach(to)
      return Promise.race([node.life.end, work(node)])
    })

  const partnerOf = (life: Life, from: KmeId, to: KmeId): RelayPartner => ({
    kmeId: to,
    available: () => !away.has(to),
    relay: (parcel, withinMs) => {
      if (life.dead) return never()
      const sent: Caught = { from, to, parcel }
      caught.push(sent)
      const finished = new AbortController()
      const late = clock.sleep(withinMs, finished.signal).then(() => {
        throw new CallFailed('no answer in time', true)
      })
      const answered = carrier(sent, async (other = parcel) => {
        const received = readRelayParcel(JSON.parse(JSON.stringify(writeRelayParcel(other))))
        const answer = await ask(life, to, (node) => node.relay.acceptor.accept(from, received))
        return readRelayAnswer(other.relayId, JSON.parse(JSON.stringify(writeRelayAnswer(received.relayId, answer))))
      })
      void late.catch(() => undefined)
      return Promise.race([late, answered]).finally(() => finished.abort())
    },
    checkRelay: async (check) => {
      if (mute.has(to)) {
        await clock.sleep(check.budgetMs)
        throw new CallFailed('no answer in time', true)
      }
      const received = readRelayCheck(JSON.parse(JSON.stringify(writeRelayCheck(check))))
      const answer = await ask(life, to, (node) => node.relay.acceptor.check(from, received))
      return readRelayCheckAnswer(JSON.parse(JSON.stringify(answer)))
    },
  })
  const peerOf = (life: Life, from: KmeId, to: KmeId): PeerKme => {
    const unused = (): never => {
      throw new Error('not part of these tests')
    }
    return {
      kmeId: to,
      available: () => !away.has(to),
      assign: ({ assignment, commitment }) => ask(life, to, ({ store }) => store.hold(from, assignment, commitment)),
      abort: unused,
      retire: ({ aid, units }) =>
        ask(life, to, async ({ store }) => {
          await store.voidAssignment(from, aid)
          await store.retire(from, units)
          return 'retired' as const
        }),
      confirmBlock: (proposal) =>
        ask(
          life,
          to,
          async ({ relay }) => (await relay.agreement(proposal.linkId, from)?.answer(proposal)) ?? { outcome: 'unknown' },
        ),
      requestLoan: unused,
      sendFallbackBlock: unused,
    }
  }

  /** The key store of one process, whose every call is seen and none of which gives anything to the dead. */
  const watched = (kmeId: KmeId, life: Life, store: Node['store']): Node['store'] =>
    new Proxy(store, {
      get: (target, call, self) => {
        const method: unknown = Reflect.get(target, call, self)
        if (typeof method !== 'function' || call === 'availableUnits') return method
        const step = (when: Step['when']): void => {
          if (!life.dead) onStep({ kmeId, call: String(call), when })
        }
        return async (...given: unknown[]) => {
          step('before')
          const answer: unknown = await whileAlive(life, () => Reflect.apply(method, target, given) as Promise<unknown>)
          step('after')
          return life.dead ? never() : answer
        }
      },
    })

  const start = async (kmeId: KmeId): Promise<void> => {
    const life = beginLife()
    const database = openTestDatabase(databases.get(kmeId)!.url, 8, { clock })
    opened.push(database)
    using passphrase = SecretBytes.take(Buffer.from(`passphrase of ${kmeId}`))
    const keyring = await openKeyring({
      database,
      random: systemRandom,
      kmeId,
      passphrase,
      argon2MemoryKib: 8192,
      argon2Passes: 1,
    })
    const unitSizeBits = 8 * UNIT_BYTES
    const stored = createKeyStore({ database, keyring, kmeId, unitSizeBits, retryWindowS: 60, processId: systemRandom.uuid() })
    const { redeemPad } = stored
    stored.redeemPad = (redemption) =>
      redeemPad({
        ...redemption,
        decrypt: (pad) => {
          padsRedeemed.set(`${kmeId} ${redemption.relayId}`, Buffer.from(pad))
          return redemption.decrypt(pad)
        },
      })
    const store = watched(kmeId, life, stored)
    const pool = createMemoryKeyPool({ policy: UNSHARED, clock })
    await pool.rebuild(store.availableUnits())
    const alarms = new Map<string, string>()
    const alarmed: Alarms = {
      raise: (name, _severity, text) => void alarms.set(name, text),
      clear: (name) => void alarms.delete(name),
    }
    const neighbours = neighboursOf(kmeId)
    const highWatermark = options.highWatermark ?? 1000
    const peers = { named: (other: KmeId) => peerOf(life, kmeId, other), statuses: () => [] }
    const relay = createRelay({
      kmeId,
      settings: { ...SETTINGS, ...options.settings },
      policyOf: () => ({ paths: 1, endToEnd: false, maxHops: 16, avoid: [], only: undefined, ...options.policy }),
      routes: options.routes(kmeId),
      neighbours,
      distantPeers: kmeIds.filter((other) => other !== kmeId && !neighbours.includes(other)),
      partner: (other) => (kmeIds.includes(other) ? partnerOf(life, kmeId, other) : undefined),
      agreementWith: (ends) =>
        createBlockAgreement({
          ...ends,
          kmeId,
          store,
          peers,
          clock,
          log: silent,
          onAgreed: () => undefined,
          onDiscarded: () => undefined,
        }),
      store,
      pool,
      ceilings: { ceilingKeys: () => highWatermark, ask: async () => undefined, full: () => undefined, onAsk: () => undefined },
      marksOf: () => ({ highWatermark, lowWatermark: 10, criticalWatermark: options.criticalWatermark ?? 2 }),
      processes: { hold: (_duty, work, signal) => work(signal) },
      unitSizeBits,
      audit: tellOfRefusals(createAuditLog(database), alarmed, clock),
      alarms: alarmed,
      random: systemRandom,
      clock,
      log: silent,
    })
    nodes.set(kmeId, { kmeId, database, store, pool, relay, alarms, life })
  }

  for (const kmeId of kmeIds) databases.set(kmeId, await createTestDatabase())
  await Promise.all(kmeIds.map(start))

  return {
    node: nodeOf,
    kill: (kmeId) => nodeOf(kmeId).life.kill(),
    restart: async (kmeId) => {
      const { life, database } = nodeOf(kmeId)
      await start(kmeId)
      if (!life.dead) return
      opened.splice(opened.indexOf(database), 1)
      await database[Symbol.asyncDispose]()
    },
    watch: (watcher) => {
      onStep = watcher
    },
    away,
    mute,
    caught,
    seenBy: (kmeId) =>
      caught.flatMap(({ to, parcel }) => {
        const pad = padsRedeemed.get(`${to} ${parcel.relayId}`)
        return to !== kmeId || pad === undefined ? [] : [Buffer.from(parcel.ciphertext.map((byte, i) => byte ^ pad[i]!))]
      }),
    carry: (next) => {
      carrier = next
    },
    addLinkKey: async (one, other, units) => {
      const blockId = systemRandom.uuid() as BlockId
      const bytes = systemRandom.fill(Buffer.alloc(32 + units * UNIT_BYTES))
      for (const [kmeId, peerKmeId] of [
        [one, other],
        [other, one],
      ] as const) {
        const { store, pool } = nodeOf(kmeId)
        await store.deposit({
          blockId,
          linkId: [one, other].sort().join('-') as LinkId,
          deviceBlock: blockId,
          peerKmeId,
          issuedHere: kmeId < peerKmeId ? 'even' : 'odd',
          key: SecretBytes.take(Buffer.from(bytes)),
        })
        await pool.offer((await store.release(blockId))!)
      }
      return blockId
    },
    count: async (kmeId, from) =>
      (await nodeOf(kmeId).database.query<{ count: number }>(`SELECT count(*)::int AS count FROM ${from}`))[0]!.count,
    [Symbol.asyncDispose]: async () => {
      for (const database of opened) await database[Symbol.asyncDispose]()
      for (const database of databases.values()) await database.drop()
    },
  }
}

/** kme-a - kme-b - kme-c with so much key on each link. */
export const startLine = async (options: Partial<RelayWorldOptions> & { readonly units?: number } = {}): Promise<RelayWorld> => {
  const line = [A, B, C]
  const world = await startWorld({
    links: [
      [A, B],
      [B, C],
    ],
    routes: alongLine(line),
    ...options,
  })
  await world.addLinkKey(A, B, options.units ?? 200)
  await world.addLinkKey(B, C, options.units ?? 200)
  return world
}

/** kme-a and kme-c, joined by kme-b and by kme-d, with so many blocks of so much key on each link. */
export const startDiamond = async (
  options: Partial<RelayWorldOptions> & { readonly units?: number; readonly blocks?: number } = {},
): Promise<RelayWorld> => {
  const { units = 100, blocks = 1 } = options
  const links = [
    [A, B],
    [B, C],
    [A, D],
    [D, C],
  ] as const
  const routes = (kmeId: KmeId): RouteFinder =>
    createFixedRoutes(
      kmeId,
      [B, D].map((via) => ({ to: kmeId === A ? C : A, via: [via] })),
    )
  const world = await startWorld({ links, routes, ...options })
  for (const [one, other] of links) for (let block = 0; block < blocks; block += 1) await world.addLinkKey(one, other, units)
  return world
}

/** Keys that one end issues and the other fetches: the bytes at both ends, as text. */
export const issueAcross = async (
  world: RelayWorld,
  from: KmeId,
  to: KmeId,
  number: number,
): Promise<{ readonly issued: string; readonly fetched: string }> => {
  const taken = await world.node(from).pool.take(to, 'alice', number)
  if (!('units' in taken)) throw new Error(`there are ${taken.missing} too few keys`)
  return issueUnits(world, from, to, taken.units)
}

/** The same, of certain units. */
export const issueUnits = async (
  world: RelayWorld,
  from: KmeId,
  to: KmeId,
  units: readonly UnitRun[],
): Promise<{ readonly issued: string; readonly fetched: string }> => {
  const [origin, holder] = [world.node(from), world.node(to)]
  const assignment = {
    aid: systemRandom.uuid() as never,
    masterSaeId: 'alice' as never,
    slaveSaeIds: ['carol' as never],
    sizeBits: 256,
    keyIds: Array.from({ length: unitsOf(units) }, () => systemRandom.uuid() as never),
    units,
    ttlS: 60,
  }
  const claim = await origin.store.claim({ peerKmeId: to, assignment })
  if (claim === 'conflict') throw new Error('the units are not free')
  const held = await holder.store.hold(from, assignment, claim.commitment)
  if (held.outcome !== 'held') throw new Error(`not held: ${held.reason}`)
  await origin.store.issue({ peerKmeId: to, assignment, requestId: undefined, retryWindowS: 60 })
  const fetched = await holder.store.fetch({
    callerSaeId: 'carol' as never,
    masterSaeId: 'alice' as never,
    keyIds: assignment.keyIds,
  })
  const hex = (bytes: SecretBytes): string => bytes.use((buffer) => buffer.toString('hex'))
  return { issued: hex(claim.material.bytes), fetched: hex(fetched.bytes) }
}

const messageOf = ({ from, to, parcel }: Caught): Message => ({
  from,
  to,
  relayId: parcel.relayId,
  pad: parcel.pad,
  secretPart: `${parcel.ciphertext.toString('hex')} ${parcel.mac.toString('hex')}`,
})

/** I33 in all that was caught. @returns what is wrong, nothing if nothing is. */
export const padsUsedTwice = (caught: readonly Caught[]): string[] => padViolations(caught.map(messageOf), [])

/** The same, and in all databases. */
export const padViolationsIn = async (world: RelayWorld, kmeIds: readonly KmeId[]): Promise<string[]> => {
  const books = kmeIds.map((kmeId) => readBooks(kmeId, (sql) => world.node(kmeId).database.query(sql)))
  return padViolations(world.caught.map(messageOf), await Promise.all(books))
}

export const unitsOf = (runs: readonly UnitRun[]): number => runs.reduce((sum, run) => sum + run.units.length, 0)
