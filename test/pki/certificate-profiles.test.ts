/** Each certificate, field by field; node:crypto is the second opinion. */
import { describe, expect, it } from '@jest/globals'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { createAuthorities } from '../../src/pki/authorities.ts'
import { describeCertificate } from '../../src/pki/certificate-facts.ts'
import type { CertificateAuthorities, IssueRequest } from '../../src/pki/pki.ts'
import { inTemporaryDirectory, partsAt } from './manual-parts.ts'

const NOW_MS = Date.parse('2030-05-06T07:08:09.123Z')
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2'
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1'

const withAuthorities = <T>(work: (authorities: CertificateAuthorities) => Promise<T>): Promise<T> =>
  inTemporaryDirectory(async (dir) => work(await createAuthorities(dir, partsAt(NOW_MS))))

const issueOne = (request: IssueRequest) =>
  withAuthorities(async (authorities) => ({
    issued: await authorities.issue(request),
    trust: { kme: new X509Certificate(authorities.certificatePem.kme), sae: new X509Certificate(authorities.certificatePem.sae) },
  }))

describe('certificate profiles', () => {
  it('an authority is self-signed, may sign end certificates only, and lives ten years', () =>
    withAuthorities(async ({ certificatePem }) => {
      for (const pem of Object.values(certificatePem)) {
        const certificate = new X509Certificate(pem)
        expect(certificate.ca).toBe(true)
        expect(certificate.verify(certificate.publicKey)).toBe(true)
        expect(certificate.checkIssued(certificate)).toBe(true)
        expect(certificate.subjectAltName).toBeUndefined()
        expect(certificate.toLegacyObject().ext_key_usage).toBeUndefined()
        // BasicConstraints CA:TRUE, pathlen:0 and KeyUsage keyCertSign, cRLSign, both critical (DER).
        expect(certificate.raw.toString('hex')).toContain('0603551d130101ff040830060101ff020100')
        expect(certificate.raw.toString('hex')).toContain('0603551d0f0101ff040403020106')
        expect(describeCertificate(pem)).toMatchObject({
          notBefore: '2030-05-06T07:03:09.000Z',
          notAfter: '2040-05-06T07:08:09.000Z',
          keyType: 'p256',
          isAuthority: true,
        })
      }
      expect(new X509Certificate(certificatePem.kme).subject).toMatch(/^CN=OpenKME KME CA [0-9a-f]{12}$/)
      expect(new X509Certificate(certificatePem.sae).subject).toMatch(/^CN=OpenKME SAE CA [0-9a-f]{12}$/)
    }))

  it('an SAE certificate names one SAE and can only be a client', async () => {
    const { issued, trust } = await issueOne({ profile: 'sae', id: 'alice' })
    const certificate = new X509Certificate(issued.certificatePem)
    expect(certificate.subject).toBe('CN=alice')
    expect(certificate.subjectAltName).toBe('URI:urn:kme:sae:alice')
    expect(certificate.keyUsage).toEqual([CLIENT_AUTH])
    expect(certificate.ca).toBe(false)
    // KeyUsage digitalSignature alone, critical (DER).
    expect(certificate.raw.toString('hex')).toContain('0603551d0f0101ff040403020780')
    expect(certificate.verify(trust.sae.publicKey)).toBe(true)
    expect(certificate.checkIssued(trust.kme)).toBe(false)
    expect(certificate.checkPrivateKey(createPrivateKey(issued.privateKeyPem))).toBe(true)
    expect(issued.privateKeyPem).toMatch(/^-----BEGIN PRIVATE KEY-----\n/)
    expect(describeCertificate(issued.certificatePem)).toEqual({
      subject: 'CN=alice',
      issuer: trust.sae.subject,
      serial: issued.serial,
      uris: ['urn:kme:sae:alice'],
      hosts: [],
      notBefore: '2030-05-06T07:03:09.000Z',
      notAfter: '2031-06-07T07:08:09.000Z',
      fingerprintSha256: certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
      keyType: 'p256',
      isAuthority: false,
    })
  })

  it('a KME certificate is server and client and names its hosts once each', async () => {
    const hosts = ['KME.example.org', '192.0.2.7', 'localhost', '2001:db8::7']
    const { issued, trust } = await issueOne({ profile: 'kme', id: 'kme-a', hosts })
    const certificate = new X509Certificate(issued.certificatePem)
    expect(certificate.subject).toBe('CN=kme-a')
    expect(certificate.subjectAltName).toBe(
      'URI:urn:kme:kme:kme-a, DNS:localhost, DNS:kme.example.org, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, ' +
        'IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7',
    )
    expect(certificate.keyUsage).toEqual([SERVER_AUTH, CLIENT_AUTH])
    expect(certificate.checkHost('kme.example.org')).toBe('kme.example.org')
    expect(certificate.checkIP('2001:db8::7')).toBe('2001:db8::7')
    expect(certificate.verify(trust.kme.publicKey)).toBe(true)
    expect(certificate.checkIssued(trust.sae)).toBe(false)
  })

  it('an admin certificate is a client of the KME authority', async () => {
    const { issued, trust } = await issueOne({ profile: 'admin', id: 'ops@example.org' })
    const certificate = new X509Certificate(issued.certificatePem)
    expect(certificate.subjectAltName).toBe('URI:urn:kme:admin:ops@example.org')
    expect(certificate.keyUsage).toEqual([CLIENT_AUTH])
    expect(certificate.verify(trust.kme.publicKey)).toBe(true)
  })

  it('keys are Ed25519 on request', async () => {
    const { issued } = await issueOne({ profile: 'sae', id: 'alice', keyType: 'ed25519' })
    expect(new X509Certificate(issued.certificatePem).publicKey.asymmetricKeyType).toBe('ed25519')
    expect(createPrivateKey(issued.privateKeyPem).asymmetricKeyType).toBe('ed25519')
  })

  it('every character an SAE ID may have comes through unchanged', async () => {
    const id = "A-z0._~:@!$'()*+/9"
    const { issued } = await issueOne({ profile: 'sae', id })
    expect(describeCertificate(issued.certificatePem).uris).toEqual([`urn:kme:sae:${id}`])
    expect(new X509Certificate(issued.certificatePem).toLegacyObject().subject.CN).toBe(id)
  })

  it('serial numbers are 16 bytes, positive and never the same', () =>
    withAuthorities(async (authorities) => {
      const serials = await Promise.all(
        Array.from({ length: 20 }, async (_, index) => (await authorities.issue({ profile: 'sae', id: `sae-${index}` })).serial),
      )
      for (const serial of serials) expect(serial).toMatch(/^[4-7][0-9a-f]{31}$/)
      expect(new Set(serials).size).toBe(20)
    }))

  it.each<[string, IssueRequest]>([
    ['an empty SAE ID', { profile: 'sae', id: '' }],
    ['an SAE ID of 65 characters', { profile: 'sae', id: 'a'.repeat(65) }],
    ['a comma in a KME ID', { profile: 'kme', id: 'a,CN=b' }],
    ['a line end in an admin name', { profile: 'admin', id: 'a\n' }],
    ['a wildcard host', { profile: 'kme', id: 'kme-a', hosts: ['*.example.org'] }],
    ['hosts for an SAE', { profile: 'sae', id: 'alice', hosts: ['example.org'] }],
  ])('refuses %s and issues nothing', (_what, request) =>
    withAuthorities(async (authorities) => {
      await expect(authorities.issue(request)).rejects.toMatchObject({ code: 'bad-request' })
      expect(await authorities.list()).toEqual([])
    }),
  )

  it('no certificate outlives its authority, and an expired authority issues none', () =>
    inTemporaryDirectory(async (dir) => {
      const parts = partsAt(NOW_MS)
      const authorities = await createAuthorities(dir, parts)
      parts.clock.advance(3600 * 86_400_000)
      const issued = await authorities.issue({ profile: 'sae', id: 'alice' })
      expect(describeCertificate(issued.certificatePem).notAfter).toBe('2040-05-06T07:08:09.000Z')
      parts.clock.advance(53 * 86_400_000)
      await expect(authorities.issue({ profile: 'sae', id: 'bob' })).rejects.toMatchObject({ code: 'conflict' })
    }))
})
