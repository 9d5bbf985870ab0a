/** Rows T of the bad-input catalogue against the real listeners: which certificate opens which door, and that taking one
 *  back counts within a second. test/http has the rows about odd names and protocol versions in more variants. */
import { webcrypto } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { endCertificateContents } from '../../src/pki/certificate-profiles.ts'
import { exportPrivateKey, openSigner, signCertificate, type Signer } from '../../src/pki/sign-certificate.ts'
import { eventually, type SaeClient } from '../network/network.ts'
import { alteredCertificate, hostileChanges, testAuthority, type CertificateAndKey } from '../pki/hostile-certificates.ts'
import { expectVerdict, judged, K, OK, sendRaw, startJudgedNetwork, type JudgedNetwork } from './judged-network.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const STATUS = `${K}bob/status`
const RAW_STATUS = `GET ${STATUS} HTTP/1.1\r\nHost: kme\r\n\r\n`
const ALICE = { profile: 'sae', id: 'alice' } as const
const nowMs = systemClock.nowMs()
const hostile = hostileChanges(nowMs)

let test: JudgedNetwork
let saeCa: Signer
let saePort: number
let ca: string

beforeAll(async () => {
  test = await startJudgedNetwork({}, 1)
  const { authorities, ports } = test.network
  saeCa = await openSigner(authorities.certificatePem.sae, readFileSync(authorities.files.sae.key, 'utf8'))
  saePort = ports.get('kme-a')!.sae
  ca = authorities.certificatePem.kme
})
afterAll(() => test?.[Symbol.asyncDispose]())

/** @param ciphers with a security level, for a client that would refuse its own certificate. */
const identity = ({ certificatePem, privateKeyPem }: CertificateAndKey, ciphers?: string) => ({
  cert: certificatePem,
  key: privateKeyPem,
  ...(ciphers !== undefined && { ciphers }),
})
const alteredAlice = (changes: Parameters<typeof alteredCertificate>[1], signer: Signer | 'self' = saeCa) =>
  alteredCertificate(ALICE, changes, signer, nowMs)
const clientWith = (certificate: CertificateAndKey): SaeClient => judged(test.network.clientOf(saePort, identity(certificate)))
/** Opens a connection with raw bytes; nothing comes back when the handshake fails. */
const knock = (options: ConnectionOptions, port = saePort) => sendRaw({ port, ca, ...options }, RAW_STATUS, 1)
const keyFile = (name: string) => readFileSync(`${test.network.directory}/${name}`, 'utf8')

describe('the SAE port, in the handshake', () => {
  it.each([
    ['T01 no certificate', async () => ({})],
    ['T02 self-signed', async () => identity(await alteredAlice({}, 'self'))],
    ['T03 of another authority', async () => identity(await alteredAlice({}, (await testAuthority(nowMs)).signer))],
    [
      'T03 of another authority with the same name',
      async () =>
        identity(await alteredAlice({}, (await testAuthority(nowMs, saeCa.certificate.subjectName.getField('CN')[0])).signer)),
    ],
    ['T04 expired', async () => identity(await alteredAlice(hostile['expired']!))],
    ['T05 not yet valid', async () => identity(await alteredAlice(hostile['not yet valid']!))],
    ['T06 for servers only', async () => identity(await alteredAlice(hostile['for servers only']!))],
    ['T09 of an authority', async () => identity(await alteredAlice(hostile['of an authority']!))],
    [
      'T07 signed by the leaf of an SAE',
      async () => {
        const leaf = await test.network.authorities.issue({ profile: 'sae', id: 'mallory' })
        return identity(await alteredAlice({}, await openSigner(leaf.certificatePem, leaf.privateKeyPem)))
      },
    ],
    ['T30 of the peer KME', async () => ({ cert: keyFile('kme-b.pem'), key: keyFile('kme-b.key') })],
    ['T30 of an administrator', async () => identity(await test.network.authorities.issue({ profile: 'admin', id: 'root' }))],
  ])('%s is refused', async (_row, options) => {
    expect(await knock(await options())).toMatchObject({ statuses: [], closed: true })
  })

  it.each(['TLSv1', 'TLSv1.1', 'TLSv1.2'] as const)('T22 %s is refused', async (version) => {
    const options = {
      ...identity(await alteredAlice({})),
      minVersion: version,
      maxVersion: version,
      ciphers: 'DEFAULT@SECLEVEL=0',
    }
    expect(await knock(options)).toMatchObject({ statuses: [], closed: true, connected: false })
  })
})

describe('the SAE port, by name', () => {
  it.each([
    ['T08 without extended key usage', hostile['without extended key usage']!],
    ['T15 with two common names and no URI', { ...hostile['with two common names']!, uris: [] }],
    ['T17 without SAE URI, the common name right', hostile['without SAE URI']!],
    ['T18 with two SAE URIs', hostile['with two SAE URIs']!],
    ['T19 with NUL', { uris: ['urn:kme:sae:alice\0.example'] }],
    ['T19 with a comma and a second name', { uris: ['http://x, URI:urn:kme:sae:alice'] }],
    ['T19 with a quote', { uris: ['urn:kme:sae:alice"'] }],
    ['T19 with a newline', { uris: ['urn:kme:sae:alice\n'] }],
    ['T20 in another case', { uris: ['urn:kme:sae:Alice'] }],
    ['T20 with a look-alike letter', { uris: ['urn:kme:sae:a1ice'] }],
    ['T21 of an unknown SAE', { uris: ['urn:kme:sae:nobody'] }],
    ['T30 naming a KME', { uris: ['urn:kme:kme:kme-b'] }],
  ])('%s: 401 without a body', async (_row, changes) => {
    const answer = await test.costsNothing(async () => clientWith(await alteredAlice(changes)).get(`${K}bob/enc_keys`))
    expectVerdict(answer, { status: 401 })
    expect(answer.text).toBe('')
    expect(answer.headers['content-length']).toBe('0')
    expect(answer.headers['www-authenticate']).toBe('KME-Certificate realm="kme"')
  })

  it('T15 T16 the SAN URI alone decides, whatever common names say', async () => {
    for (const commonNames of [['bob', 'anna'], ['x, CN=bob']]) {
      const answer = await clientWith(await alteredAlice({ commonNames })).get(STATUS)
      expect(answer.json).toMatchObject({ master_SAE_ID: 'alice' })
    }
  })
})

describe('an RSA certificate', () => {
  const rsaAlice = async (modulusLength: number) => {
    const algorithm = { name: 'RSASSA-PKCS1-v1_5', modulusLength, publicExponent: new Uint8Array([1, 0, 1]), hash: 'SHA-256' }
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
    const certificatePem = await signCertificate(endCertificateContents(ALICE, nowMs, systemRandom), keys, saeCa)
    // The client itself must not mind.
    return identity({ certificatePem, privateKeyPem: await exportPrivateKey(keys.privateKey) }, 'DEFAULT@SECLEVEL=0')
  }

  it('T24 of 2048 bits is served, of 1024 bits is refused in the handshake', async () => {
    expect((await knock(await rsaAlice(2048))).statuses).toEqual([200])
    expect(await knock(await rsaAlice(1024))).toMatchObject({ statuses: [], closed: true, connected: true })
  })
})

describe('an oversized certificate', () => {
  it('T25 with a SAN of 64 KiB costs little and harms nobody', async () => {
    const large = await alteredAlice({ uris: [`https://example.org/${'a'.repeat(65_536)}`, 'urn:kme:sae:alice'] })
    const startMs = systemClock.monotonicMs()
    await Promise.all(Array.from({ length: 10 }, () => knock(identity(large))))
    expect(systemClock.monotonicMs() - startMs).toBeLessThan(timeLimitMs(3000))
    expectVerdict(await test.alice.get(STATUS), OK)
  })
})

describe('taking a certificate back', () => {
  /** An open connection and a promise of how many milliseconds after `from()` it was closed. */
  const openConnection = async (certificate: CertificateAndKey): Promise<{ socket: TLSSocket; closed: Promise<void> }> => {
    const socket = connect({ host: '127.0.0.1', port: saePort, ca, servername: 'localhost', ...identity(certificate) })
    socket.on('error', () => undefined)
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    const answered = new Promise<Buffer>((resolve) => socket.once('data', resolve))
    socket.write(RAW_STATUS)
    expect(String(await answered)).toMatch(/^HTTP\/1\.1 200 /)
    return { socket, closed }
  }

  it('T10 T12 a revocation cuts the open connection within a second, and no new one comes up', async () => {
    const revoked = await test.network.authorities.issue(ALICE)
    const kept = await test.network.authorities.issue(ALICE)
    const { closed } = await openConnection(revoked)
    const other = await openConnection(kept)
    const startMs = systemClock.monotonicMs()
    await test.network.authorities.revoke(revoked.serial)
    await closed
    expect(systemClock.monotonicMs() - startMs).toBeLessThan(timeLimitMs(1000))
    expect(await knock(identity(revoked))).toMatchObject({ statuses: [], closed: true })
    expect(other.socket.destroyed).toBe(false)
    other.socket.destroy()
    expectVerdict(await clientWith(kept).get(STATUS), OK)
  })

  it('T21 disabling the SAE cuts its open connections, 401 answers new ones, and enabling lets it in again', async () => {
    const certificate = await test.network.authorities.issue(ALICE)
    const { closed } = await openConnection(certificate)
    const admin = await test.network.admin('kme-a')
    const startMs = systemClock.monotonicMs()
    expect((await admin.post('/api/v1/saes/alice/disable', {})).status).toBe(200)
    await closed
    expect(systemClock.monotonicMs() - startMs).toBeLessThan(timeLimitMs(1000))
    expectVerdict(await clientWith(certificate).get(STATUS), { status: 401 })
    expect((await admin.post('/api/v1/saes/alice/enable', {})).status).toBe(200)
    expectVerdict(await clientWith(certificate).get(STATUS), OK)
  })

  it('T12 a revoked KME certificate cannot speak to the peer port any more', async () => {
    const { authorities, ports } = test.network
    const second = await authorities.issue({ profile: 'kme', id: 'kme-b' })
    const hello = () =>
      sendRaw({ port: ports.get('kme-a')!.peer, ca, ...identity(second) }, 'GET /kme/v1/hello HTTP/1.1\r\nHost: kme\r\n\r\n', 1)
    expect((await hello()).statuses).toEqual([200])
    await authorities.revoke(second.serial)
    await eventually('the revocation is read', async () => (await hello()).statuses.length === 0, timeLimitMs(1000))
  })
})

describe('the other doors', () => {
  it('an SAE certificate is refused in the handshake of the peer port', async () => {
    const { peer } = test.network.ports.get('kme-a')!
    expect(await knock(identity(await test.network.authorities.issue(ALICE)), peer)).toMatchObject({ statuses: [], closed: true })
    expect(await knock({}, peer)).toMatchObject({ statuses: [], closed: true })
  })

  it('a certificate of the KME authority that names no known peer is 401 on the peer port', async () => {
    const { peer } = test.network.ports.get('kme-a')!
    for (const request of [
      { profile: 'kme', id: 'kme-9' },
      { profile: 'admin', id: 'root' },
    ] as const) {
      const stranger = await test.network.authorities.issue(request)
      expect((await knock(identity(stranger), peer)).statuses).toEqual([401])
    }
  })
})
