/** The SAE API's document says what ETSI GS QKD 014 says: examples of the clauses pass, departures from the tables do not. */
import { describe, expect, it } from '@jest/globals'
import { createContract } from './contract.ts'

const contract = createContract('openapi/etsi-gs-qkd-014.yaml')
const JSON_TYPE = 'application/json'
const KEY_ID = '550e8400-e29b-41d4-a716-446655440000'

const status = {
  source_KME_ID: 'kme-a',
  target_KME_ID: 'kme-b',
  master_SAE_ID: 'alice',
  slave_SAE_ID: 'bob',
  key_size: 352,
  stored_key_count: 25000,
  max_key_count: 100000,
  max_key_per_request: 128,
  max_key_size: 1024,
  min_key_size: 64,
  max_SAE_ID_count: 0,
}
const without = (name: keyof typeof status): object => Object.fromEntries(Object.entries(status).filter(([key]) => key !== name))
const answer =
  (method: string, path: string, code: number, body: unknown, contentType = JSON_TYPE) =>
  (): unknown =>
    contract.checkResponse(method, path, code, contentType, body === undefined ? '' : JSON.stringify(body))
const ask =
  (method: string, url: string, body?: unknown, contentType = JSON_TYPE) =>
  (): void =>
    contract.checkRequest(method, url, contentType, body === undefined ? undefined : JSON.stringify(body))

describe('operationFor', () => {
  it.each([
    ['GET', '/api/v1/keys/bob/status', 'getStatus', { slave_SAE_ID: 'bob' }],
    ['get', 'https://kme-a:8441/api/v1/keys/a%2Fb/enc_keys?number=2', 'getKeySimple', { slave_SAE_ID: 'a/b' }],
    ['POST', '/api/v1/keys/bob/enc_keys', 'getKey', { slave_SAE_ID: 'bob' }],
    ['GET', '/api/v1/keys/alice/dec_keys?key_ID=x', 'getKeyWithKeyIdSimple', { master_SAE_ID: 'alice' }],
    ['POST', '/api/v1/keys/alice/dec_keys', 'getKeyWithKeyIds', { master_SAE_ID: 'alice' }],
  ])('%s %s is %s', (method, url, operationId, pathParameters) => {
    expect(contract.operationFor(method, url)).toMatchObject({ operationId, pathParameters })
  })

  it.each([
    ['POST', '/api/v1/keys/bob/status'],
    ['PUT', '/api/v1/keys/bob/enc_keys'],
    ['GET', '/api/v1/keys/bob/status/'],
    ['GET', '/API/v1/keys/bob/status'],
    ['GET', '/api/v2/keys/bob/status'],
  ])('knows no %s %s', (method, url) => {
    expect(contract.operationFor(method, url)).toBeUndefined()
  })
})

describe('answers', () => {
  it('returns the parsed body', () => {
    expect(answer('GET', '/api/v1/keys/bob/status', 200, status)()).toEqual(status)
  })

  it.each<[string, () => unknown]>([
    ['a Status with an extension', answer('GET', '/api/v1/keys/bob/status', 200, { ...status, status_extension: {} })],
    ['a key container', answer('POST', '/api/v1/keys/bob/enc_keys', 200, { keys: [{ key_ID: KEY_ID, key: 'AAAA' }] })],
    ['an error with details', answer('POST', '/api/v1/keys/bob/enc_keys', 400, { message: 'x', details: [{ field: 'number' }] })],
    [
      'a charset beside the media type',
      answer('GET', '/api/v1/keys/b/dec_keys', 503, { message: 'x' }, 'application/json; charset=utf-8'),
    ],
    ['a 401 without body', answer('GET', '/api/v1/keys/bob/status', 401, undefined)],
    ['a wrong method', answer('DELETE', '/api/v1/keys/bob/status', 405, { message: 'method not allowed' })],
    ['an unknown path', answer('GET', '/elsewhere', 404, undefined)],
  ])('allows %s', (_, check) => {
    expect(check).not.toThrow()
  })

  it.each<[string, () => unknown]>([
    ...(Object.keys(status) as (keyof typeof status)[]).map((name): [string, () => unknown] => [
      `a Status without ${name}`,
      answer('GET', '/api/v1/keys/bob/status', 200, without(name)),
    ]),
    ['a count as a string', answer('GET', '/api/v1/keys/bob/status', 200, { ...status, key_size: '256' })],
    ['a count beyond 32 bits', answer('GET', '/api/v1/keys/bob/status', 200, { ...status, max_key_count: 2 ** 31 })],
    ['a member the table lacks', answer('GET', '/api/v1/keys/bob/status', 200, { ...status, secret: 1 })],
    ['"Keys" for "keys"', answer('POST', '/api/v1/keys/bob/enc_keys', 200, { Keys: [{ key_ID: KEY_ID, key: 'AAAA' }] })],
    ['no key at all', answer('POST', '/api/v1/keys/bob/enc_keys', 200, { keys: [] })],
    ['base64url', answer('POST', '/api/v1/keys/bob/enc_keys', 200, { keys: [{ key_ID: KEY_ID, key: 'AA-_' }] })],
    ['base64 without padding', answer('POST', '/api/v1/keys/bob/enc_keys', 200, { keys: [{ key_ID: KEY_ID, key: 'AAA' }] })],
    [
      'an upper-case key ID',
      answer('GET', '/api/v1/keys/b/dec_keys', 200, { keys: [{ key_ID: KEY_ID.toUpperCase(), key: 'AAAA' }] }),
    ],
    ['a framework error', answer('GET', '/api/v1/keys/bob/status', 400, { detail: 'x' })],
    ['details that are no objects', answer('GET', '/api/v1/keys/bob/status', 400, { message: 'x', details: ['y'] })],
    ['a 401 with a body', answer('GET', '/api/v1/keys/bob/status', 401, { message: 'x' })],
    ['HTML', answer('GET', '/api/v1/keys/bob/status', 503, { message: 'x' }, 'text/html')],
    ['201', answer('POST', '/api/v1/keys/bob/enc_keys', 201, { keys: [{ key_ID: KEY_ID, key: 'AAAA' }] })],
    ['403', answer('POST', '/api/v1/keys/bob/enc_keys', 403, { message: 'x' })],
    ['404 on a known path', answer('POST', '/api/v1/keys/bob/dec_keys', 404, undefined)],
    ['200 for a wrong method', answer('PUT', '/api/v1/keys/bob/enc_keys', 200, {})],
  ])('refuses %s', (_, check) => {
    expect(check).toThrow()
  })

  it('refuses bytes that are not UTF-8', () => {
    expect(() =>
      contract.checkResponse('GET', '/api/v1/keys/bob/status', 400, JSON_TYPE, Buffer.from('7b22ff227d', 'hex')),
    ).toThrow()
  })
})

describe('requests', () => {
  it.each<[string, () => void]>([
    ['no body for Get key', ask('POST', '/api/v1/keys/bob/enc_keys')],
    ['the examples of clause 6.2', ask('POST', '/api/v1/keys/bob/enc_keys', { number: 3, size: 1024 })],
    [
      'extensions of any value',
      ask('POST', '/api/v1/keys/bob/enc_keys', {
        number: 20,
        size: 512,
        extension_mandatory: [{ abc_route_type: 'direct' }, { abc_transfer_method: 'qkd' }],
        extension_optional: [{ abc_max_age: 30000 }, { x_any: null }, { x_deep: [{}] }],
      }),
    ],
    ['unknown members', ask('POST', '/api/v1/keys/bob/enc_keys', { additional_target_sae_ids: [] })],
    ['null for absent', ask('POST', '/api/v1/keys/bob/enc_keys', { size: null, additional_slave_SAE_IDs: null })],
    ['number and size in the query', ask('GET', '/api/v1/keys/bob/enc_keys?number=3&size=1024')],
    ['one key ID in the query', ask('GET', `/api/v1/keys/alice/dec_keys?key_ID=${KEY_ID.toUpperCase()}`)],
    [
      'unknown members beside a key ID',
      ask('POST', '/api/v1/keys/a/dec_keys', { key_IDs: [{ key_ID: KEY_ID, master_SAE_ID: 'a' }] }),
    ],
  ])('allows %s', (_, check) => {
    expect(check).not.toThrow()
  })

  it.each<[string, () => void]>([
    ['number 0', ask('POST', '/api/v1/keys/bob/enc_keys', { number: 0 })],
    ['number as text', ask('POST', '/api/v1/keys/bob/enc_keys', { number: '3' })],
    ['a size that is no multiple of 8', ask('POST', '/api/v1/keys/bob/enc_keys', { size: 255 })],
    ['an extension list that is an object', ask('POST', '/api/v1/keys/bob/enc_keys', { extension_mandatory: {} })],
    ['an additional SAE twice', ask('POST', '/api/v1/keys/bob/enc_keys', { additional_slave_SAE_IDs: ['c', 'c'] })],
    ['an array', ask('POST', '/api/v1/keys/bob/enc_keys', [1])],
    ['text', ask('POST', '/api/v1/keys/bob/enc_keys', {}, 'text/plain')],
    ['an unknown query parameter', ask('GET', '/api/v1/keys/bob/enc_keys?foo=1')],
    ['a query parameter twice', ask('GET', '/api/v1/keys/bob/enc_keys?number=1&number=2')],
    ['a number in hexadecimal', ask('GET', '/api/v1/keys/bob/enc_keys?number=0x10')],
    ['a body with GET', ask('GET', '/api/v1/keys/bob/enc_keys', {})],
    ['no key ID', ask('GET', '/api/v1/keys/alice/dec_keys')],
    ['no body for Get key with key IDs', ask('POST', '/api/v1/keys/alice/dec_keys')],
    ['key IDs as bare strings', ask('POST', '/api/v1/keys/alice/dec_keys', { key_IDs: [KEY_ID] })],
    ['an empty list of key IDs', ask('POST', '/api/v1/keys/alice/dec_keys', { key_IDs: [] })],
    ['a key ID in braces', ask('POST', '/api/v1/keys/alice/dec_keys', { key_IDs: [{ key_ID: `{${KEY_ID}}` }] })],
    ['an SAE ID with a space', ask('GET', '/api/v1/keys/a%20b/status')],
  ])('refuses %s', (_, check) => {
    expect(check).toThrow()
  })
})
