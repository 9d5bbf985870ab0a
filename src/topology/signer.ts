/** Who signed a statement: read from the certificate that travels with it, verified against the authorities the peer listener
 *  trusts and their revocation lists. The same rules as for a caller on that listener (http/client-identity.ts). */
import { createHash, X509Certificate } from 'node:crypto'
import { kmeIdOf, readCertificateFacts } from '../http/client-identity.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { SignedStatement } from '../peer/peer.ts'
import { isSignedBy, readCertificates } from './statement.ts'

export interface Signer {
  readonly kmeId: KmeId
  hasSigned(signed: SignedStatement): boolean
}

export interface SignerVerifier {
  /** @param certificates DER: the signer's, then those of authorities in between.
   *  @returns undefined when nobody trusted vouches for it now. */
  verify(certificates: readonly Buffer[]): Signer | undefined
  /** Whether the signature is that of the certificate, whoever trusts it. */
  isWhole(signed: SignedStatement): boolean
}

export interface Trust {
  /** The trusted authorities, PEM. */
  readonly caPem: () => string
  readonly isRevoked: (serialNumber: string, issuer: string) => boolean
  /** Whether a KME may show this certificate, SHA-256 as `AA:BB:...`: false for a peer that is held to others. */
  readonly accepts: (kmeId: KmeId, fingerprint256: string) => boolean
}

interface VerifiedChain extends Signer {
  readonly fingerprint256: string
  readonly chain: readonly X509Certificate[]
  readonly notBeforeMs: number
  readonly notAfterMs: number
}

/** Chains whose signatures are known to be good: a KME shows the same one for months. */
const REMEMBERED_MAX = 8192

export const createSignerVerifier = (parts: { readonly trust: Trust; readonly clock: Pick<Clock, 'nowMs'> }): SignerVerifier => {
  const { trust, clock } = parts
  const remembered = new Map<string, VerifiedChain | undefined>()
  let anchorsPem = ''
  let anchors: readonly X509Certificate[] = []

  const verifyChain = (certificates: readonly Buffer[]): VerifiedChain | undefined => {
    try {
      const chain = certificates.map((der) => new X509Certificate(der))
      const path = toAnchor(chain, anchors)
      const [leaf] = chain
      const facts = leaf && readCertificateFacts(leaf)
      const kmeId = facts && kmeIdOf(facts)
      if (path === undefined || leaf === undefined || kmeId === undefined) return undefined
      return {
        kmeId,
        fingerprint256: leaf.fingerprint256,
        hasSigned: (signed) => isSignedBy(signed, leaf.publicKey),
        chain: path,
        notBeforeMs: Math.max(...path.map(({ validFrom }) => Date.parse(validFrom))),
        notAfterMs: Math.min(...path.map(({ validTo }) => Date.parse(validTo))),
      }
    } catch {
      // Not a certificate.
      return undefined
    }
  }

  return {
    isWhole: (signed) => {
      try {
        return isSignedBy(signed, new X509Certificate(signed.certificates[0]!).publicKey)
      } catch {
        return false
      }
    },
    verify: (certificates) => {
      const caPem = trust.caPem()
      if (caPem !== anchorsPem) {
        anchors = readCertificates(caPem)
        anchorsPem = caPem
        remembered.clear()
      }
      const name = createHash('sha256').update(Buffer.concat(certificates)).digest('base64')
      if (!remembered.has(name)) {
        if (remembered.size >= REMEMBERED_MAX) remembered.clear()
        remembered.set(name, verifyChain(certificates))
      }
      const verified = remembered.get(name)
      const nowMs = clock.nowMs()
      if (verified === undefined || nowMs < verified.notBeforeMs || nowMs > verified.notAfterMs) return undefined
      const isRevoked = verified.chain.some(({ serialNumber, issuer }) => trust.isRevoked(serialNumber.toLowerCase(), issuer))
      return isRevoked || !trust.accepts(verified.kmeId, verified.fingerprint256) ? undefined : verified
    },
  }
}

/** The chain with the trusted authority at its end; undefined when it leads to none. */
const toAnchor = (
  chain: readonly X509Certificate[],
  anchors: readonly X509Certificate[],
): readonly X509Certificate[] | undefined => {
  for (const [i, certificate] of chain.entries()) {
    const anchor = anchors.find((one) => isIssuedBy(certificate, one))
    if (anchor !== undefined) return [...chain.slice(0, i + 1), anchor]
    const next = chain[i + 1]
    if (next === undefined || !isIssuedBy(certificate, next)) return undefined
  }
  return undefined
}

const isIssuedBy = (certificate: X509Certificate, authority: X509Certificate): boolean =>
  authority.ca && certificate.checkIssued(authority) && certificate.verify(authority.publicKey)
