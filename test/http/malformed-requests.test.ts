/** What the SAE listener answers to requests that are broken, ambiguous or too large, and that no handler runs for them
 *  (rows R, H, Q and J of the bad-input catalogue). */
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { K, openSocket, request, sendRaw, startTestListener } from './test-listener.ts'
import type { RawOutcome, TestListener } from './test-listener.ts'

const BAD = '{"message":"bad request format"}'
const HOST = 'Host: kme\r\n'
const ENC = `${K}sae-2/enc_keys`

let test: TestListener
beforeAll(async () => {
  test = await startTestListener()
})
afterAll(() => test.listener.stop(0))

/** How often handlers ran during the call. */
const runsDuring = async <T>(call: () => Promise<T>): Promise<[T, number]> => {
  const before = test.runs()
  const result = await call()
  return [result, test.runs() - before]
}

const get = (path: string, headers = '', version = 'HTTP/1.1'): string => `GET ${path} ${version}\r\n${HOST}${headers}\r\n`
const post = (headers: string, body = ''): string => `POST ${ENC} HTTP/1.1\r\n${HOST}${headers}\r\n${body}`
const bodyOf = (outcome: RawOutcome): string => outcome.text.slice(outcome.text.indexOf('\r\n\r\n') + 4)

describe('a wrong method', () => {
  it.each([
    ['R01', 'HEAD', ENC, 'GET, POST'],
    ['R02', 'PUT', ENC, 'GET, POST'],
    ['R03', 'DELETE', ENC, 'GET, POST'],
    ['R04', 'PATCH', ENC, 'GET, POST'],
    ['R05', 'OPTIONS', ENC, 'GET, POST'],
    ['R06', 'TRACE', ENC, 'GET, POST'],
    ['R09', 'POST', `${K}sae-2/status`, 'GET'],
    ['R01', 'HEAD', `${K}sae-2/status`, 'GET'],
  ])('%s %s %s is 405 and runs nothing', async (_row, method, path, allow) => {
    const [answer, runs] = await runsDuring(() => request(test, path, { method }))
    expect(answer).toMatchObject({
      status: 405,
      headers: { allow, 'content-type': 'application/json', 'cache-control': 'no-store' },
    })
    expect(answer.body).toBe(method === 'HEAD' ? '' : '{"message":"method not allowed"}')
    expect(runs).toBe(0)
  })

  it('R10 in an override header is ignored', async () => {
    const headers = { 'X-HTTP-Method-Override': 'DELETE' }
    const [answer, runs] = await runsDuring(() => request(test, ENC, { method: 'POST', headers }))
    expect([answer.status, runs]).toEqual([200, 1])
  })

  it('R08 CONNECT is closed', async () => {
    expect(await sendRaw(test, `CONNECT x:443 HTTP/1.1\r\n${HOST}\r\n`)).toMatchObject({ closed: true, statuses: [] })
  })
})

describe('a path', () => {
  it.each([
    ['R11 in another case', '/API/V1/KEYS/sae-2/STATUS'],
    ['R12 with a slash at the end', `${K}sae-2/status/`],
    ['R13 with an empty segment', `${K}/status`],
    ['R14 with dots', `${K}../../admin/status`],
    ['R30 of another version', '/api/v2/keys/sae-2/status'],
  ])('%s is 404 without a body', async (_row, path) => {
    const [outcome, runs] = await runsDuring(() => sendRaw(test, get(path), { answers: 1 }))
    expect([outcome.statuses, bodyOf(outcome), runs]).toEqual([[404], '', 0])
  })

  it.each([
    ['R17 with NUL', `${K}sae%002/status`],
    ['R18 with bad percent-encoding', `${K}sae%ZZ/status`],
    ['R19 with a byte that is no UTF-8', `${K}sae%FF/status`],
    ['R20 with overlong UTF-8', `${K}sae%C0%AF2/status`],
    ['R24 with an SAE ID too long', `${K}${'a'.repeat(65)}/status`],
    ['R24 with an SAE ID of 7 kB', `${K}${'a'.repeat(7000)}/status`],
    ['with a percent-encoded newline', `${K}sae%0a2/status`],
  ])('%s is 400 and echoes nothing', async (_row, path) => {
    const [answer, runs] = await runsDuring(() => request(test, path))
    expect([answer.status, answer.body, runs]).toEqual([400, BAD, 0])
  })

  it.each([
    ['R15', '%2e%2e', '..'],
    ['R16', 'sae%2F2', 'sae/2'],
    ['R21', 'sae%252F2', 'sae%2F2'],
    ['R23', 'sae-2;admin=1', 'sae-2;admin=1'],
    ['R31', 'sae%2D2', 'sae-2'],
  ])('%s %s is decoded once to %s', async (_row, raw, slave) => {
    const outcome = await sendRaw(test, get(`${K}${raw}/status`), { answers: 1 })
    expect(JSON.parse(bodyOf(outcome))).toMatchObject({ slave })
  })
})

describe('a request that can be read in two ways or is too large', () => {
  const TE = 'Transfer-Encoding: chunked\r\n'
  it.each([
    ['R07 unknown method', `FOO ${ENC} HTTP/1.1\r\n${HOST}\r\n`],
    ['R22 raw UTF-8 in the path', Buffer.from(get(`${K}saé/status`), 'utf8')],
    ['R25 URI of 20 kB', get(`${K}${'a'.repeat(20_000)}/status`)],
    ['R26 absolute form', get(`http://evil.example${ENC}`)],
    ['R27 HTTP/1.0', get(ENC, '', 'HTTP/1.0')],
    ['R27 HTTP/1.0 without Host', `GET ${ENC} HTTP/1.0\r\n\r\n`],
    ['R28 HTTP/0.9', `GET ${ENC}\r\n\r\n`],
    ['R29 HTTP/2 preface', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['R05 asterisk form', `OPTIONS * HTTP/1.1\r\n${HOST}\r\n`],
    ['fragment in the target', get(`${ENC}#x`)],
    ['H01 length and chunks', post(`Content-Length: 2\r\n${TE}`, '2\r\n{}\r\n0\r\n\r\n')],
    ['H02 two lengths', post('Content-Length: 2\r\nContent-Length: 3\r\n', '{} ')],
    ['H03 two equal lengths', post('Content-Length: 2\r\nContent-Length: 2\r\n', '{}')],
    ['H04 length with a plus', post('Content-Length: +2\r\n', '{}')],
    ['H05 negative length', post('Content-Length: -1\r\n', '{}')],
    ['H06 length beyond 64 bits', post('Content-Length: 99999999999999999999\r\n', '{}')],
    ['H07 transfer encoding xchunked', post('Transfer-Encoding: xchunked\r\n', '2\r\n{}\r\n0\r\n\r\n')],
    ['H08 chunked, identity', post('Transfer-Encoding: chunked, identity\r\n', '2\r\n{}\r\n0\r\n\r\n')],
    ['H08 chunked twice', post(`${TE}${TE}`, '2\r\n{}\r\n0\r\n\r\n')],
    ['H08 gzip, chunked', post('Transfer-Encoding: gzip, chunked\r\n', '2\r\n{}\r\n0\r\n\r\n')],
    ['H10 folded transfer encoding', post('Transfer-Encoding:\r\n chunked\r\n', '2\r\n{}\r\n0\r\n\r\n')],
    ['H11 space before the colon', post('Transfer-Encoding : chunked\r\n', '2\r\n{}\r\n0\r\n\r\n')],
    ['H12 chunk extension of 20 kB', post(TE, `2;${'x'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`)],
    ['H13 bare line feeds', `GET ${ENC} HTTP/1.1\nHost: kme\n\n`],
    ['H19 no Host', `GET ${ENC} HTTP/1.1\r\n\r\n`],
    ['H20 two Hosts', get(ENC, 'Host: other\r\n')],
    ['H21 header of 20 kB', get(ENC, `X-Long: ${'x'.repeat(20_000)}\r\n`)],
    ['H22 3,000 headers', get(ENC, Array.from({ length: 3000 }, (_, at) => `X-${at}: 1\r\n`).join(''))],
    ['H22 65 headers', get(ENC, Array.from({ length: 64 }, (_, at) => `X-${at}: 1\r\n`).join(''))],
    ['H23 NUL in a header', get(ENC, 'X-Odd: a\0b\r\n')],
    ['H25 unknown expectation', post('Expect: 200-ok\r\nContent-Length: 2\r\n', '{}')],
    ['H28 plain JSON that says it is gzip', post('Content-Encoding: gzip\r\nContent-Length: 2\r\n', '{}')],
    ['H30 huge length, nothing sent', post('Content-Length: 1000000000\r\n')],
    ['H30 huge length, waiting for 100', post('Expect: 100-continue\r\nContent-Length: 1000000000\r\n')],
    ['two content types', post('Content-Type: text/plain\r\nContent-Type: application/json\r\nContent-Length: 2\r\n', '{}')],
    ['J21 70 kB', post('Content-Length: 70000\r\n', `{"a":"${'x'.repeat(69_992)}"}`)],
    ['J21 70 kB in chunks', post(TE, `11170\r\n{"a":"${'x'.repeat(69_992)}"}\r\n`)],
  ])('%s is 400, closes, and runs nothing', async (_row, bytes) => {
    const [outcome, runs] = await runsDuring(() => sendRaw(test, bytes))
    expect(outcome).toMatchObject({ statuses: [400], closed: true })
    expect(bodyOf(outcome)).toBe(BAD)
    expect(outcome.text).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n/)
    expect(outcome.text).toMatch(/\r\nContent-Type: application\/json\r\n/)
    expect(runs).toBe(0)
  })

  it('behind a good one does not disturb its answer', async () => {
    const [outcome, runs] = await runsDuring(() => sendRaw(test, get(ENC) + 'BROKEN\r\n\r\n'))
    expect(outcome.closed).toBe(true)
    expect(outcome.statuses[0]).toBe(200)
    expect(runs).toBe(1)
  })

  it('H07 hides no second request in its body', async () => {
    const smuggled = post('Transfer-Encoding: xchunked\r\n', get(ENC))
    const [outcome, runs] = await runsDuring(() => sendRaw(test, smuggled))
    expect([outcome.statuses, outcome.closed, runs]).toEqual([[400], true, 0])
  })
})

describe('a header without meaning here', () => {
  it.each([
    ['H09 __proto__', '__proto__: x\r\n'],
    ['H18 Authorization', 'Authorization: Bearer admin\r\n'],
    ['H26 Upgrade', 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'],
    ['H27 Accept', 'Accept: image/png\r\n'],
    ['H31 Range', 'Range: bytes=0-10\r\n'],
    ['62 more headers', Array.from({ length: 62 }, (_, at) => `X-${at}: 1\r\n`).join('')],
  ])('%s changes nothing', async (_row, headers) => {
    const [outcome, runs] = await runsDuring(() => sendRaw(test, get(ENC, headers), { answers: 1 }))
    expect([outcome.statuses, runs]).toEqual([[200], 1])
    expect(JSON.parse(bodyOf(outcome))).toMatchObject({ caller: 'sae-1', slave: 'sae-2' })
  })

  it('H24 Expect: 100-continue gets its 100 first', async () => {
    const bytes = post('Expect: 100-continue\r\nContent-Length: 2\r\n', '{}')
    expect(await sendRaw(test, bytes, { answers: 1 })).toMatchObject({ statuses: [100, 200] })
  })

  it('H32 pipelined requests are answered in order', async () => {
    const bytes = ['a', 'b', 'c'].map((slave) => get(`${K}${slave}/status`)).join('')
    const outcome = await sendRaw(test, bytes, { answers: 3 })
    expect([...outcome.text.matchAll(/"slave":"(.)"/g)].map((match) => match[1])).toEqual(['a', 'b', 'c'])
  })
})

describe('a query', () => {
  it.each([
    ['Q01', 'number=1&number=2'],
    ['Q02', 'number[]=1'],
    ['Q02', 'number%5B%5D=1'],
    ['Q03', 'number[$gt]=1'],
    ['Q04', '__proto__[x]=1'],
    ['Q05', Array.from({ length: 1000 }, (_, at) => `a${at}=1`).join('&')],
    ['Q05', Array.from({ length: 17 }, (_, at) => `a${at}=1`).join('&')],
    ['an empty pair', 'a=1&&b=2'],
    ['a value of bad encoding', 'number=%ZZ'],
    ['a value of bad UTF-8', 'number=%FF'],
  ])('%s ?%.40s is 400 and runs nothing', async (_row, query) => {
    const [answer, runs] = await runsDuring(() => request(test, `${ENC}?${query}`))
    expect([answer.status, answer.body, runs]).toEqual([400, BAD, 0])
  })

  it('keeps each value as it was meant', async () => {
    const answer = await request(test, `${ENC}?number=3&size=%32%35%36&empty=&bare&plus=a+b&slash=a/b=c`)
    expect(JSON.parse(answer.body).query).toEqual({ number: '3', size: '256', empty: '', bare: '', plus: 'a+b', slash: 'a/b=c' })
  })

  it.each(['', '?'])('may be empty (%j)', async (query) => {
    expect(JSON.parse((await request(test, ENC + query)).body).query).toEqual({})
  })
})

describe('a body', () => {
  const send = (body: string | Buffer, headers: Record<string, string> = { 'Content-Type': 'application/json' }) =>
    runsDuring(() =>
      request(test, ENC, { method: 'POST', headers: { ...headers, 'Content-Length': String(Buffer.byteLength(body)) }, body }),
    )

  const refusedBodies: [string, string | Buffer][] = [
    ['J01 cut off', '{"number":1'],
    ['J02 with a byte order mark', '\ufeff{"number":1}'],
    ['J05 with invalid UTF-8', Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xff, 0x22, 0x7d])],
    ['J06 with a lone surrogate', '{"a":"\\ud800"}'],
    ['J07 with a member twice', '{"number":1,"number":100}'],
    ['J07 with a member twice, once escaped', '{"number":1,"n\\u0075mber":100}'],
    ['J08 with __proto__', '{"__proto__":{"polluted":1}}'],
    ['J08 with __proto__ escaped', '{"\\u005f_proto__":{"polluted":1}}'],
    ['J09 with constructor', '{"constructor":{"prototype":{}}}'],
    ['J10 30,000 deep', `{"a":${'['.repeat(15_000)}${']'.repeat(15_000)}}`],
    ['J10 9 deep', `{"a":${'['.repeat(8)}${']'.repeat(8)}}`],
    ['J11 a number', '5'],
    ['J12 null', 'null'],
    ['J13 a string', '"x"'],
    ['J14 an array', '[1]'],
    ['J15 with an infinite number', '{"number":1e400}'],
    ['J16 with minus zero', '{"number":-0}'],
    ['J18 with an integer no double holds', '{"size":9007199254740993}'],
    ['J19 with NaN', '{"number":NaN}'],
    ['J22 with 10,000 members', `{${Array.from({ length: 5000 }, (_, at) => `"${at}":1`).join()}}`],
    ['J29 two objects', '{} {}'],
    ['J30 with a comment', '{/**/}'],
    ['J30 with a trailing comma', '{"number":1,}'],
    ['J30 with single quotes', "{'number':1}"],
    ['white space only', ' '],
    ['a form', 'number=1'],
  ]
  it.each(refusedBodies)('%s is 400 and runs nothing', async (_row, body) => {
    const [answer, runs] = await send(body)
    expect([answer.status, answer.body, runs]).toEqual([400, BAD, 0])
  })

  it.each([
    ['J03 UTF-16', 'application/json; charset=utf-16'],
    ['J04 Latin-1', 'application/json; charset=iso-8859-1'],
    ['two charsets', 'application/json; charset=utf-8; charset=utf-8'],
    ['J23 plain text', 'text/plain'],
    ['J26 multipart', 'multipart/form-data; boundary=x'],
    ['something like JSON', 'application/jsonx'],
    ['no media type', '+json'],
  ])('%s is 400 and runs nothing', async (_row, contentType) => {
    const [answer, runs] = await send('{"number":1}', { 'Content-Type': contentType })
    expect([answer.status, answer.body, runs]).toEqual([400, BAD, 0])
  })

  it.each([
    ['J24 without a media type', {}],
    ['J25 labelled as a form', { 'Content-Type': 'application/x-www-form-urlencoded' }],
    ['J27 of another JSON type', { 'Content-Type': 'application/vnd.x+json' }],
    ['J28 in odd spelling', { 'Content-Type': 'Application/JSON; Charset=UTF-8' }],
    ['with identity encoding', { 'Content-Type': 'application/json', 'Content-Encoding': 'identity' }],
  ] as [string, Record<string, string>][])('%s counts', async (_row, headers) => {
    const [answer, runs] = await send('{"number":1.0}', headers)
    expect([answer.status, runs]).toEqual([200, 1])
    expect(JSON.parse(answer.body).body).toEqual({ number: 1 })
  })

  it.each([
    ['H28 gzip', gzipSync(Buffer.alloc(1_000_000, 0x20)), 'gzip'],
    ['H29 br', Buffer.from('garbage'), 'br'],
  ])('%s is 400 and runs nothing', async (_row, body, encoding) => {
    const [answer, runs] = await send(body, { 'Content-Type': 'application/json', 'Content-Encoding': encoding })
    expect([answer.status, answer.body, runs]).toEqual([400, BAD, 0])
  })

  it.each([
    ['J20 empty, labelled JSON', 'Content-Type: application/json\r\nContent-Length: 0\r\n'],
    ['neither length nor type', ''],
  ])('%s is no body', async (_row, headers) => {
    const [outcome, runs] = await runsDuring(() => sendRaw(test, post(headers), { answers: 1 }))
    expect([outcome.statuses, runs]).toEqual([[200], 1])
    expect(JSON.parse(bodyOf(outcome)).body).toBeNull()
  })

  it('may come in chunks', async () => {
    const outcome = await sendRaw(test, post('Transfer-Encoding: chunked\r\n', '5\r\n{"num\r\n8\r\nber":12}\r\n0\r\n\r\n'), {
      answers: 1,
    })
    expect(JSON.parse(bodyOf(outcome)).body).toEqual({ number: 12 })
  })

  it('Q14 on a GET is 400, a media type without a body is not', async () => {
    const [withBody, runs] = await runsDuring(() => sendRaw(test, get(ENC, 'Content-Length: 2\r\n') + '{}', { answers: 1 }))
    expect([withBody.statuses, runs]).toEqual([[400], 0])
    expect(await sendRaw(test, get(ENC, 'Content-Type: application/json\r\n'), { answers: 1 })).toMatchObject({ statuses: [200] })
  })

  it('that breaks off runs nothing', async () => {
    const [, runs] = await runsDuring(async () => {
      const socket = await openSocket(test)
      socket.end(post('Content-Length: 12\r\n', '{"num'))
      await new Promise((resolve) => socket.resume().once('close', resolve))
    })
    expect(runs).toBe(0)
  })
})
