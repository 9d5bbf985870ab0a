/** Transport, identity and routing of ETSI GS QKD 014 (clauses 4 and 5.1): lines 1 to 30 of docs/etsi-014-conformance.md
 *  that the bad-input catalogue does not prove. */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { connect } from 'node:tls'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import {
  draw,
  expectVerdict,
  fetchKeys,
  judged,
  K,
  OK,
  sendRaw,
  startJudgedNetwork,
  type JudgedNetwork,
} from '../catalogue/judged-network.ts'
import { keysOf, storedKeys } from '../network/network.ts'
import { alteredCertificate } from '../pki/hostile-certificates.ts'
import { openSigner } from '../../src/pki/sign-certificate.ts'
import { systemClock } from '../../src/kernel/clock.ts'

const RAW_STATUS = `GET ${K}bob/status HTTP/1.1\r\nHost: kme\r\n\r\n`

const tlsOf = async (test: JudgedNetwork) => {
  const { authorities, ports } = test.network
  const { certificatePem, privateKeyPem } = await authorities.issue({ profile: 'sae', id: 'alice' })
  return { port: ports.get('kme-a')!.sae, ca: authorities.certificatePem.kme, cert: certificatePem, key: privateKeyPem }
}

describe('a KME as it comes', () => {
  let test: JudgedNetwork
  beforeAll(async () => {
    test = await startJudgedNetwork({}, 50)
  })
  afterAll(() => test?.[Symbol.asyncDispose]())

  it('plain HTTP on the SAE port is closed without an answer', async () => {
    const received = await new Promise<string>((resolve) => {
      let text = ''
      const socket = connectTcp(test.network.ports.get('kme-a')!.sae, '127.0.0.1', () => socket.write(RAW_STATUS))
      socket.on('data', (chunk) => (text += chunk.toString('latin1')))
      socket.on('error', () => undefined)
      socket.on('close', () => resolve(text))
    })
    expect(received).not.toContain('HTTP/')
  })

  it('TLS 1.3 with a client certificate is served', async () => {
    const outcome = await sendRaw({ ...(await tlsOf(test)), minVersion: 'TLSv1.3' }, RAW_STATUS, 1)
    expect(outcome.statuses).toEqual([200])
  })

  it('each KME shows a certificate whose SAN URI names it, and only it', async () => {
    const names = await Promise.all(
      (['kme-a', 'kme-b'] as const).map(async (kme) => {
        const credentials = { ...(await tlsOf(test)), port: test.network.ports.get(kme)!.sae }
        return new Promise<string>((resolve, reject) => {
          const socket = connect({ host: '127.0.0.1', servername: 'localhost', ...credentials }, () => {
            resolve(socket.getPeerX509Certificate()!.subjectAltName!)
            socket.destroy()
          })
          socket.on('error', reject)
        })
      }),
    )
    expect(names.map((name) => name.match(/URI:urn:kme:kme:[^,]+/g))).toEqual([
      ['URI:urn:kme:kme:kme-a'],
      ['URI:urn:kme:kme:kme-b'],
    ])
    expect(new X509Certificate(readFileSync(`${test.network.directory}/kme-a.pem`)).checkHost('localhost')).toBe('localhost')
  })

  it('several requests on one connection are served', async () => {
    const outcome = await sendRaw(await tlsOf(test), RAW_STATUS.repeat(3), 3)
    expect(outcome).toMatchObject({ statuses: [200, 200, 200] })
  })

  it('answers are application/json, UTF-8 JSON and never stored by a cache', async () => {
    const issued = await test.alice.get(`${K}bob/enc_keys`)
    const fetched = await fetchKeys(test.bob, 'alice', keysOf(issued))
    const refused = await test.alice.get(`${K}nobody/status`)
    for (const answer of [issued, fetched, refused, await test.alice.get(`${K}bob/status`)]) {
      expect(answer.headers['content-type']).toBe('application/json')
      expect(answer.headers['cache-control']).toBe('no-store')
      expect(() => JSON.parse(answer.text) as unknown).not.toThrow()
      expect(Buffer.byteLength(answer.text)).toBe(Number(answer.headers['content-length']))
    }
  })

  it('the five operations of the standard are there', async () => {
    expectVerdict(await test.alice.get(`${K}bob/status`), OK)
    const keys = [...(await draw(test.alice, 'bob')), ...keysOf(await test.alice.get(`${K}bob/enc_keys`))]
    expectVerdict(await fetchKeys(test.bob, 'alice', [keys[0]!]), OK)
    expectVerdict(await test.bob.get(`${K}alice/dec_keys?key_ID=${keys[1]!.key_ID}`), OK)
  })

  it('an SAE ID with slashes and signs is registered, paired and served when percent-encoded in the path', async () => {
    const id = "site/7:enc@1!$'()*+~"
    const encoded = encodeURIComponent(id).replaceAll('!', '%21').replaceAll("'", '%27')
    for (const kme of ['kme-a', 'kme-b'] as const) {
      const admin = await test.network.admin(kme)
      expect((await admin.post('/api/v1/saes', { saeId: id, kmeId: 'kme-b' })).status).toBe(201)
      expect((await admin.post('/api/v1/pairs', { one: 'alice', other: id, allowed: true })).status).toBe(200)
    }
    const status = await test.alice.get(`${K}${encoded}/status`)
    expect(status.json).toMatchObject({ slave_SAE_ID: id, target_KME_ID: 'kme-b' })
    const [key] = await draw(test.alice, encoded)
    const slave = await test.sae(id, 'kme-b')
    expect(keysOf(await fetchKeys(slave, 'alice', [key!]))).toEqual([key])
    const [back] = await draw(slave, 'alice')
    expect(keysOf(await fetchKeys(test.alice, encoded, [back!]))).toEqual([back])
  })

  it('SAE IDs with spaces or letters beyond ASCII are decoded and found to be nobody', async () => {
    for (const id of ['bob%20', 'b%C3%B6b', '%E2%82%AC'])
      expectVerdict(await test.alice.get(`${K}${id}/status`), { status: 400, message: 'u' })
  })

  it('SAE IDs are compared exactly', async () => {
    for (const id of ['Bob', 'BOB', 'bob.'])
      expectVerdict(await test.alice.get(`${K}${id}/status`), { status: 400, message: 'u' })
  })
})

describe('a KME with TLS 1.2 switched on, common names allowed and multicast off', () => {
  let test: JudgedNetwork
  beforeAll(async () => {
    test = await startJudgedNetwork(
      {
        saeTls: 'TLSv1.2',
        saeIdentity: 'san-uri-or-cn',
        keys: { maxSaeIdCount: 0, lendFloor: 0, maxPerRequest: 1024 },
        blockBytes: 96,
      },
      20,
    )
  })
  afterAll(() => test?.[Symbol.asyncDispose]())

  it('TLS 1.2 and TLS 1.3 are served', async () => {
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const outcome = await sendRaw({ ...(await tlsOf(test)), minVersion: version, maxVersion: version }, RAW_STATUS, 1)
      expect(outcome.statuses).toEqual([200])
    }
  })

  it.each(['TLSv1', 'TLSv1.1'] as const)('T22 %s is refused even then', async (version) => {
    const options = { ...(await tlsOf(test)), minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }
    expect(await sendRaw(options, RAW_STATUS)).toMatchObject({ statuses: [], closed: true, connected: false })
  })

  it('T15 T16 T17 the only common name counts where no SAN URI is, two of them name nobody', async () => {
    const { authorities, ports } = test.network
    const nowMs = systemClock.nowMs()
    const signer = await openSigner(authorities.certificatePem.sae, readFileSync(authorities.files.sae.key, 'utf8'))
    const ask = async (commonNames: string[], uris: string[]) => {
      const leaf = await alteredCertificate({ profile: 'sae', id: 'alice' }, { commonNames, uris }, signer, nowMs)
      const client = test.network.clientOf(ports.get('kme-a')!.sae, { cert: leaf.certificatePem, key: leaf.privateKeyPem })
      return judged(client).get(`${K}bob/status`)
    }
    expect((await ask(['alice'], [])).json).toMatchObject({ master_SAE_ID: 'alice' })
    expect((await ask(['bob'], ['urn:kme:sae:alice'])).json).toMatchObject({ master_SAE_ID: 'alice' })
    for (const names of [['alice', 'anna'], ['x, CN=alice'], ['alice\0'], ['ALICE'], ['']])
      expectVerdict(await ask(names, []), { status: 401 })
    expectVerdict(await ask(['alice'], ['urn:kme:sae:alice', 'urn:kme:sae:anna']), { status: 401 })
  })

  it('K19 with max_SAE_ID_count 0 any additional slave is 400 and costs nothing, an empty list is served', async () => {
    expect((await test.alice.get(`${K}bob/status`)).json['max_SAE_ID_count']).toBe(0)
    for (const ids of [['bert'], ['nobody'], ['bert', 'anna']]) {
      const answer = await test.costsNothing(() => test.alice.post(`${K}bob/enc_keys`, { additional_slave_SAE_IDs: ids }))
      expectVerdict(answer, { status: 400, message: 'f' })
    }
    expect(await draw(test.alice, 'bob', { additional_slave_SAE_IDs: [] })).toHaveLength(1)
  })

  it('key material that all entitled parties have is erased at both KMEs, and only the IDs stay', async () => {
    const keys = await draw(test.alice, 'bob', { number: await storedKeys(test.alice, 'bob') })
    const waiting = await test.network.query(
      'kme-b',
      `SELECT block_id FROM key_block WHERE link_id = 'a-b' AND sealed IS NOT NULL`,
    )
    expect(waiting.length).toBeGreaterThanOrEqual(keys.length / 2)
    expectVerdict(await fetchKeys(test.bob, 'alice', keys), OK)
    // Blocks here hold two units. Those with a unit of an earlier test, whose key was never fetched, stay.
    const ofKeys = `SELECT DISTINCT (u->>'blockId')::uuid FROM assignment a JOIN assigned_key k USING (aid), jsonb_array_elements(a.units) u WHERE k.key_id = $1`
    for (const name of ['kme-a', 'kme-b'] as const) {
      const left = await test.network.query<{ whole: number; emptied: number }>(
        name,
        `SELECT count(*) FILTER (WHERE bit_count(done) = unit_count AND (sealed IS NOT NULL OR sealed_tag_key IS NOT NULL OR wrapped_dek IS NOT NULL))::int AS whole,
           count(*) FILTER (WHERE state = 'DESTROYED' AND sealed IS NULL)::int AS emptied
         FROM key_block WHERE block_id IN (${ofKeys})`,
        [keys[0]!.key_ID],
      )
      expect(left[0]!.whole).toBe(0)
      expect(left[0]!.emptied).toBeGreaterThan(0)
    }
    expectVerdict(await fetchKeys(test.bob, 'alice', [keys[0]!]), { status: 400, message: 'm5' })
  })
})
