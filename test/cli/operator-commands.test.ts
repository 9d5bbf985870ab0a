/** The operator's commands as a shell runs them, against an admin API that answers what openapi/admin.yaml allows. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createContract } from '../openapi/contract.ts'
import { createPki, issueFiles, json, startAnsweringKme, type AnsweringKme, type Pki, type Told } from './answering-kme.ts'
import { runKme, runProgram, type Run } from './run-kme.ts'

const contract = createContract('openapi/admin.yaml')
const KME = {
  kmeId: 'kme-a',
  version: '1.2.3',
  startedAt: '2030-01-01T00:00:00.000Z',
  uptimeS: 7300,
  state: 'ready',
  probes: [{ name: 'database', ok: true }],
  peers: { configured: 1, available: 1 },
  links: { configured: 1, up: 0 },
  processes: [
    {
      processId: '2f1e46bb-5b7e-4f8e-9d8a-8d1f5bb8a001',
      host: 'site-a-1',
      pid: 17,
      startedAt: '2030-01-01T00:00:00.000Z',
      seenAgeMs: 400,
      duties: ['link:a-b', 'upkeep'],
    },
  ],
}
const POOL = {
  kmeId: 'kme-b',
  keySizeBits: 256,
  mine: 6,
  theirs: 7,
  stored: 13,
  reserved: 2,
  available: 4,
  deliverable: 12,
  max: 100,
  lowWatermark: 20,
  criticalWatermark: 5,
  highWatermark: 90,
  state: 'low',
  refillKeysPerS: 1.25,
  consumptionKeysPerS: 13.4,
  timeToEmptyS: 95,
  retryAfterS: 2,
}
const LINK = {
  linkId: 'a-b',
  peerKmeId: 'kme-b',
  driver: 'tcp',
  state: 'down',
  reason: 'connection refused',
  qber: 0.0213,
  keyRateBps: 1234.5,
  blocksAgreed: 3,
  blocksRejected: 1,
  newestBlockAgeMs: 90_000,
  distillation: null,
}
const FINGERPRINT = Array(32).fill('6F').join(':')
const PEER = {
  kmeId: 'kme-b',
  url: 'https://kme-b.example:8452',
  available: true,
  lastAnswerAgeMs: null,
  failuresInARow: 2,
  certificates: null,
}
const SAE = { saeId: 'alice', kmeId: 'kme-a', enabled: false, sharesWith: ['bob', 'carol'] }
const ALARM = {
  name: 'link.down:a-b',
  severity: 'critical',
  text: 'link a-b is down',
  subject: { linkId: 'a-b' },
  raisedAt: '2030-01-01T00:00:00.000Z',
  clearedAt: null,
}
const RECORD = {
  seq: '41',
  at: '2030-01-01T00:00:00.000Z',
  event: 'key.delivered',
  actor: 'sae:alice',
  outcome: 'done',
  subject: { keys: 2 },
}
const GETS: Readonly<Record<string, object>> = {
  '/api/v1/kme': KME,
  '/api/v1/pools': { pools: [POOL] },
  '/api/v1/links': { links: [LINK] },
  '/api/v1/peers': { peers: [PEER] },
  '/api/v1/saes': { saes: [SAE] },
  '/api/v1/alarms': { alarms: [ALARM] },
  '/api/v1/audit': { records: [RECORD], nextBefore: '41' },
}

let pki: Pki
let kme: AnsweringKme
let environment: Record<string, string>
beforeAll(async () => {
  pki = await createPki()
  kme = await startAnsweringKme(pki, { clients: 'none' })
  const tokenFile = join(pki.dir, 'token')
  await writeFile(tokenFile, 'the.token\n')
  environment = { KME_ADMIN_URL: kme.url, KME_ADMIN_TOKEN_FILE: tokenFile, KME_CA: pki.authorities.files.kme.certificate }
})
afterAll(async () => {
  await kme.stop()
  await pki.remove()
})
beforeEach(() => {
  kme.asked.splice(0)
  kme.answer(({ method, path }) => {
    const body = method === 'GET' ? GETS[path.split('?')[0] ?? ''] : undefined
    return body === undefined ? { status: 404 } : checked(method, path, 200, body)
  })
})

/** The answer, if the document allows it. */
const checked = (method: string, path: string, status: number, body: object): Told => {
  contract.checkResponse(method, path, status, 'application/json', JSON.stringify(body))
  return json(body, status)
}
const run = (...args: string[]): Promise<Run> => runKme(args, environment)

describe('lists', () => {
  it.each([
    [
      'pool',
      ['kme', 'kme-b  256 bits  low    12           100  6     7       2         1.25 keys/s  13 keys/s  1 min'],
      { pools: [POOL] },
    ],
    [
      'link',
      ['a-b   kme-b  tcp     down   2.13 %  1235 bit/s  3       1         1 min ago     connection refused'],
      { links: [LINK] },
    ],
    [
      'peer',
      ['kme-b  https://kme-b.example:8452  yes        never        2                  any of the authority'],
      { peers: [PEER] },
    ],
    ['sae', ['alice  kme-a  no       bob carol'], { saes: [SAE] }],
    ['alarm', ['link.down:a-b  critical  2030-01-01T00:00:00.000Z  -        link a-b is down'], { alarms: [ALARM] }],
    ['audit', ['41   2030-01-01T00:00:00.000Z  key.delivered  sae:alice  done     {"keys":2}'], GETS['/api/v1/audit']],
  ])('kme %s list: aligned text for a pipe, the JSON of the API for programs', async (what, lines, answer) => {
    const text = await run(what, 'list')
    expect(text.status).toBe(0)
    for (const line of lines) expect(text.stdout).toContain(line)
    expect(JSON.parse((await run(what, 'list', '--json')).stdout)).toEqual(answer)
    expect(kme.asked[0]?.headers.authorization).toBe('Bearer the.token')
  })

  it('draws a table on a terminal', async () => {
    const { stdout } = await runKme(['pool', 'list'], environment, true)
    expect(stdout).toMatch(/┌─.*\n│ kme\s+│ key size/)
  })

  it('kme audit list passes its filters on and says how to read on', async () => {
    const ran = await run('audit', 'list', '--event', 'key.delivered', '--actor', 'sae:a/b', '--before', '50', '--limit', '1')
    expect(kme.asked[0]?.path).toBe('/api/v1/audit?event=key.delivered&actor=sae%3Aa%2Fb&before=50&limit=1')
    expect(ran.stderr).toContain('--before 41')
  })
})

describe('kme peer', () => {
  const approved = { ...PEER, certificates: [{ fingerprint: FINGERPRINT, from: 'operator' }] }

  it.each([
    ['approve', ['--fingerprint', FINGERPRINT], { fingerprint: FINGERPRINT }, approved, '6F:6F:6F:6F...'],
    ['withdraw', ['--fingerprint', FINGERPRINT], { fingerprint: FINGERPRINT }, { ...PEER, certificates: [] }, 'none'],
    ['rekey', [], undefined, PEER, 'any of the authority'],
  ])('%s tells the KME and shows the peer as it is then', async (verb, flags, body, answer, shown) => {
    kme.answer(({ path }) => checked('POST', path, 200, answer))
    const ran = await run('peer', verb, 'kme-b', ...flags)
    expect([ran.status, ran.stdout]).toEqual([0, expect.stringContaining(shown)])
    expect(kme.asked[0]).toMatchObject({
      method: 'POST',
      path: `/api/v1/peers/kme-b/${verb}`,
      body: body ? JSON.stringify(body) : '',
    })
    expect(JSON.parse((await run('peer', verb, 'kme-b', ...flags, '--json')).stdout)).toEqual(answer)
  })

  it('approve without a fingerprint asks for it', async () => {
    const ran = await run('peer', 'approve', 'kme-b')
    expect([ran.status === 0, ran.stderr]).toEqual([false, expect.stringContaining('--fingerprint')])
    expect(kme.asked).toEqual([])
  })
})

describe('kme pool', () => {
  const point = { fromMs: Date.parse('2030-01-01T00:00:00Z'), mineMin: 4, mineLast: 5, theirsMin: 5, theirsLast: 5 }
  const flow = { offered: 3, taken: 2, refused: 1 }
  const HISTORY = {
    kmeId: 'site/b',
    bucketS: 10,
    points: [
      { ...point, ...flow },
      { ...point, mineLast: 0, theirsLast: 5, ...flow },
    ],
  }

  it('history draws levels and flows', async () => {
    kme.answer(({ path }) => checked('GET', path, 200, HISTORY))
    const ran = await run('pool', 'history', 'site/b', '--hours', '24')
    expect(ran.status).toBe(0)
    expect(ran.stdout).toMatch(/2030-01-01T00:00:00Z +5 +5 +4 +3 +2 +1 +#{20}\n2030-01-01T00:00:00Z +0 +5 +4 +3 +2 +1 +#{10}$/m)
    const asked = new URL(kme.asked[0]!.path, kme.url)
    expect(asked.pathname).toBe('/api/v1/pools/site%2Fb/history')
    expect(Math.abs(Date.now() - 24 * 3_600_000 - Number(asked.searchParams.get('fromMs')))).toBeLessThan(60_000)
    expect(JSON.parse((await run('pool', 'history', 'site/b', '--json')).stdout)).toEqual(HISTORY)
  })

  it('history says so when there is none', async () => {
    kme.answer(({ path }) => checked('GET', path, 200, { ...HISTORY, points: [] }))
    expect((await run('pool', 'history', 'site/b')).stdout).toContain('Nothing is recorded')
  })

  it('replenish asks for what was wished and says what each source did', async () => {
    const answer = {
      kmeId: 'kme-b',
      ceilingKeys: 500,
      sources: [
        { source: 'link a-b', outcome: 'asked', keyCount: 0, reason: null },
        { source: 'loan', outcome: 'failed', keyCount: 0, reason: 'the other KME does not answer' },
      ],
    }
    kme.answer(({ path }) => checked('POST', path, 200, answer))
    const ran = await run('pool', 'replenish', 'kme-b', '--keys', '500')
    expect(ran.stdout).toContain('loan      failed   0     the other KME does not answer')
    expect(kme.asked[0]).toMatchObject({ method: 'POST', path: '/api/v1/pools/kme-b/replenish', body: '{"upToKeys":500}' })
    await run('pool', 'replenish', 'kme-b')
    expect(kme.asked[1]?.body).toBe('{}')
  })

  it('watch shows each list that comes until the KME ends the stream', async () => {
    const lists = [{ pools: [POOL] }, { pools: [{ ...POOL, state: 'exhausted' }] }]
    const body = lists.map((list) => `event: pools\ndata: ${JSON.stringify(list)}\n\n: still here\n\n`).join('')
    kme.answer({ status: 200, headers: { 'content-type': 'text/event-stream' }, body: `retry: 2000\n\n${body}` })
    const ran = await run('pool', 'watch')
    expect(ran.status).toBe(0)
    expect(ran.stdout.match(/kme-b +256 bits +(low|exhausted)/g)).toHaveLength(2)
    const lines = (await run('pool', 'watch', '--json')).stdout.trim().split('\n')
    expect(lines.map((line) => JSON.parse(line) as object)).toEqual(lists)
    expect(kme.asked[0]).toMatchObject({ path: '/api/v1/pools/events', headers: { accept: 'text/event-stream' } })
  })

  it('watch exits with 2 when there is no stream to be had', async () => {
    kme.answer({
      status: 503,
      headers: { 'content-type': 'application/problem+json', 'retry-after': '10' },
      body: JSON.stringify({ type: 'about:blank', title: 'Service Unavailable', status: 503, detail: 'service unavailable' }),
    })
    const ran = await run('pool', 'watch')
    expect(ran.status).toBe(2)
    expect(ran.stderr).toContain('try again in 10 s')
  })
})

describe('kme status', () => {
  it('shows the KME with its pools, links, peers and processes', async () => {
    const ran = await run('status')
    expect(ran.status).toBe(0)
    const texts = [
      'kme-a: ready, version 1.2.3, up for 2 h',
      'kme-b  256 bits',
      'connection refused',
      'kme-b.example',
      'site-a-1',
    ]
    for (const text of [...texts, 'link:a-b upkeep']) expect(ran.stdout).toContain(text)
  })

  it('exits with 2 and names what fails when the KME is not ready', async () => {
    kme.answer(({ method, path }) => {
      if (path !== '/api/v1/kme') return checked(method, path, 200, GETS[path]!)
      return checked(method, path, 200, { ...KME, state: 'not-ready', probes: [{ name: 'database', ok: false }] })
    })
    const ran = await runProgram(['status'], environment)
    expect([ran.status, ran.stdout]).toEqual([2, expect.stringContaining('kme-a: not-ready (failing: database)')])
    expect((await run('status', '--json')).status).toBe(2)
  })

  it('asks the SAE API when a slave SAE is named', async () => {
    const sae = await startAnsweringKme(pki)
    const { certificate, key } = await issueFiles(pki, 'sae', 'alice')
    sae.answer({ status: 401 })
    const ran = await run('status', 'bob', '--kme', sae.url, '--cert', certificate, '--key', key)
    await sae.stop()
    expect([ran.status, ran.stderr]).toEqual([1, expect.stringContaining('401: not authorised')])
    expect(sae.asked).toMatchObject([{ method: 'GET', path: '/api/v1/keys/bob/status' }])
    expect(kme.asked).toEqual([])
  })
})

describe('kme sae', () => {
  const posts = (): unknown[] =>
    kme.asked
      .filter(({ method }) => method === 'POST')
      .map(({ path, body }) => [path, body === '' ? undefined : JSON.parse(body)])

  it('registers an SAE at the KME that was asked, or at another one', async () => {
    kme.answer(({ method, path }) => checked(method, path, method === 'GET' ? 200 : 201, method === 'GET' ? KME : SAE))
    expect((await run('sae', 'register', 'alice')).stdout).toContain('alice  kme-a  no')
    await run('sae', 'register', 'bob', '--home', 'kme-b')
    expect(posts()).toEqual([
      ['/api/v1/saes', { saeId: 'alice', kmeId: 'kme-a' }],
      ['/api/v1/saes', { saeId: 'bob', kmeId: 'kme-b' }],
    ])
  })

  it('enables, disables, allows and denies', async () => {
    const PAIR = { one: 'alice', other: 'bob', allowed: true }
    kme.answer(({ method, path }) => checked(method, path, 200, path.endsWith('pairs') ? PAIR : SAE))
    await run('sae', 'disable', 'a/b')
    expect(JSON.parse((await run('sae', 'enable', 'alice', '--json')).stdout)).toEqual(SAE)
    expect((await run('sae', 'allow', 'alice', 'bob')).stdout).toBe('alice and bob may share keys\n')
    expect((await run('sae', 'deny', 'alice', 'bob')).stdout).toBe('alice and bob may not share keys\n')
    expect(posts()).toEqual([
      ['/api/v1/saes/a%2Fb/disable', undefined],
      ['/api/v1/saes/alice/enable', undefined],
      ['/api/v1/pairs', { one: 'alice', other: 'bob', allowed: true }],
      ['/api/v1/pairs', { one: 'alice', other: 'bob', allowed: false }],
    ])
  })

  it.each([
    [409, 1, 'this SAE is registered already'],
    [403, 1, 'the token lacks the scope sae:write'],
    [503, 2, 'service unavailable'],
  ])('turns %i into exit status %i with the words of the KME', async (status, exit, detail) => {
    kme.answer(json({ type: 'about:blank', title: 'x', status, detail }, status))
    const ran = await run('sae', 'register', 'alice', '--home', 'kme-a')
    expect([ran.status, ran.stderr]).toEqual([exit, `${status}: ${detail}\n`])
  })

  it('says what is missing when no token was given', async () => {
    const ran = await runKme(['sae', 'list'], { ...environment, KME_ADMIN_TOKEN_FILE: '' })
    expect([ran.status, ran.stderr]).toEqual([1, 'give --token-file, or set KME_ADMIN_TOKEN_FILE\n'])
  })
})
