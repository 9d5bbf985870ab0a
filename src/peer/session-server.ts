/** The answering end of sessions: opens them for callers, and lets a message through only with a good seal.
 *  A session lives in the TLS connection it was opened on and in the memory of this process: on another connection, in another process or
 *  after a restart it is unknown. So every process has sessions of its own, and none needs to ask another.
 *  Holds: a message acts at most once, in its place, as its caller sent it to this KME; every refusal is recorded, told and ends the
 *  connection. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { TLSSocket } from 'node:tls'
import type { AuditLog } from '../audit/audit.ts'
import { sealAnswer, type AnswerSeal } from '../http/answer-seal.ts'
import type { KmeCaller } from '../http/caller.ts'
import { readBody, readBodyAhead } from '../http/request-body.ts'
import type { Clock } from '../kernel/clock.ts'
import { BadRequest, Unauthorized } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import { answerMac, isFresh, isSameMac, MESSAGE_HEADER, readMessageSeal, requestMac, writeMessageSeal } from './message-seal.ts'
import { worksUnmixed, type QkdMixing } from './qkd-mixing.ts'
import { createSequenceGate, type SequenceGate } from './sequence-gate.ts'
import {
  answerAgreement,
  deriveSessionKeys,
  EXPORTER_BYTES,
  EXPORTER_LABEL,
  SESSION_VERSION,
  type SessionKeys,
} from './session-keys.ts'
import type { SessionLedger } from './session-ledger.ts'
import { isDue, type RekeyPolicy, type SessionAge } from './session-life.ts'
import { callOf, parsePeerBody, PEER_BODY_BYTES_MAX, peerPaths, readSessionOffer, writeSessionAnswer } from './wire.ts'

export interface SessionServerParts {
  readonly kmeId: KmeId
  readonly ledger: SessionLedger
  readonly rekey: RekeyPolicy
  readonly mixing: QkdMixing
  /** Whether this peer must speak inside a session. */
  readonly demandsSession: (peerKmeId: KmeId) => boolean
  readonly audit: AuditLog
  /** Told of each refusal. */
  readonly onRefused: (peerKmeId: KmeId, reason: string) => void
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface SessionServer {
  /** Opens a session on the connection of this request. @returns what to answer with. */
  open(req: IncomingMessage, res: ServerResponse, caller: KmeCaller): Promise<object>
  /** Checks the seal of any other message and seals the answer to it.
   *  @throws Unauthorized for a message that must not act. */
  admit(req: IncomingMessage, res: ServerResponse, caller: KmeCaller): Promise<void>
}

interface Session {
  readonly keys: SessionKeys
  readonly isMixed: boolean
  readonly openedMs: number
  readonly generation: number
  readonly gate: SequenceGate
  /** On the clock that never jumps; Infinity until another session is in use. */
  endsMs: number
}

/** The sessions of one connection: the one in use, the one before it for a while, and one that was just opened. */
interface Connection {
  readonly sessions: Map<string, Session>
  /** The caller signed nothing with it yet. */
  unused: Session | undefined
}

/** How long the old keys verify beside the new ones. */
export const OLD_KEYS_VERIFY_MS = 30_000
/** How long a caller may go on with keys that are due. */
export const RENEWAL_DEADLINE_MS = 60_000

export const createSessionServer = (parts: SessionServerParts): SessionServer => {
  const { kmeId, ledger, clock, random, log } = parts
  const connections = new WeakMap<TLSSocket, Connection>()

  const refuse = async (res: ServerResponse, peerKmeId: KmeId, reason: string, call: string): Promise<void> => {
    // Whoever sends such a message begins anew.
    res.shouldKeepAlive = false
    parts.onRefused(peerKmeId, reason)
    try {
      await parts.audit.append({
        event: 'peer.refused',
        actor: `kme:${peerKmeId}`,
        outcome: 'refused',
        subject: { call, reason },
      })
    } catch (error) {
      log.warn({ peer: peerKmeId, reason, error }, 'a refused message could not be recorded')
    }
  }

  const connectionOf = (socket: TLSSocket): Connection => {
    let connection = connections.get(socket)
    if (connection === undefined) {
      const opened: Connection = { sessions: new Map(), unused: undefined }
      socket.once('close', () => {
        for (const [sessionId, session] of opened.sessions) if (session !== opened.unused) endSession(sessionId)
      })
      connections.set(socket, (connection = opened))
    }
    return connection
  }
  const endSession = (sessionId: string): void => {
    // Only the row says so: without its keys, which are gone with the connection, it is over in any case.
    ledger.end(sessionId).catch((error: unknown) => log.debug({ error }, 'the end of a peer session could not be written'))
  }
  /** A session as the caller names it, while its keys verify. */
  const find = (connection: Connection, sessionId: string): Session | undefined => {
    const session = connection.sessions.get(sessionId)
    if (session === undefined || clock.monotonicMs() < session.endsMs) return session
    connection.sessions.delete(sessionId)
    endSession(sessionId)
    return undefined
  }
  const ageOf = (session: Session): SessionAge => ({
    ageMs: clock.monotonicMs() - session.openedMs,
    messages: session.gate.highest(),
    generation: session.generation,
  })
  /** The caller signs with it: the others end soon. */
  const use = (connection: Connection, session: Session): void => {
    if (connection.unused !== session) return
    connection.unused = undefined
    const endsMs = clock.monotonicMs() + OLD_KEYS_VERIFY_MS
    for (const other of connection.sessions.values()) if (other !== session) other.endsMs = Math.min(other.endsMs, endsMs)
  }

  const answerSeal =
    (
      { sessionId, answerKey }: SessionKeys,
      ends: { readonly from: KmeId; readonly to: KmeId },
      sequence: number,
      ofRequest: Buffer,
      renew: boolean,
    ): AnswerSeal =>
    (status, body) => {
      const timeMs = clock.nowMs()
      const mac = answerMac(answerKey, { ...ends, sessionId, sequence, timeMs, status, renew, requestMac: ofRequest }, body)
      return [MESSAGE_HEADER, writeMessageSeal({ sessionId, sequence, timeMs, renew, mac })]
    }

  return {
    open: async (req, res, caller) => {
      const peerKmeId = caller.kmeId
      const socket = req.socket as TLSSocket
      const connection = connectionOf(socket)
      const body = await readBody(req, PEER_BODY_BYTES_MAX)
      try {
        const { versions, offer, qkdBlocks } = readSessionOffer(parsePeerBody(body))
        if (!versions.includes(SESSION_VERSION)) {
          throw new BadRequest([{ problem: `no session version in common; this KME speaks ${SESSION_VERSION}` }])
        }
        const mixed = await parts.mixing.firstOf(peerKmeId, qkdBlocks)
        using _secret = mixed?.secret
        if (socket.destroyed) throw new BadRequest()
        // From here on nothing waits, so that one connection cannot get two.
        if (connection.unused !== undefined) throw new SessionUnused()
        const { answer, secrets } = answerAgreement(offer)
        const json = writeSessionAnswer(answer, random.fill(Buffer.alloc(32)), mixed?.blockId)
        const keys = deriveSessionKeys(
          {
            initiator: peerKmeId,
            responder: kmeId,
            initiatorFingerprint: caller.facts.fingerprint256,
            responderFingerprint: socket.getX509Certificate()?.fingerprint256 ?? '',
            exporter: socket.exportKeyingMaterial(EXPORTER_BYTES, EXPORTER_LABEL, Buffer.alloc(0)),
            offer: body,
            answer: Buffer.from(JSON.stringify(json)),
          },
          secrets,
          mixed?.secret,
        )
        const { sessionId } = keys
        const isMixed = mixed !== undefined
        const session: Session = {
          keys,
          isMixed,
          openedMs: clock.monotonicMs(),
          generation: parts.rekey.generation(peerKmeId),
          gate: createSequenceGate((from, to) => ledger.reserve({ sessionId, peerKmeId, isMixed }, from, to)),
          endsMs: Infinity,
        }
        for (const id of connection.sessions.keys()) find(connection, id)
        connection.sessions.set(sessionId, session)
        connection.unused = session
        // The MAC of this answer shows the caller that both have the same keys; its first message shows it here.
        sealAnswer(res, answerSeal(keys, { from: peerKmeId, to: kmeId }, 0, Buffer.alloc(0), false))
        return json
      } catch (error) {
        // To hang up is no offence.
        if (!socket.destroyed) await refuse(res, peerKmeId, reasonOf(error), 'sessions')
        throw error
      }
    },

    admit: async (req, res, { kmeId: peerKmeId }) => {
      const header = req.headers[MESSAGE_HEADER.toLowerCase()]
      const path = req.url ?? ''
      const refused = async (reason: string): Promise<never> => {
        await refuse(res, peerKmeId, reason, callOf(path))
        throw new Unauthorized(`a message of KME ${peerKmeId} is refused: ${reason}`)
      }
      if (header === undefined) {
        // The greeting tells whether both speak alike, which is known before there is a session; it changes nothing.
        const isGreeting = req.method === 'GET' && path === peerPaths.hello
        if (parts.demandsSession(peerKmeId) && !isGreeting) await refused('no-session')
        return
      }
      const seal = readMessageSeal(header)
      if (seal === undefined || seal.renew !== undefined) return refused('malformed-seal')
      if (seal.version !== SESSION_VERSION) return refused('version')
      const connection = connectionOf(req.socket as TLSSocket)
      const session = find(connection, seal.sessionId)
      if (session === undefined) return refused('unknown-session')
      const { sessionId, sequence, timeMs } = seal
      const ends = { from: peerKmeId, to: kmeId }
      const body = await readBodyAhead(req, res, PEER_BODY_BYTES_MAX)
      const sealed = { ...ends, sessionId, sequence, timeMs, method: req.method ?? '', path }
      const mac = lend(body, (bytes) => requestMac(session.keys.requestKey, sealed, bytes))
      if (!isSameMac(mac, seal.mac)) return refused('mac')
      if (!isFresh(timeMs, clock.nowMs())) return refused('stale')
      if (!session.isMixed && parts.mixing.isRequired(peerKmeId) && !worksUnmixed(path)) return refused('no-qkd-key')
      const verdict = await session.gate.admit(sequence).catch((error: unknown) => {
        // Perhaps they are reserved and perhaps not: the numbers of this session cannot be trusted any more. The caller begins anew.
        connection.sessions.delete(sessionId)
        res.shouldKeepAlive = false
        throw error
      })
      if (verdict !== 'admitted') return refused(verdict)
      use(connection, session)
      const wantsRenewal = isDue(parts.rekey, peerKmeId, ageOf(session))
      // A caller that does not heed it is refused in the end.
      if (wantsRenewal) session.endsMs = Math.min(session.endsMs, clock.monotonicMs() + RENEWAL_DEADLINE_MS)
      sealAnswer(res, answerSeal(session.keys, ends, sequence, mac, wantsRenewal))
    },
  }
}

class SessionUnused extends Unauthorized {
  constructor() {
    super('the last session of this connection was never used')
  }
}

const reasonOf = (error: unknown): string =>
  error instanceof SessionUnused ? 'session-unused' : error instanceof BadRequest ? 'session-offer' : 'session-failed'

const lend = <T>(body: Buffer | SecretBytes, borrow: (bytes: Buffer) => T): T =>
  Buffer.isBuffer(body) ? borrow(body) : body.use(borrow)
