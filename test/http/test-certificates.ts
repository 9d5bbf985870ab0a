/** Certificates for the tests of the listeners: an authority, leaves with whatever names a test wants, revocation lists. */
import 'reflect-metadata'
import { webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'

type KeyPair = webcrypto.CryptoKeyPair

x509.cryptoProvider.set(webcrypto)

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
const DAY_MS = 86_400_000
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2'
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1'

export interface Identity {
  readonly certificate: x509.X509Certificate
  readonly certificatePem: string
  readonly privateKeyPem: string
  readonly keys: KeyPair
}

export interface LeafOptions {
  /** X.509 name: text, or attribute by attribute. */
  readonly subject?: x509.X509CertificateCreateParamsName
  readonly uris?: readonly string[]
  readonly dns?: readonly string[]
  readonly ips?: readonly string[]
  readonly usages?: readonly ('client' | 'server')[]
  readonly ca?: boolean
  readonly notBefore?: Date
  readonly notAfter?: Date
}

let serial = 0x10

export const makeAuthority = async (subject = 'CN=Test CA'): Promise<Identity> => {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: (serial++).toString(16),
    name: subject,
    keys,
    signingAlgorithm: algorithm,
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + DAY_MS),
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  return toIdentity(certificate, keys)
}

export const makeLeaf = async (issuer: Identity | 'self', options: LeafOptions): Promise<Identity> => {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const names: x509.JsonGeneralNames = [
    ...(options.uris ?? []).map((value) => ({ type: 'url' as const, value })),
    ...(options.dns ?? []).map((value) => ({ type: 'dns' as const, value })),
    ...(options.ips ?? []).map((value) => ({ type: 'ip' as const, value })),
  ]
  const usages = (options.usages ?? ['client']).map((usage) => (usage === 'client' ? CLIENT_AUTH : SERVER_AUTH))
  const extensions = [
    new x509.BasicConstraintsExtension(options.ca ?? false, undefined, true),
    ...(usages.length > 0 ? [new x509.ExtendedKeyUsageExtension(usages)] : []),
    ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
  ]
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: (serial++).toString(16),
    subject: options.subject ?? 'CN=leaf',
    issuer: issuer === 'self' ? (options.subject ?? 'CN=leaf') : issuer.certificate.subjectName.toJSON(),
    publicKey: keys.publicKey,
    signingKey: issuer === 'self' ? keys.privateKey : issuer.keys.privateKey,
    signingAlgorithm: algorithm,
    notBefore: options.notBefore ?? new Date(Date.now() - DAY_MS),
    notAfter: options.notAfter ?? new Date(Date.now() + DAY_MS),
    extensions,
  })
  return toIdentity(certificate, keys)
}

export const makeServerLeaf = (issuer: Identity, dns = 'localhost'): Promise<Identity> =>
  makeLeaf(issuer, { subject: 'CN=kme', dns: [dns], ips: ['127.0.0.1'], usages: ['server'] })

export const makeSae = (issuer: Identity, saeId: string): Promise<Identity> =>
  makeLeaf(issuer, { subject: `CN=${saeId}`, uris: [`urn:kme:sae:${saeId}`] })

export const makeRevocationList = async (issuer: Identity, revoked: readonly Identity[], nextUpdate?: Date): Promise<string> => {
  const list = await x509.X509CrlGenerator.create({
    issuer: issuer.certificate.subjectName.toJSON(),
    thisUpdate: new Date(Date.now() - DAY_MS),
    nextUpdate: nextUpdate ?? new Date(Date.now() + DAY_MS),
    signingAlgorithm: algorithm,
    signingKey: issuer.keys.privateKey,
    entries: revoked.map(({ certificate }) => ({ serialNumber: certificate.serialNumber, revocationDate: new Date() })),
  })
  return x509.PemConverter.encode(list.rawData, 'X509 CRL')
}

const toIdentity = async (certificate: x509.X509Certificate, keys: KeyPair): Promise<Identity> => {
  const pkcs8 = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)
  return {
    certificate,
    certificatePem: certificate.toString('pem'),
    privateKeyPem: x509.PemConverter.encode(pkcs8, 'PRIVATE KEY'),
    keys,
  }
}
