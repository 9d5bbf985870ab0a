/** Turns the closed set of errors into answers: the Error object of ETSI GS QKD 014 (clause 6.5) on the SAE API,
 *  RFC 9457 problem details on the admin and peer API, the error object of ETSI GS QKD 020 on the interworking API.
 *  Holds: under the SAE API a 401 has no body, nothing is answered with 500, and no caller's value is echoed. */
import { STATUS_CODES } from 'node:http'
import type { ServerResponse } from 'node:http'
import { BadRequest, MethodNotAllowed } from '../kernel/errors.ts'
import type { KmeError, KmeErrorCode } from '../kernel/errors.ts'
import { sealHeaders } from './answer-seal.ts'
import { INTERWORKING_CONTENT_TYPE, interworkingProblem, type InterworkingProblem } from './interworking-problem.ts'

/** `etsi` for the SAE API, `problem` for the admin and peer API, `interworking` for the API of KMEs of other networks. */
export type ErrorStyle = 'etsi' | 'problem' | 'interworking'

const etsiStatus: Record<KmeErrorCode, number> = {
  'bad-request': 400,
  'unknown-slave': 400,
  'key-not-found': 400,
  unauthorized: 401,
  // The standard has no 403: a caller without the right is as unauthorized as one without a certificate.
  forbidden: 401,
  'not-found': 404,
  'method-not-allowed': 405,
  conflict: 400,
  'keys-exhausted': 503,
  'peer-unavailable': 503,
  'key-data-access': 503,
  unavailable: 503,
  internal: 503,
}

const problemStatus: Record<KmeErrorCode, number> = {
  'bad-request': 400,
  'unknown-slave': 400,
  'key-not-found': 400,
  unauthorized: 401,
  forbidden: 403,
  'not-found': 404,
  'method-not-allowed': 405,
  conflict: 409,
  'keys-exhausted': 503,
  'peer-unavailable': 503,
  'key-data-access': 503,
  unavailable: 503,
  internal: 503,
}

const interworkingStatus: Record<KmeErrorCode, number> = { ...problemStatus, forbidden: 401, conflict: 503 }

const interworkingProblems: Record<KmeErrorCode, InterworkingProblem | undefined> = {
  'bad-request': 'invalid-parameter',
  'unknown-slave': 'key-routing-error',
  'key-not-found': 'key-not-present',
  unauthorized: 'unauthorized',
  forbidden: 'unauthorized',
  'not-found': undefined,
  'method-not-allowed': undefined,
  conflict: 'server-side-general-error',
  'keys-exhausted': 'insufficient-key-material',
  'peer-unavailable': 'server-side-general-error',
  'key-data-access': 'server-side-general-error',
  unavailable: 'server-side-general-error',
  internal: 'server-side-general-error',
}

const statusOf: Record<ErrorStyle, Record<KmeErrorCode, number>> = {
  etsi: etsiStatus,
  problem: problemStatus,
  interworking: interworkingStatus,
}

const contentTypeOf: Record<ErrorStyle, string> = {
  etsi: 'application/json',
  problem: 'application/problem+json',
  interworking: INTERWORKING_CONTENT_TYPE,
}

/** The challenge a 401 must carry (RFC 9110, 11.6.1). No scheme is registered for TLS client certificates, so this one is
 *  our own: the caller needs a certificate of the realm, on a new connection. */
export const certificateChallenge = 'KME-Certificate realm="kme"'
export const bearerChallenge = 'Bearer realm="kme"'

interface Answer {
  readonly status: number
  /** Names and values in turn, as `writeHead` takes them. */
  readonly headers: readonly string[]
  readonly body: string
}

/** Answers the request with the error; the connection closes when part of the request was not read.
 *  @param options.challenge for WWW-Authenticate; the certificate one if left out.
 *  @param options.close closes the connection after the answer. */
export const sendError = (
  res: ServerResponse,
  error: KmeError,
  style: ErrorStyle,
  options: { readonly challenge?: string; readonly close?: boolean } = {},
): void => {
  const answer = answerTo(error, style, options.challenge ?? certificateChallenge)
  const headers = [...answer.headers, ...sealHeaders(res, answer.status, answer.body)]
  if (options.close) headers.push('Connection', 'close')
  res.writeHead(answer.status, headers)
  res.end(answer.body)
}

/** The bytes that answer a request too broken for the HTTP parser, ready for the socket. */
export const rawBadRequest = (style: ErrorStyle): string => {
  const { status, headers, body } = answerTo(new BadRequest(), style, certificateChallenge)
  const lines = [`HTTP/1.1 ${status} ${STATUS_CODES[status]}`]
  for (let at = 0; at < headers.length; at += 2) lines.push(`${headers[at]}: ${headers[at + 1]}`)
  return [...lines, 'Connection: close', '', body].join('\r\n')
}

const answerTo = (error: KmeError, style: ErrorStyle, challenge: string): Answer => {
  const status = statusOf[style][error.code]
  const body = bodyOf[style](error, status)
  const headers = ['Cache-Control', 'no-store', 'Content-Length', String(Buffer.byteLength(body))]
  if (body !== '') headers.push('Content-Type', contentTypeOf[style])
  if (status === 401) headers.push('WWW-Authenticate', challenge)
  if (error instanceof MethodNotAllowed) headers.push('Allow', error.allow.join(', '))
  if (error.retryAfterS !== undefined) headers.push('Retry-After', String(Math.max(1, Math.ceil(error.retryAfterS))))
  return { status, headers, body }
}

const detailsOf = (error: KmeError): object => (error.details && error.details.length > 0 ? { details: error.details } : {})

const etsiBody = (error: KmeError, status: number): string => {
  // 401 has no data model in the standard, and an unknown path is no part of its API.
  if (status === 401 || status === 404) return ''
  return JSON.stringify({ message: error.message, ...detailsOf(error) })
}

const problemBody = (error: KmeError, status: number): string => {
  const title = STATUS_CODES[status]
  // The reason of a refused login is for the log.
  const detail = status === 401 ? {} : { detail: error.message }
  return JSON.stringify({ type: 'about:blank', title, status, ...detail, ...detailsOf(error) })
}

const interworkingBody = (error: KmeError, status: number): string => {
  const problem = interworkingProblems[error.code]
  // The reason of a refused login is for the log.
  if (status === 401 || problem === undefined) return interworkingProblem(status, problem)
  return interworkingProblem(status, problem, { [problem.replaceAll('-', '_')]: error.message })
}

const bodyOf: Record<ErrorStyle, (error: KmeError, status: number) => string> = {
  etsi: etsiBody,
  problem: problemBody,
  interworking: interworkingBody,
}
