/** The authenticated caller of a request. Set by the `require...` middleware on every request, because a certificate that
 *  was good when the connection opened may be revoked, expired or deregistered by now (I16). */
import type { TLSSocket } from 'node:tls'
import type { IncomingMessage } from 'node:http'
import type { RequestHandler } from 'express'
import type { Clock } from '../kernel/clock.ts'
import { Unauthorized } from '../kernel/errors.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import { certificateFactsOf, kmeIdOf, saeIdOf } from './client-identity.ts'
import type { CertificateFacts, IdentityMode } from './client-identity.ts'

export interface SaeCaller {
  readonly saeId: SaeId
  readonly facts: CertificateFacts
}

export interface KmeCaller {
  readonly kmeId: KmeId
  readonly facts: CertificateFacts
}

const sae = Symbol('sae')
const kme = Symbol('kme')
const name = Symbol('name')

interface CalledRequest extends IncomingMessage {
  [sae]?: SaeCaller
  [kme]?: KmeCaller
  [name]?: string
}

/** Lets only SAEs through.
 *  @param options.isAdmitted asked on every request: is this SAE registered, enabled and its certificate not revoked?
 *  @throws Unauthorized (from the middleware) for everybody else. */
export const requireSae = (options: {
  readonly identify: IdentityMode
  readonly isAdmitted: (saeId: SaeId, facts: CertificateFacts) => boolean
  readonly clock: Clock
}): RequestHandler => {
  return (req, _res, next) => {
    const facts = currentFacts(req, options.clock)
    const saeId = saeIdOf(facts, options.identify)
    if (saeId === undefined) throw new Unauthorized('the certificate names no SAE')
    if (!options.isAdmitted(saeId, facts)) throw new Unauthorized(`SAE ${saeId} is not admitted`)
    const called = req as CalledRequest
    called[sae] = { saeId, facts }
    called[name] = saeId
    next()
  }
}

/** Lets only other KMEs through; otherwise as `requireSae`.
 *  @param options.identify says which KME the certificate names; by its SAN URI `urn:kme:kme:<id>` if left out. */
export const requireKme = (options: {
  readonly identify?: (facts: CertificateFacts) => KmeId | undefined
  readonly isAdmitted: (kmeId: KmeId, facts: CertificateFacts) => boolean
  readonly clock: Clock
}): RequestHandler => {
  return (req, _res, next) => {
    const facts = currentFacts(req, options.clock)
    const kmeId = (options.identify ?? kmeIdOf)(facts)
    if (kmeId === undefined) throw new Unauthorized('the certificate names no KME')
    if (!options.isAdmitted(kmeId, facts)) throw new Unauthorized(`KME ${kmeId} is not admitted`)
    const called = req as CalledRequest
    called[kme] = { kmeId, facts }
    called[name] = kmeId
    next()
  }
}

/** @returns the SAE that sent this request.
 *  @throws Unauthorized when `requireSae` did not run before. */
export const callerSae = (req: IncomingMessage): SaeCaller => {
  const caller = (req as CalledRequest)[sae]
  if (caller === undefined) throw new Unauthorized('no SAE was authenticated')
  return caller
}

/** @returns the KME that sent this request.
 *  @throws Unauthorized when `requireKme` did not run before. */
export const callerKme = (req: IncomingMessage): KmeCaller => {
  const caller = (req as CalledRequest)[kme]
  if (caller === undefined) throw new Unauthorized('no KME was authenticated')
  return caller
}

/** Names the caller in the request log, for listeners that authenticate by other means than a certificate. */
export const nameCaller = (req: IncomingMessage, callerName: string): void => {
  const called = req as CalledRequest
  called[name] = callerName
}

/** @returns the name the request log shows, undefined while nobody was authenticated. */
export const callerName = (req: IncomingMessage): string | undefined => (req as CalledRequest)[name]

const currentFacts = (req: IncomingMessage, clock: Clock): CertificateFacts => {
  const facts = certificateFactsOf(req.socket as TLSSocket)
  if (facts === undefined) throw new Unauthorized('no verified client certificate')
  const nowMs = clock.nowMs()
  if (nowMs < facts.notBeforeMs || nowMs > facts.notAfterMs) throw new Unauthorized('the certificate is not valid now')
  return facts
}
