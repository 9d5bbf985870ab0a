/** The calling end of sessions: a few connections to one peer, each with a session of its own that is opened before the first message and
 *  replaced when it is due. A connection carries one request at a time.
 *  Holds: a message is sealed for the connection it travels on and never travels on another; an answer counts only with its seal; whatever
 *  breaks on the way drops connection and session together. */
import { X509Certificate } from 'node:crypto'
import type { PeerCertificate, TLSSocket } from 'node:tls'
import { buildConnector, Client } from 'undici'
import { kmeIdOf, readCertificateFacts } from '../http/client-identity.ts'
import { CallFailed, callFailure, refusedCertificate } from '../kernel/call-failed.ts'
import type { Clock } from '../kernel/clock.ts'
import { BadRequest } from '../kernel/errors.ts'
import type { BlockId, KmeId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import { answerMac, isSameMac, MESSAGE_HEADER, readMessageSeal, requestMac, writeMessageSeal } from './message-seal.ts'
import { worksUnmixed, type QkdMixing } from './qkd-mixing.ts'
import {
  deriveSessionKeys,
  EXPORTER_BYTES,
  EXPORTER_LABEL,
  openAgreement,
  type SessionKeys,
  type SessionTranscript,
} from './session-keys.ts'
import { isDue, type RekeyPolicy } from './session-life.ts'
import { parsePeerBody, peerPaths, readSessionAnswer, writeSessionOffer } from './wire.ts'

export interface PeerTls {
  readonly certificatePem: string
  readonly privateKeyPem: string
  /** Authority that KME certificates come from. */
  readonly caPem: string
  /** Revocation lists of the authorities; without them a revoked peer is still called. */
  readonly crlPems?: readonly string[]
}

export interface SessionClientOptions {
  readonly kmeId: KmeId
  readonly peerKmeId: KmeId
  readonly origin: string
  readonly deadlineMs: number
  /** Without sessions the messages go without seals. */
  readonly sessions: boolean
  readonly rekey: RekeyPolicy
  readonly mixing: QkdMixing
  /** Whether the peer may show this certificate, SHA-256 as `AA:BB:...`. */
  readonly accepts: (fingerprint256: string) => boolean
  /** The peer's answer had no good seal. */
  readonly onForged: (reason: string) => void
  readonly tls: PeerTls
  readonly clock: Clock
  readonly random: Random
}

export interface PeerRequest {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly contentType?: string
  readonly body?: string | Buffer
}

export interface PeerResponse {
  readonly status: number
  readonly body: Buffer
}

export interface SessionClient {
  /** @throws CallFailed, or what undici throws when the connection fails. */
  exchange(request: PeerRequest, signal: AbortSignal): Promise<PeerResponse>
  /** Uses other certificates, on new connections. */
  updateTls(tls: PeerTls): void
  close(): Promise<void>
}

interface Session {
  readonly keys: SessionKeys
  readonly openedMs: number
  readonly generation: number
  readonly isMixed: boolean
  sequence: number
  /** The peer asked for another. */
  isSpent: boolean
}

/** What names the TLS connection of a lane. */
type Binding = Pick<SessionTranscript, 'initiatorFingerprint' | 'responderFingerprint' | 'exporter'>

interface Lane {
  client: Client
  socket: TLSSocket | undefined
  binding: Binding | undefined
  session: Session | undefined
  /** A new connection may be made now: no sealed message is waiting to be sent on it. */
  mayConnect: boolean
  isRetired: boolean
}

const LANES = 4
const ANSWER_BYTES_MAX = 8 * 1024 * 1024
const NO_CONTEXT = Buffer.alloc(0)
/** Before the request's first byte: it was sealed for a connection that is gone. */
const CONNECTION_GONE = 'ERR_PEER_SESSION_GONE'

/** The block that this KME offered for the keys of a session, and the peer chose. */
class BlockUsedUp extends CallFailed {
  constructor() {
    super('chose a QKD block that was used up here meanwhile', false)
  }
}

const isGone = (error: unknown): boolean => (error as { code?: string }).code === CONNECTION_GONE

const connectionGone = (): Error => Object.assign(new Error('the connection of the session is gone'), { code: CONNECTION_GONE })

export const createSessionClient = (options: SessionClientOptions): SessionClient => {
  const { kmeId, peerKmeId, clock, deadlineMs } = options
  const ends = { from: kmeId, to: peerKmeId }

  const connect = (lane: Lane, tls: PeerTls): Client => {
    const connector = buildConnector({
      timeout: Math.min(deadlineMs, 3000),
      cert: tls.certificatePem,
      key: tls.privateKeyPem,
      ca: tls.caPem,
      ...(tls.crlPems !== undefined && { crl: [...tls.crlPems] }),
      minVersion: 'TLSv1.3',
      ecdhCurve: 'X25519MLKEM768:X25519:P-256',
      maxCachedSessions: 0,
      allowH2: false,
      checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
        namesKme(certificate, peerKmeId) ?? (options.accepts(certificate.fingerprint256) ? undefined : notAccepted(peerKmeId)),
    })
    return new Client(options.origin, {
      pipelining: 1,
      keepAliveTimeout: 20_000,
      headersTimeout: deadlineMs,
      bodyTimeout: deadlineMs,
      maxResponseSize: ANSWER_BYTES_MAX,
      connect: (target, done) => {
        if (!lane.mayConnect) return done(connectionGone(), null)
        connector(target, (...[error, socket]) => {
          if (error !== null) return done(error, null)
          const connected = socket as TLSSocket
          lane.socket = connected
          lane.binding = bindingOf(connected)
          lane.session = undefined
          connected.once('close', () => {
            if (lane.socket !== connected) return
            lane.socket = undefined
            lane.session = undefined
          })
          done(null, connected)
        })
      },
    })
  }
  const createLane = (tls: PeerTls): Lane => {
    const lane = {
      socket: undefined,
      binding: undefined,
      session: undefined,
      mayConnect: true,
      isRetired: false,
    } as unknown as Lane
    lane.client = connect(lane, tls)
    return lane
  }

  let currentTls = options.tls
  let lanes = Array.from({ length: LANES }, () => createLane(currentTls))
  /** The one used last is used first, so that those nobody needs come to rest. */
  let idle = [...lanes]
  const waiting: ((lane: Lane) => void)[] = []

  const take = (signal: AbortSignal): Promise<Lane> => {
    const lane = idle.pop()
    if (lane !== undefined) return Promise.resolve(lane)
    return new Promise((resolve, reject) => {
      const give = (freed: Lane): void => {
        signal.removeEventListener('abort', giveUp)
        resolve(freed)
      }
      const giveUp = (): void => {
        waiting.splice(waiting.indexOf(give), 1)
        reject(new CallFailed('no connection came free in time', false))
      }
      signal.addEventListener('abort', giveUp, { once: true })
      waiting.push(give)
    })
  }
  const giveBack = (lane: Lane): void => {
    if (lane.isRetired) return void lane.client.close()
    const next = waiting.shift()
    if (next === undefined) idle.push(lane)
    else next(lane)
  }
  /** Drops the connection of a lane. */
  const reset = (lane: Lane): void => {
    lane.session = undefined
    lane.socket = undefined
    void lane.client.destroy()
    lane.client = connect(lane, currentTls)
  }

  const send = async (lane: Lane, request: PeerRequest, signal: AbortSignal, headers: Record<string, string> = {}) => {
    const { method, path, contentType, body } = request
    const response = await lane.client.request({
      method,
      path,
      signal,
      headers: { ...headers, ...(contentType !== undefined && { 'content-type': contentType }) },
      ...(body !== undefined && { body }),
    })
    return {
      status: response.statusCode,
      seal: readMessageSeal(response.headers[MESSAGE_HEADER.toLowerCase()]),
      body: Buffer.from(await response.body.arrayBuffer()),
    }
  }

  /** Opens a session on the connection of a lane, which is made if there is none. */
  const open = async (lane: Lane, signal: AbortSignal): Promise<Session> => {
    const agreement = openAgreement()
    const qkdBlocks = await options.mixing.blocks(peerKmeId)
    const offer = JSON.stringify(writeSessionOffer(agreement.offer, options.random.fill(Buffer.alloc(32)), qkdBlocks))
    const generation = options.rekey.generation(peerKmeId)
    lane.mayConnect = true
    const request: PeerRequest = { method: 'POST', path: peerPaths.sessions, contentType: 'application/json', body: offer }
    const { status, seal, body } = await send(lane, request, signal)
    if (status !== 200) throw new CallFailed(`opened no session: ${status}`, false)
    const { socket, binding } = lane
    if (socket === undefined || binding === undefined) throw connectionGone()
    const answer = readSessionAnswer(parsePeerBody(body))
    using qkdSecret = await secretOf(qkdBlocks, answer.qkdBlock)
    const secrets = agreement.finish(answer)
    const keys = deriveSessionKeys(
      {
        initiator: kmeId,
        responder: peerKmeId,
        ...binding,
        offer: Buffer.from(offer),
        answer: body,
      },
      secrets,
      qkdSecret,
    )
    checkAnswer(keys, 0, NO_CONTEXT, { status, seal, body })
    // The connection may have ended meanwhile, and taken the session with it.
    if (lane.socket !== socket) throw connectionGone()
    const isMixed = qkdSecret !== undefined
    lane.session = { keys, openedMs: clock.monotonicMs(), generation, isMixed, sequence: 0, isSpent: false }
    return lane.session
  }
  /** The secret of the block the peer chose. */
  const secretOf = async (offered: readonly BlockId[], chosen: BlockId | undefined): Promise<SecretBytes | undefined> => {
    if (chosen === undefined) return undefined
    if (!offered.includes(chosen)) throw new CallFailed('chose a QKD block that was not offered', false)
    const found = await options.mixing.firstOf(peerKmeId, [chosen])
    if (found === undefined) throw new BlockUsedUp()
    return found.secret
  }

  /** @throws CallFailed when the answer is not the peer's answer to this request. */
  const checkAnswer = (
    { sessionId, answerKey }: SessionKeys,
    sequence: number,
    ofRequest: Buffer,
    { status, seal, body }: Awaited<ReturnType<typeof send>>,
  ): { readonly renew: boolean } => {
    if (seal?.renew === undefined || seal.sessionId !== sessionId || seal.sequence !== sequence) {
      options.onForged('answer-seal')
      throw new CallFailed('answered without the seal of this session', sequence > 0)
    }
    const { timeMs, renew } = seal
    const mac = answerMac(answerKey, { ...ends, sessionId, sequence, timeMs, status, renew, requestMac: ofRequest }, body)
    if (isSameMac(mac, seal.mac)) return { renew }
    options.onForged('answer-mac')
    throw new CallFailed('answered with a wrong MAC', sequence > 0)
  }

  const sendSealed = async (lane: Lane, session: Session, request: PeerRequest, signal: AbortSignal): Promise<PeerResponse> => {
    const { sessionId, requestKey } = session.keys
    const sequence = (session.sequence += 1)
    const timeMs = clock.nowMs()
    const { method, path, body = '' } = request
    const mac = requestMac(requestKey, { ...ends, sessionId, sequence, timeMs, method, path }, body)
    lane.mayConnect = false
    const answer = await send(lane, request, signal, {
      [MESSAGE_HEADER]: writeMessageSeal({ sessionId, sequence, timeMs, renew: undefined, mac }),
    })
    // Only success counts for anything, so only success needs a proof.
    if (answer.status === 200) session.isSpent ||= checkAnswer(session.keys, sequence, mac, answer).renew
    return answer
  }

  const carries = (session: Session, path: string): boolean =>
    session.isMixed || !options.mixing.isRequired(peerKmeId) || worksUnmixed(path)

  const isUsable = (session: Session, path: string): boolean =>
    !session.isSpent &&
    carries(session, path) &&
    !isDue(options.rekey, peerKmeId, {
      ageMs: clock.monotonicMs() - session.openedMs,
      messages: session.sequence,
      generation: session.generation,
    })

  /** The session of a lane, or another that is opened. What fails here has sent nothing of the message, so it is tried again where the
   *  connection was an old one, which the peer may just have ended, or a block was used up between offer and answer. */
  const sessionFor = async (lane: Lane, path: string, signal: AbortSignal): Promise<Session> => {
    if (lane.session !== undefined && isUsable(lane.session, path)) return lane.session
    const isOldConnection = lane.socket !== undefined
    try {
      return await open(lane, signal)
    } catch (error) {
      const wasAnswered = error instanceof CallFailed || error instanceof BadRequest
      const isWorthRepeating = error instanceof BlockUsedUp || (isOldConnection && !wasAnswered)
      if (!isWorthRepeating || signal.aborted) throw notSent(error)
    }
    reset(lane)
    try {
      return await open(lane, signal)
    } catch (error) {
      throw notSent(error)
    }
  }

  const exchangeOn = async (lane: Lane, request: PeerRequest, signal: AbortSignal): Promise<PeerResponse> => {
    if (!options.sessions) return send(lane, request, signal)
    for (let isRepeated = false; ; isRepeated = true) {
      const session = await sessionFor(lane, request.path, signal)
      if (!carries(session, request.path)) throw new CallFailed('holds no QKD key in common yet', false)
      try {
        return await sendSealed(lane, session, request, signal)
      } catch (error) {
        // An idle connection ended just now: nothing of the message was sent, and it is sealed anew for the next one.
        if (!isGone(error)) throw error
        lane.session = undefined
        if (isRepeated) throw notSent(error)
      }
    }
  }

  return {
    exchange: async (request, signal) => {
      const lane = await take(signal)
      try {
        return await exchangeOn(lane, request, signal)
      } catch (error) {
        reset(lane)
        throw error
      } finally {
        giveBack(lane)
      }
    },
    updateTls: (tls) => {
      currentTls = tls
      const [old, resting] = [lanes, idle]
      lanes = old.map(() => createLane(tls))
      idle = [...lanes]
      // Those at work are closed when they are given back.
      for (const lane of old) lane.isRetired = true
      for (const lane of resting) void lane.client.close()
      while (waiting.length > 0 && idle.length > 0) waiting.shift()!(idle.pop()!)
    },
    close: async () => {
      await Promise.all(lanes.map((lane) => lane.client.destroy()))
    },
  }
}

/** Read once: Node.js gives the peer's certificate only the first time it is asked. */
const bindingOf = (socket: TLSSocket): Binding => ({
  initiatorFingerprint: socket.getX509Certificate()?.fingerprint256 ?? '',
  responderFingerprint: socket.getPeerX509Certificate()?.fingerprint256 ?? '',
  exporter: socket.exportKeyingMaterial(EXPORTER_BYTES, EXPORTER_LABEL, NO_CONTEXT),
})

/** While a session is opened, no byte of the call itself is on its way. */
const notSent = (error: unknown): CallFailed => {
  if (error instanceof CallFailed) return error
  return new CallFailed(`opened no session: ${callFailure(error).message}`, false, { cause: error })
}

/** For checkServerIdentity: undefined when the certificate names the KME and nobody else, by the rules for callers. The chain was
 *  verified before. */
const namesKme = (certificate: PeerCertificate, kmeId: KmeId): Error | undefined => {
  const facts = readCertificateFacts(new X509Certificate(certificate.raw))
  if (facts !== undefined && kmeIdOf(facts) === kmeId) return undefined
  return refusedCertificate(`the certificate at this address is not that of ${kmeId}`)
}

const notAccepted = (kmeId: KmeId): Error => refusedCertificate(`nobody approved the certificate of ${kmeId} at this address`)
