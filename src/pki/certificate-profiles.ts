/** The exact contents of every certificate OpenKME makes (RFC 5280). Pure: the contents follow from the arguments.
 *  What must hold: an SAE certificate names one SAE in one SAN URI and can only be a client; a KME certificate is both
 *  server and client; only an authority may sign, and nothing but end certificates. */
import { isIP } from 'node:net'
import { BadRequest } from '../kernel/errors.ts'
import { parseKmeId, parseSaeId } from '../kernel/identifiers.ts'
import type { Random } from '../kernel/random.ts'
import type { AuthorityName, IssueRequest } from './pki.ts'

export type ExtendedKeyUsage = 'serverAuth' | 'clientAuth'

/** Everything of a certificate that is not its key or its signature. */
export interface CertificateContents {
  /** One CN each, in this order. */
  readonly commonNames: readonly string[]
  readonly uris: readonly string[]
  readonly dnsNames: readonly string[]
  readonly ipAddresses: readonly string[]
  /** No extension at all when empty. */
  readonly extendedKeyUsages: readonly ExtendedKeyUsage[]
  readonly isAuthority: boolean
  /** 32 hex digits. */
  readonly serial: string
  readonly notBeforeMs: number
  readonly notAfterMs: number
}

const DAY_MS = 86_400_000
/** Certificates and revocation lists start this much early, for machines whose clocks are behind. */
export const CLOCK_SKEW_MS = 300_000
const AUTHORITY_LIFE_MS = 3653 * DAY_MS
/** The longest life browsers accept of a server certificate is 398 days. */
const END_CERTIFICATE_LIFE_MS = 397 * DAY_MS
const LOCAL_HOSTS = ['localhost', '127.0.0.1', '::1']

const ADMIN_NAME = /^[A-Za-z0-9._@-]{1,64}$/
const DNS_NAME = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/i

/** @returns 16 random bytes in hex, positive and of full length as a DER integer (RFC 5280, 4.1.2.2). */
export const drawSerial = (random: Random): string => {
  const bytes = random.fill(Buffer.alloc(16))
  bytes[0] = (bytes[0]! & 0x3f) | 0x40
  return bytes.toString('hex')
}

/** A self-signed authority. Its name is unique, so that the authorities of several sites fit in one trust store. */
export const authorityContents = (authority: AuthorityName, nowMs: number, random: Random): CertificateContents => ({
  commonNames: [`OpenKME ${authority.toUpperCase()} CA ${random.fill(Buffer.alloc(6)).toString('hex')}`],
  uris: [],
  dnsNames: [],
  ipAddresses: [],
  extendedKeyUsages: [],
  isAuthority: true,
  serial: drawSerial(random),
  ...validity(nowMs, AUTHORITY_LIFE_MS),
})

/** The contents of a KME, SAE or admin certificate.
 *  @throws BadRequest when the ID or a host cannot stand in a certificate. */
export const endCertificateContents = (request: IssueRequest, nowMs: number, random: Random): CertificateContents => {
  const hosts = checkedHosts(request)
  return {
    commonNames: [checkedId(request)],
    uris: [`urn:kme:${request.profile}:${request.id}`],
    dnsNames: hosts.filter((host) => isIP(host) === 0),
    ipAddresses: hosts.filter((host) => isIP(host) !== 0),
    extendedKeyUsages: request.profile === 'kme' ? ['serverAuth', 'clientAuth'] : ['clientAuth'],
    isAuthority: false,
    serial: drawSerial(random),
    ...validity(nowMs, END_CERTIFICATE_LIFE_MS),
  }
}

/** Certificates know whole seconds only. */
const validity = (nowMs: number, lifeMs: number): Pick<CertificateContents, 'notBeforeMs' | 'notAfterMs'> => {
  const nowSecondMs = Math.floor(nowMs / 1000) * 1000
  return { notBeforeMs: nowSecondMs - CLOCK_SKEW_MS, notAfterMs: nowSecondMs + lifeMs }
}

const checkedId = ({ profile, id }: IssueRequest): string => {
  if (profile === 'kme' && parseKmeId(id) === undefined) throw new BadRequest(undefined, 'a KME ID is 1 to 64 URI characters')
  if (profile === 'sae' && parseSaeId(id) === undefined) throw new BadRequest(undefined, 'an SAE ID is 1 to 64 URI characters')
  if (profile === 'admin' && !ADMIN_NAME.test(id))
    throw new BadRequest(undefined, 'an admin name is 1 to 64 letters, digits, dots, underscores, hyphens or @')
  return id
}

const checkedHosts = ({ profile, hosts = [] }: IssueRequest): string[] => {
  if (profile !== 'kme') {
    if (hosts.length > 0) throw new BadRequest(undefined, 'only a KME certificate has hosts')
    return []
  }
  for (const host of hosts)
    if (isIP(host) === 0 && !DNS_NAME.test(host)) throw new BadRequest(undefined, 'a host is a DNS name or an IP address')
  return [...new Set([...LOCAL_HOSTS, ...hosts.map((host) => host.toLowerCase())])]
}
