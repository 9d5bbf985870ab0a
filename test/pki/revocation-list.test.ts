/** A revoked SAE is turned away; the two trust stores are apart; hostile certificates can be told from good ones. */
import { describe, expect, it } from '@jest/globals'
import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { X509Certificate } from 'node:crypto'
import { createAuthorities, openAuthorities } from '../../src/pki/authorities.ts'
import type { AuthorityName, CertificateAuthorities, IssuedCertificate } from '../../src/pki/pki.ts'
import { readRevocations } from '../../src/pki/revocation-list.ts'
import { alteredCertificate, type CertificateAndKey, hostileChanges, testAuthority } from './hostile-certificates.ts'
import { inTemporaryDirectory, partsAt } from './manual-parts.ts'
import { handshake } from './mutual-tls.ts'

const run = promisify(execFile)
const WEEK_MS = 604_800_000

const identity = ({ certificatePem, privateKeyPem }: CertificateAndKey) => ({ cert: certificatePem, key: privateKeyPem })

const listenerOf = async (authorities: CertificateAuthorities, kme: IssuedCertificate, trusted: AuthorityName) => ({
  ...identity(kme),
  ca: authorities.certificatePem[trusted],
  crl: await readFile(authorities.files[trusted].revocationList, 'utf8'),
})

const withNetwork = (keyType: 'p256' | 'ed25519', work: (made: Awaited<ReturnType<typeof network>>) => Promise<void>) =>
  inTemporaryDirectory(async (dir) => work(await network(dir, keyType)))

const network = async (dir: string, keyType: 'p256' | 'ed25519') => {
  const parts = partsAt(Date.now())
  const authorities = await createAuthorities(dir, parts, { keyType })
  const [kme, alice, bob] = await Promise.all([
    authorities.issue({ profile: 'kme', id: 'kme-a', keyType }),
    authorities.issue({ profile: 'sae', id: 'alice', keyType }),
    authorities.issue({ profile: 'sae', id: 'bob', keyType }),
  ])
  return { dir, parts, authorities, kme, alice, bob, ca: authorities.certificatePem.kme }
}

describe('revocation lists', () => {
  it.each(['p256', 'ed25519'] as const)('a TLS listener refuses the revoked SAE and nobody else (%s)', (keyType) =>
    withNetwork(keyType, async ({ authorities, kme, alice, bob, ca }) => {
      const before = await listenerOf(authorities, kme, 'sae')
      expect(await handshake(before, { ...identity(bob), ca })).toEqual({ server: 'accepted', client: 'accepted' })
      await authorities.revoke('bob')
      const after = await listenerOf(authorities, kme, 'sae')
      expect((await handshake(after, { ...identity(bob), ca })).server).toBe('CERT_REVOKED')
      expect(await handshake(after, { ...identity(alice), ca })).toEqual({ server: 'accepted', client: 'accepted' })
    }),
  )

  it('openssl accepts the lists and finds the revoked certificate', () =>
    withNetwork('p256', async ({ dir, authorities, kme, alice, bob }) => {
      await authorities.revoke(bob.serial)
      const verify = async (issued: IssuedCertificate, authority: AuthorityName, purpose: string): Promise<string> => {
        const file = join(dir, 'leaf.pem')
        await writeFile(file, issued.certificatePem)
        const { certificate, revocationList } = authorities.files[authority]
        const trust = ['-CAfile', certificate, '-CRLfile', revocationList, '-crl_check', '-x509_strict', '-purpose', purpose]
        try {
          return (await run('openssl', ['verify', ...trust, file])).stdout
        } catch (error) {
          return (error as { stderr: string }).stderr
        }
      }
      expect(await verify(alice, 'sae', 'sslclient')).toMatch(/: OK\n$/)
      expect(await verify(bob, 'sae', 'sslclient')).toContain('certificate revoked')
      expect(await verify(kme, 'kme', 'sslserver')).toMatch(/: OK\n$/)
      expect(await verify(kme, 'kme', 'sslclient')).toMatch(/: OK\n$/)
      expect(await verify(alice, 'kme', 'sslclient')).toContain('unable to get local issuer certificate')
    }))

  it('an SAE certificate is refused where the KME authority is trusted, and the other way round', () =>
    withNetwork('p256', async ({ authorities, kme, alice, ca }) => {
      const peerListener = { ...identity(kme), ca }
      const saeListener = { ...identity(kme), ca: authorities.certificatePem.sae }
      const foreign = /^(UNABLE_TO_VERIFY_LEAF_SIGNATURE|UNABLE_TO_GET_ISSUER_CERT_LOCALLY|SELF_SIGNED_CERT_IN_CHAIN)$/
      expect((await handshake(peerListener, { ...identity(alice), ca })).server).toMatch(foreign)
      expect((await handshake(saeListener, { ...identity(kme), ca })).server).toMatch(foreign)
      expect((await handshake(peerListener, { ...identity(kme), ca })).server).toBe('accepted')
      const impostor = { ...identity(alice), ca: authorities.certificatePem.sae }
      // OpenSSL reports the last fault it finds: that the certificate is no server's comes after its unknown authority.
      expect((await handshake(impostor, { ...identity(alice), ca })).client).toBe('INVALID_PURPOSE')
    }))

  it('a list past its next update stops everybody, and refreshing it helps', () =>
    withNetwork('p256', async ({ dir, authorities, parts, kme, alice, ca }) => {
      const longAgo = partsAt(parts.clock.nowMs() - WEEK_MS - 60_000)
      await (await openAuthorities(dir, longAgo)).refreshRevocationLists()
      expect((await handshake(await listenerOf(authorities, kme, 'sae'), { ...identity(alice), ca })).server).toBe(
        'CRL_HAS_EXPIRED',
      )
      await authorities.refreshRevocationLists()
      expect((await handshake(await listenerOf(authorities, kme, 'sae'), { ...identity(alice), ca })).server).toBe('accepted')
    }))

  it('reading a list gives serial numbers as node:crypto has them, its end and its issuer', () =>
    withNetwork('p256', async ({ authorities, alice, bob, parts }) => {
      const read = async () => readRevocations(await readFile(authorities.files.sae.revocationList, 'utf8'))
      expect((await read()).revokedSerials.size).toBe(0)
      await authorities.revoke('bob')
      const { revokedSerials, nextUpdateMs, issuer } = await read()
      expect([...revokedSerials]).toEqual([new X509Certificate(bob.certificatePem).serialNumber.toLowerCase()])
      expect(nextUpdateMs).toBe(Math.floor((parts.clock.nowMs() + WEEK_MS) / 1000) * 1000)
      expect(issuer).toBe(new X509Certificate(alice.certificatePem).issuer)
    }))

  it('something that is no list is refused', () => {
    expect(() => readRevocations('-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n')).toThrow()
  })
})

describe('hostile certificates', () => {
  const nowMs = Date.now()
  // What TLS itself finds; the rest is for the listener's identity check.
  const foundByTls: Record<string, string> = {
    expired: 'CERT_HAS_EXPIRED',
    'not yet valid': 'CERT_NOT_YET_VALID',
    'for servers only': 'INVALID_PURPOSE',
    'of an authority': 'INVALID_PURPOSE',
  }

  it.each(Object.entries(hostileChanges(nowMs)))(
    'an SAE certificate %s meets the verdict expected of TLS',
    async (what, changes) => {
      const authority = await testAuthority(nowMs)
      const hostile = await alteredCertificate({ profile: 'sae', id: 'alice' }, changes, authority.signer, nowMs)
      const server = await alteredCertificate({ profile: 'kme', id: 'kme-a' }, {}, authority.signer, nowMs)
      const ca = authority.certificatePem
      const { server: verdict } = await handshake({ ...identity(server), ca }, { ...identity(hostile), ca })
      expect(verdict).toBe(foundByTls[what] ?? 'accepted')
    },
  )

  it('a second authority of the same name is not trusted', async () => {
    const authority = await testAuthority(nowMs)
    const double = await testAuthority(nowMs, authority.signer.certificate.subjectName.getField('CN')[0])
    expect(double.signer.certificate.subject).toBe(authority.signer.certificate.subject)
    const server = await alteredCertificate({ profile: 'kme', id: 'kme-a' }, {}, authority.signer, nowMs)
    const forged = await alteredCertificate({ profile: 'sae', id: 'alice' }, {}, double.signer, nowMs)
    const ca = authority.certificatePem
    expect((await handshake({ ...identity(server), ca }, { ...identity(forged), ca })).server).not.toBe('accepted')
  })
})
