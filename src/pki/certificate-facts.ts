/** What people are shown of a certificate, in the admin API and in `kme pki show`. */
import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import { X509Certificate } from 'node:crypto'
import type { CertificateFacts } from './pki.ts'
import { canonicalSerial } from './revocation-list.ts'

const SUBJECT_ALTERNATIVE_NAME = '2.5.29.17'

/** @param pem one certificate in PEM.
 *  @throws Error when it is not a certificate. */
export const describeCertificate = (pem: string): CertificateFacts => {
  const certificate = new x509.X509Certificate(pem)
  const native = new X509Certificate(pem)
  const names = certificate.getExtension<x509.SubjectAlternativeNameExtension>(SUBJECT_ALTERNATIVE_NAME)?.names.items ?? []
  return {
    subject: certificate.subject,
    issuer: certificate.issuer,
    serial: canonicalSerial(certificate.serialNumber),
    uris: names.filter((name) => name.type === 'url').map((name) => name.value),
    hosts: names.filter((name) => name.type === 'dns' || name.type === 'ip').map((name) => name.value),
    notBefore: certificate.notBefore.toISOString(),
    notAfter: certificate.notAfter.toISOString(),
    fingerprintSha256: native.fingerprint256.replaceAll(':', '').toLowerCase(),
    keyType: keyTypeOf(native),
    isAuthority: native.ca,
  }
}

const keyTypeOf = ({ publicKey }: X509Certificate): string => {
  const type = publicKey.asymmetricKeyType ?? 'unknown'
  const curve = publicKey.asymmetricKeyDetails?.namedCurve
  if (curve === 'prime256v1') return 'p256'
  return curve === undefined ? type : `${type} ${curve}`
}
