/** What the operations of the admin API answer. */
import { describe, expect, it } from '@jest/globals'
import { Unavailable } from '../../src/kernel/errors.ts'
import { createAdminWorld, kmeId, levelOf, linkId, saeId } from './admin-world.ts'

const DAY_MS = 24 * 60 * 60 * 1000

const FIRST = '2f1e46bb-5b7e-4f8e-9d8a-8d1f5bb8a001'
const SECOND = '2f1e46bb-5b7e-4f8e-9d8a-8d1f5bb8a002'

describe('GET /api/v1/kme', () => {
  it('sums up probes, peers, links and processes', async () => {
    const peer = { kmeId: kmeId('kme-b'), url: 'https://b', available: true, lastAnswerAgeMs: 5, failuresInARow: 0 }
    const link = {
      linkId: linkId('a-b'),
      peerKmeId: kmeId('kme-b'),
      driver: 'tcp',
      state: 'up' as const,
      reason: undefined,
      qber: 0.02,
      keyRateBps: 1000,
      blocksAgreed: 3,
      blocksRejected: 1,
      newestBlockAgeMs: 10,
    }
    const world = await createAdminWorld({
      peers: [peer, { ...peer, kmeId: kmeId('kme-c'), available: false }],
      links: [link, { ...link, linkId: linkId('a-c'), state: 'down' }, { ...link, linkId: linkId('a-d'), state: 'starting' }],
      probes: [
        { name: 'database', check: () => true },
        { name: 'custody', check: () => Promise.resolve(false) },
      ],
      processes: [
        { processId: FIRST, host: 'one', pid: 17, startedAtMs: Date.UTC(2030, 0, 1), seenAgeMs: 400 },
        { processId: SECOND, host: 'two', pid: 18, startedAtMs: Date.UTC(2030, 0, 2), seenAgeMs: 0 },
      ],
      duties: { upkeep: SECOND, 'link:a-b': SECOND, 'link:a-c': 'a process that died just now' },
    })
    world.clock.advanceMs(90_500)
    const { body } = await world.call('get', '/api/v1/kme', { token: await world.token(['kme:read']) })
    expect(body).toEqual({
      kmeId: 'kme-a',
      version: '1.2.3',
      startedAt: '2030-01-01T12:00:00.000Z',
      uptimeS: 90,
      state: 'not-ready',
      probes: [
        { name: 'database', ok: true },
        { name: 'custody', ok: false },
      ],
      peers: { configured: 2, available: 1 },
      links: { configured: 3, up: 1 },
      processes: [
        { processId: FIRST, host: 'one', pid: 17, startedAt: '2030-01-01T00:00:00.000Z', seenAgeMs: 400, duties: [] },
        {
          processId: SECOND,
          host: 'two',
          pid: 18,
          startedAt: '2030-01-02T00:00:00.000Z',
          seenAgeMs: 0,
          duties: ['link:a-b', 'upkeep'],
        },
      ],
    })
  })
})

describe('pools', () => {
  it('count what the other end would lend as deliverable, up to the maximum, and nothing while it is away', async () => {
    const peer = { url: 'https://b', available: true, lastAnswerAgeMs: 5, failuresInARow: 0 }
    const world = await createAdminWorld({
      pools: [
        levelOf(kmeId('kme-b'), 100, 164),
        levelOf(kmeId('kme-c'), 10, 40),
        levelOf(kmeId('site/d'), 900, 900),
        levelOf(kmeId('kme-e'), 50, 500),
        levelOf(kmeId('kme-a'), 20, 500),
      ],
      peers: [
        { ...peer, kmeId: kmeId('kme-b') },
        { ...peer, kmeId: kmeId('kme-c') },
        { ...peer, kmeId: kmeId('site/d') },
        { ...peer, kmeId: kmeId('kme-e'), available: false },
      ],
    })
    const token = await world.token(['pool:read'])
    const { body } = await world.call('get', '/api/v1/pools', { token })
    expect(body).toMatchObject({ pools: [200, 10, 1000, 0, 20].map((deliverable) => ({ deliverable })) })
    expect((await world.call('get', '/api/v1/pools/kme-c', { token })).body).toEqual({
      kmeId: 'kme-c',
      keySizeBits: 256,
      mine: 10,
      theirs: 40,
      stored: 50,
      reserved: 0,
      available: 10,
      deliverable: 10,
      max: 1000,
      lowWatermark: 100,
      criticalWatermark: 25,
      highWatermark: 900,
      state: 'critical',
      refillKeysPerS: 0,
      consumptionKeysPerS: 0,
      timeToEmptyS: null,
      retryAfterS: 2,
    })
    expect((await world.call('get', '/api/v1/pools/site%2Fd', { token })).body).toMatchObject({ mine: 900 })
    expect((await world.call('get', '/api/v1/pools/kme-x', { token })).status).toBe(404)
  })
})

describe('links and peers', () => {
  it('show null for what is not known yet', async () => {
    const world = await createAdminWorld({
      peers: [{ kmeId: kmeId('kme-b'), url: 'https://b:1', available: false, lastAnswerAgeMs: undefined, failuresInARow: 4 }],
      links: [
        {
          linkId: linkId('a-b'),
          peerKmeId: kmeId('kme-b'),
          driver: 'tcp',
          state: 'down',
          reason: 'connection refused',
          qber: undefined,
          keyRateBps: 0,
          blocksAgreed: 0,
          blocksRejected: 0,
          newestBlockAgeMs: undefined,
        },
      ],
    })
    const token = await world.token()
    expect((await world.call('get', '/api/v1/links', { token })).body).toEqual({
      links: [
        {
          linkId: 'a-b',
          peerKmeId: 'kme-b',
          driver: 'tcp',
          state: 'down',
          reason: 'connection refused',
          qber: null,
          keyRateBps: 0,
          blocksAgreed: 0,
          blocksRejected: 0,
          newestBlockAgeMs: null,
          distillation: null,
        },
      ],
    })
    expect((await world.call('get', '/api/v1/peers', { token })).body).toEqual({
      peers: [
        { kmeId: 'kme-b', url: 'https://b:1', available: false, lastAnswerAgeMs: null, failuresInARow: 4, certificates: null },
      ],
    })
  })
})

describe('SAEs', () => {
  it('are registered, paired, disabled and enabled in the name of the admin', async () => {
    const world = await createAdminWorld()
    const token = await world.token(['sae:read', 'sae:write'])
    const post = (url: string, body?: object) => world.call('post', url, { token, body })
    const created = await post('/api/v1/saes', { saeId: 'alice', kmeId: 'kme-a' })
    expect(created).toMatchObject({ status: 201, body: { saeId: 'alice', kmeId: 'kme-a', enabled: true, sharesWith: [] } })
    await post('/api/v1/saes', { saeId: 'site/bob', kmeId: 'kme-b' })
    const pair = { one: 'alice', other: 'site/bob', allowed: true }
    expect((await post('/api/v1/pairs', pair)).body).toEqual(pair)
    expect((await post('/api/v1/saes/site%2Fbob/disable')).body).toEqual({
      saeId: 'site/bob',
      kmeId: 'kme-b',
      enabled: false,
      sharesWith: ['alice'],
    })
    expect((await post('/api/v1/saes/site%2Fbob/enable', {})).body).toMatchObject({ enabled: true })
    await post('/api/v1/pairs', { ...pair, allowed: false })
    expect((await world.call('get', '/api/v1/saes', { token })).body).toEqual({
      saes: [
        { saeId: 'alice', kmeId: 'kme-a', enabled: true, sharesWith: [] },
        { saeId: 'site/bob', kmeId: 'kme-b', enabled: true, sharesWith: [] },
      ],
    })
    expect(world.changes).toEqual([
      'admin:erika register alice@kme-a',
      'admin:erika register site/bob@kme-b',
      'admin:erika pair alice site/bob true',
      'admin:erika disable site/bob',
      'admin:erika enable site/bob',
      'admin:erika pair alice site/bob false',
    ])
  })

  it('are not registered twice, and unknown ones not changed', async () => {
    const world = await createAdminWorld()
    const token = await world.token(['sae:write'])
    await world.parts.saes.register({ saeId: saeId('alice'), kmeId: kmeId('kme-a') }, 'system')
    expect((await world.call('post', '/api/v1/saes', { token, body: { saeId: 'alice', kmeId: 'kme-b' } })).status).toBe(409)
    expect((await world.call('post', '/api/v1/saes/eve/enable', { token })).status).toBe(404)
    expect(
      (await world.call('post', '/api/v1/pairs', { token, body: { one: 'alice', other: 'eve', allowed: true } })).status,
    ).toBe(404)
  })
})

describe('certificates', () => {
  it('show the days left and when a revocation list runs out', async () => {
    const nowMs = Date.parse('2030-01-01T12:00:00Z')
    const facts = {
      subject: 'CN=kme-a',
      issuer: 'CN=ca',
      serial: '01ab',
      uris: ['urn:kme:kme:kme-a'],
      hosts: ['localhost', '127.0.0.1'],
      notBefore: '2029-01-01T00:00:00.000Z',
      fingerprintSha256: 'ab'.repeat(32),
      keyType: 'p256',
      isAuthority: false,
    }
    const world = await createAdminWorld({
      certificates: [
        {
          ...facts,
          usedFor: 'saeApi.tls.certificate',
          role: 'own',
          notAfter: new Date(nowMs + 2.5 * DAY_MS).toISOString(),
          revocationListNextUpdateMs: undefined,
        },
        {
          ...facts,
          usedFor: 'saeApi.tls.clientCa',
          role: 'trust-anchor',
          notAfter: new Date(nowMs - DAY_MS / 2).toISOString(),
          revocationListNextUpdateMs: nowMs + DAY_MS,
        },
      ],
    })
    const { body } = await world.call('get', '/api/v1/certificates', { token: await world.token(['certificate:read']) })
    expect(body).toMatchObject({
      certificates: [
        { usedFor: 'saeApi.tls.certificate', role: 'own', daysLeft: 2, revocationListNextUpdate: null },
        {
          usedFor: 'saeApi.tls.clientCa',
          role: 'trust-anchor',
          daysLeft: -1,
          revocationListNextUpdate: '2030-01-02T12:00:00.000Z',
        },
      ],
    })
  })
})

describe('alarms', () => {
  it('are shown with when they were raised and cleared', async () => {
    const alarm = { severity: 'critical', text: 'the link is down', subject: { linkId: 'a-b' } } as const
    const raisedAt = new Date('2030-01-01T11:00:00Z')
    const world = await createAdminWorld({
      alarms: [
        { ...alarm, name: 'link.down:a-b', raisedAt, clearedAt: undefined },
        { ...alarm, name: 'link.down:a-c', raisedAt, clearedAt: new Date('2030-01-01T11:30:00Z') },
      ],
    })
    const { body } = await world.call('get', '/api/v1/alarms', { token: await world.token(['alarm:read']) })
    expect(body).toEqual({
      alarms: [
        { ...alarm, name: 'link.down:a-b', raisedAt: '2030-01-01T11:00:00.000Z', clearedAt: null },
        { ...alarm, name: 'link.down:a-c', raisedAt: '2030-01-01T11:00:00.000Z', clearedAt: '2030-01-01T11:30:00.000Z' },
      ],
    })
  })
})

describe('audit', () => {
  it('passes the question on and shows the page', async () => {
    const world = await createAdminWorld({
      auditPage: {
        records: [
          {
            seq: '41',
            at: new Date('2030-01-01T11:00:00Z'),
            event: 'key.issued',
            actor: 'sae:alice',
            outcome: 'done',
            subject: { keys: 2 },
          },
        ],
        nextBefore: '41',
      },
    })
    const token = await world.token(['audit:read'])
    const { body } = await world.call('get', '/api/v1/audit?before=42&event=key.issued&actor=sae%3Aalice&limit=1', { token })
    expect(body).toEqual({
      records: [
        {
          seq: '41',
          at: '2030-01-01T11:00:00.000Z',
          event: 'key.issued',
          actor: 'sae:alice',
          outcome: 'done',
          subject: { keys: 2 },
        },
      ],
      nextBefore: '41',
    })
    await world.call('get', '/api/v1/audit', { token })
    await world.call('get', '/api/v1/audit?limit=1000', { token })
    expect(world.auditQueries).toEqual([
      { before: '42', event: 'key.issued', actor: 'sae:alice', limit: 1 },
      { limit: 100 },
      { limit: 1000 },
    ])
  })

  it('is 503 while the database is away', async () => {
    const world = await createAdminWorld()
    world.parts.audit.page = () => Promise.reject(new Unavailable(2))
    const answer = await world.call('get', '/api/v1/audit', { token: await world.token() })
    expect(answer.status).toBe(503)
    expect(answer.headers['retry-after']).toBe('2')
  })
})

describe('monitoring', () => {
  it('gives metrics to a token with their scope', async () => {
    const world = await createAdminWorld()
    const answer = await world.call('get', '/metrics', { token: await world.token(['metrics:read']) })
    expect(answer).toMatchObject({ status: 200, contentType: 'text/plain; version=0.0.4; charset=utf-8', body: 'kme_up 1\n' })
  })

  it('tells health without a token, and no more than the names of failing probes', async () => {
    let up = false
    const world = await createAdminWorld({
      probes: [
        {
          name: 'database',
          check: () => {
            if (!up) throw new Error('connect ECONNREFUSED 10.0.0.7:5432')
            return true
          },
        },
        { name: 'peers', check: () => true },
      ],
    })
    expect(await world.call('get', '/health/live')).toMatchObject({ status: 200, body: { status: 'ok', failing: [] } })
    expect(await world.call('get', '/health/ready')).toMatchObject({
      status: 503,
      body: { status: 'failing', failing: ['database'] },
    })
    up = true
    world.clock.advanceMs(1000)
    expect(await world.call('get', '/health/ready')).toMatchObject({ status: 200, body: { status: 'ok', failing: [] } })
  })
})
