/** Door of the pki slice: the profiles of certificates, what an authority does, what listeners and operators read.
 *  Two independent authorities keep the trust stores apart: the SAE authority signs SAE certificates only, the KME
 *  authority signs KME and admin certificates. A certificate of one is never accepted where the other is trusted. */

export type CertificateProfile = 'ca' | 'kme' | 'sae' | 'admin'

/** Profiles an authority issues to somebody else. */
export type IssuedProfile = Exclude<CertificateProfile, 'ca'>

export type AuthorityName = 'kme' | 'sae'

export type KeyType = 'p256' | 'ed25519'

/** Which authority signs which profile. */
export const authorityOf = (profile: IssuedProfile): AuthorityName => (profile === 'sae' ? 'sae' : 'kme')

export interface IssueRequest {
  readonly profile: IssuedProfile
  /** KME ID, SAE ID or admin name. */
  readonly id: string
  /** DNS names and IP addresses a KME is reached at, besides localhost; only for the profile `kme`. */
  readonly hosts?: readonly string[]
  /** `p256` unless told. */
  readonly keyType?: KeyType
}

export interface IssuedCertificate {
  readonly profile: IssuedProfile
  readonly name: string
  /** Hex, lower case. */
  readonly serial: string
  readonly certificatePem: string
  /** PKCS#8 PEM. Not kept by the authority: whoever receives it stores it with mode 0600. */
  readonly privateKeyPem: string
  /** Certificate and key as one PKCS#12 file; the password may be empty. */
  pkcs12(password: string): Buffer
}

/** One line of the index of issued certificates. Times are ISO 8601 in UTC. */
export interface IssuedRecord {
  /** Hex, lower case. */
  readonly serial: string
  readonly profile: IssuedProfile
  readonly name: string
  readonly notAfter: string
  /** Absent while the certificate is not revoked. */
  readonly revokedAt?: string | undefined
}

/** The two authorities of one PKI directory. Concurrent callers, also in other processes, take turns. */
export interface CertificateAuthorities {
  /** PEM of each authority's own certificate: what to trust. */
  readonly certificatePem: Readonly<Record<AuthorityName, string>>
  /** Files that listeners and clients are pointed at. */
  readonly files: Readonly<Record<AuthorityName, AuthorityFiles>>
  /** Makes a key pair and a certificate. The index has the certificate before the caller does.
   *  @throws BadRequest for an ID or host that cannot stand in a certificate, Conflict when the authority has expired. */
  issue(request: IssueRequest): Promise<IssuedCertificate>
  /** Revokes one certificate by serial number (hex, any case, colons allowed), or every certificate of a name, and signs
   *  the revocation list anew.
   *  @returns the certificates revoked now.
   *  @throws NotFound, Conflict when already revoked or when the name stands for holders of several profiles. */
  revoke(serialOrName: string): Promise<readonly IssuedRecord[]>
  /** Signs both revocation lists anew, so that they do not run out. */
  refreshRevocationLists(): Promise<void>
  /** Everything issued, oldest first. */
  list(): Promise<readonly IssuedRecord[]>
}

export interface AuthorityFiles {
  readonly certificate: string
  readonly key: string
  readonly revocationList: string
}

/** What a listener takes from a revocation list to cut off live sockets. */
export interface Revocations {
  /** Hex, lower case, no leading zero bytes: equals `X509Certificate.serialNumber` of node:crypto in lower case. */
  readonly revokedSerials: ReadonlySet<string>
  /** The list must not be trusted after this time (milliseconds since 1970). */
  readonly nextUpdateMs: number
  /** Distinguished name of the authority (RFC 4514). */
  readonly issuer: string
}

/** What people are shown of a certificate. Times are ISO 8601 in UTC. */
export interface CertificateFacts {
  /** Distinguished names (RFC 4514). */
  readonly subject: string
  readonly issuer: string
  /** Hex, lower case. */
  readonly serial: string
  readonly uris: readonly string[]
  /** DNS names and IP addresses. */
  readonly hosts: readonly string[]
  readonly notBefore: string
  readonly notAfter: string
  /** SHA-256 of the DER form, hex, lower case, no colons. */
  readonly fingerprintSha256: string
  /** `p256`, `ed25519`, or the name OpenSSL gives another type. */
  readonly keyType: string
  readonly isAuthority: boolean
}
