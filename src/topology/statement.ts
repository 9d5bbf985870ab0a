/** A link-state statement as bytes: written in the one form that is signed, signed, and read back.
 *  Holds: equal statements have equal bytes and other bytes are refused, so nobody can change the form of what another signed; the
 *  signature says what it is for, so that no other signature of a KME's key can pass for one. */
import { createPrivateKey, sign, verify, X509Certificate, type KeyObject } from 'node:crypto'
import { parseKmeId, parseLinkId, type KmeId } from '../kernel/identifiers.ts'
import type { SignedStatement } from '../peer/peer.ts'
import type { LinkStateStatement, StatedLink } from './topology.ts'

export const STATEMENT_VERSION = 1
export const LINKS_PER_KME_MAX = 128
/** How long a statement may be valid. */
export const VALID_FOR_S_MIN = 10
export const VALID_FOR_S_MAX = 86_400
/** How far a sequence number may be ahead of the seconds since 1970. A KME whose name was abused can go on counting at once. */
export const SEQUENCE_AHEAD_MAX = 31_622_400

const CONTEXT = 'openkme topology 1|'
/** The bound of numbers that JSON carries exactly. */
const NUMBER_MAX = Number.MAX_SAFE_INTEGER

/** The bytes that are signed, as text: JSON without any space, members in this order, links by their IDs. */
export const writeStatement = (statement: LinkStateStatement): string =>
  JSON.stringify({
    version: statement.version,
    kmeId: statement.kmeId,
    sequence: statement.sequence,
    issuedAtMs: statement.issuedAtMs,
    validForS: statement.validForS,
    links: orderLinks(statement.links).map(({ linkId, peerKmeId, availableKeys, keyRateBps, up }) => ({
      linkId,
      peerKmeId,
      availableKeys,
      keyRateBps,
      up,
    })),
  })

/** In the order in which they are stated. */
export const orderLinks = (links: readonly StatedLink[]): readonly StatedLink[] =>
  [...links].sort((one, other) => (one.linkId < other.linkId ? -1 : 1))

/** @returns undefined unless the text is a statement in the one form it may have. */
export const readStatement = (text: string): LinkStateStatement | undefined => {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  const statement = toStatement(value)
  return statement !== undefined && writeStatement(statement) === text ? statement : undefined
}

const isCount = (value: unknown, min: number, max: number): value is number =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max

const nameOf = <T extends string>(value: unknown, parse: (text: string) => T | undefined): T | undefined =>
  typeof value === 'string' ? parse(value) : undefined

const toStatement = (value: unknown): LinkStateStatement | undefined => {
  if (typeof value !== 'object' || value === null) return undefined
  const { version, kmeId, sequence, issuedAtMs, validForS, links } = value as Record<string, unknown>
  const speaker = nameOf(kmeId, parseKmeId)
  if (version !== STATEMENT_VERSION || speaker === undefined) return undefined
  if (!isCount(sequence, 1, NUMBER_MAX) || !isCount(issuedAtMs, 0, NUMBER_MAX)) return undefined
  if (!isCount(validForS, VALID_FOR_S_MIN, VALID_FOR_S_MAX)) return undefined
  if (!Array.isArray(links) || links.length > LINKS_PER_KME_MAX) return undefined
  const stated = links.map((link) => toLink(link, speaker)).filter((link) => link !== undefined)
  if (stated.length !== links.length || new Set(stated.map(({ linkId }) => linkId)).size !== links.length) return undefined
  return { version: STATEMENT_VERSION, kmeId: speaker, sequence, issuedAtMs, validForS, links: stated }
}

const toLink = (value: unknown, speaker: KmeId): StatedLink | undefined => {
  if (typeof value !== 'object' || value === null) return undefined
  const { linkId, peerKmeId, availableKeys, keyRateBps, up } = value as Record<string, unknown>
  const link = nameOf(linkId, parseLinkId)
  const peer = nameOf(peerKmeId, parseKmeId)
  if (link === undefined || peer === undefined || peer === speaker || typeof up !== 'boolean') return undefined
  if (!isCount(availableKeys, 0, NUMBER_MAX) || !isCount(keyRateBps, 0, NUMBER_MAX)) return undefined
  return { linkId: link, peerKmeId: peer, availableKeys, keyRateBps, up }
}

/** A KME's certificate, with those of authorities in between if there are any, and its private key. */
export interface SigningIdentity {
  readonly certificatePem: string
  readonly privateKeyPem: string
}

/** ECDSA on P-256 with SHA-256, or Ed25519. @returns undefined for keys of another type. */
const digestFor = (key: KeyObject): { readonly digest: 'sha256' | undefined } | undefined => {
  if (key.asymmetricKeyType === 'ed25519') return { digest: undefined }
  const isP256 = key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1'
  return isP256 ? { digest: 'sha256' } : undefined
}

const signedBytes = (text: string): Buffer => Buffer.from(CONTEXT + text, 'utf8')

/** @throws Error when the key is neither P-256 nor Ed25519. */
export const signStatement = (statement: LinkStateStatement, identity: SigningIdentity): SignedStatement => {
  const key = createPrivateKey(identity.privateKeyPem)
  const algorithm = digestFor(key)
  if (algorithm === undefined) throw new Error('the key of the KME certificate must be P-256 or Ed25519 to sign topology with')
  const text = writeStatement(statement)
  return {
    statement: text,
    signature: sign(algorithm.digest, signedBytes(text), key),
    certificates: readCertificates(identity.certificatePem).map(({ raw }) => raw),
  }
}

/** @param pem any number of certificates, in PEM. */
export const readCertificates = (pem: string): readonly X509Certificate[] =>
  (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map((one) => new X509Certificate(one))

export const isSignedBy = (signed: SignedStatement, publicKey: KeyObject): boolean => {
  const algorithm = digestFor(publicKey)
  return algorithm !== undefined && verify(algorithm.digest, signedBytes(signed.statement), publicKey, signed.signature)
}
