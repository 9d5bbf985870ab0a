/** Many KMEs in one process, each with the whole topology slice, over a simulated network and clock. A link between two KMEs carries
 *  their messages too: when it fails, both are cut. */
import { createHash } from 'node:crypto'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import type { Random } from '../../src/kernel/random.ts'
import type { FloodingPartner, SignedStatement, TopologyDifference } from '../../src/peer/peer.ts'
import { createFlooding, type Flooding } from '../../src/topology/flood-topology.ts'
import { createLinkStateDatabase, type LinkStateDatabase } from '../../src/topology/link-state-database.ts'
import type { OwnIdentity } from '../../src/topology/own-statement.ts'
import type { SignerVerifier } from '../../src/topology/signer.ts'
import { writeStatement } from '../../src/topology/statement.ts'
import type { RouteFinder, StatementOutcome, TopologyDirectory } from '../../src/topology/topology.ts'
import type { TopologyStore } from '../../src/topology/topology-store.ts'
import { createTopologyView } from '../../src/topology/view-topology.ts'
import { createMemoryTopologyStore } from './memory-topology-store.ts'
import { SimulatedClock } from './simulated-clock.ts'

/** The same numbers for the same seed. */
export const seededRandom = (seed: number): Random & { below(bound: number): number; unit(): number } => {
  let state = seed >>> 0
  // Mulberry32.
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  const unit = (): number => next() / 2 ** 32
  return {
    unit,
    below: (bound) => Math.floor(unit() * bound),
    fill: (target) => {
      for (let i = 0; i < target.length; i += 1) target[i] = next() & 0xff
      return target
    },
    uuid: () => `00000000-0000-4000-8000-${next().toString(16).padStart(12, '0')}`,
  }
}

/** Stands in for ECDSA where thousands of statements are taken in by thousands of KMEs. */
const quickSignature = (kmeId: string, text: string): Buffer => createHash('sha1').update(`${kmeId}|${text}`).digest()
const hasQuicklySigned = (kmeId: string, { statement, signature }: SignedStatement): boolean =>
  quickSignature(kmeId, statement).equals(signature)
export const quickIdentity = (kmeId: KmeId): OwnIdentity => ({
  sign: (statement) => {
    const text = writeStatement(statement)
    return { statement: text, signature: quickSignature(kmeId, text), certificates: [Buffer.from(kmeId)] }
  },
  isCurrent: () => true,
})
/** In place of an authority that the first KME of a network does not trust. */
export const FOREIGN = Buffer.from('foreign')
const createQuickVerifier = (node: number): SignerVerifier => ({
  verify: ([certificate, authority]) => {
    if (node === 0 && authority?.equals(FOREIGN) === true) return undefined
    const kmeId = String(certificate) as KmeId
    return { kmeId, hasSigned: (signed) => hasQuicklySigned(kmeId, signed) }
  },
  isWhole: (signed) => hasQuicklySigned(String(signed.certificates[0]), signed),
})
/** Believes everything: for networks so large that even the hash would count. */
const trustingVerifier: SignerVerifier = {
  verify: ([certificate]) => ({ kmeId: String(certificate) as KmeId, hasSigned: () => true }),
  isWhole: () => true,
}

export interface SimulatedLink {
  readonly ends: readonly [number, number]
  /** Whether messages come through. */
  up: boolean
  /** Whether key comes in. */
  devicesUp: boolean
  keys: number
  rateBps: number
}

export interface SimulatedNode {
  readonly kmeId: KmeId
  readonly store: TopologyStore
  database: LinkStateDatabase
  view: TopologyDirectory & RouteFinder
  flooding: Flooding
  running: AbortController
}

export interface SimulationOptions {
  readonly nodes: number
  readonly links: readonly (readonly [number, number])[]
  readonly seed: number
  /** How long a message takes, at most and at least 1 ms; 5 to 50 ms unless told. */
  readonly latencyMs?: readonly [number, number]
  /** The part of the messages that arrive twice, the second time up to so much later. */
  readonly duplicates?: { readonly part: number; readonly lateMs: number }
  /** The first cannot call the second. */
  readonly oneWay?: readonly [number, number]
  /** The first can call the second, but not give it statements. */
  readonly deaf?: readonly [number, number]
  /** What is answered to comparisons. */
  readonly answered?: (truth: TopologyDifference) => TopologyDifference
  readonly isTrusting?: boolean
}

export interface Captured {
  readonly atMs: number
  readonly from: KmeId
  readonly to: number
  readonly statements: readonly SignedStatement[]
}

export const nodeName = (node: number): KmeId => `kme-${String(node).padStart(4, '0')}` as KmeId

/** A ring and chords across it, so that there is a way from each to each when nothing has failed. */
export const ringWithChords = (nodes: number, chords: number, seed: number): readonly (readonly [number, number])[] => {
  const random = seededRandom(seed)
  const links = new Map<string, readonly [number, number]>()
  const add = (one: number, other: number): void => {
    if (one !== other) links.set(`${Math.min(one, other)}-${Math.max(one, other)}`, [Math.min(one, other), Math.max(one, other)])
  }
  for (let node = 0; node < nodes; node += 1) add(node, (node + 1) % nodes)
  while (links.size < nodes + chords) add(random.below(nodes), random.below(nodes))
  return [...links.values()]
}

export type Simulation = ReturnType<typeof simulateNetwork>

export const simulateNetwork = (options: SimulationOptions) => {
  const clock = new SimulatedClock()
  const random = seededRandom(options.seed)
  const [leastMs, mostMs] = options.latencyMs ?? [5, 50]
  const log = createLogger('silent')
  const links = options.links.map((ends): SimulatedLink => ({ ends, up: true, devicesUp: true, keys: 1000, rateBps: 10_000 }))
  const linksOf: SimulatedLink[][] = Array.from({ length: options.nodes }, () => [])
  for (const link of links) for (const end of link.ends) linksOf[end]!.push(link)

  const counted = { statements: 0, comparison: 0, sentStatements: 0, outcomes: new Map<StatementOutcome, number>() }
  const audited: unknown[] = []
  let lastAcceptedMs = clock.nowMs()
  let capturing: Captured[] | undefined

  const latencyMs = (): number => leastMs + random.unit() * (mostMs - leastMs)
  const isUp = (one: number, other: number): boolean => linksOf[one]!.some(({ ends, up }) => up && ends.includes(other))
  /** Asks the other end, over a link that must be up all the time. */
  const ask = async <T>(from: number, to: number, call: () => Promise<T>): Promise<T> => {
    const cross = async (): Promise<void> => {
      await clock.sleep(latencyMs())
      if (!isUp(from, to)) throw new Error('the link failed')
    }
    await cross()
    const answer = await call()
    await cross()
    return answer
  }
  const deliver = (from: KmeId, to: number, statements: readonly SignedStatement[]): Promise<void> => {
    capturing?.push({ atMs: clock.nowMs(), from, to, statements })
    return nodes[to]!.flooding.receive(from, statements)
  }

  const partnerOf = (from: number, to: number): FloodingPartner => ({
    kmeId: nodeName(to),
    available: () => isUp(from, to) && !(options.oneWay?.[0] === from && options.oneWay[1] === to),
    sendStatements: (statements) => {
      counted.sentStatements += statements.length
      if (options.deaf?.[0] === from && options.deaf[1] === to) return Promise.reject(new Error('not taken'))
      const { duplicates } = options
      if (duplicates !== undefined && random.unit() < duplicates.part) {
        void clock.sleep(random.unit() * duplicates.lateMs).then(() => deliver(nodeName(from), to, statements))
      }
      return ask(from, to, () => deliver(nodeName(from), to, statements))
    },
    compareTopology: (sequences) =>
      ask(from, to, async () => {
        const truth = nodes[to]!.flooding.compare(sequences)
        return options.answered?.(truth) ?? truth
      }),
  })

  const start = async (node: number, store: TopologyStore): Promise<SimulatedNode> => {
    const kmeId = nodeName(node)
    const running = new AbortController()
    const verifier = options.isTrusting === true ? trustingVerifier : createQuickVerifier(node)
    const audit = { append: async (event: unknown) => void audited.push(event) }
    const database = createLinkStateDatabase({ store, verifier, audit, alarms: { raise: () => undefined }, clock })
    await database.load()
    const flooding = createFlooding({
      kmeId,
      database,
      store,
      partners: linksOf[node]!.map(({ ends: [one, other] }) => partnerOf(node, one === node ? other : one)),
      links: () =>
        linksOf[node]!.map(({ ends: [one, other], up, devicesUp, keys, rateBps }) => ({
          linkId: `${one}-${other}` as LinkId,
          peerKmeId: nodeName(one === node ? other : one),
          isUp: up && devicesUp,
          peerAnswers: up,
          availableKeys: keys,
          keyRateBps: rateBps,
        })),
      identity: quickIdentity(kmeId),
      processes: { hold: (_duty, work, signal) => work(signal) },
      counts: {
        message: (direction, kind) => {
          if (direction === 'sent') counted[kind] += 1
        },
        statement: (outcome) => {
          counted.outcomes.set(outcome, (counted.outcomes.get(outcome) ?? 0) + 1)
          if (outcome === 'accepted') lastAcceptedMs = clock.nowMs()
        },
      },
      clock,
      random,
      log,
      signal: running.signal,
    })
    // KMEs do not all look at the same moment.
    void clock.sleep(random.unit() * 1000).then(() => flooding.run(running.signal))
    return { kmeId, store, database, flooding, running, view: createTopologyView({ kmeId, database, clock }) }
  }
  const nodes: SimulatedNode[] = []

  const neighboursUp = (node: number): number[] =>
    linksOf[node]!.filter(({ up }) => up).map(({ ends: [one, other] }) => (one === node ? other : one))
  /** Nodes that can be reached from this one over links that are up. */
  const reachable = (from: number): ReadonlySet<number> => {
    const seen = new Set([from])
    for (const node of seen) for (const next of neighboursUp(node)) seen.add(next)
    return seen
  }

  return {
    clock,
    random,
    nodes,
    links,
    counted,
    audited,
    reachable,
    deliver,
    lastAcceptedMs: () => lastAcceptedMs,
    /** From now on keeps what is sent. */
    capture: (): readonly Captured[] => (capturing = []),
    begin: async (): Promise<void> => {
      for (let node = 0; node < options.nodes; node += 1) nodes.push(await start(node, createMemoryTopologyStore()))
    },
    /** Ends a KME and starts it again. @param store what it still knows; what it knew if left out. */
    restart: async (node: number, store: TopologyStore = nodes[node]!.store): Promise<void> => {
      nodes[node]!.running.abort()
      nodes[node] = await start(node, store)
    },
    /** Whether all KMEs that can reach each other know each other's newest statement, and each states its links as they are. */
    hasConverged: (): boolean => {
      const own = nodes.map(({ kmeId, database }) => database.newest(kmeId)?.statement)
      const statesTruth = (node: number): boolean =>
        linksOf[node]!.every(({ ends: [one, other], up }) =>
          own[node]?.links.some((stated) => stated.linkId === `${one}-${other}` && stated.up === up),
        )
      return nodes.every(({ database }, node) => {
        const sequences = database.sequences()
        const isKnown = (other: number): boolean => sequences.get(nodeName(other)) === own[other]?.sequence
        return statesTruth(node) && [...reachable(node)].every(isKnown)
      })
    },
    end: async (): Promise<void> => {
      for (const { running } of nodes) running.abort()
      await clock.run(0)
    },
  }
}
