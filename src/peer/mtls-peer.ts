/** PeerKme over HTTPS with client certificates. The peer's certificate must name the KME ID we expect (SAN URI), whatever
 *  its address is. Redirects are not followed, answers are bounded in size and time. */
import type { PeerCertificate } from 'node:tls'
import { Pool } from 'undici'
import { createBatching } from '../kernel/batching.ts'
import type { Clock } from '../kernel/clock.ts'
import type { AssignmentId, KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import { createCircuitBreaker } from './circuit-breaker.ts'
import {
  PeerCallFailed,
  type AbortAnswer,
  type AssignmentAnswer,
  type AssignmentOffer,
  type BlockAnswer,
  type BlockProposal,
  type FloodingPartner,
  type PeerKme,
  type PeerStatus,
  type Retirement,
  type RetirementAnswer,
} from './peer.ts'
import {
  CALLS_PER_REQUEST_MAX,
  fallbackBlockPath,
  PEER_PROTOCOL,
  peerPaths,
  readAbortAnswers,
  readAssignmentAnswers,
  readBlockAnswers,
  readDifference,
  readFallbackAnswer,
  readHello,
  readLoanAnswer,
  readRetirementAnswers,
  writeOffer,
  writeProposal,
  writeSequences,
  writeStatements,
} from './wire.ts'

export interface PeerTls {
  readonly certificatePem: string
  readonly privateKeyPem: string
  /** Authority that KME certificates come from. */
  readonly caPem: string
  /** Revocation lists of the authorities; without them a revoked peer is still called. */
  readonly crlPems?: readonly string[]
}

export interface MtlsPeerOptions {
  readonly kmeId: KmeId
  readonly url: string
  readonly deadlineMs: number
  readonly unitSizeBits: number
  readonly tls: PeerTls
  readonly clock: Clock
  readonly log: Logger
}

export interface MtlsPeer extends PeerKme, FloodingPartner {
  status(): PeerStatus
  /** Watches the peer until `signal` aborts. */
  watch(signal: AbortSignal): Promise<void>
  /** Uses other certificates from the next connection on. */
  updateTls(tls: PeerTls): void
  close(): Promise<void>
}

const ANSWER_BYTES_MAX = 8 * 1024 * 1024
const CONNECTIONS = 4

/** Errors that undici and the socket report before a request's first byte was written. */
const NOTHING_WAS_SENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
  'CERT_HAS_EXPIRED',
  'CERT_REVOKED',
  'CRL_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'ERR_TLS_CERT_ALTNAME_INVALID',
])

const codeOf = (error: unknown): string | undefined => (error as { code?: string }).code

export const createMtlsPeer = (options: MtlsPeerOptions): MtlsPeer => {
  const { kmeId, clock, deadlineMs } = options
  const origin = new URL(options.url).origin

  const connect = (tls: PeerTls): Pool =>
    new Pool(origin, {
      connections: CONNECTIONS,
      pipelining: 1,
      keepAliveTimeout: 20_000,
      headersTimeout: deadlineMs,
      bodyTimeout: deadlineMs,
      maxResponseSize: ANSWER_BYTES_MAX,
      connect: {
        timeout: Math.min(deadlineMs, 3000),
        cert: tls.certificatePem,
        key: tls.privateKeyPem,
        ca: tls.caPem,
        ...(tls.crlPems !== undefined && { crl: [...tls.crlPems] }),
        minVersion: 'TLSv1.3',
        ecdhCurve: 'X25519MLKEM768:X25519:P-256',
        maxCachedSessions: 0,
        checkServerIdentity: (_host: string, certificate: PeerCertificate) => namesKme(certificate, kmeId),
      },
    })
  let pool = connect(options.tls)

  /** One request; `undefined` as body is a GET, a buffer goes as it is. @throws PeerCallFailed. */
  const request = async <T>(path: string, body: object | Buffer | undefined, read: (answer: unknown) => T): Promise<T> => {
    // The deadline starts here and covers connecting, waiting and reading.
    const stop = new AbortController()
    const finished = new AbortController()
    void clock.sleep(deadlineMs, finished.signal).then(() => stop.abort())
    try {
      const response = await pool.request({
        path,
        method: body === undefined ? 'GET' : 'POST',
        signal: stop.signal,
        ...(Buffer.isBuffer(body)
          ? { headers: { 'content-type': 'application/octet-stream' }, body }
          : body !== undefined && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
      })
      if (response.statusCode !== 200) {
        await response.body.dump()
        throw new PeerCallFailed(`answered ${response.statusCode}`, true)
      }
      return read(await response.body.json())
    } catch (error) {
      const code = codeOf(error)
      throw error instanceof PeerCallFailed
        ? error
        : new PeerCallFailed(code ?? (error as Error).message, code === undefined || !NOTHING_WAS_SENT.has(code), {
            cause: error,
          })
    } finally {
      finished.abort()
    }
  }

  /** A request that says whether the peer is available. @throws PeerCallFailed. */
  const call = async <T>(path: string, body: object | Buffer | undefined, read: (answer: unknown) => T): Promise<T> => {
    try {
      const answer = await request(path, body, read)
      breaker.answered()
      return answer
    } catch (error) {
      breaker.failed((error as PeerCallFailed).message)
      throw error
    }
  }

  const breaker = createCircuitBreaker({
    clock,
    log: options.log,
    peer: kmeId,
    greet: async () => {
      const hello = await call(peerPaths.hello, undefined, readHello)
      if (hello.kmeId !== kmeId) throw new Error(`calls itself ${hello.kmeId}`)
      if (hello.protocol !== PEER_PROTOCOL) throw new Error(`speaks protocol ${hello.protocol}, not ${PEER_PROTOCOL}`)
      if (hello.unitSizeBits !== options.unitSizeBits) {
        throw new Error(`cuts keys of ${hello.unitSizeBits} bits, not ${options.unitSizeBits}: make keys.sizeBits equal`)
      }
    },
  })

  const together = <Call, Answer>(
    path: string,
    write: (call: Call) => object,
    read: (body: unknown, count: number) => Answer[],
  ) =>
    createBatching<Call, Answer>({
      itemsMax: CALLS_PER_REQUEST_MAX,
      lanes: 2,
      separable: () => false,
      work: (calls) => call(path, { calls: calls.map(write) }, (body) => read(body, calls.length)),
    })

  return {
    kmeId,
    available: () => breaker.isClosed(),
    assign: together<AssignmentOffer, AssignmentAnswer>(peerPaths.assignments, writeOffer, readAssignmentAnswers),
    abort: together<AssignmentId, AbortAnswer>(peerPaths.aborts, (aid) => ({ aid }), readAbortAnswers),
    retire: together<Retirement, RetirementAnswer>(peerPaths.retirements, (retirement) => retirement, readRetirementAnswers),
    confirmBlock: together<BlockProposal, BlockAnswer>(peerPaths.blocks, writeProposal, readBlockAnswers),
    requestLoan: (loanId, unitCount) => call(peerPaths.loans, { loanId, unitCount }, readLoanAnswer),
    sendFallbackBlock: async (name, bytes) => {
      try {
        return await call(fallbackBlockPath(name), bytes, readFallbackAnswer)
      } finally {
        bytes.fill(0)
      }
    },
    sendStatements: (statements) => request(peerPaths.statements, writeStatements(statements), () => undefined),
    compareTopology: (sequences) => request(peerPaths.comparison, writeSequences(sequences), readDifference),
    status: () => ({
      kmeId,
      url: origin,
      available: breaker.isClosed(),
      lastAnswerAgeMs: breaker.lastAnswerAgeMs(),
      failuresInARow: breaker.failuresInARow(),
    }),
    watch: (signal) => breaker.watch(signal),
    updateTls: (tls) => {
      const old = pool
      pool = connect(tls)
      void old.close()
    },
    close: () => pool.destroy(),
  }
}

/** For checkServerIdentity: undefined when the certificate names the KME. The chain was verified before. */
const namesKme = (certificate: PeerCertificate, kmeId: KmeId): Error | undefined => {
  const names = (certificate.subjectaltname ?? '').split(', ')
  if (names.includes(`URI:urn:kme:kme:${kmeId}`)) return undefined
  return Object.assign(new Error(`the certificate at this address is not that of ${kmeId}`), {
    code: 'ERR_TLS_CERT_ALTNAME_INVALID',
  })
}
