/** Looks each second at what may be wrong and raises or clears the alarms of it. It remembers nothing but since when something is
 *  wrong: what is raised is read from the alarms themselves, so that it may go on in another process.
 *  Two sorts: a condition is cleared when it is over; an incident, which has no end of its own, is cleared some time after. */
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import type { AlarmDirectory, Alarms, AlarmSeverity } from './alarms.ts'

/** What is looked at of a link. */
export interface LinkSight {
  readonly linkId: string
  readonly peerKmeId: string
  readonly state: string
  readonly reason: string | undefined
}

/** What is looked at of a peer. */
export interface PeerSight {
  readonly kmeId: string
  readonly available: boolean
}

/** What is looked at of a revocation list. */
export interface RevocationListSight {
  /** The setting that names its file. */
  readonly setting: string
  /** Milliseconds since 1970. */
  readonly nextUpdateMs: number
}

interface WatchParts {
  readonly alarms: Alarms & AlarmDirectory
  readonly clock: Clock
}

export interface WatchConditionsParts extends WatchParts {
  readonly links: () => readonly LinkSight[]
  readonly peers: () => readonly PeerSight[]
  readonly revocationLists: () => readonly RevocationListSight[]
  /** KMEs there is a pool for. */
  readonly pools: () => readonly string[]
  /** Always true where there is no Redis. */
  readonly redisAnswers: () => boolean
  /** How many processes of this KME are alive; 0 where there is Redis. */
  readonly processesWithoutRedis: () => number
  readonly log: Logger
}

export interface WatchDatabaseParts extends WatchParts {
  /** Never rejects. */
  readonly databaseAnswers: () => Promise<boolean>
}

const INTERVAL_MS = 1000
/** What is over sooner is not worth an alarm. */
const GRACE_MS = 10_000
const DAY_MS = 86_400_000

/** How long an incident stays raised, by the first word of its name. */
const incidentsLastMs: Readonly<Record<string, number>> = {
  'link.qber': 300_000,
  'keys.burnt': 600_000,
  'pool.fallback': 300_000,
  'pool.fallback-refused': 300_000,
  'topology.refused': 300_000,
  'peer.message-refused': 600_000,
  'peer.not-approved': 300_000,
  'peer.request-refused': 600_000,
  'link.blocks-differ': 300_000,
  'relay.pad': 600_000,
}

/** A block was refused because of its error rate. */
export const raiseQber = (
  alarms: Alarms,
  seen: { readonly linkId: string; readonly peerKmeId: string; readonly qber: number; readonly qberMax: number },
): void =>
  alarms.raise(
    `link.qber:${seen.linkId}`,
    'critical',
    `link ${seen.linkId}: the error rate of a block is ${seen.qber}, over the limit of ${seen.qberMax}; somebody may be listening`,
    seen,
  )

/** The two ends of a link hold different bytes under one name. */
export const raiseBlocksDiffer = (alarms: Alarms, seen: { readonly linkId: string; readonly peerKmeId: string }): void =>
  alarms.raise(
    `link.blocks-differ:${seen.linkId}`,
    'critical',
    `link ${seen.linkId}: ${seen.peerKmeId} holds other bytes of a block than this KME; the devices do not work together, or that KME lies`,
    seen,
  )

/** What a link measured of a block gave no key. Cleared by the next block that does. */
export const raiseNoKey = (
  alarms: Alarms,
  seen: { readonly linkId: string; readonly peerKmeId: string; readonly qber: number; readonly reason: string },
): void =>
  alarms.raise(
    `link.no-key:${seen.linkId}`,
    'critical',
    `link ${seen.linkId}: a block gave no key: ${seen.reason}; somebody may be listening, or the devices need adjusting`,
    seen,
  )

/** The stations of a link could not authenticate each other. Cleared by the next block that is authentic. */
export const raiseNotAuthenticated = (
  alarms: Alarms,
  seen: { readonly linkId: string; readonly peerKmeId: string; readonly reason: string },
): void => alarms.raise(`link.not-authenticated:${seen.linkId}`, 'critical', `link ${seen.linkId}: ${seen.reason}`, seen)

/** The link gives key again. */
export const clearLinkIncidents = (alarms: Alarms, linkId: string): void => {
  alarms.clear(`link.no-key:${linkId}`)
  alarms.clear(`link.not-authenticated:${linkId}`)
}

/** A message that came under the certificate of a peer was not what the peer said, or came at a wrong time or place. */
export const raisePeerMessageRefused = (alarms: Alarms, seen: { readonly peerKmeId: string; readonly reason: string }): void =>
  alarms.raise(
    `peer.message-refused:${seen.peerKmeId}`,
    'critical',
    `a message of KME ${seen.peerKmeId} was refused (${seen.reason}); nothing was changed by it. Somebody may use its certificate${HINTS[seen.reason] ?? ''}`,
    seen,
  )

/** Reasons that more often have a harmless cause. */
const HINTS: Readonly<Record<string, string>> = {
  'no-session': ', or that KME speaks no sessions: compare peers[].sessions at both',
  'no-qkd-key': ', or it does not mix QKD keys in: compare peers[].mixQkdKey at both',
  stale: ', or the clocks of the two KMEs differ',
  version: ', or that KME has another version of OpenKME',
  'session-offer': ', or that KME has another version of OpenKME',
  'answer-malformed': ', or that KME has another version of OpenKME',
}

/** A certificate of the right authority and name that nobody approved. */
export const raisePeerNotApproved = (alarms: Alarms, seen: { readonly peerKmeId: string; readonly fingerprint: string }): void =>
  alarms.raise(
    `peer.not-approved:${seen.peerKmeId}`,
    'critical',
    `KME ${seen.peerKmeId} shows a certificate nobody approved, SHA-256 ${seen.fingerprint}: compare it with the operator of that KME, then "kme peer approve ${seen.peerKmeId} --fingerprint ..."`,
    seen,
  )

/** Keys were given up because their fate at the peer is in doubt. */
export const raiseKeysBurnt = (alarms: Alarms, keyCount: number): void =>
  alarms.raise('keys.burnt', 'warning', `${keyCount} keys were given up: the peer KME may have handed them out`, { keyCount })

interface Condition {
  readonly name: string
  readonly isWrong: boolean
  /** How long it must be wrong. */
  readonly graceMs: number
  readonly severity: AlarmSeverity
  readonly text: string
  readonly subject: Readonly<Record<string, unknown>>
}

/** Raises what is wrong for long enough and clears what is wrong no more. */
type Look = (conditions: readonly Condition[]) => void

const createLook = ({ alarms, clock }: Pick<WatchParts, 'alarms' | 'clock'>): Look => {
  const wrongSinceMs = new Map<string, number>()
  return (conditions) => {
    const raised = new Set(alarms.active().map(({ name }) => name))
    for (const { name, isWrong, graceMs, severity, text, subject } of conditions) {
      if (!isWrong) {
        wrongSinceMs.delete(name)
        if (raised.has(name)) alarms.clear(name)
        continue
      }
      const sinceMs = wrongSinceMs.get(name) ?? clock.monotonicMs()
      wrongSinceMs.set(name, sinceMs)
      if (clock.monotonicMs() - sinceMs >= graceMs && !raised.has(name)) alarms.raise(name, severity, text, subject)
    }
  }
}

/** Looks at links, peers and revocation lists until `signal` aborts. One process does so at a time: two that see a peer
 *  differently would raise and clear its alarm in turn. */
export const watchConditions = async (parts: WatchConditionsParts, signal: AbortSignal): Promise<void> => {
  const { alarms, clock, log } = parts
  const look = createLook(parts)

  /** Clears incidents that are long over, and alarms of links, peers and lists that are configured no more. */
  const tidyUp = (current: readonly Condition[]): void => {
    const names = new Set(current.map(({ name }) => name))
    const pools = new Set(parts.pools())
    for (const { name, raisedAt } of alarms.active()) {
      const [kind = ''] = name.split(':')
      const lastsMs = incidentsLastMs[kind]
      const isOver = lastsMs !== undefined && clock.nowMs() - raisedAt.getTime() >= lastsMs
      const about = name.slice(kind.length + 1)
      const isGone =
        (OWN_KINDS.has(kind) && !names.has(name)) ||
        (LINK_KINDS.has(kind) && !names.has(`link.down:${about}`)) ||
        (kind.startsWith('pool.') && !pools.has(about))
      if (isOver || isGone) alarms.clear(name)
    }
  }

  while (!signal.aborted) {
    try {
      const current = [
        ...parts.links().map(toLinkCondition),
        ...parts.peers().map(toPeerCondition),
        ...parts.revocationLists().map((list) => toRevocationListCondition(list, clock.nowMs())),
        toRedisCondition(parts.redisAnswers()),
        toWithoutRedisCondition(parts.processesWithoutRedis()),
      ]
      look(current)
      tidyUp(current)
    } catch (error) {
      log.warn({ error }, 'what may need an alarm could not be looked at; trying again')
    }
    await clock.sleep(INTERVAL_MS, signal)
  }
}

/** Looks whether PostgreSQL answers until `signal` aborts. Every process does: without PostgreSQL nobody can tell whose duty it is. */
export const watchDatabase = async (parts: WatchDatabaseParts, signal: AbortSignal): Promise<void> => {
  const look = createLook(parts)
  while (!signal.aborted) {
    const answers = await parts.databaseAnswers()
    look([
      {
        name: 'database.unavailable',
        isWrong: !answers,
        graceMs: GRACE_MS,
        severity: 'critical',
        text: 'PostgreSQL does not answer; no keys can be handed out',
        subject: {},
      },
    ])
    await parts.clock.sleep(INTERVAL_MS, signal)
  }
}

/** Raised by the links themselves, and cleared by their next good block. */
const LINK_KINDS: ReadonlySet<string> = new Set(['link.no-key', 'link.not-authenticated'])
const OWN_KINDS: ReadonlySet<string> = new Set(['link.down', 'peer.unavailable', 'revocation-list.expiring'])

const toLinkCondition = ({ linkId, peerKmeId, state, reason }: LinkSight): Condition => ({
  name: `link.down:${linkId}`,
  isWrong: state !== 'up',
  graceMs: GRACE_MS,
  severity: 'critical',
  text: `link ${linkId} to ${peerKmeId} is ${state}: ${reason ?? 'no reason known'}`,
  subject: { linkId, peerKmeId },
})

const toPeerCondition = ({ kmeId, available }: PeerSight): Condition => ({
  name: `peer.unavailable:${kmeId}`,
  isWrong: !available,
  graceMs: GRACE_MS,
  severity: 'critical',
  text: `the KME ${kmeId} does not answer; no keys can be shared with its SAEs`,
  subject: { peerKmeId: kmeId },
})

const toRedisCondition = (answers: boolean): Condition => ({
  name: 'redis.unavailable',
  isWrong: !answers,
  graceMs: GRACE_MS,
  severity: 'warning',
  text: 'Redis does not answer or refuses commands; keys are taken from PostgreSQL directly, more slowly',
  subject: {},
})

const toWithoutRedisCondition = (processCount: number): Condition => ({
  name: 'processes.without-redis',
  isWrong: processCount > 1,
  graceMs: GRACE_MS,
  severity: 'warning',
  text: `${processCount} processes of this KME have no Redis: each takes all keys for its own, and quotas hold for each of them alone`,
  subject: { processes: processCount },
})

const toRevocationListCondition = ({ setting, nextUpdateMs }: RevocationListSight, nowMs: number): Condition => ({
  name: `revocation-list.expiring:${setting}`,
  isWrong: nextUpdateMs - nowMs < DAY_MS,
  graceMs: 0,
  severity: 'critical',
  text: `the revocation list of ${setting} holds until ${new Date(nextUpdateMs).toISOString()}; then every client of its authority is refused`,
  subject: { setting, nextUpdate: new Date(nextUpdateMs).toISOString() },
})
