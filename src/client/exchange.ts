/** One HTTPS request and its answer, bounded in size and time. Redirects are not followed and nothing is sent twice. */
import { Agent, request } from 'node:https'
import type { IncomingHttpHeaders } from 'node:http'
import { checkServerIdentity, createSecureContext, type PeerCertificate } from 'node:tls'
import type { Clock } from '../kernel/clock.ts'

export interface ExchangeTls {
  /** Authorities the KME's certificate may come from. */
  readonly caPem: string
  readonly certificatePem?: string
  readonly privateKeyPem?: string
  /** The KME that must answer: a SAN URI `urn:kme:kme:<id>` of its certificate. */
  readonly kmeId?: string | undefined
  /** Whether the certificate must also name the host of the URL; true unless told. */
  readonly checkHost?: boolean
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  /** The caller zeroes it where it holds keys. */
  readonly body: Buffer
}

export interface ExchangeRequest {
  /** Scheme, host and port. */
  readonly origin: string
  /** Sent as it is: a URL object would resolve an SAE ID of one or two dots. */
  readonly path: string
  readonly method: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as JSON. */
  readonly body?: object | undefined
}

export const ANSWER_BYTES_MAX = 32 * 1024 * 1024
/** Code of an error: the connection was accepted, then cut before the answer was whole. */
export const ANSWER_CUT = 'ANSWER_CUT'
/** Hybrid first, so that recorded traffic stays closed to a quantum computer. */
const KEY_EXCHANGE_GROUPS = 'X25519MLKEM768:X25519:P-256:P-384'

/** Connections to one place, reused from request to request.
 *  @throws Error when certificate, key or authorities cannot be used. */
export const createAgent = (tls: ExchangeTls): Agent => {
  const material = {
    ca: tls.caPem,
    ...(tls.certificatePem !== undefined && { cert: tls.certificatePem }),
    ...(tls.privateKeyPem !== undefined && { key: tls.privateKeyPem }),
  }
  // Fails here instead of with the first request.
  createSecureContext(material)
  return new Agent({
    ...material,
    keepAlive: true,
    minVersion: 'TLSv1.2',
    ecdhCurve: KEY_EXCHANGE_GROUPS,
    checkServerIdentity: (host, certificate) =>
      (tls.checkHost === false ? undefined : checkServerIdentity(host, certificate)) ?? namesKme(certificate, tls.kmeId),
  })
}

const namesKme = (certificate: PeerCertificate, kmeId: string | undefined): Error | undefined => {
  const names = certificate.subjectaltname ?? ''
  // Node quotes a name with a comma in it, which could hold what looks like another name.
  const isThere = !names.includes('"') && names.split(', ').includes(`URI:urn:kme:kme:${kmeId}`)
  if (kmeId === undefined || isThere) return undefined
  return Object.assign(new Error(`the certificate at this address is not that of the KME ${kmeId}`), {
    code: 'ERR_TLS_CERT_ALTNAME_INVALID',
  })
}

/** @param deadlineMs covers connecting, waiting and reading.
 *  @throws Error of the socket or of TLS, one with code `ETIMEDOUT` when the deadline passed, or one with code `ANSWER_CUT`. */
export const exchange = async (agent: Agent, sent: ExchangeRequest, clock: Clock, deadlineMs: number): Promise<Answer> => {
  const finished = new AbortController()
  try {
    return await new Promise<Answer>((resolve, reject) => {
      const body = sent.body === undefined ? undefined : Buffer.from(JSON.stringify(sent.body))
      const outgoing = request(sent.origin, {
        agent,
        path: sent.path,
        method: sent.method,
        headers: {
          accept: 'application/json',
          ...sent.headers,
          ...(body !== undefined && { 'content-type': 'application/json', 'content-length': body.length }),
        },
      })
      void clock.sleep(deadlineMs, finished.signal).then(() => {
        if (finished.signal.aborted) return
        reject(Object.assign(new Error(`no answer within ${deadlineMs} ms`), { code: 'ETIMEDOUT' }))
        outgoing.destroy()
      })
      const cut = (cause: Error): void =>
        reject(Object.assign(new Error('the connection was cut before the answer was whole', { cause }), { code: ANSWER_CUT }))
      outgoing.on('error', (error: NodeJS.ErrnoException) => {
        // A connection that was used before has had its certificates accepted.
        if (outgoing.reusedSocket && error.code === 'ECONNRESET') cut(error)
        else reject(error)
      })
      outgoing.on('response', (response) => {
        const chunks: Buffer[] = []
        let length = 0
        response.on('data', (chunk: Buffer) => {
          chunks.push(chunk)
          length += chunk.length
          if (length <= ANSWER_BYTES_MAX) return
          reject(new Error('the answer is too long'))
          outgoing.destroy()
        })
        response.on('error', cut)
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
        )
        // Comes last, after whatever end: whole, cut, too long or too late. The chunks may hold keys.
        response.on('close', () => {
          for (const chunk of chunks) chunk.fill(0)
        })
      })
      outgoing.end(body)
    })
  } finally {
    finished.abort()
  }
}
