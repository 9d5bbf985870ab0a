/** Certificates that listeners must refuse, and everything needed to make more: a good client certificate, altered in
 *  one place, signed by an authority of the test's own. */
import { systemRandom } from '../../src/kernel/random.ts'
import { authorityContents, type CertificateContents, endCertificateContents } from '../../src/pki/certificate-profiles.ts'
import type { IssueRequest } from '../../src/pki/pki.ts'
import { exportPrivateKey, generateKeyPair, openSigner, signCertificate, type Signer } from '../../src/pki/sign-certificate.ts'

export interface CertificateAndKey {
  readonly certificatePem: string
  readonly privateKeyPem: string
}

export interface TestAuthority extends CertificateAndKey {
  readonly signer: Signer
}

const DAY_MS = 86_400_000

/** @param commonName of another authority, to have a second one of the same name. */
export const testAuthority = async (nowMs: number, commonName?: string): Promise<TestAuthority> => {
  const keys = await generateKeyPair('p256')
  const contents = authorityContents('sae', nowMs, systemRandom)
  const named = commonName === undefined ? contents : { ...contents, commonNames: [commonName] }
  const certificatePem = await signCertificate(named, keys, 'self')
  const privateKeyPem = await exportPrivateKey(keys.privateKey)
  return { certificatePem, privateKeyPem, signer: await openSigner(certificatePem, privateKeyPem) }
}

/** A certificate as the profile has it, with `changes`. */
export const alteredCertificate = async (
  request: IssueRequest,
  changes: Partial<CertificateContents>,
  signer: Signer | 'self',
  nowMs: number,
): Promise<CertificateAndKey> => {
  const keys = await generateKeyPair('p256')
  const contents = { ...endCertificateContents(request, nowMs, systemRandom), ...changes }
  return {
    certificatePem: await signCertificate(contents, keys, signer),
    privateKeyPem: await exportPrivateKey(keys.privateKey),
  }
}

/** What is wrong with each client certificate, as a change of a good one of the SAE `alice`. */
export const hostileChanges = (nowMs: number): Record<string, Partial<CertificateContents>> => ({
  expired: { notBeforeMs: nowMs - 2 * DAY_MS, notAfterMs: nowMs - DAY_MS },
  'not yet valid': { notBeforeMs: nowMs + DAY_MS, notAfterMs: nowMs + 2 * DAY_MS },
  'without extended key usage': { extendedKeyUsages: [] },
  'for servers only': { extendedKeyUsages: ['serverAuth'] },
  'with two SAE URIs': { uris: ['urn:kme:sae:bob', 'urn:kme:sae:alice'] },
  'without SAE URI': { uris: [] },
  'with two common names': { commonNames: ['bob', 'alice'] },
  'of an authority': { isAuthority: true },
})
