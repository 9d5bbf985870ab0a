/** Admin tokens: JWTs (RFC 7519) in the shape of access tokens (RFC 9068), signed with the one key this KME is configured with.
 *  Holds: the algorithm follows from the configured key and never from the token; a header that could bring another key,
 *  compression or an extension is refused before any of it is used; no token lives longer than 12 hours. */
import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto'
import { calculateJwkThumbprint, decodeProtectedHeader, jwtVerify, SignJWT, type JWTPayload } from 'jose'
import type { Clock } from '../kernel/clock.ts'
import { Unauthorized } from '../kernel/errors.ts'
import { parseKmeId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import { parseAdminScope, type Admin, type AdminScope, type TokenVerifier } from './admin.ts'

export const MAX_TOKEN_LIFE_S = 12 * 60 * 60

const ISSUER = 'openkme'
const AUDIENCE = 'openkme-admin'
// Not "JWT": an ID token or a token made for another purpose with the same key must not pass as an admin token.
const TYPE = 'at+jwt'
const MAX_TOKEN_CHARACTERS = 4096
const MAX_CLOCK_DIFFERENCE_S = 30
const SUBJECT = /^[A-Za-z0-9._@-]{1,64}$/

export interface TokenRequest {
  /** PKCS#8 PEM, Ed25519 or P-256. */
  readonly privateKeyPem: string
  /** Who the token is for; 1 to 64 characters of A-Z a-z 0-9 . _ @ - */
  readonly subject: string
  readonly scopes: readonly AdminScope[]
  /** Seconds from now on; at most 12 hours. */
  readonly lifeS: number
  /** The only KME that shall accept the token; left out, every KME with the key does. */
  readonly kmeId?: string
  readonly clock: Clock
  readonly random: Random
}

/** @returns the token in its compact form.
 *  @throws Error that says what is wrong with the request. */
export const signAdminToken = async (request: TokenRequest): Promise<string> => {
  const { subject, scopes, lifeS, kmeId } = request
  if (!SUBJECT.test(subject)) throw new Error('the subject must be 1 to 64 characters of A-Z a-z 0-9 . _ @ -')
  if (scopes.length === 0) throw new Error('a token needs at least one scope')
  if (!Number.isInteger(lifeS) || lifeS < 1 || lifeS > MAX_TOKEN_LIFE_S) throw new Error('a token lives 1 second to 12 hours')
  if (kmeId !== undefined && parseKmeId(kmeId) === undefined) throw new Error('this is not a KME ID')
  const key = createPrivateKey(request.privateKeyPem)
  const issuedAtS = Math.floor(request.clock.nowMs() / 1000)
  return new SignJWT({ scope: [...new Set(scopes)].join(' '), ...(kmeId !== undefined && { kme: kmeId }) })
    .setProtectedHeader({ alg: algorithmOf(key), typ: TYPE, kid: await calculateJwkThumbprint(createPublicKey(key)) })
    .setIssuer(ISSUER)
    .setAudience(AUDIENCE)
    .setSubject(subject)
    .setJti(request.random.uuid())
    .setIssuedAt(issuedAtS)
    .setNotBefore(issuedAtS - MAX_CLOCK_DIFFERENCE_S)
    .setExpirationTime(issuedAtS + lifeS)
    .sign(key)
}

/** @param options.publicKeyPem SPKI PEM, Ed25519 or P-256.
 *  @param options.kmeId of this KME: tokens made for another one are refused.
 *  @throws Error that says what is wrong with the key. */
export const createTokenVerifier = async (options: {
  readonly publicKeyPem: string
  readonly kmeId?: string
  readonly clock: Clock
}): Promise<TokenVerifier> => {
  if (options.publicKeyPem.includes('PRIVATE KEY'))
    throw new Error('the token key must be the public key: a KME never needs the private one')
  const key = createPublicKey(options.publicKeyPem)
  const algorithm = algorithmOf(key)
  const keyId = await calculateJwkThumbprint(key)

  return {
    verify: async (token) => {
      if (token.length > MAX_TOKEN_CHARACTERS) throw new Unauthorized('the token is too long')
      try {
        checkHeader(token, keyId)
        const nowMs = options.clock.nowMs()
        const { payload } = await jwtVerify(token, key, {
          algorithms: [algorithm],
          issuer: ISSUER,
          audience: AUDIENCE,
          currentDate: new Date(nowMs),
        })
        return readClaims(payload, Math.floor(nowMs / 1000), options.kmeId)
      } catch (error) {
        if (error instanceof Unauthorized) throw error
        // The library's message names the claim or header that failed and no content of the token.
        throw new Unauthorized(`the token does not verify: ${error instanceof Error ? error.message : 'unknown reason'}`)
      }
    },
  }
}

/** @throws Error for a key no token may be signed with. */
const algorithmOf = (key: KeyObject): 'EdDSA' | 'ES256' => {
  if (key.asymmetricKeyType === 'ed25519') return 'EdDSA'
  if (key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1') return 'ES256'
  throw new Error('the token key must be an Ed25519 or P-256 key')
}

// A list of what may be there, not of what may not: jku, x5u, jwk, x5c, crit, zip and whatever comes next are refused.
const checkHeader = (token: string, keyId: string): void => {
  const { alg: _checkedWithTheSignature, typ, kid, ...others } = decodeProtectedHeader(token)
  if (typ !== TYPE) throw new Unauthorized('the token is of another type')
  if (kid !== undefined && kid !== keyId) throw new Unauthorized('the token names another key')
  if (Object.keys(others).length > 0) throw new Unauthorized('the token has a header that is not accepted')
}

const readClaims = (claims: JWTPayload, nowS: number, kmeId: string | undefined): Admin => {
  const { sub, exp, iat, nbf, jti, aud, scope } = claims
  if (exp === undefined || iat === undefined || nbf === undefined) throw new Unauthorized('the token lacks a time')
  if (exp - iat > MAX_TOKEN_LIFE_S) throw new Unauthorized('the token lives too long')
  if (iat > nowS + MAX_CLOCK_DIFFERENCE_S) throw new Unauthorized('the token is from the future')
  if (aud !== AUDIENCE) throw new Unauthorized('the token is for somebody else as well')
  if (sub === undefined || !SUBJECT.test(sub)) throw new Unauthorized('the token has no usable subject')
  if (typeof jti !== 'string' || jti === '') throw new Unauthorized('the token has no usable ID')
  if (typeof scope !== 'string') throw new Unauthorized('the token has no scope')
  if (claims['kme'] !== undefined && claims['kme'] !== kmeId) throw new Unauthorized('the token is for another KME')
  // A token bound to a key or certificate must not be worth anything without the binding (RFC 8705).
  if (claims['cnf'] !== undefined) throw new Unauthorized('the token is bound to a certificate')
  const scopes = scope.split(' ').flatMap((name) => parseAdminScope(name) ?? [])
  return { subject: sub, scopes: new Set(scopes), expiresAtS: exp }
}
