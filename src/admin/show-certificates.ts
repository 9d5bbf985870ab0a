/** Operation that shows which certificates this KME presents and which authorities it trusts, and for how long yet. */
import type { components } from '../generated/admin.ts'
import type { Clock } from '../kernel/clock.ts'
import type { AdminRoute } from './admin-route.ts'
import type { InstalledCertificate } from './admin.ts'

export interface ShowCertificatesParts {
  readonly clock: Clock
  certificates(): readonly InstalledCertificate[]
}

type Certificate = components['schemas']['Certificate']

const DAY_MS = 24 * 60 * 60 * 1000

export const showCertificatesRoutes = (parts: ShowCertificatesParts): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/certificates',
    scope: 'certificate:read',
    handle: () => ({ json: { certificates: parts.certificates().map((facts) => toCertificate(facts, parts.clock.nowMs())) } }),
  },
]

const toCertificate = (facts: InstalledCertificate, nowMs: number): Certificate => ({
  usedFor: facts.usedFor,
  role: facts.role,
  subject: facts.subject,
  issuer: facts.issuer,
  serial: facts.serial,
  uris: [...facts.uris],
  hosts: [...facts.hosts],
  notBefore: facts.notBefore,
  notAfter: facts.notAfter,
  daysLeft: Math.floor((Date.parse(facts.notAfter) - nowMs) / DAY_MS),
  fingerprintSha256: facts.fingerprintSha256,
  keyType: facts.keyType,
  revocationListNextUpdate:
    facts.revocationListNextUpdateMs === undefined ? null : new Date(facts.revocationListNextUpdateMs).toISOString(),
})
