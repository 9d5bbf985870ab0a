/** Who a caller is: read from the leaf certificate that TLS verified on this connection and from nothing else
 *  (ETSI GS QKD 014, clause 5.1). Headers, query and body never reach this file.
 *  Holds: a certificate that names two candidates, or names one in a way that can be read twice, names nobody. */
import type { TLSSocket } from 'node:tls'
import type { X509Certificate } from 'node:crypto'
import { parseKmeId, parseSaeId } from '../kernel/identifiers.ts'
import type { KmeId, SaeId } from '../kernel/identifiers.ts'

/** What the KME uses of a verified client certificate. */
export interface CertificateFacts {
  /** Every URI of the subject alternative name, as it stands in the certificate. */
  readonly sanUris: readonly string[]
  readonly subjectCommonNames: readonly string[]
  /** Lower-case hexadecimal. */
  readonly serialNumber: string
  /** The authority's distinguished name as node:crypto writes it, one attribute per line. */
  readonly issuer: string
  /** SHA-256 of the certificate as `AA:BB:...`, the way OpenSSL and Node print it. */
  readonly fingerprint256: string
  readonly notBeforeMs: number
  readonly notAfterMs: number
  /** The extended key usage is present and lists clientAuth. */
  readonly clientAuth: boolean
  readonly ca: boolean
}

/** `san-uri`: only the SAN URI counts. `san-uri-or-cn`: the only subject CN counts when no URI of ours is there. */
export type IdentityMode = 'san-uri' | 'san-uri-or-cn'

const CLIENT_AUTH_OID = '1.3.6.1.5.5.7.3.2'
const SAE_PREFIX = 'urn:kme:sae:'
const KME_PREFIX = 'urn:kme:kme:'

const factsOfSocket = new WeakMap<TLSSocket, CertificateFacts | 'nobody'>()

/** The facts of the certificate a client showed on this connection; read once and remembered.
 *  @returns undefined when there is none, TLS did not verify it, or it cannot be read without doubt. */
export const certificateFactsOf = (socket: TLSSocket): CertificateFacts | undefined => {
  let facts = factsOfSocket.get(socket)
  if (facts === undefined) {
    const certificate = socket.authorized ? socket.getPeerX509Certificate() : undefined
    facts = (certificate && readCertificateFacts(certificate)) ?? 'nobody'
    factsOfSocket.set(socket, facts)
  }
  return facts === 'nobody' ? undefined : facts
}

/** @returns undefined when the subject alternative name cannot be split without doubt. */
export const readCertificateFacts = (certificate: X509Certificate): CertificateFacts | undefined => {
  const sanUris = readSanUris(certificate.subjectAltName)
  if (sanUris === undefined) return undefined
  return {
    sanUris,
    subjectCommonNames: readCommonNames(certificate),
    serialNumber: certificate.serialNumber.toLowerCase(),
    issuer: certificate.issuer,
    fingerprint256: certificate.fingerprint256,
    notBeforeMs: Date.parse(certificate.validFrom),
    notAfterMs: Date.parse(certificate.validTo),
    clientAuth: (certificate.keyUsage ?? []).includes(CLIENT_AUTH_OID),
    ca: certificate.ca,
  }
}

/** @returns the one SAE the certificate names, or undefined. */
export const saeIdOf = (facts: CertificateFacts, mode: IdentityMode): SaeId | undefined => {
  if (!mayAuthenticate(facts) || namesRole(facts, KME_PREFIX)) return undefined
  if (namesRole(facts, SAE_PREFIX)) {
    const name = onlyNameOf(facts, SAE_PREFIX)
    return name === undefined ? undefined : parseSaeId(name)
  }
  const [commonName, ...others] = facts.subjectCommonNames
  if (mode === 'san-uri' || commonName === undefined || others.length > 0) return undefined
  return parseSaeId(commonName)
}

/** @returns the one KME the certificate names, or undefined. */
export const kmeIdOf = (facts: CertificateFacts): KmeId | undefined => {
  if (!mayAuthenticate(facts) || namesRole(facts, SAE_PREFIX)) return undefined
  const name = onlyNameOf(facts, KME_PREFIX)
  return name === undefined ? undefined : parseKmeId(name)
}

/** The name in a certificate by which a KME of another network is known: an authority that is not ours chose it. */
export type CertificateName = { readonly uri: string } | { readonly commonName: string }

/** Whether an end certificate bears the name: a URI among those of its SAN, or its only subject CN. */
export const bearsName = (facts: CertificateFacts, name: CertificateName): boolean => {
  if (facts.ca) return false
  if ('uri' in name) return facts.sanUris.includes(name.uri)
  return facts.subjectCommonNames.length === 1 && facts.subjectCommonNames[0] === name.commonName
}

const mayAuthenticate = (facts: CertificateFacts): boolean => facts.clientAuth && !facts.ca

// A URN's scheme and namespace compare without case (RFC 8141), so a candidate is found without case as well; but only
// the exact form becomes an identity.
const candidates = (facts: CertificateFacts, prefix: string): string[] =>
  facts.sanUris.filter((uri) => uri.slice(0, prefix.length).toLowerCase() === prefix)

const namesRole = (facts: CertificateFacts, prefix: string): boolean => candidates(facts, prefix).length > 0

const onlyNameOf = (facts: CertificateFacts, prefix: string): string | undefined => {
  const [uri, ...others] = candidates(facts, prefix)
  return uri !== undefined && others.length === 0 && uri.startsWith(prefix) ? uri.slice(prefix.length) : undefined
}

/** Node prints the names as `URI:a, DNS:b` and writes a name that holds a comma, a quote or a control character as a
 *  JSON string. Splitting at commas would let a quoted name smuggle in another, so the list is read token by token. */
const readSanUris = (text: string | undefined): string[] | undefined => {
  if (text === undefined || text === '') return []
  const token = /([A-Za-z][A-Za-z0-9 ]*):("(?:[^"\\]|\\.)*"|[^",]*)(, |$)/y
  const uris: string[] = []
  while (token.lastIndex < text.length) {
    const match = token.exec(text)
    if (match === null) return undefined
    const [, kind, value = ''] = match
    if (kind === 'URI') {
      const uri = value.startsWith('"') ? unquote(value) : value
      if (uri === undefined) return undefined
      uris.push(uri)
    }
  }
  return uris
}

const unquote = (quoted: string): string | undefined => {
  try {
    return JSON.parse(quoted) as string
  } catch {
    return undefined
  }
}

// The printed subject has to be unescaped; the older object form carries the values as they are, an array when there are several.
const readCommonNames = (certificate: X509Certificate): string[] => {
  const names: string | string[] | undefined = certificate.toLegacyObject().subject?.CN
  return names === undefined ? [] : [names].flat()
}
