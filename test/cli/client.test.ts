/** The SDK for SAEs against a KME that answers over real TLS. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { createSaeClient, KmeRequestError, type SaeClient, type SaeClientOptions } from '../../src/client/client.ts'
import type { IssuedCertificate } from '../../src/pki/pki.ts'
import { makeAuthority, makeServerLeaf } from '../http/test-certificates.ts'
import { createPki, json, startAnsweringKme, type AnsweringKme, type Pki } from './answering-kme.ts'

const ID = '6f1d2a54-0000-4000-8000-00000000000a'
const STATUS = {
  source_KME_ID: 'kme-a',
  target_KME_ID: 'kme-b',
  master_SAE_ID: 'alice',
  slave_SAE_ID: 'bob',
  key_size: 256,
  stored_key_count: 5,
  max_key_count: 10,
  max_key_per_request: 3,
  max_key_size: 512,
  min_key_size: 64,
  max_SAE_ID_count: 0,
}

let pki: Pki
let kme: AnsweringKme
let alice: IssuedCertificate
beforeAll(async () => {
  pki = await createPki()
  kme = await startAnsweringKme(pki)
  alice = await pki.authorities.issue({ profile: 'sae', id: 'alice' })
})
afterAll(async () => {
  await kme.stop()
  await pki.remove()
})
beforeEach(() => void kme.asked.splice(0))

const clientWith = async <T>(options: Partial<SaeClientOptions>, work: (client: SaeClient) => Promise<T>): Promise<T> => {
  const client = createSaeClient({
    url: kme.url,
    certificatePem: alice.certificatePem,
    privateKeyPem: alice.privateKeyPem,
    caPem: pki.authorities.certificatePem.kme,
    ...options,
  })
  try {
    return await work(client)
  } finally {
    client.close()
  }
}
const failureOf = async (options: Partial<SaeClientOptions>): Promise<KmeRequestError> => {
  const error = await clientWith(options, (client) => client.status('bob')).catch((thrown: unknown) => thrown)
  if (!(error instanceof KmeRequestError)) throw new Error('not refused as expected', { cause: error })
  return error
}

describe('the SAE client', () => {
  it('asks for the status as the SAE of its certificate', async () => {
    kme.answer(json({ ...STATUS, status_extension: { x: 1 } }))
    expect(await clientWith({ kmeId: 'kme-a' }, (client) => client.status('bob'))).toEqual(STATUS)
    expect(kme.asked).toMatchObject([
      { method: 'GET', path: '/api/v1/keys/bob/status', client: 'URI:urn:kme:sae:alice', body: '' },
    ])
  })

  it('sends only what it was told, sizes in bits', async () => {
    kme.answer(json({ keys: [{ key_ID: ID, key: 'AQID' }] }))
    await clientWith({}, async (client) => {
      await client.getKey('bob')
      await client.getKey('bob', {
        number: 2,
        sizeBits: 512,
        additionalSlaveSaeIds: ['carol'],
        requestId: ID,
        extensionMandatory: [{ a_b: 1 }],
        extensionOptional: [{ c_d: null }],
      })
    })
    expect(kme.asked.map(({ method, path }) => `${method} ${path}`)).toEqual(Array(2).fill('POST /api/v1/keys/bob/enc_keys'))
    expect(kme.asked.map(({ body }) => JSON.parse(body))).toEqual([
      {},
      {
        number: 2,
        size: 512,
        additional_slave_SAE_IDs: ['carol'],
        extension_mandatory: [{ a_b: 1 }],
        extension_optional: [{ c_d: null }, { openkme_request_id: ID }],
      },
    ])
  })

  it('hands over the bytes of the keys under their IDs', async () => {
    kme.answer(json({ keys: [{ key_ID: ID, key: 'AQID' }] }))
    const [key] = await clientWith({}, (client) => client.getKeyWithKeyIds('alice', [ID]))
    expect(key?.keyId).toBe(ID)
    expect(key?.key.use((bytes) => bytes.toString('hex'))).toBe('010203')
    expect(kme.asked).toMatchObject([
      { path: '/api/v1/keys/alice/dec_keys', body: JSON.stringify({ key_IDs: [{ key_ID: ID }] }) },
    ])
  })

  it.each([
    ['urn:sae/a b', '/api/v1/keys/urn%3Asae%2Fa%20b/status'],
    ['..', '/api/v1/keys/../status'],
  ])('puts the SAE ID %j into the path as one segment', async (saeId, path) => {
    kme.answer(json(STATUS))
    await clientWith({}, (client) => client.status(saeId))
    expect(kme.asked[0]?.path).toBe(path)
  })

  it('tells what the KME refused and when to come back', async () => {
    kme.answer({
      status: 503,
      headers: { 'retry-after': '7' },
      body: JSON.stringify({ message: 'no key', details: [{ left: 2 }] }),
    })
    expect(await failureOf({})).toMatchObject({ status: 503, message: 'no key', details: [{ left: 2 }], retryAfterS: 7 })
    kme.answer({ status: 401 })
    expect(await failureOf({})).toMatchObject({ status: 401, details: [], retryAfterS: undefined })
  })

  it.each([
    ['a page of something else', '<html></html>', 'not a status'],
    ['a status with text for numbers', JSON.stringify({ ...STATUS, key_size: '256' }), 'not a status'],
  ])('does not take %s for an answer', async (_, body, text) => {
    kme.answer({ status: 200, body })
    const error = await failureOf({})
    expect([error.status, error.message]).toEqual([undefined, expect.stringContaining(text)])
  })

  it('gives up at its deadline', async () => {
    kme.answer('hang')
    expect((await failureOf({ deadlineMs: 200 })).message).toContain('no answer within 200 ms')
  })

  it('does not talk to a KME of another authority, of another ID or of another name', async () => {
    kme.answer(json(STATUS))
    expect((await failureOf({ caPem: pki.authorities.certificatePem.sae })).message).toContain('not from the authority')
    expect((await failureOf({ kmeId: 'kme-b' })).message).toContain('not that of the KME kme-b')
    const authority = await makeAuthority()
    const leaf = await makeServerLeaf(authority, 'elsewhere.example')
    const elsewhere = await startAnsweringKme(pki, {
      clients: 'none',
      tls: { cert: leaf.certificatePem, key: leaf.privateKeyPem },
    })
    const { message } = await failureOf({ url: elsewhere.url, caPem: authority.certificatePem })
    expect(message).toContain("does not match certificate's altnames")
    await elsewhere.stop()
    expect([...kme.asked, ...elsewhere.asked]).toEqual([])
  })

  it('says so when the KME does not accept its certificate', async () => {
    const stranger = await pki.authorities.issue({ profile: 'admin', id: 'eve' })
    const { message } = await failureOf({ certificatePem: stranger.certificatePem, privateKeyPem: stranger.privateKeyPem })
    expect(message).toContain('client certificate')
  })

  it.each([
    ['http', { url: 'http://localhost:1' }, 'https://'],
    ['no PEM', { certificatePem: 'x' }, 'not usable PEM'],
  ])('refuses %s before anything is sent', async (_, options, text) => {
    expect((await failureOf(options)).message).toContain(text)
  })
})
