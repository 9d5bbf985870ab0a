/** Key pairs, and signing certificate contents into X.509 certificates with @peculiar/x509. Keys come from OpenSSL's
 *  generator through WebCrypto; serial numbers and dates come with the contents, never from the library's defaults. */
import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import { createPrivateKey, webcrypto } from 'node:crypto'
import type { CertificateContents } from './certificate-profiles.ts'
import type { KeyType } from './pki.ts'

export interface KeyPair {
  readonly publicKey: webcrypto.CryptoKey
  readonly privateKey: webcrypto.CryptoKey
}

/** Who signs: an authority's certificate and its private key. */
export interface Signer {
  readonly certificate: x509.X509Certificate
  readonly privateKey: webcrypto.CryptoKey
}

const KEY_ALGORITHMS = {
  p256: { name: 'ECDSA', namedCurve: 'P-256' },
  ed25519: { name: 'Ed25519' },
} as const

/** ECDSA needs the hash named; Ed25519 has its own. */
export const SIGNING_ALGORITHM = { name: 'ECDSA', hash: 'SHA-256' }

export const generateKeyPair = async (keyType: KeyType): Promise<KeyPair> =>
  (await webcrypto.subtle.generateKey(KEY_ALGORITHMS[keyType], true, ['sign', 'verify'])) as KeyPair

/** @returns PKCS#8 PEM. */
export const exportPrivateKey = async (key: webcrypto.CryptoKey): Promise<string> =>
  `${x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), x509.PemConverter.PrivateKeyTag)}\n`

/** @param privateKeyPem PKCS#8 PEM of a P-256 or Ed25519 key.
 *  @throws Error when it is anything else. */
export const openSigner = async (certificatePem: string, privateKeyPem: string): Promise<Signer> => {
  const algorithm = createPrivateKey(privateKeyPem).asymmetricKeyType === 'ed25519' ? KEY_ALGORITHMS.ed25519 : KEY_ALGORITHMS.p256
  const der = x509.PemConverter.decodeFirst(privateKeyPem)
  return {
    certificate: new x509.X509Certificate(certificatePem),
    privateKey: await webcrypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign']),
  }
}

/** @param signer the authority, or `self` for a self-signed certificate.
 *  @returns PEM. */
export const signCertificate = async (
  contents: CertificateContents,
  subjectKeys: KeyPair,
  signer: Signer | 'self',
): Promise<string> => {
  const subject = contents.commonNames.map((name) => ({ CN: [name] }))
  const certificate = await x509.X509CertificateGenerator.create({
    subject,
    issuer: signer === 'self' ? subject : signer.certificate.subjectName,
    serialNumber: contents.serial,
    notBefore: new Date(contents.notBeforeMs),
    notAfter: new Date(contents.notAfterMs),
    publicKey: subjectKeys.publicKey,
    signingKey: signer === 'self' ? subjectKeys.privateKey : signer.privateKey,
    signingAlgorithm: SIGNING_ALGORITHM,
    extensions: await extensionsOf(contents, subjectKeys.publicKey, signer),
  })
  return `${certificate.toString('pem')}\n`
}

const extensionsOf = async (
  contents: CertificateContents,
  publicKey: webcrypto.CryptoKey,
  signer: Signer | 'self',
): Promise<x509.Extension[]> => {
  const { digitalSignature, keyCertSign, cRLSign } = x509.KeyUsageFlags
  const alternativeNames: x509.JsonGeneralNames = [
    ...contents.uris.map((value) => ({ type: 'url' as const, value })),
    ...contents.dnsNames.map((value) => ({ type: 'dns' as const, value })),
    ...contents.ipAddresses.map((value) => ({ type: 'ip' as const, value })),
  ]
  const usages = contents.extendedKeyUsages.map((usage) => x509.ExtendedKeyUsage[usage])
  return [
    // The path length is for an authority alone: this one signs end certificates and no other authority.
    new x509.BasicConstraintsExtension(contents.isAuthority, contents.isAuthority ? 0 : undefined, true),
    new x509.KeyUsagesExtension(contents.isAuthority ? keyCertSign | cRLSign : digitalSignature, true),
    ...(usages.length > 0 ? [new x509.ExtendedKeyUsageExtension(usages)] : []),
    ...(alternativeNames.length > 0 ? [new x509.SubjectAlternativeNameExtension(alternativeNames)] : []),
    await x509.SubjectKeyIdentifierExtension.create(publicKey),
    await x509.AuthorityKeyIdentifierExtension.create(signer === 'self' ? publicKey : signer.certificate.publicKey),
  ]
}
