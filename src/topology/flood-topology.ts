/** Spreads statements: this KME's own when its links change, and those of others from each peer to all other peers. Whatever was lost
 *  on the way is found when two KMEs compare what they know: when a peer comes back, and every minute.
 *  Holds: a statement goes from one KME to another once at most per version, because only what is newer is passed on: there are no
 *  loops; to one peer go at most ten messages a second; this KME states its links once a second at most. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import { drawUniform, type Random } from '../kernel/random.ts'
import type { FloodingPartner, SignedStatement, TopologyDifference } from '../peer/peer.ts'
import { NETWORK_KMES_MAX, STATEMENTS_PER_MESSAGE_MAX } from '../peer/wire.ts'
import type { Processes } from '../processes/processes.ts'
import type { Acceptance, Known, LinkStateDatabase } from './link-state-database.ts'
import { stateLinks, type LinkSight, type OwnIdentity } from './own-statement.ts'
import { SEQUENCE_AHEAD_MAX } from './statement.ts'
import type { LinkStateStatement, TopologyCounts } from './topology.ts'
import type { TopologyStore } from './topology-store.ts'

export interface FloodTopologyParts {
  readonly kmeId: KmeId
  readonly database: LinkStateDatabase
  readonly store: TopologyStore
  readonly partners: readonly FloodingPartner[]
  readonly links: () => readonly LinkSight[]
  readonly identity: OwnIdentity
  readonly processes: Pick<Processes, 'hold'>
  readonly counts: TopologyCounts
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  /** Ends what goes on in the background. */
  readonly signal: AbortSignal
}

export interface Flooding {
  /** Takes in what a peer sent, and passes on what is new. */
  receive(from: KmeId, statements: readonly (SignedStatement | undefined)[]): Promise<void>
  /** A peer tells what it knows. */
  compare(theirs: ReadonlyMap<KmeId, number>): TopologyDifference
  /** Another process of this KME took in something. */
  notice(): void
  run(signal: AbortSignal): Promise<void>
}

/** How long a statement of this KME is valid; it is made anew three times as often. */
const VALID_FOR_S = 900
const RENEW_AFTER_MS = (VALID_FOR_S * 1000) / 3
const STATE_INTERVAL_MS = 1000
/** What is to be sent to one peer waits so long for more. */
const BATCH_MS = 100
const WATCH_INTERVAL_MS = 500
const COMPARE_INTERVAL_MS = 60_000
/** After a comparison that failed, or statements that were not taken, although the peer answers. */
const COMPARE_AGAIN_MS = 5000
/** Enough for the largest network. */
const ROUNDS_MAX = Math.ceil(NETWORK_KMES_MAX / STATEMENTS_PER_MESSAGE_MAX)
/** For what was missed while nobody gave notice. */
const REFRESH_INTERVAL_MS = 5000
const PRUNE_INTERVAL_MS = 600_000

interface Channel {
  readonly partner: FloodingPartner
  /** KMEs whose newest statement the partner must be sent. */
  readonly waiting: Set<KmeId>
  isSending: boolean
  /** When to compare with it next, unless that goes on; at once when it was away. */
  compareAtMs: number
  isComparing: boolean
}

export const createFlooding = (parts: FloodTopologyParts): Flooding => {
  const { kmeId, database, clock, random, log, counts } = parts
  const channels = parts.partners.map((partner): Channel => ({
    partner,
    waiting: new Set(),
    isSending: false,
    compareAtMs: -Infinity,
    isComparing: false,
  }))
  let noticed = new AbortController()

  const sendWaiting = async (channel: Channel): Promise<void> => {
    const { partner, waiting } = channel
    if (channel.isSending) return
    channel.isSending = true
    try {
      for (;;) {
        await clock.sleep(BATCH_MS, parts.signal)
        if (parts.signal.aborted || !partner.available()) break
        const next = [...waiting].slice(0, STATEMENTS_PER_MESSAGE_MAX)
        if (next.length === 0) return
        for (const about of next) waiting.delete(about)
        const statements = database.signedOf(next)
        if (statements.length === 0) continue
        counts.message('sent', 'statements')
        await partner.sendStatements(statements)
      }
    } catch (error) {
      log.debug({ peer: partner.kmeId, error }, 'statements about the network were not delivered')
    } finally {
      channel.isSending = false
    }
    // What is lost here is found by comparing when the peer is back; soon, but not at once, when it was there all the time.
    waiting.clear()
    channel.compareAtMs = partner.available() ? clock.monotonicMs() + COMPARE_AGAIN_MS : -Infinity
  }

  const passOn = (about: readonly KmeId[], except?: KmeId): void => {
    if (about.length === 0) return
    for (const channel of channels) {
      if (channel.partner.kmeId === except || !channel.partner.available()) continue
      for (const one of about) channel.waiting.add(one)
      void sendWaiting(channel)
    }
  }

  /** @returns what became of each. */
  const takeIn = async (from: KmeId, statements: readonly (SignedStatement | undefined)[]): Promise<readonly Acceptance[]> => {
    const channel = channels.find(({ partner }) => partner.kmeId === from)
    const accepted: KmeId[] = []
    const acceptances: Acceptance[] = []
    try {
      for (const signed of statements) {
        const acceptance = await database.accept(signed, from)
        const { outcome, kmeId: about } = acceptance
        acceptances.push(acceptance)
        counts.statement(outcome)
        if (about === undefined) continue
        if (outcome === 'accepted') accepted.push(about)
        // It has what it sent: that need not go back.
        if (database.newest(about)?.signed.statement === signed?.statement) channel?.waiting.delete(about)
      }
    } finally {
      passOn(accepted, from)
    }
    return acceptances
  }

  const compareWith = async (channel: Channel): Promise<void> => {
    const { partner } = channel
    channel.isComparing = true
    channel.compareAtMs = Infinity
    /** What goes wrong meanwhile may bring it forward. */
    const compareIn = (ms: number): void => {
      channel.compareAtMs = Math.min(channel.compareAtMs, clock.monotonicMs() + ms)
    }
    /** Offered in this comparison, whatever became of it: what is refused must not hide what comes after it. */
    const offered = new Map<KmeId, number>()
    try {
      for (let round = 0; round < ROUNDS_MAX; round += 1) {
        counts.message('sent', 'comparison')
        const seen = new Map(database.sequences())
        for (const [about, sequence] of offered) seen.set(about, Math.max(sequence, seen.get(about) ?? 0))
        const { newer, wanted, more } = await partner.compareTopology(seen)
        const readable = (await takeIn(partner.kmeId, newer)).flatMap(({ kmeId: about, sequence }) =>
          about === undefined || sequence === undefined ? [] : [[about, sequence] as const],
        )
        const isFurther = readable.some(([about, sequence]) => sequence > (seen.get(about) ?? 0))
        for (const [about, sequence] of readable) offered.set(about, sequence)
        for (const about of wanted) channel.waiting.add(about)
        if (wanted.length > 0) void sendWaiting(channel)
        // Whoever says again what was not wanted has nothing else to say.
        if (!more || !isFurther) break
      }
      compareIn(COMPARE_INTERVAL_MS * (0.75 + drawUniform(random) / 2))
    } catch (error) {
      compareIn(COMPARE_AGAIN_MS)
      log.debug({ peer: partner.kmeId, error }, 'what is known of the network could not be compared')
    } finally {
      channel.isComparing = false
    }
  }

  const isDue = (own: Known | undefined, links: LinkStateStatement['links']): boolean => {
    if (own === undefined) return true
    const { issuedAtMs, links: stated } = own.statement
    const ageMs = clock.nowMs() - issuedAtMs
    // Stated by a clock that was ahead: nobody would believe it.
    const isStale = ageMs >= RENEW_AFTER_MS || ageMs < -STATE_INTERVAL_MS
    return isStale || JSON.stringify(links) !== JSON.stringify(stated) || !parts.identity.isCurrent(own.signed)
  }
  const stateOwn = async (): Promise<void> => {
    const own = database.newest(kmeId)
    const links = stateLinks(parts.links(), own?.statement.links ?? [])
    if (!isDue(own, links)) return
    const issuedAtMs = clock.nowMs()
    // Counting from the clock, a KME that lost its database is still newer than what it once said.
    const atLeast = Math.floor(issuedAtMs / 1000)
    const stored = await parts.store.putNext(kmeId, { atLeast, atMost: atLeast + SEQUENCE_AHEAD_MAX }, (sequence) =>
      parts.identity.sign({ version: 1, kmeId, sequence, issuedAtMs, validForS: VALID_FOR_S, links }),
    )
    database.adopt(stored)
    passOn([kmeId])
  }

  /** Does something every so often until `signal` aborts; failing costs only this time. */
  const every = async (
    intervalMs: number,
    what: string,
    work: () => Promise<void> | void,
    signal: AbortSignal,
    wake?: () => AbortSignal,
  ): Promise<void> => {
    let isFailing = false
    while (!signal.aborted) {
      try {
        await work()
        isFailing = false
      } catch (error) {
        if (!isFailing) log.warn({ error }, `${what}; trying again`)
        isFailing = true
      }
      await clock.sleep(intervalMs, wake === undefined ? signal : AbortSignal.any([signal, wake()]))
    }
  }

  /** Compares with every peer that came back, and with the others now and then. */
  const watchPartners = (): void => {
    for (const channel of channels) {
      if (!channel.partner.available()) channel.compareAtMs = -Infinity
      else if (!channel.isComparing && clock.monotonicMs() >= channel.compareAtMs) void compareWith(channel)
    }
  }

  return {
    receive: async (from, statements) => {
      counts.message('received', 'statements')
      await takeIn(from, statements)
    },
    compare: (theirs) => {
      counts.message('received', 'comparison')
      return database.difference(theirs)
    },
    notice: () => noticed.abort(),
    run: async (signal) => {
      const keepUp = async (held: AbortSignal): Promise<void> => {
        await Promise.all([
          every(STATE_INTERVAL_MS, 'the links of this KME could not be stated', stateOwn, held),
          every(WATCH_INTERVAL_MS, 'the peers could not be looked at', watchPartners, held),
          every(PRUNE_INTERVAL_MS, 'KMEs that are gone could not be forgotten', database.prune, held),
        ])
      }
      const refresh = (): Promise<void> => {
        noticed = new AbortController()
        return database.refresh()
      }
      await Promise.all([
        parts.processes.hold('topology', keepUp, signal),
        every(REFRESH_INTERVAL_MS, 'what is known of the network could not be read', refresh, signal, () => noticed.signal),
      ])
    },
  }
}
