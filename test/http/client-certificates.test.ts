/** Which client certificates get through, and as whom (rows T of the bad-input catalogue). */
import { X509Certificate } from 'node:crypto'
import { connect as connectTcp } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { kmeIdOf, readCertificateFacts, saeIdOf } from '../../src/http/client-identity.ts'
import type { Clock } from '../../src/kernel/clock.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { makeAuthority, makeLeaf, makeRevocationList, makeSae } from './test-certificates.ts'
import type { Identity, LeafOptions } from './test-certificates.ts'
import { K, openSocket, request, sendRaw, startTestListener } from './test-listener.ts'
import type { TestListener } from './test-listener.ts'

const STATUS = `GET ${K}sae-2/status HTTP/1.1\r\nHost: kme\r\n\r\n`
const SAE_1 = { subject: 'CN=sae-1', uris: ['urn:kme:sae:sae-1'] }
const HOUR_MS = 3_600_000

describe('a client certificate', () => {
  let test: TestListener
  beforeAll(async () => {
    test = await startTestListener({ isAdmitted: (saeId) => saeId === 'sae-1' })
  })
  afterAll(() => test.listener.stop(0))

  const refusedInTls: [string, () => Promise<Identity | 'none'>][] = [
    ['T01 none at all', async () => 'none'],
    ['T02 self-signed', () => makeLeaf('self', SAE_1)],
    ['T03 of another authority with the same name', async () => makeLeaf(await makeAuthority(), SAE_1)],
    ['T04 expired', () => makeLeaf(test.authority, { ...SAE_1, notAfter: new Date(Date.now() - HOUR_MS) })],
    ['T05 not yet valid', () => makeLeaf(test.authority, { ...SAE_1, notBefore: new Date(Date.now() + HOUR_MS) })],
    ['T06 for servers only', () => makeLeaf(test.authority, { ...SAE_1, usages: ['server'] })],
    ['T07 signed by the leaf of an SAE', () => makeLeaf(test.alice, SAE_1)],
  ]
  it.each(refusedInTls)('%s is refused in the handshake', async (_row, makeClient) => {
    const before = test.runs()
    const outcome = await sendRaw(test, STATUS, { client: await makeClient() })
    expect(outcome).toMatchObject({ statuses: [], closed: true })
    expect(test.runs()).toBe(before)
  })

  const answered401: [string, LeafOptions][] = [
    ['T08 without extended key usage', { ...SAE_1, usages: [] }],
    ['T09 of an authority', { ...SAE_1, ca: true }],
    ['T17 with the right CN and no SAN URI', { subject: 'CN=sae-1' }],
    ['T18 with two SAE URIs', { uris: ['urn:kme:sae:sae-1', 'urn:kme:sae:sae-2'] }],
    ['T18 with the same SAE URI twice', { uris: ['urn:kme:sae:sae-1', 'urn:kme:sae:sae-1'] }],
    ['T18 with a second SAE URI in another case', { uris: ['urn:kme:sae:sae-1', 'URN:KME:SAE:sae-2'] }],
    ['T19 with NUL', { uris: ['urn:kme:sae:sae-1\0.example'] }],
    ['T19 with a comma that smuggles in a second name', { uris: ['http://x, URI:urn:kme:sae:sae-1, URI:y'] }],
    ['T19 with a quote', { uris: ['urn:kme:sae:sae-1"'] }],
    ['T19 with quotes around a second name', { uris: ['x", URI:urn:kme:sae:sae-1, URI:"y'] }],
    ['T19 with a backslash', { uris: ['x\\", URI:urn:kme:sae:sae-1'] }],
    ['T19 with a newline', { uris: ['urn:kme:sae:sae-1\n'] }],
    ['T19 with a comma in a DNS name', { dns: ['x, URI:urn:kme:sae:sae-1'] }],
    ['T20 in another case', { uris: ['urn:kme:sae:SAE-1'] }],
    ['T20 with an upper-case scheme', { uris: ['URN:kme:sae:sae-1'] }],
    ['T20 percent-encoded', { uris: ['urn:kme:sae:sae%2D1'] }],
    ['T21 of an unknown SAE', { uris: ['urn:kme:sae:sae-9'] }],
    ['T30 of a peer KME', { uris: ['urn:kme:kme:sae-1'] }],
    ['T30 of a KME that is an SAE as well', { uris: ['urn:kme:kme:kme-1', 'urn:kme:sae:sae-1'] }],
  ]
  it.each(answered401)('%s is answered 401 without a body', async (_row, leaf) => {
    const before = test.runs()
    const answer = await request(test, `${K}sae-2/status`, { client: await makeLeaf(test.authority, leaf) })
    expect(answer).toMatchObject({ status: 401, body: '' })
    expect(answer.headers).toMatchObject({ 'content-length': '0', 'www-authenticate': 'KME-Certificate realm="kme"' })
    expect(answer.headers['content-type']).toBeUndefined()
    expect(test.runs()).toBe(before)
  })

  it('T16 with a CN hidden inside another attribute is only who its SAN URI says', async () => {
    const client = await makeLeaf(test.authority, { subject: [{ O: ['x, CN=sae-2'] }, { CN: ['sae-1'] }], uris: SAE_1.uris })
    const answer = await request(test, `${K}sae-2/status`, { client })
    expect(JSON.parse(answer.body)).toMatchObject({ caller: 'sae-1' })
  })

  it('with other SAN entries beside the one SAE URI is that SAE', async () => {
    const client = await makeLeaf(test.authority, {
      uris: ['https://example.org/a,b', ...SAE_1.uris],
      dns: ['a.example'],
      ips: ['10.0.0.1'],
    })
    expect(await request(test, `${K}sae-2/status`, { client })).toMatchObject({ status: 200 })
  })

  it('H14-H18 decides alone: no header names another caller', async () => {
    const headers = {
      'X-SAE-ID': 'sae-9',
      'X-Client-Verified': 'SUCCESS',
      'X-Client-DN': 'CN=sae-9',
      'X-Forwarded-Client-Cert': 'URI=urn:kme:sae:sae-9',
      'X-SSL-Client-S-DN': 'CN=sae-9',
      'X-Forwarded-For': '10.1.2.3',
      'Client-Cert': ':AAAA:',
      Authorization: 'Bearer admin',
    }
    const answer = await request(test, `${K}sae-2/status`, { headers })
    expect(answer.status).toBe(200)
    expect(JSON.parse(answer.body)).toMatchObject({ caller: 'sae-1' })
  })

  it('T27 ALPN h2 alone opens no connection, http/1.1 and none do', async () => {
    expect(await sendRaw(test, STATUS, { ALPNProtocols: ['h2'] })).toMatchObject({ statuses: [], closed: true })
    expect(await sendRaw(test, STATUS, { ALPNProtocols: ['h2', 'http/1.1'], answers: 1 })).toMatchObject({ statuses: [200] })
    expect(await sendRaw(test, STATUS, { answers: 1 })).toMatchObject({ statuses: [200] })
  })

  it.each([
    ['absent', ''],
    ['foreign', 'example.org'],
    ['long', `${'a'.repeat(60)}.`.repeat(4) + 'org'],
  ])('T26 SNI %s is served', async (_row, servername) => {
    const outcome = await sendRaw(test, STATUS, { servername, checkServerIdentity: () => undefined, answers: 1 })
    expect(outcome.statuses).toEqual([200])
  })

  it('T29 plain HTTP on the TLS port is closed without an answer', async () => {
    const received = await new Promise<string>((resolve) => {
      let text = ''
      const socket = connectTcp(test.listener.port, '127.0.0.1', () => socket.write(STATUS))
      socket.on('data', (chunk) => (text += chunk.toString('latin1')))
      socket.on('error', () => undefined)
      socket.on('close', () => resolve(text))
    })
    expect(received).not.toContain('HTTP/')
  })

  it.each(['TLSv1', 'TLSv1.1', 'TLSv1.2'] as const)('T22 %s is refused by a TLS 1.3 listener', async (version) => {
    const options = { minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }
    expect(await sendRaw(test, STATUS, options)).toMatchObject({ statuses: [], closed: true })
  })

  it('agrees on the hybrid key exchange with a client that knows it', async () => {
    const socket = await openSocket(test, { ecdhCurve: 'X25519MLKEM768' })
    expect(socket.getProtocol()).toBe('TLSv1.3')
    socket.destroy()
  })
})

describe('a listener that takes TLS 1.2', () => {
  let test: TestListener
  beforeAll(async () => {
    test = await startTestListener({ listener: { minVersion: 'TLSv1.2' } })
  })
  afterAll(() => test.listener.stop(0))
  const old = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const

  it('serves TLS 1.2 and TLS 1.3', async () => {
    expect(await sendRaw(test, STATUS, { ...old, answers: 1 })).toMatchObject({ statuses: [200] })
    expect(await sendRaw(test, STATUS, { answers: 1 })).toMatchObject({ statuses: [200] })
  })

  it.each(['TLSv1', 'TLSv1.1'] as const)('T22 refuses %s', async (version) => {
    const options = { minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }
    expect(await sendRaw(test, STATUS, options)).toMatchObject({ statuses: [], closed: true })
  })

  it.each(['ECDHE-ECDSA-AES128-SHA256', 'ECDHE-ECDSA-AES256-SHA', 'AES256-GCM-SHA384'])('T23 refuses %s', async (ciphers) => {
    expect(await sendRaw(test, STATUS, { ...old, ciphers })).toMatchObject({ statuses: [], closed: true })
  })

  it('T28 refuses renegotiation', async () => {
    const socket = await openSocket(test, old)
    const error = await new Promise<unknown>((resolve) => {
      socket.on('error', resolve)
      socket.renegotiate({}, resolve)
    })
    expect(String(error)).toMatch(/renegotiation/i)
    socket.destroy()
  })

  it.each([old, { minVersion: 'TLSv1.3' } as const])('T13 T14 never resumes a session (%o)', async (version) => {
    const first = await openSocket(test, version)
    const offered: Buffer[] = []
    first.on('session', (session) => offered.push(session))
    first.write(STATUS)
    await new Promise((resolve) => first.once('data', resolve))
    const session = offered[0] ?? first.getSession()
    first.destroy()
    const bob = await makeSae(test.authority, 'sae-2')
    const second = await openSocket(test, { ...version, client: bob, ...(session && { session }) })
    expect(second.isSessionReused()).toBe(false)
    const text = new Promise<string>((resolve) => second.once('data', (chunk: Buffer) => resolve(chunk.toString('latin1'))))
    second.write(STATUS)
    expect(await text).toContain('"caller":"sae-2"')
    second.destroy()
  })
})

describe('revocation', () => {
  it('T10 a certificate on the revocation list is refused in the handshake, others are served', async () => {
    const authority = await makeAuthority()
    const test = await startTestListener({ authority })
    const mallory = await makeSae(authority, 'mallory')
    expect(await sendRaw(test, STATUS, { client: mallory, answers: 1 })).toMatchObject({ statuses: [200] })
    test.listener.updateTls({
      certificatePem: test.server.certificatePem,
      privateKeyPem: test.server.privateKeyPem,
      caPem: authority.certificatePem,
      crlPems: [await makeRevocationList(authority, [mallory])],
    })
    expect(await sendRaw(test, STATUS, { client: mallory })).toMatchObject({ statuses: [], closed: true })
    expect(await sendRaw(test, STATUS, { answers: 1 })).toMatchObject({ statuses: [200] })
    await test.listener.stop(0)
  })

  it('T11 a revocation list past its nextUpdate lets nobody in', async () => {
    const test = await startTestListener()
    test.listener.updateTls({
      certificatePem: test.server.certificatePem,
      privateKeyPem: test.server.privateKeyPem,
      caPem: test.authority.certificatePem,
      crlPems: [await makeRevocationList(test.authority, [], new Date(Date.now() - HOUR_MS))],
    })
    expect(await sendRaw(test, STATUS)).toMatchObject({ statuses: [], closed: true })
    await test.listener.stop(0)
  })

  it('T12 bites on an open connection: the next request on it is 401', async () => {
    const revoked = new Set<string>()
    const test = await startTestListener({ isAdmitted: (saeId) => !revoked.has(saeId) })
    const socket = await openSocket(test)
    const ask = (): Promise<string> => {
      const text = new Promise<string>((resolve) => socket.once('data', (chunk: Buffer) => resolve(chunk.toString('latin1'))))
      socket.write(STATUS)
      return text
    }
    expect(await ask()).toContain('HTTP/1.1 200 OK')
    revoked.add('sae-1')
    expect(await ask()).toContain('HTTP/1.1 401 Unauthorized')
    expect(test.runs()).toBe(1)
    await test.listener.stop(0)
  })

  it('T12 cuts the open connections it is told to, and only those', async () => {
    const test = await startTestListener()
    const alice = await openSocket(test)
    const bob = await openSocket(test, { client: await makeSae(test.authority, 'sae-2') })
    for (const socket of [alice, bob]) {
      socket.write(STATUS)
      await new Promise((resolve) => socket.once('data', resolve))
    }
    const closed = new Promise((resolve) => alice.once('close', resolve))
    alice.on('error', () => undefined)
    const serialNumber = test.alice.certificate.serialNumber.toLowerCase()
    expect(test.listener.closeConnections((facts) => facts?.serialNumber === serialNumber)).toBe(1)
    await closed
    bob.write(STATUS)
    expect(String(await new Promise((resolve) => bob.once('data', resolve)))).toContain('200 OK')
    bob.destroy()
    await test.listener.stop(0)
  })

  it('a certificate that expires on an open connection is 401 from then on', async () => {
    let aheadMs = 0
    const clock: Clock = { ...systemClock, nowMs: () => systemClock.nowMs() + aheadMs }
    const test = await startTestListener({ clock })
    expect(await request(test, `${K}sae-2/status`)).toMatchObject({ status: 200 })
    aheadMs = 25 * HOUR_MS
    expect(await request(test, `${K}sae-2/status`)).toMatchObject({ status: 401 })
    await test.listener.stop(0)
  })
})

describe('the common name', () => {
  const factsOf = async (leaf: LeafOptions) => {
    const { certificatePem } = await makeLeaf(await makeAuthority(), leaf)
    const facts = readCertificateFacts(new X509Certificate(certificatePem))
    if (facts === undefined) throw new Error('the certificate cannot be read')
    return facts
  }

  it('names the SAE when it may and no SAN URI does', async () => {
    const facts = await factsOf({ subject: 'CN=sae-1' })
    expect(saeIdOf(facts, 'san-uri-or-cn')).toBe('sae-1')
    expect(saeIdOf(facts, 'san-uri')).toBeUndefined()
    expect(kmeIdOf(facts)).toBeUndefined()
  })

  it('T15 names nobody when there are two', async () => {
    const facts = await factsOf({ subject: [{ CN: ['sae-2'] }, { CN: ['sae-1'] }] })
    expect(facts.subjectCommonNames).toEqual(['sae-2', 'sae-1'])
    expect(saeIdOf(facts, 'san-uri-or-cn')).toBeUndefined()
  })

  it('T16 is not found inside another attribute', async () => {
    const facts = await factsOf({ subject: [{ O: ['x, CN=sae-2\nCN=sae-3'] }, { CN: ['sae-1'] }] })
    expect(saeIdOf(facts, 'san-uri-or-cn')).toBe('sae-1')
  })

  it.each(['sae-1\0', 'sae-1, CN=sae-2', 'sae-1\nCN=sae-2', 'sae"1', ''])('T19 %j names nobody', async (commonName) => {
    const facts = await factsOf({ subject: [{ CN: [commonName] }] })
    expect(saeIdOf(facts, 'san-uri-or-cn')).toBeUndefined()
  })

  it('does not count beside a SAN URI of ours, even a bad one', async () => {
    expect(saeIdOf(await factsOf({ subject: 'CN=sae-1', uris: ['urn:kme:sae:sae-2'] }), 'san-uri-or-cn')).toBe('sae-2')
    expect(saeIdOf(await factsOf({ subject: 'CN=sae-1', uris: ['urn:kme:sae:'] }), 'san-uri-or-cn')).toBeUndefined()
    expect(saeIdOf(await factsOf({ subject: 'CN=sae-1', uris: ['urn:kme:kme:kme-1'] }), 'san-uri-or-cn')).toBeUndefined()
  })

  it('never names a KME', async () => {
    expect(kmeIdOf(await factsOf({ subject: 'CN=kme-1', uris: ['urn:kme:kme:kme-2'] }))).toBe('kme-2')
    expect(kmeIdOf(await factsOf({ uris: ['urn:kme:kme:kme-2', 'urn:kme:kme:kme-3'] }))).toBeUndefined()
    expect(kmeIdOf(await factsOf({ uris: ['urn:kme:kme:kme-2'], usages: ['server'] }))).toBeUndefined()
  })
})
