/** Rows P06, P07, P19, P26 and P27 of the bad-input catalogue and all of replay, reorder, duplicate and delay (I17, I18): a peer KME with a good
 *  certificate speaks to a whole KME. Whatever it says outside its place in its session is refused: not one row of any table of keys
 *  changes, one audit record and one alarm say so. What it may say but not ask for is in test/catalogue/hostile-peer.test.ts. */
import { createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect, createServer, type TLSSocket } from 'node:tls'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { createForgingPeer, type ForgingPeer } from '../catalogue/forged-offer.ts'
import { startJudgedNetwork, type JudgedNetwork } from '../catalogue/judged-network.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { openAgreement } from '../../src/peer/session-keys.ts'
import { callOf, fallbackBlockPath, peerPaths, writeSessionOffer } from '../../src/peer/wire.ts'
import { eventually, keysOf } from '../network/network.ts'
import { startRedis } from '../setup/redis-servers.ts'
import { createSessionSpeaker, type Message, type Said, type SessionSpeaker, type Tampering } from './session-speaker.ts'

let redis: Awaited<ReturnType<typeof startRedis>>
let test: JudgedNetwork
let forger: ForgingPeer
const speakers: SessionSpeaker[] = []

beforeAll(async () => {
  redis = await startRedis()
  test = await startJudgedNetwork({
    redisUrl: redis.url,
    pools: { lowWatermark: 1, criticalWatermark: 0, fallback: [] },
    alarms: { quietS: 0 },
  })
  forger = await createForgingPeer(test.network)
})
afterAll(async () => {
  speakers.forEach((speaker) => speaker.hangUp())
  await forger?.[Symbol.asyncDispose]()
  await test?.[Symbol.asyncDispose]()
  await redis?.stop()
})

const own = (name: string): string => readFileSync(`${test.network.directory}/${name}`, 'utf8')
/** @param port of the peer API it speaks to. */
const speak = (port = test.network.ports.get('kme-a')!.peer): SessionSpeaker => {
  const speaker = createSessionSpeaker({
    port,
    cert: own('kme-b.pem'),
    key: own('kme-b.key'),
    ca: test.network.authorities.certificatePem.kme,
    from: 'kme-b',
    to: 'kme-a',
  })
  speakers.push(speaker)
  return speaker
}

/** Tables that say nothing about keys or SAEs. */
const TIMELY = [
  'alarm',
  'alarm_notice',
  'audit_record',
  'duty',
  'figure',
  'pool_history',
  'pool_record',
  'kme_process',
  'peer_session',
  'topology_statement',
]
let tables: readonly string[] | undefined
/** Every row of every other table, as digests. */
const state = async (): Promise<readonly string[]> => {
  tables ??= (
    await test.network.query<{ name: string }>(
      'kme-a',
      `SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'`,
    )
  )
    .map(({ name }) => name)
    .filter((name) => !TIMELY.includes(name))
  expect(tables).toEqual(expect.arrayContaining(['key_block', 'assignment', 'assigned_key', 'loan', 'sae']))
  const each = tables.map((name) => `SELECT '${name} ' || left(t::text, 120) || ' ' || md5(t::text) AS digest FROM "${name}" t`)
  return (await test.network.query<{ digest: string }>('kme-a', `${each.join(' UNION ALL ')} ORDER BY 1`)).map(
    ({ digest }) => digest,
  )
}
const refusals = async (): Promise<{ call: string; reason: string }[]> =>
  (
    await test.network.query<{ subject: { call: string; reason: string } }>(
      'kme-a',
      `SELECT subject FROM audit_record WHERE event = 'peer.refused' AND actor = 'kme:kme-b' AND outcome = 'refused' ORDER BY seq`,
    )
  ).map(({ subject }) => subject)

/** What `act` said was refused, recorded once and told, the connection is gone, and nothing has changed. */
const isRefused = async (act: () => Promise<Said>, reason: string): Promise<void> => {
  await test.network.query('kme-a', `DELETE FROM alarm WHERE name LIKE 'peer.message-refused%'`)
  const [before, recorded] = [await state(), await refusals()]
  const answer = await act()
  expect([401, 400]).toContain(answer.status)
  expect(answer.text).not.toContain(reason)
  expect(await state()).toEqual(before)
  const fresh = (await refusals()).slice(recorded.length)
  expect(fresh.map((refusal) => refusal.reason)).toEqual([reason])
  expect(answer.headers['connection']).toBe('close')
  await eventually('an alarm', async () => {
    const [alarm] = await test.network.query<{ subject: object }>(
      'kme-a',
      `SELECT subject FROM alarm WHERE name = 'peer.message-refused:kme-b' AND cleared_at IS NULL`,
    )
    return alarm !== undefined
  })
}

/** One message of each kind, each of which does something when it is said for the first time. */
const kinds: [kind: string, path: () => string, body: () => Promise<unknown>][] = [
  [
    'assignment',
    () => peerPaths.assignments,
    async () => ({ calls: [await forger.offer(await forger.assignment({ ttlS: 3600 }))] }),
  ],
  ['abort', () => peerPaths.aborts, async () => ({ calls: [{ aid: randomUUID() }] })],
  [
    'retirement',
    () => peerPaths.retirements,
    async () => ({ calls: [{ aid: randomUUID(), units: await forger.units('kme-b', 1) }] }),
  ],
  [
    'block',
    () => peerPaths.blocks,
    async () => ({ calls: [{ linkId: 'a-b', blockId: randomUUID(), tag: randomBytes(32).toString('base64') }] }),
  ],
  ['loan', () => peerPaths.loans, async () => ({ loanId: randomUUID(), unitCount: 3 })],
  [
    'statement about the network',
    () => peerPaths.statements,
    async () => ({
      statements: (
        await test.network.query<{ signed: object }>('kme-b', `SELECT signed FROM topology_statement WHERE kme_id = 'kme-b'`)
      ).map(({ signed }) => signed),
    }),
  ],
  // What a good one does is in test/relay; here it is enough that it is heard.
  ['relay', () => peerPaths.relays, async () => ({ relayId: randomUUID() })],
  ['question about a relay', () => peerPaths.relayChecks, async () => ({})],
  ['comparison of networks', () => peerPaths.comparison, async () => ({ sequences: [] })],
  ['fallback block', () => fallbackBlockPath(randomUUID()), async () => randomBytes(32 + 2 * 32)],
]

const hello = (session: Parameters<SessionSpeaker['seal']>[0], speaker: SessionSpeaker, tampering?: Tampering): Message =>
  speaker.seal(session, 'GET', peerPaths.hello, undefined, tampering)

it('tries every call of the API that does anything', () => {
  const nothing: readonly string[] = [peerPaths.sessions, peerPaths.hello]
  const tried = kinds.map(([, path]) => callOf(path()))
  expect(tried.toSorted()).toEqual(
    Object.entries(peerPaths)
      .filter(([, path]) => !nothing.includes(path))
      .map(([call]) => call)
      .sort(),
  )
})

describe('a peer that speaks as it should', () => {
  it('is heard, so the refusals below have their reason in what was changed', async () => {
    const speaker = speak()
    const session = await speaker.open()
    for (const [, path, body] of kinds) {
      expect((await speaker.send(speaker.seal(session, 'POST', path(), await body()))).status).toBe(200)
    }
    expect((await speaker.send(hello(session, speaker))).status).toBe(200)
  })
})

describe.each(kinds)('a captured %s', (_, path, body) => {
  it('acts once: sent again on its connection it is refused', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const message = speaker.seal(session, 'POST', path(), await body())
    expect((await speaker.send(message)).status).toBe(200)
    await isRefused(() => speaker.send(message), 'replayed')
  })

  it('is refused on another connection, on the way to which it was swallowed or not', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const [sent, swallowed] = [
      speaker.seal(session, 'POST', path(), await body()),
      speaker.seal(session, 'POST', path(), await body()),
    ]
    expect((await speaker.send(sent)).status).toBe(200)
    for (const message of [sent, swallowed]) {
      const other = speak()
      await isRefused(() => other.send(message), 'unknown-session')
      await other.open()
      await isRefused(() => other.send(message), 'unknown-session')
    }
    expect((await speaker.send(swallowed)).status).toBe(200)
  })

  it('that was overtaken by a later one is refused', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const late = speaker.seal(session, 'POST', path(), await body())
    expect((await speaker.send(hello(session, speaker))).status).toBe(200)
    await isRefused(() => speaker.send(late), 'replayed')
  })

  it('is refused under another seal of the same session, with one bit changed and at another path', async () => {
    for (const change of ['body', 'path', 'seal'] as const) {
      const speaker = speak()
      const session = await speaker.open()
      const message = speaker.seal(session, 'POST', path(), await body())
      const other = hello(session, speaker)
      const flipped = Buffer.from(message.body)
      flipped[flipped.length - 2]! ^= 1
      const changed = {
        body: { ...message, body: flipped },
        path: { ...message, path: message.path.replace('/v1/', '/v1//') },
        seal: { ...message, headers: { ...message.headers, ...other.headers } },
      }[change]
      await isRefused(() => speaker.send(changed), 'mac')
    }
  })

  it('held back for more than five minutes is refused', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const message = speaker.seal(session, 'POST', path(), await body(), { sealed: { timeMs: Date.now() - 301_000 } })
    await isRefused(() => speaker.send(message), 'stale')
  })

  it('is refused after FLUSHALL', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const message = speaker.seal(session, 'POST', path(), await body())
    expect((await speaker.send(message)).status).toBe(200)
    await redis.cli('FLUSHALL')
    await isRefused(() => speaker.send(message), 'replayed')
    const other = speak()
    await isRefused(() => other.send(message), 'unknown-session')
  })
})

describe('a seal', () => {
  const wrongKey = createSecretKey(Buffer.alloc(32, 1))
  it.each<[row: string, tampering: Tampering, reason: string]>([
    ['P07 number 0', { sealed: { sequence: 0 } }, 'replayed'],
    ['P07 a number far ahead', { sealed: { sequence: 1026 } }, 'jump'],
    ['P19 a wrong MAC', { shown: { mac: Buffer.alloc(32) } }, 'mac'],
    ['P19 the MAC of another key', { key: wrongKey }, 'mac'],
    ['P19 a MAC over another number than it shows', { shown: { sequence: 3 } }, 'mac'],
    ['P19 a MAC over another time than it shows', { shown: { timeMs: Date.now() - 10 } }, 'mac'],
    ['P19 a MAC for another KME', { sealed: { to: 'kme-c' as KmeId } }, 'mac'],
    ['P27 a MAC in the name of another KME', { sealed: { from: 'kme-c' as KmeId } }, 'mac'],
    ['P19 a MAC in the name of this KME', { sealed: { from: 'kme-a' as KmeId, to: 'kme-b' as KmeId } }, 'mac'],
    ['P26 version 0', { shown: { version: 0 } }, 'version'],
    ['P26 version 2', { shown: { version: 2 } }, 'version'],
    ['a time five minutes ago', { sealed: { timeMs: Date.now() - 305_000 } }, 'stale'],
    ['a time half a minute ahead', { sealed: { timeMs: Date.now() + 120_000 } }, 'stale'],
    ['a session nobody opened', { shown: { sessionId: randomUUID() } }, 'unknown-session'],
  ])('with %s is refused', async (_, tampering, reason) => {
    const speaker = speak()
    const session = await speaker.open()
    expect((await speaker.send(hello(session, speaker))).status).toBe(200)
    await isRefused(() => speaker.send(hello(session, speaker, tampering)), reason)
  })

  it('P19 with the key of answers, also as it came in an answer, is refused', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const own = hello(session, speaker)
    const answer = await speaker.send(own)
    const reflected = { ...hello(session, speaker), headers: { 'Kme-Message': String(answer.headers['kme-message']) } }
    // Only an answer has a word on renewal.
    await isRefused(() => speaker.send(reflected), 'malformed-seal')
    const again = speak()
    const other = await again.open()
    await isRefused(() => again.send(hello(other, again, { key: other.keys.answerKey })), 'mac')
  })

  it.each([
    ['no seal', 'none'],
    ['half a seal', 'half'],
    ['two seals', 'two'],
  ])('that is %s is refused', async (_, what) => {
    const speaker = speak()
    const session = await speaker.open()
    const message = speaker.seal(session, 'POST', peerPaths.aborts, { calls: [{ aid: randomUUID() }] })
    const header = message.headers['Kme-Message']!
    const shown = { none: {}, half: { 'Kme-Message': header.slice(0, 60) }, two: { 'Kme-Message': `${header}, ${header}` } }[
      what
    ]!
    await isRefused(() => speaker.send({ ...message, headers: shown }), what === 'none' ? 'no-session' : 'malformed-seal')
  })

  it('is asked for on every path but the greeting, also on those that do not exist', async () => {
    for (const path of [
      ...Object.values(peerPaths).map((each) => each.replace('{block}', randomUUID())),
      '/kme/v1/nothing',
      '/',
    ]) {
      if (path === peerPaths.sessions) continue
      const speaker = speak()
      await isRefused(() => speaker.raw('POST', path, '{}'), 'no-session')
    }
    expect((await speak().raw('GET', peerPaths.hello)).json['kmeId']).toBe('kme-a')
    await isRefused(() => speak().raw('GET', `${peerPaths.sessions}?x=1`), 'no-session')
  })
})

describe('an offer of a session', () => {
  const { offer } = openAgreement()
  const good = writeSessionOffer(offer, Buffer.alloc(32)) as Record<string, unknown>
  it.each<[row: string, body: unknown]>([
    ['P26 of version 0 alone', { ...good, versions: [0] }],
    ['P26 of a later version alone', { ...good, versions: [2] }],
    ['without versions', { ...good, versions: [] }],
    ['with a point of low order', { ...good, x25519: Buffer.alloc(32).toString('base64') }],
    ['without ML-KEM', { ...good, mlKem768: '' }],
    ['with an ML-KEM key that is none', { ...good, mlKem768: Buffer.alloc(1184, 0xff).toString('base64') }],
    ['that is a list', []],
    ['that is no JSON', '{'],
  ])('%s is refused', async (_, body) => {
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    await isRefused(() => speak().raw('POST', peerPaths.sessions, text), 'session-offer')
  })

  it('of a later version besides this one, with members nobody knows, is taken', async () => {
    const speaker = speak()
    const session = await speaker.open({ offer: { versions: [2, 1], later: ['x'] } })
    expect((await speaker.send(hello(session, speaker))).status).toBe(200)
  })

  it('opens a session for nobody but who made it: a replayed offer gives keys its sender does not know', async () => {
    const first = speak()
    const captured = JSON.stringify(good)
    const answers = [
      await first.raw('POST', peerPaths.sessions, captured),
      await speak().raw('POST', peerPaths.sessions, captured),
    ]
    expect(answers.map(({ status }) => status)).toEqual([200, 200])
    const [one, other] = answers.map(({ seal }) => seal!.sessionId)
    expect(one).not.toBe(other)
  })

  it.each([
    ['another caller', { initiator: 'kme-c' as KmeId }],
    ['another answering KME', { responder: 'kme-c' as KmeId }],
    ['another connection', { exporter: Buffer.alloc(32) }],
    ["another caller's certificate", { initiatorFingerprint: 'AA' }],
  ])('seen as that of %s gives other keys', async (_, transcript) => {
    const speaker = speak()
    const session = await speaker.open({ transcript })
    await isRefused(() => speaker.send(hello(session, speaker)), 'unknown-session')
  })

  it('through somebody in between who holds the private keys of both KMEs opens no session', async () => {
    const credentials = (name: string) => ({
      cert: own(`${name}.pem`),
      key: own(`${name}.key`),
      ca: test.network.authorities.certificatePem.kme,
    })
    const between = createServer({ ...credentials('kme-a'), requestCert: true }, (near: TLSSocket) => {
      const far = connect({ ...credentials('kme-b'), host: '127.0.0.1', port: test.network.ports.get('kme-a')!.peer })
      near.pipe(far).pipe(near)
      near.on('error', () => far.destroy())
      far.on('error', () => near.destroy())
    })
    await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve))
    try {
      const { port } = between.address() as AddressInfo
      // In the clear it passes; the keys of the two ends differ.
      expect((await speak(port).raw('GET', peerPaths.hello)).status).toBe(200)
      await expect(speak(port).open()).rejects.toThrow()
      const speaker = speak(port)
      const session = await speaker.open({ transcript: { offer: Buffer.from('unchecked') } })
      await isRefused(() => speaker.send(hello(session, speaker)), 'unknown-session')
    } finally {
      speakers.forEach((speaker) => speaker.hangUp())
      between.close()
    }
  })
})

describe('what is stored of a session', () => {
  const row = async (sessionId: string) =>
    (
      await test.network.query<{ peer_kme_id: string; reserved: number; ended: boolean }>(
        'kme-a',
        `SELECT peer_kme_id, reserved_sequence::int AS reserved, ended_at IS NOT NULL AS ended FROM peer_session WHERE session_id = $1`,
        [sessionId],
      )
    )[0]

  it('is one row from its first message on, and that it ended', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const { sessionId } = session.keys
    expect(await row(sessionId)).toBeUndefined()
    for (let i = 0; i < 3; i += 1) await speaker.send(hello(session, speaker))
    expect(await row(sessionId)).toEqual({ peer_kme_id: 'kme-b', reserved: 4096, ended: false })
    speaker.hangUp()
    await eventually('its end', async () => (await row(sessionId))?.ended)
  })

  it('ends a session whose numbers somebody else used up', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const { sessionId } = session.keys
    await speaker.send(hello(session, speaker))
    await test.network.query('kme-a', `UPDATE peer_session SET reserved_sequence = 8192 WHERE session_id = $1`, [sessionId])
    for (const sequence of [1000, 2000, 3000, 4000]) {
      expect((await speaker.send(hello(session, speaker, { sealed: { sequence } }))).status).toBe(200)
    }
    await isRefused(() => speaker.send(hello(session, speaker, { sealed: { sequence: 4097 } })), 'ended')
    expect(await row(sessionId)).toMatchObject({ reserved: 8192 })
  })
})

describe('after a restart', () => {
  it('P06 every message captured before is refused, and the true peer goes on', async () => {
    const speaker = speak()
    const session = await speaker.open()
    const captured: Message[] = []
    for (const [, path, body] of kinds) {
      const message = speaker.seal(session, 'POST', path(), await body())
      expect((await speaker.send(message)).status).toBe(200)
      captured.push(message, speaker.seal(session, 'POST', path(), await body()))
    }
    await test.network.stop('kme-a')
    await test.network.start('kme-a')
    await redis.cli('FLUSHALL')
    for (const message of captured) {
      const other = speak()
      await isRefused(() => other.send(message), 'unknown-session')
    }
    const keys = await eventually('keys again', async () => {
      const answer = await test.alice.post('/api/v1/keys/bob/enc_keys', {})
      return answer.status === 200 ? keysOf(answer) : undefined
    })
    const fetched = await test.bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: [{ key_ID: keys[0]!.key_ID }] })
    expect(keysOf(fetched)).toEqual(keys)
  })
})
