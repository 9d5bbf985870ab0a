/** Calls to one neighbour over HTTPS with client certificates. Its certificate must bear the configured name, whatever its address is.
 *  Holds: nothing is sent anywhere but to the configured URLs, no redirect is followed, answers are bounded in size and time. */
import { X509Certificate } from 'node:crypto'
import type { PeerCertificate } from 'node:tls'
import { Pool } from 'undici'
import { bearsName, readCertificateFacts, type CertificateName } from '../http/client-identity.ts'
import { INTERWORKING_CONTENT_TYPE } from '../http/interworking-problem.ts'
import { callFailure, refusedCertificate } from '../kernel/call-failed.ts'
import { createCircuitBreaker } from '../kernel/circuit-breaker.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import { CONNECTIONS_PER_NEIGHBOUR, type Neighbour, type NeighbourStatus, type NeighbourTls } from './interworking.ts'
import { interworkingPaths, readVersions } from './wire.ts'

export interface NeighbourAnswer {
  readonly status: number
  /** The JSON body; undefined where there is none, or none that can be read. */
  readonly body: unknown
}

export interface NeighbourClient {
  readonly neighbour: Neighbour
  available(): boolean
  /** Whether keys are sent to it, and voided, without a callback. */
  isSynchronous(): boolean
  /** @param body stays as it is. @param deadlineMs covers connecting, sending, waiting and reading.
   *  @throws CallFailed. */
  post(to: 'keys' | 'ack' | 'void', body: Buffer, deadlineMs: number): Promise<NeighbourAnswer>
  status(): NeighbourStatus
  /** Greets the neighbour until `signal` aborts. */
  watch(signal: AbortSignal): Promise<void>
  updateTls(tls: NeighbourTls): void
  close(): Promise<void>
}

const ANSWER_BYTES_MAX = 8 * 1024 * 1024
const CONNECT_DEADLINE_MS = 3000
/** A neighbour is asked for its versions when nothing else was said for so long. */
const QUIET_MS = 15_000

export const createNeighbourClient = (parts: {
  readonly neighbour: Neighbour
  readonly tls: NeighbourTls
  readonly clock: Clock
  readonly log: Logger
}): NeighbourClient => {
  const { neighbour, clock } = parts
  const callback = new URL(neighbour.callbackUrl)
  const origin = new URL(neighbour.url).origin
  const places = {
    versions: { origin, path: interworkingPaths.versions },
    keys: { origin, path: interworkingPaths.keys },
    void: { origin, path: interworkingPaths.void },
    ack: { origin: callback.origin, path: callback.pathname },
  }

  const connect = (tls: NeighbourTls): ReadonlyMap<string, Pool> =>
    new Map([...new Set([origin, callback.origin])].map((each) => [each, connectTo(each, neighbour.certificate, tls)]))
  let pools = connect(parts.tls)
  const closeAll = async (old: ReadonlyMap<string, Pool>, how: 'close' | 'destroy'): Promise<void> => {
    await Promise.all([...old.values()].map((pool) => pool[how]()))
  }

  const call = async (to: keyof typeof places, body: Buffer | undefined, deadlineMs: number): Promise<NeighbourAnswer> => {
    const place = places[to]
    const stop = new AbortController()
    const finished = new AbortController()
    void clock.sleep(deadlineMs, finished.signal).then(() => stop.abort())
    try {
      const response = await (pools.get(place.origin) as Pool).request({
        path: place.path,
        method: body === undefined ? 'GET' : 'POST',
        headers: { accept: 'application/json', ...(body !== undefined && { 'content-type': INTERWORKING_CONTENT_TYPE }) },
        ...(body !== undefined && { body }),
        signal: stop.signal,
      })
      const text = await response.body.text()
      breaker.answered()
      return { status: response.statusCode, body: parseOrNothing(text) }
    } catch (error) {
      const failure = callFailure(error)
      breaker.failed(failure.message)
      throw failure
    } finally {
      finished.abort()
    }
  }

  let canBeSynchronous = false
  const breaker = createCircuitBreaker({
    clock,
    log: parts.log,
    peer: neighbour.kmeId,
    quietMs: QUIET_MS,
    greet: async () => {
      const { status, body } = await call('versions', undefined, Math.min(neighbour.deadlineMs, CONNECT_DEADLINE_MS))
      if (status !== 200) throw new Error(`answered ${status}`)
      canBeSynchronous = readVersions(body).synchronous
      if (neighbour.synchronous && !canBeSynchronous) {
        parts.log.warn({ neighbour: neighbour.kmeId }, 'the neighbour cannot answer synchronously; it is given a callback URL')
      }
    },
  })

  return {
    neighbour,
    available: () => breaker.isClosed(),
    isSynchronous: () => neighbour.synchronous && canBeSynchronous,
    post: call,
    status: () => ({
      kmeId: neighbour.kmeId,
      url: origin,
      ...breaker.status(),
    }),
    watch: (signal) => breaker.watch(signal),
    updateTls: (tls) => {
      const old = pools
      pools = connect(tls)
      void closeAll(old, 'close')
    },
    close: () => closeAll(pools, 'destroy'),
  }
}

const parseOrNothing = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const connectTo = (origin: string, name: CertificateName, tls: NeighbourTls): Pool =>
  new Pool(origin, {
    connections: CONNECTIONS_PER_NEIGHBOUR,
    pipelining: 1,
    keepAliveTimeout: 20_000,
    maxResponseSize: ANSWER_BYTES_MAX,
    connect: {
      timeout: CONNECT_DEADLINE_MS,
      cert: tls.certificatePem,
      key: tls.privateKeyPem,
      ca: tls.caPem,
      ...(tls.crlPems !== undefined && { crl: [...tls.crlPems] }),
      minVersion: 'TLSv1.3',
      ecdhCurve: 'X25519MLKEM768:X25519:P-256:P-384',
      maxCachedSessions: 0,
      checkServerIdentity: (_host: string, certificate: PeerCertificate) => bears(certificate, name),
    },
  })

/** For checkServerIdentity: undefined when the certificate bears the name. The chain was verified before. */
const bears = (certificate: PeerCertificate, name: CertificateName): Error | undefined => {
  const facts = readCertificateFacts(new X509Certificate(certificate.raw))
  if (facts !== undefined && bearsName(facts, name)) return undefined
  return refusedCertificate('the certificate at this address is not that of the neighbour')
}
