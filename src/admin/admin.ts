/** Door of the admin slice: who may do what on the admin API, and what the API needs to be told.
 *  Holds: every route names the scope it needs, and a token grants nothing but the scopes it lists. */
import type { CertificateFacts } from '../pki/pki.ts'

/** What a token may allow. Narrow on purpose: one right each, no scope contains another. */
export const adminScopes = [
  'kme:read',
  'pool:read',
  'pool:replenish',
  'link:read',
  'peer:read',
  'topology:read',
  'peer:write',
  'sae:read',
  'sae:write',
  'certificate:read',
  'audit:read',
  'alarm:read',
  'metrics:read',
] as const

export type AdminScope = (typeof adminScopes)[number]

/** @returns the scope, or undefined when there is none of that name. */
export const parseAdminScope = (text: string): AdminScope | undefined => adminScopes.find((scope) => scope === text)

/** The bearer of a token that was verified just now. */
export interface Admin {
  /** `sub` of the token: 1 to 64 characters of A-Z a-z 0-9 . _ @ - */
  readonly subject: string
  readonly scopes: ReadonlySet<AdminScope>
  /** Seconds since 1970. */
  readonly expiresAtS: number
}

export interface TokenVerifier {
  /** @param token as it came in the request.
   *  @throws Unauthorized for anything but a valid token of this KME's key. */
  verify(token: string): Promise<Admin>
}

/** One question whose answer decides whether this KME can serve. */
export interface Probe {
  /** Shown to anybody who asks for health: a word such as `database`, no address. */
  readonly name: string
  /** False, or an error, is a failure. */
  check(): boolean | Promise<boolean>
}

export interface ProbeResult {
  readonly name: string
  readonly ok: boolean
}

export interface Readiness {
  /** One result per probe; the KME is ready when all are ok. */
  results(): Promise<readonly ProbeResult[]>
}

/** A certificate this KME shows or trusts. */
export interface InstalledCertificate extends CertificateFacts {
  /** What it is there for, as the configuration names it, such as `saeApi.tls.certificate`. */
  readonly usedFor: string
  readonly role: 'own' | 'trust-anchor'
  /** When the revocation list of a trust anchor runs out (milliseconds since 1970); undefined where none is configured. */
  readonly revocationListNextUpdateMs: number | undefined
}

/** The page Prometheus scrapes. */
export interface MetricsPage {
  readonly contentType: string
  text(): Promise<string>
}

/** Metrics as plain data. */
export type MetricValues = readonly object[]

/** The metrics of one process, which `aggregateMetrics` can add to those of others. */
export interface OwnMetrics extends MetricsPage {
  values(): Promise<MetricValues>
}
