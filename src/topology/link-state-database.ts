/** What this KME believes of the network: the newest statement of each KME, judged when it arrives, kept in PostgreSQL, held in
 *  memory by every process.
 *  Holds: only a statement that its KME signed, that is newer than the one known and that is valid now changes anything. Every other
 *  one changes nothing; it leaves one audit record and raises an alarm about the peer that sent it, unless ordinary flooding explains it. */
import { createHash } from 'node:crypto'
import type { Alarms } from '../alarms/alarms.ts'
import type { AuditLog } from '../audit/audit.ts'
import { createAllowance } from '../kernel/allowance.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { SignedStatement, TopologyDifference } from '../peer/peer.ts'
import { NETWORK_KMES_MAX, STATEMENTS_PER_MESSAGE_MAX } from '../peer/wire.ts'
import type { SignerVerifier } from './signer.ts'
import { readStatement, SEQUENCE_AHEAD_MAX, VALID_FOR_S_MAX } from './statement.ts'
import type { LinkStateStatement, StatementOutcome } from './topology.ts'
import type { StoredStatement, TopologyStore } from './topology-store.ts'

export type RefusalReason =
  /** Also what is unsigned or too large. */
  | 'malformed'
  /** Of a sequence number that was replaced a while ago. */
  | 'older'
  | 'issued in the future'
  | 'expired'
  | 'certificate not trusted'
  | "signed by another KME's key"
  | 'wrong signature'
  | 'other content under the same sequence number'
  | 'sequence number far ahead of its time'
  /** The KME itself sends more than it may. */
  | 'too often'
  | 'too many KMEs'

export interface Known {
  readonly statement: LinkStateStatement
  readonly signed: SignedStatement
}

export interface Acceptance {
  readonly outcome: StatementOutcome
  /** Whose statement it says it is and of which number, where that can be read. */
  readonly kmeId?: KmeId
  readonly sequence?: number
}

export interface LinkStateDatabase {
  /** Reads what was kept before this process began. */
  load(): Promise<void>
  /** Reads what other processes of this KME accepted. */
  refresh(): Promise<void>
  /** @param signed undefined for what could not even be read. @param from the peer that sent it, for the audit log. */
  accept(signed: SignedStatement | undefined, from: KmeId): Promise<Acceptance>
  /** Takes over a statement of this KME that was just made and kept. */
  adopt(stored: StoredStatement): void
  /** The newest statement of a KME, valid or not. */
  newest(kmeId: KmeId): Known | undefined
  /** Sequence numbers of the newest statements, valid or not. */
  sequences(): ReadonlyMap<KmeId, number>
  /** Statements worth sending: those still valid for a while. */
  signedOf(kmeIds: Iterable<KmeId>): readonly SignedStatement[]
  /** Compared with what a peer has. */
  difference(theirs: ReadonlyMap<KmeId, number>): TopologyDifference
  /** Statements that are valid now, ordered by KME ID. */
  current(): readonly LinkStateStatement[]
  /** Changes whenever a statement was taken in. */
  version(): number
  /** Forgets KMEs whose statements ran out so long ago that no older one can still be valid. */
  prune(): Promise<void>
}

export interface LinkStateDatabaseParts {
  readonly store: TopologyStore
  readonly verifier: SignerVerifier
  readonly audit: Pick<AuditLog, 'append'>
  readonly alarms: Pick<Alarms, 'raise'>
  readonly clock: Clock
}

interface Entry {
  readonly kmeId: KmeId
  readonly sequence: number
  readonly issuedAtMs: number
  readonly expiresMs: number
  readonly signed: SignedStatement
  readonly takenInMs: number
  /** Read when somebody looks at it. */
  statement?: LinkStateStatement
}

/** How far the clocks of two KMEs may differ. */
export const CLOCK_SKEW_MS = 30_000
/** Two statements of one KME may cross on their way through the network; what is older than that was held back. */
const CROSSING_MS = 10_000
/** A KME states its links once a second at most; what is more is not taken in now. */
const ARRIVALS = { atOnce: 8, perS: 2 }
const TOO_OFTEN_REPORT_INTERVAL_MS = 60_000
const REFUSED_REMEMBERED_MAX = 1024

export const createLinkStateDatabase = (parts: LinkStateDatabaseParts): LinkStateDatabase => {
  const { store, verifier, clock } = parts
  const entries = new Map<KmeId, Entry>()
  /** Of KMEs whose statements were verified. */
  const mayArrive = createAllowance(clock, ARRIVALS)
  /** What was refused and reported before: an honest peer may offer it again and again. */
  const reported = new Set<string>()
  let version = 0

  const expiryOf = ({ issuedAtMs, validForS }: LinkStateStatement): number => issuedAtMs + validForS * 1000
  const sequenceOf = (kmeId: KmeId): number => entries.get(kmeId)?.sequence ?? 0

  const takeIn = (signed: SignedStatement, statement: LinkStateStatement): void => {
    const { kmeId, sequence, issuedAtMs } = statement
    const known = entries.get(kmeId)
    // What was stated by a clock that was ahead, nobody believed: it is no hindrance once that clock is right.
    if (known !== undefined && sequence <= known.sequence && known.issuedAtMs <= clock.nowMs() + CLOCK_SKEW_MS) return
    const takenInMs = clock.monotonicMs()
    entries.set(kmeId, { kmeId, sequence, issuedAtMs, expiresMs: expiryOf(statement), signed, takenInMs })
    version += 1
  }
  const statementOf = (entry: Entry): LinkStateStatement => {
    // Nothing gets here that was not read before.
    entry.statement ??= readStatement(entry.signed.statement)!
    return entry.statement
  }
  /** What is kept was judged when it came; only whether it is whole is looked at again. */
  const takeInStored = ({ kmeId, signed }: StoredStatement): void => {
    const statement = readStatement(signed.statement)
    if (statement?.kmeId === kmeId && verifier.isWhole(signed)) takeIn(signed, statement)
  }

  const judge = (signed: SignedStatement, statement: LinkStateStatement): RefusalReason | 'known' | undefined => {
    const known = entries.get(statement.kmeId)
    const nowMs = clock.nowMs()
    if (known?.signed.statement === signed.statement) return 'known'
    if (known !== undefined && statement.sequence < known.sequence)
      return clock.monotonicMs() - known.takenInMs <= CROSSING_MS ? 'known' : 'older'
    if (statement.issuedAtMs > nowMs + CLOCK_SKEW_MS) return 'issued in the future'
    if (expiryOf(statement) <= nowMs) return 'expired'
    const signer = verifier.verify(signed.certificates)
    if (signer === undefined) return 'certificate not trusted'
    if (signer.kmeId !== statement.kmeId) return "signed by another KME's key"
    if (!signer.hasSigned(signed)) return 'wrong signature'
    if (statement.sequence === known?.sequence) return 'other content under the same sequence number'
    if (statement.sequence > statement.issuedAtMs / 1000 + SEQUENCE_AHEAD_MAX) return 'sequence number far ahead of its time'
    if (known === undefined && entries.size >= NETWORK_KMES_MAX) return 'too many KMEs'
    return undefined
  }

  /** What names a refusal, so that it is reported once; undefined for what always counts. */
  const nameOf = (reason: RefusalReason, from: KmeId, signed: SignedStatement | undefined): string | undefined => {
    if (reason === 'too often') return `${from}|${reason}|${Math.floor(clock.monotonicMs() / TOO_OFTEN_REPORT_INTERVAL_MS)}`
    if (signed === undefined) return undefined
    return createHash('sha256').update(`${from}|${signed.statement}|`).update(signed.signature).digest('base64')
  }
  const report = async (
    reason: RefusalReason,
    from: KmeId,
    signed: SignedStatement | undefined,
    statement: LinkStateStatement | undefined,
  ): Promise<void> => {
    const name = nameOf(reason, from, signed)
    if (name !== undefined && reported.has(name)) return
    if (reported.size >= REFUSED_REMEMBERED_MAX) reported.clear()
    if (name !== undefined) reported.add(name)
    const subject = {
      call: 'topology',
      reason,
      ...(statement !== undefined && { kmeId: statement.kmeId, sequence: statement.sequence }),
    }
    parts.alarms.raise(
      `topology.refused:${from}`,
      'warning',
      `${from} sent a statement about the network that was refused: ${reason}; see peer.refused in the audit log`,
      { peerKmeId: from, ...subject },
    )
    await parts.audit.append({ event: 'peer.refused', actor: `kme:${from}`, outcome: 'refused', subject })
  }

  /** A certificate may have been revoked since. */
  const isVouchedFor = ({ kmeId, signed }: Entry): boolean => verifier.verify(signed.certificates)?.kmeId === kmeId
  const isWorthSending = (entry: Entry): boolean => entry.expiresMs - CLOCK_SKEW_MS > clock.nowMs() && isVouchedFor(entry)
  const sequences = (): ReadonlyMap<KmeId, number> => new Map([...entries].map(([kmeId, { sequence }]) => [kmeId, sequence]))

  return {
    load: async () => (await store.readAll()).forEach(takeInStored),
    refresh: async () => (await store.readOthersThan(sequences())).forEach(takeInStored),
    accept: async (signed, from) => {
      const statement = signed && readStatement(signed.statement)
      if (signed === undefined || statement === undefined) {
        await report('malformed', from, signed, undefined)
        return { outcome: 'refused' }
      }
      const { kmeId, sequence } = statement
      const verdict = judge(signed, statement)
      const became = (outcome: StatementOutcome): Acceptance => ({ outcome, kmeId, sequence })
      if (verdict === 'known') return became('known')
      if (verdict !== undefined) {
        await report(verdict, from, signed, statement)
        return became('refused')
      }
      if (!mayArrive(kmeId)) {
        // Others only pass on what it says.
        if (from === kmeId) await report('too often', from, signed, statement)
        return became('deferred')
      }
      // Kept first: what a peer may rely on is known after a crash too.
      if (!(await store.put({ kmeId, sequence, signed }))) return became('known')
      takeIn(signed, statement)
      return became('accepted')
    },
    adopt: takeInStored,
    newest: (kmeId) => {
      const entry = entries.get(kmeId)
      return entry && { statement: statementOf(entry), signed: entry.signed }
    },
    sequences,
    signedOf: (kmeIds) =>
      [...kmeIds].flatMap((kmeId) => {
        const entry = entries.get(kmeId)
        return entry !== undefined && isWorthSending(entry) ? [entry.signed] : []
      }),
    difference: (theirs) => {
      const newer = [...entries.values()].filter(
        (entry) => entry.sequence > (theirs.get(entry.kmeId) ?? 0) && isWorthSending(entry),
      )
      return {
        newer: newer.slice(0, STATEMENTS_PER_MESSAGE_MAX).map(({ signed }) => signed),
        wanted: [...theirs].filter(([kmeId, sequence]) => sequence > sequenceOf(kmeId)).map(([kmeId]) => kmeId),
        more: newer.length > STATEMENTS_PER_MESSAGE_MAX,
      }
    },
    current: () => {
      const nowMs = clock.nowMs()
      return [...entries.values()]
        .filter((entry) => entry.expiresMs > nowMs && isVouchedFor(entry))
        .map(statementOf)
        .sort((one, other) => (one.kmeId < other.kmeId ? -1 : 1))
    },
    version: () => version,
    prune: async () => {
      const nowMs = clock.nowMs()
      const old = [...entries.values()]
        .filter(({ issuedAtMs }) => issuedAtMs + VALID_FOR_S_MAX * 1000 + CLOCK_SKEW_MS < nowMs)
        .map(({ kmeId }) => kmeId)
      if (old.length === 0) return
      await store.remove(old)
      for (const kmeId of old) entries.delete(kmeId)
      version += 1
    },
  }
}
