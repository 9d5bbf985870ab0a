/** Rows R, H, Q and J of the bad-input catalogue against a real KME: what a request may look like, and that a bad one costs
 *  nothing. test/http asks the same of the listener alone, with more variants. */
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { keysOf, type SaeClient } from '../network/network.ts'
import {
  bad,
  expectVerdict,
  K,
  OK,
  sendRaw,
  startJudgedNetwork,
  verdict,
  type Expected,
  type JudgedNetwork,
} from './judged-network.ts'

let test: JudgedNetwork
let alice: SaeClient
let aliceTls: { port: number; ca: string; cert: string; key: string }
const ENC = `${K}bob/enc_keys`

beforeAll(async () => {
  test = await startJudgedNetwork()
  alice = test.alice
  const { authorities, ports } = test.network
  const { certificatePem, privateKeyPem } = await authorities.issue({ profile: 'sae', id: 'alice' })
  aliceTls = { port: ports.get('kme-a')!.sae, ca: authorities.certificatePem.kme, cert: certificatePem, key: privateKeyPem }
})
afterAll(() => test?.[Symbol.asyncDispose]())

describe('method and path', () => {
  it.each([
    ['R01 HEAD', 'HEAD', ENC, 'GET, POST'],
    ['R02 PUT', 'PUT', ENC, 'GET, POST'],
    ['R03 DELETE', 'DELETE', ENC, 'GET, POST'],
    ['R04 PATCH', 'PATCH', ENC, 'GET, POST'],
    ['R05 OPTIONS', 'OPTIONS', ENC, 'GET, POST'],
    ['R06 TRACE', 'TRACE', ENC, 'GET, POST'],
    ['R09 POST on status', 'POST', `${K}bob/status`, 'GET'],
    ['R01 HEAD on dec_keys', 'HEAD', `${K}bob/dec_keys?key_ID=00000000-0000-4000-8000-000000000000`, 'GET, POST'],
  ])('%s is 405 with Allow and costs nothing', async (_row, method, path, allow) => {
    const answer = await test.costsNothing(() => alice.send(method, path, undefined, {}))
    expect([answer.status, answer.headers['allow']]).toEqual([405, allow])
  })

  it.each([
    ['R11 in capitals', '/API/V1/KEYS/bob/STATUS', { status: 404 }],
    ['R11 method in capitals', `${K}bob/STATUS`, { status: 404 }],
    ['R12 slash at the end', `${K}bob/status/`, { status: 404 }],
    ['R13 empty segment', `${K}/status`, { status: 404 }],
    ['R14 dots', `${K}../../admin/status`, { status: 404 }],
    ['R15 encoded dots', `${K}%2e%2e/status`, bad('u')],
    ['R16 encoded slash', `${K}bo%2Fb/status`, bad('u')],
    ['R17 NUL', `${K}bob%00/status`, bad('f')],
    ['R18 bad percent-encoding', `${K}bob%ZZ/status`, bad('f')],
    ['R19 no UTF-8', `${K}bob%FF/status`, bad('f')],
    ['R20 overlong UTF-8', `${K}bo%C0%AFb/status`, bad('f')],
    ['R21 encoded twice', `${K}bo%252Fb/status`, bad('u')],
    ['R23 path parameter', `${K}bob;admin=1/status`, bad('u')],
    ['R24 ID of 65 characters', `${K}${'b'.repeat(65)}/status`, bad('f')],
    ['R24 ID of 7 kB', `${K}${'b'.repeat(7000)}/status`, bad('f')],
    ['R30 another version', '/api/v2/keys/bob/status', { status: 404 }],
    ['R31 needless encoding', `${K}b%6Fb/status`, OK],
    ['R32 NFC letter', `${K}b%C3%B6b/status`, bad('u')],
    ['R32 NFD letter', `${K}bo%CC%88b/status`, bad('u')],
    ['R33 SQL', `${K}'%20OR%201=1--/status`, bad('u')],
    ['R33 percent', `${K}%25/status`, bad('u')],
    ['R33 star', `${K}*/status`, bad('u')],
    ['R33 template', `${K}$%7B7*7%7D/status`, bad('u')],
    ['R34 the caller itself', `${K}alice/status`, bad('u')],
    ['R34 the caller itself, for keys', `${K}alice/enc_keys`, bad('u')],
    ['a blank ID', `${K}%20/enc_keys`, bad('u')],
    ['a made-up operation', `${K}bob/dev_keys`, { status: 404 }],
    ['the admin API', '/api/v1/saes', { status: 404 }],
  ] as [string, string, Expected][])('%s', async (_row, path, expected) => {
    const answer = await test.costsNothing(() => alice.get(path))
    expectVerdict(answer, expected)
    // Nothing the caller wrote comes back.
    if (answer.status === 400) expect(answer.text).not.toMatch(/bbb|ZZ|OR 1|admin|7\*7/)
  })

  it('R10 a method override is ignored: the request is the POST it is', async () => {
    expect(keysOf(await alice.post(ENC, {}, { 'x-http-method-override': 'DELETE' }))).toHaveLength(1)
  })
})

describe('framing', () => {
  const get = (path: string, headers = '', version = 'HTTP/1.1') => `GET ${path} ${version}\r\nHost: kme\r\n${headers}\r\n`
  const post = (headers: string, body = '') => `POST ${ENC} HTTP/1.1\r\nHost: kme\r\n${headers}\r\n${body}`
  it.each([
    ['R07 unknown method', `FOO ${ENC} HTTP/1.1\r\nHost: kme\r\n\r\n`],
    ['R22 raw UTF-8 in the path', Buffer.from(get(`${K}böb/enc_keys`), 'utf8')],
    ['R25 URI of 20 kB', get(`${K}${'a'.repeat(20_000)}/enc_keys`)],
    ['R26 absolute form', get(`https://other.example${ENC}`)],
    ['R27 HTTP/1.0', get(ENC, '', 'HTTP/1.0')],
    ['R28 HTTP/0.9', `GET ${ENC}\r\n\r\n`],
    ['R29 HTTP/2 preface', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['H01 length and chunks', post('Content-Length: 2\r\nTransfer-Encoding: chunked\r\n', '2\r\n{}\r\n0\r\n\r\n')],
    ['H02 two lengths', post('Content-Length: 2\r\nContent-Length: 3\r\n', '{} ')],
    ['H07 unknown transfer encoding with a request in it', post('Transfer-Encoding: xchunked\r\n', get(ENC))],
    ['H19 no Host', `GET ${ENC} HTTP/1.1\r\n\r\n`],
    ['H20 two Hosts', get(ENC, 'Host: other\r\n')],
    ['H21 header of 20 kB', get(ENC, `X-Long: ${'x'.repeat(20_000)}\r\n`)],
    ['H25 unknown expectation', post('Expect: 200-ok\r\nContent-Length: 2\r\n', '{}')],
    ['H30 huge length, nothing sent', post('Content-Length: 1000000000\r\n')],
    ['J21 70 kB', post('Content-Type: application/json\r\nContent-Length: 70000\r\n', `{"a":"${'x'.repeat(69_992)}"}`)],
  ])('%s is 400, closes the connection and costs nothing', async (_row, bytes) => {
    const outcome = await test.costsNothing(() => sendRaw(aliceTls, bytes))
    expect(outcome).toMatchObject({ statuses: [400], closed: true })
    expect(outcome.text.slice(outcome.text.indexOf('\r\n\r\n') + 4)).toBe('{"message":"bad request format"}')
  })

  it('R08 CONNECT is closed', async () => {
    expect(await sendRaw(aliceTls, 'CONNECT x:443 HTTP/1.1\r\nHost: kme\r\n\r\n')).toMatchObject({ statuses: [], closed: true })
  })

  it('H32 three pipelined requests bring three different keys in order', async () => {
    const outcome = await sendRaw(aliceTls, get(`${ENC}?size=64`) + get(`${ENC}?size=128`) + get(`${ENC}?size=256`), 3)
    expect(outcome.statuses).toEqual([200, 200, 200])
    const keys = [...outcome.text.matchAll(/"key":"([^"]+)"/g)].map((match) => Buffer.from(match[1]!, 'base64').length)
    expect(keys).toEqual([8, 16, 32])
  })

  it('H24 Expect: 100-continue gets its key', async () => {
    const outcome = await sendRaw(aliceTls, post('Expect: 100-continue\r\nContent-Length: 2\r\n', '{}'), 1)
    expect(outcome.text).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n/)
  })
})

describe('headers', () => {
  it.each([
    ['H14 identity headers', { 'x-sae-id': 'mallory', 'x-client-verified': 'SUCCESS', 'x-client-dn': 'CN=mallory' }],
    ['H15 proxy headers', { 'x-forwarded-client-cert': 'URI=urn:kme:sae:mallory', 'x-ssl-client-s-dn': 'CN=mallory' }],
    ['H16 forwarded addresses', { 'x-forwarded-for': '10.1.2.3' }],
    ['H17 RFC 9440', { 'client-cert': ':AAAA:', 'client-cert-chain': ':AAAA:' }],
    ['H18 a bearer token', { authorization: 'Bearer admin' }],
    ['H09 a strange name', JSON.parse('{"__proto__":"x"}')],
    ['H26 an upgrade', { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==' }],
    ['H27 another Accept', { accept: 'image/png' }],
  ] as [string, Record<string, string>][])('%s change nothing: the caller is who the certificate says', async (_row, headers) => {
    const answer = await alice.get(`${K}bob/status`, headers)
    expect(answer.json).toMatchObject({ master_SAE_ID: 'alice', slave_SAE_ID: 'bob' })
  })

  it('H31 a Range is ignored: the whole container comes', async () => {
    expect(keysOf(await alice.get(ENC, { range: 'bytes=0-10' }))).toHaveLength(1)
  })

  it.each([
    ['H28 a gzip bomb', gzipSync(Buffer.alloc(1_000_000, 0x20)), 'gzip'],
    ['H29 br garbage', Buffer.from('garbage'), 'br'],
  ])('%s is 400 and costs nothing', async (_row, body, encoding) => {
    const headers = { 'content-type': 'application/json', 'content-encoding': encoding, 'content-length': String(body.length) }
    expectVerdict(await test.costsNothing(() => alice.send('POST', ENC, body, headers)), bad('f'))
  })
})

describe('query', () => {
  it.each([
    ['Q01 number twice', 'number=1&number=2', bad('f')],
    ['Q01 size twice', 'size=256&size=256', bad('f')],
    ['Q02 brackets', 'number[]=1', bad('f')],
    ['Q03 operator', 'number[$gt]=1', bad('f')],
    ['Q04 prototype', '__proto__[x]=1', bad('f')],
    ['Q05 1,000 parameters', Array.from({ length: 1000 }, (_, at) => `a${at}=1`).join('&'), bad('f')],
    ['Q06 empty number', 'number=', bad('f')],
    ['Q07 Arabic digit', 'number=%D9%A3', bad('f')],
    ['Q08 plus', 'number=+1', bad('f')],
    ['Q08 exponent', 'number=1e2', bad('f')],
    ['Q08 hexadecimal', 'number=0x10', bad('f')],
    ['Q08 leading zero', 'number=01', bad('f')],
    ['Q08 leading space', 'number=%201', bad('f')],
    ['Q08 fraction', 'number=1.0', bad('f')],
    ['Q08 minus', 'number=-1', bad('f')],
    ['Q08 Unicode minus', 'number=%E2%88%921', bad('f')],
    ['Q08 in size', 'size=0x100', bad('f')],
    ['Q09 unknown parameter', 'foo=1', bad('f')],
    ['Q09 unknown parameter beside a known one', 'number=1&foo=1', bad('f')],
    ['Q10 size of 255', 'size=255', bad('m1')],
    ['Q11 additional slaves', 'additional_slave_SAE_IDs=bert', bad('f')],
    ['number of 0', 'number=0', bad('f')],
    ['number above the maximum', 'number=129', bad('f')],
    ['size of 0', 'size=0', bad('f')],
    ['size below the minimum', 'size=56', bad('f')],
    ['size above the maximum', 'size=4104', bad('f')],
  ] as [string, string, Expected][])('%s', async (_row, query, expected) => {
    expectVerdict(await test.costsNothing(() => alice.get(`${ENC}?${query}`)), expected)
  })

  it.each([
    ['Q12 two key IDs', '?key_ID=00000000-0000-4000-8000-000000000000&key_ID=00000000-0000-4000-8000-000000000001'],
    ['Q12 a list of key IDs', '?key_IDs=00000000-0000-4000-8000-000000000000'],
    ['Q13 no key ID', ''],
    ['Q13 an empty key ID', '?key_ID='],
    ['Q12 a key ID and something else', '?key_ID=00000000-0000-4000-8000-000000000000&x=1'],
  ])('%s', async (_row, query) => {
    expectVerdict(await test.costsNothing(() => alice.get(`${K}bob/dec_keys${query}`)), bad('f'))
  })

  it('Q14 a GET with a JSON body', async () => {
    const headers = { 'content-type': 'application/json', 'content-length': '12' }
    expectVerdict(await test.costsNothing(() => alice.send('GET', ENC, '{"number":1}', headers)), bad('f'))
  })
})

describe('body of enc_keys', () => {
  const send = (body: string | Buffer, headers: Record<string, string>) =>
    alice.send('POST', ENC, body, { ...headers, 'content-length': String(Buffer.byteLength(body)) })
  const JSON_TYPE = { 'content-type': 'application/json' }

  it.each([
    ['J01 cut off', '{"number":1'],
    ['J02 byte order mark', '\ufeff{"number":1}'],
    ['J05 invalid UTF-8', Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xff, 0x22, 0x7d])],
    ['J06 lone surrogate', '{"additional_slave_SAE_IDs":["\\ud800"]}'],
    ['J07 member twice', '{"number":1,"number":100}'],
    ['J08 __proto__', '{"__proto__":{"polluted":1}}'],
    ['J09 constructor', '{"constructor":{"prototype":{}}}'],
    ['J10 depth of 30,000', `{"a":${'['.repeat(15_000)}${']'.repeat(15_000)}}`],
    ['J11 a number', '5'],
    ['J12 null', 'null'],
    ['J13 a string', '"x"'],
    ['J14 an array', '[1]'],
    ['J15 infinite number', '{"number":1e400}'],
    ['J16 minus zero', '{"number":-0}'],
    ['J18 an integer no double holds', '{"size":9007199254740993}'],
    ['J19 NaN', '{"number":NaN}'],
    ['J22 very many members', `{${Array.from({ length: 6000 }, (_, at) => `"${at}":1`).join()}}`],
    ['J29 two objects', '{} {}'],
    ['J30 a comment', '{/**/}'],
    ['J30 a trailing comma', '{"number":1,}'],
    ['J30 single quotes', "{'number':1}"],
  ] as [string, string | Buffer][])('%s is 400 and costs nothing', async (_row, body) => {
    expectVerdict(await test.costsNothing(() => send(body, JSON_TYPE)), bad('f'))
  })

  it.each([
    ['J03 UTF-16', Buffer.from('\ufeff{"number":1}', 'utf16le'), 'application/json; charset=utf-16'],
    ['J04 Latin-1', '{"number":1}', 'application/json; charset=iso-8859-1'],
    ['J23 plain text', '{"number":1}', 'text/plain'],
    ['J25 a form', 'number=1', 'application/x-www-form-urlencoded'],
    ['J26 multipart', '{"number":1}', 'multipart/form-data; boundary=x'],
  ] as [string, string | Buffer, string][])('%s is 400 and costs nothing', async (_row, body, contentType) => {
    expectVerdict(await test.costsNothing(() => send(body, { 'content-type': contentType })), bad('f'))
  })

  it.each([
    ['J17 an integer written as 2.0', '{"number":2.0}', JSON_TYPE],
    ['J24 no media type', '{"number":2}', {}],
    ['J25 JSON labelled as a form, as libcurl does', '{"number":2}', { 'content-type': 'application/x-www-form-urlencoded' }],
    ['J27 another JSON type', '{"number":2}', { 'content-type': 'application/vnd.x+json' }],
    ['J28 odd spelling', '{"number":2}', { 'content-type': 'Application/JSON; Charset=UTF-8' }],
    ['J31 an unknown member', '{"number":2,"foo":1,"additional_target_sae_ids":[]}', JSON_TYPE],
    [
      'null for optional members',
      '{"number":2,"size":null,"additional_slave_SAE_IDs":null,"extension_optional":null}',
      JSON_TYPE,
    ],
  ] as [string, string, Record<string, string>][])('%s counts: two keys come', async (_row, body, headers) => {
    expect(keysOf(await send(body, headers))).toHaveLength(2)
  })

  it('J20 an empty body is the empty Key request', async () => {
    const answer = await send('', JSON_TYPE)
    expect(verdict(answer)).toEqual({ status: 200 })
    expect(keysOf(answer)).toHaveLength(1)
  })
})
