/** Door of the client slice: a small SDK for SAEs. It speaks the three methods of ETSI GS QKD 014 V1.1.1 (5.2 to 5.4) to one KME.
 *  Holds: the KME's certificate is verified, keys never become strings, no request is sent twice. */
import type { Clock } from '../kernel/clock.ts'
import { systemClock } from '../kernel/clock.ts'
import { ANSWER_CUT, createAgent, exchange, type Answer, type ExchangeTls } from './exchange.ts'
import { readKeyContainer, type Key } from './key-container.ts'

export type { Key } from './key-container.ts'

/** Status, in the standard's own names (table 9). Sizes are in bits. */
export interface KeyStatus {
  readonly source_KME_ID: string
  readonly target_KME_ID: string
  readonly master_SAE_ID: string
  readonly slave_SAE_ID: string
  readonly key_size: number
  readonly stored_key_count: number
  readonly max_key_count: number
  readonly max_key_per_request: number
  readonly max_key_size: number
  readonly min_key_size: number
  readonly max_SAE_ID_count: number
}

export interface GetKeyOptions {
  /** How many keys; 1 unless told. */
  readonly number?: number | undefined
  /** Bits of each key; the KME's default size unless told. */
  readonly sizeBits?: number | undefined
  /** Further SAEs that get the same keys. */
  readonly additionalSlaveSaeIds?: readonly string[] | undefined
  /** A UUID of the caller's. The same request with the same ID, repeated within the KME's retry window, brings the same keys
   *  again; use it to ask again after a lost answer. An extension of OpenKME that other KMEs ignore. */
  readonly requestId?: string | undefined
  /** Parameters the KME must honour or refuse the request. */
  readonly extensionMandatory?: readonly Readonly<Record<string, unknown>>[] | undefined
  /** Parameters the KME may ignore. */
  readonly extensionOptional?: readonly Readonly<Record<string, unknown>>[] | undefined
}

export interface SaeClientOptions {
  /** Origin of the KME's SAE API, such as `https://kme.example.org:8441`. */
  readonly url: string
  /** This SAE's certificate and key; they say who it is. */
  readonly certificatePem: string
  readonly privateKeyPem: string
  /** Authorities the KME's certificate may come from. */
  readonly caPem: string
  /** The KME that must answer, if its ID shall be checked besides its host name. */
  readonly kmeId?: string | undefined
  /** For each request as a whole; 10 000 unless told. */
  readonly deadlineMs?: number | undefined
  readonly clock?: Clock | undefined
}

/** Every method throws KmeRequestError and nothing else. */
export interface SaeClient {
  /** What could be had now to share with the slave SAE. Takes no key. */
  status(slaveSaeId: string): Promise<KeyStatus>
  /** Fresh keys to share with the slave SAE, all that were asked for or none. */
  getKey(slaveSaeId: string, options?: GetKeyOptions): Promise<Key[]>
  /** The keys a master SAE got under these IDs, in the order asked, all or none. Each can be had once. */
  getKeyWithKeyIds(masterSaeId: string, keyIds: readonly string[]): Promise<Key[]>
  /** Closes the connections. */
  close(): void
}

/** A request that brought no keys, status or other result. */
export class KmeRequestError extends Error {
  /** The HTTP status; undefined when no usable answer came. */
  readonly status: number | undefined
  /** Name and value pairs with which the KME explains itself. */
  readonly details: readonly Readonly<Record<string, unknown>>[]
  /** After how many seconds a retry makes sense, if the KME said so. */
  readonly retryAfterS: number | undefined

  constructor(message: string, answer?: Pick<KmeRequestError, 'status' | 'details' | 'retryAfterS'>, options?: ErrorOptions) {
    super(message, options)
    this.name = 'KmeRequestError'
    this.status = answer?.status
    this.details = answer?.details ?? []
    this.retryAfterS = answer?.retryAfterS
  }
}

export const DEFAULT_DEADLINE_MS = 10_000

/** Connects with the first request.
 *  @throws KmeRequestError when the URL, a certificate or the key cannot be used. */
export const createSaeClient = (options: SaeClientOptions): SaeClient => {
  const { clock = systemClock, deadlineMs = DEFAULT_DEADLINE_MS } = options
  const origin = parseOrigin(options.url)
  const agent = openAgent(options)

  const call = (saeId: string, method: string, body?: object): Promise<Answer> => {
    const path = `/api/v1/keys/${encodeURIComponent(saeId)}/${method}`
    return settle(() => exchange(agent, { origin, path, method: body === undefined ? 'GET' : 'POST', body }, clock, deadlineMs))
  }
  const callForKeys = async (saeId: string, method: string, body: object): Promise<Key[]> => {
    const answer = await call(saeId, method, body)
    const keys = readKeyContainer(answer.body)
    if (keys === undefined) throw new KmeRequestError('the answer is not a key container: is this the SAE API of a KME?')
    return keys
  }

  return {
    status: async (slaveSaeId) => readStatus((await call(slaveSaeId, 'status')).body),
    getKey: (slaveSaeId, request = {}) => {
      const optional = [...(request.extensionOptional ?? [])]
      if (request.requestId !== undefined) optional.push({ openkme_request_id: request.requestId })
      return callForKeys(slaveSaeId, 'enc_keys', {
        number: request.number,
        size: request.sizeBits,
        additional_slave_SAE_IDs: request.additionalSlaveSaeIds,
        extension_mandatory: request.extensionMandatory,
        extension_optional: optional.length > 0 ? optional : undefined,
      })
    },
    getKeyWithKeyIds: (masterSaeId, keyIds) =>
      callForKeys(masterSaeId, 'dec_keys', { key_IDs: keyIds.map((keyId) => ({ key_ID: keyId })) }),
    close: () => agent.destroy(),
  }
}

/** @throws KmeRequestError that says how the URL must look. */
export const parseOrigin = (url: string): string => {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  if (parsed?.protocol !== 'https:')
    throw new KmeRequestError('the URL of a KME begins with https://, such as https://localhost:8441')
  return parsed.origin
}

/** @throws KmeRequestError when a certificate or key cannot be used. */
export const openAgent = (tls: ExchangeTls): ReturnType<typeof createAgent> => {
  try {
    return createAgent(tls)
  } catch (cause) {
    throw new KmeRequestError('the certificate, private key or CA certificate is not usable PEM, or they do not fit', undefined, {
      cause,
    })
  }
}

/** Turns whatever a request ended with into an answer of status 2xx or a KmeRequestError. */
export const settle = async (send: () => Promise<Answer>): Promise<Answer> => {
  let answer: Answer
  try {
    answer = await send()
  } catch (cause) {
    throw new KmeRequestError(`the KME cannot be reached: ${describeFailure(cause)}`, undefined, { cause })
  }
  if (answer.status >= 200 && answer.status < 300) return answer
  throw refusal(answer)
}

const describeFailure = (cause: unknown): string => {
  const { code, message } = cause as NodeJS.ErrnoException
  const known: Readonly<Record<string, string>> = {
    ECONNREFUSED: 'nobody listens at this address',
    ENOTFOUND: 'the host name is not known',
    ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'it asks for a client certificate',
    SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is not from the authority given with --ca or caPem',
    UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is not from the authority given with --ca or caPem',
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate is not from the authority given with --ca or caPem',
    ECONNRESET: 'it closed a new connection without an answer; it may not accept the client certificate',
    [ANSWER_CUT]: 'the connection was cut before the answer was whole; whether the request was carried out is not known',
  }
  // A server's refusal of the client certificate arrives as a TLS alert.
  if (code?.includes('ALERT') === true)
    return known[code] ?? `it refused the TLS handshake, the client certificate most likely (${code})`
  return known[code ?? ''] ?? message
}

const refusal = (answer: Answer): KmeRequestError => {
  const error = parseObject(answer.body)
  const detail = error['message'] ?? error['detail'] ?? error['title']
  const details = error['details']
  const retryAfter = answer.headers['retry-after'] ?? ''
  return new KmeRequestError(typeof detail === 'string' ? detail : standardMeaning(answer.status), {
    status: answer.status,
    details: Array.isArray(details) ? (details as Record<string, unknown>[]) : [],
    retryAfterS: /^\d{1,6}$/.test(retryAfter) ? Number(retryAfter) : undefined,
  })
}

/** For answers without a text of their own, such as 401 of the SAE API. */
const standardMeaning = (status: number): string => {
  if (status === 401) return 'not authorised: the SAE is not registered here, is disabled, or the keys are not meant for it'
  return `the KME answered ${status}`
}

/** @returns an empty object for anything that is not a JSON object. */
export const parseObject = (body: Buffer): Record<string, unknown> => {
  try {
    const value: unknown = JSON.parse(body.toString('utf8'))
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

const NAMES = ['source_KME_ID', 'target_KME_ID', 'master_SAE_ID', 'slave_SAE_ID'] as const
const COUNTS = [
  'key_size',
  'stored_key_count',
  'max_key_count',
  'max_key_per_request',
  'max_key_size',
  'min_key_size',
  'max_SAE_ID_count',
] as const

const readStatus = (body: Buffer): KeyStatus => {
  const status = parseObject(body)
  const isWhole =
    NAMES.every((name) => typeof status[name] === 'string') && COUNTS.every((name) => Number.isInteger(status[name]))
  if (!isWhole) throw new KmeRequestError('the answer is not a status: is this the SAE API of a KME?')
  return Object.fromEntries([...NAMES, ...COUNTS].map((name) => [name, status[name]])) as unknown as KeyStatus
}
