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
}
const PEER = { kmeId: 'kme-b', url: 'https://kme-b.example:8452', available: true, lastAnswerAgeMs: null, failuresInARow: 2 }
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
    ['peer', ['kme-b  https://kme-b.example:8452  yes        never        2'], { peers: [PEER] }],
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
