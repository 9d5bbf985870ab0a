/** Sessions from the first message to the last: how both ends replace keys without losing a message, and what ends them. */
import { afterEach, describe, expect, it } from '@jest/globals'
import type { BlockId, KmeId } from '../../src/kernel/identifiers.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { QkdMixing } from '../../src/peer/qkd-mixing.ts'
import { sendJson } from '../../src/http/json-response.ts'
import { OLD_KEYS_VERIFY_MS, RENEWAL_DEADLINE_MS } from '../../src/peer/session-server.ts'
import { peerPaths } from '../../src/peer/wire.ts'
import { makeLeaf } from '../http/test-certificates.ts'
import { noMixing, startPeerPair, type PeerPair, type PeerPairOptions, type TamperedAnswer } from './peer-pair.ts'

let pair: PeerPair
const start = async (options: PeerPairOptions = {}): Promise<void> => {
  pair = await startPeerPair(options)
}
afterEach(async () => {
  await pair[Symbol.asyncDispose]()
})

/** The session of each message, as `a`, `b`, ... in order of appearance. */
const sessionsUsed = (): string => {
  const names = new Map<string, string>()
  for (const { sessionId } of pair.handled) if (!names.has(sessionId)) names.set(sessionId, 'abcdefgh'[names.size]!)
  return pair.handled.map(({ sessionId }) => names.get(sessionId)).join('')
}
const say = async (times: number): Promise<void> => {
  for (let i = 0; i < times; i += 1) expect((await pair.call(`{"message":${pair.handled.length}}`)).status).toBe(200)
}

describe('a session', () => {
  it('carries messages one after the other, each handled as it was said', async () => {
    await start()
    await say(5)
    expect(sessionsUsed()).toBe('aaaaa')
    expect(pair.handled.map(({ body }) => body)).toEqual([0, 1, 2, 3, 4].map((message) => `{"message":${message}}`))
    expect([...pair.stored.values()]).toEqual([{ mark: 4096, ended: false, isMixed: false }])
    expect(pair.refusals).toEqual([])
  })

  it('is one of several when messages are sent at the same time', async () => {
    await start()
    const answers = await Promise.all(Array.from({ length: 20 }, () => pair.call()))
    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200))
    expect(pair.stored.size).toBe(4)
    expect(pair.handled).toHaveLength(20)
    expect(pair.refusals).toEqual([])
  })

  it('ends with its connection, and the next message opens another', async () => {
    await start()
    await say(2)
    const [sessionId] = pair.stored.keys()
    expect(pair.listener.closeConnections(() => true)).toBe(1)
    while (pair.listener.connectionCount() > 0) await new Promise(setImmediate)
    await say(2)
    expect(sessionsUsed()).toBe('aabb')
    expect(pair.stored.get(sessionId!)).toEqual({ mark: 4096, ended: true, isMixed: false })
    expect(pair.refusals).toEqual([])
  })

  it('is opened anew when its connection is too old for the peer, and no message is lost', async () => {
    await start({ policy: { afterMs: 60_000 } })
    await say(1)
    // The next answer on it is the last; it opens a session.
    pair.clock.advanceMs(601_000)
    await say(3)
    expect(sessionsUsed()).toBe('abbb')
    expect(pair.refusals).toEqual([])
  })

  it('goes on when certificates are replaced in the middle of a message, and the next message has another', async () => {
    let release: () => void = () => undefined
    const held = new Promise<void>((resolve) => (release = resolve))
    await start({
      before: (app) =>
        void app.use(async (request, _, next) => {
          if (request.url === peerPaths.aborts && pair.handled.length === 0) await held
          next()
        }),
    })
    const first = pair.call()
    while (pair.stored.size === 0 && pair.listener.connectionCount() === 0) await new Promise(setImmediate)
    pair.updateTls()
    release()
    expect((await first).status).toBe(200)
    await say(1)
    expect(sessionsUsed()).toBe('ab')
    expect(pair.refusals).toEqual([])
  })

  it('that cannot be stored lets nothing through', async () => {
    await start({ server: { ledger: { reserve: () => Promise.reject(new Error('away')), end: () => Promise.resolve() } } })
    expect((await pair.call()).status).toBe(503)
    expect(pair.handled).toEqual([])
  })

  it('carries no message whose seal looks like that of an answer', async () => {
    await start()
    const speaker = pair.speaker()
    const message = speaker.seal(await speaker.open(), 'POST', peerPaths.aborts, {})
    const header = message.headers['Kme-Message']!.replace(';mac', ';renew=0;mac')
    expect((await speaker.send({ ...message, headers: { 'Kme-Message': header } })).status).toBe(401)
    expect(pair.refusals).toEqual([{ peerKmeId: 'kme-a', reason: 'malformed-seal' }])
  })

  it('is left for another after a write of which nobody knows whether it was done', async () => {
    const marks = new Map<string, number>()
    await start({
      server: {
        ledger: {
          reserve: async ({ sessionId }, from, to) => {
            if ((marks.get(sessionId) ?? 0) !== from) return false
            marks.set(sessionId, to)
            if (marks.size === 1) throw new Error('the database was lost after it had written')
            return true
          },
          end: () => Promise.resolve(),
        },
      },
    })
    expect((await pair.call()).status).toBe(503)
    await say(2)
    expect(pair.refusals).toEqual([])
  })

  it('with an ID that was there before lets nothing through', async () => {
    await start({ server: { ledger: { reserve: () => Promise.resolve(false), end: () => Promise.resolve() } } })
    expect((await pair.call()).status).toBe(401)
    expect(pair.refusals).toEqual([{ peerKmeId: 'kme-a', reason: 'ended' }])
    expect(pair.handled).toEqual([])
  })
})

describe('keys are replaced without losing a message', () => {
  it('after a time', async () => {
    await start({ policy: { afterMs: 60_000 } })
    await say(2)
    pair.clock.advanceMs(59_999)
    await say(1)
    pair.clock.advanceMs(1)
    await say(2)
    expect(sessionsUsed()).toBe('aaabb')
  })

  it('after a number of messages', async () => {
    await start({ policy: { afterMessages: 3 } })
    await say(8)
    expect(sessionsUsed()).toBe('aaabbbcc')
  })

  it('when an operator says so', async () => {
    await start()
    await say(2)
    pair.rekey()
    await say(2)
    expect(sessionsUsed()).toBe('aabb')
  })

  it('when the other end wants it, although this end would go on', async () => {
    const never = { afterMs: Infinity, afterMessages: Infinity, generation: () => 0 }
    await start({ policy: { afterMessages: 2 }, client: { rekey: never } })
    await say(5)
    expect(sessionsUsed()).toBe('aabbc')
  })

  it('on the connection that is there', async () => {
    await start({ policy: { afterMessages: 2 } })
    await say(6)
    expect(sessionsUsed()).toBe('aabbcc')
    expect(pair.listener.connectionCount()).toBe(1)
  })
})

describe('of two sessions on one connection', () => {
  it('both verify until the old one has had its time', async () => {
    await start()
    const speaker = pair.speaker()
    const old = await speaker.open()
    const status = async (session: typeof old) => (await speaker.send(speaker.seal(session, 'POST', peerPaths.aborts, {}))).status
    expect(await status(old)).toBe(200)
    const fresh = await speaker.open()
    expect(await status(old)).toBe(200)
    expect(await status(fresh)).toBe(200)
    pair.clock.advanceMs(OLD_KEYS_VERIFY_MS - 1)
    expect(await status(old)).toBe(200)
    pair.clock.advanceMs(1)
    expect(await status(fresh)).toBe(200)
    expect(pair.refusals).toEqual([])
    expect(await status(old)).toBe(401)
    expect(pair.refusals).toEqual([{ peerKmeId: 'kme-a', reason: 'unknown-session' }])
    expect(pair.stored.get(old.keys.sessionId)).toMatchObject({ ended: true })
  })

  it('the old one is refused in the end although the caller opens no other', async () => {
    await start({ policy: { afterMs: 10_000 } })
    const speaker = pair.speaker()
    const session = await speaker.open()
    const say = () => speaker.send(speaker.seal(session, 'POST', peerPaths.aborts, {}))
    expect((await say()).seal?.renew).toBe(false)
    pair.clock.advanceMs(10_000)
    const late = await say()
    expect([late.status, late.seal?.renew]).toEqual([200, true])
    pair.clock.advanceMs(RENEWAL_DEADLINE_MS)
    expect((await say()).status).toBe(401)
  })

  it('a third is not opened before the second was used', async () => {
    await start()
    const speaker = pair.speaker()
    await speaker.open()
    await expect(speaker.open()).rejects.toThrow('401')
    expect(pair.refusals).toEqual([{ peerKmeId: 'kme-a', reason: 'session-unused' }])
  })
})

describe('a QKD key', () => {
  const [old, fresh] = ['0b7e5a0e-5a45-4d0c-8f0b-2f5a0f3c9d01', '0b7e5a0e-5a45-4d0c-8f0b-2f5a0f3c9d02'] as BlockId[] as [
    BlockId,
    BlockId,
  ]
  /** One end, with secrets of these blocks. */
  const end = (secrets: Readonly<Record<BlockId, number>>, isRequired = false): { mixing: QkdMixing } => ({
    mixing: {
      isRequired: () => isRequired,
      blocks: async () => Object.keys(secrets) as BlockId[],
      firstOf: async (_, blockIds) => {
        const blockId = blockIds.find((each) => each in secrets)
        return blockId && { blockId, secret: SecretBytes.take(Buffer.alloc(32, secrets[blockId])) }
      },
    },
  })
  const mixed = (): boolean[] => [...pair.stored.values()].map(({ isMixed }) => isMixed)

  it('of a block that both hold goes into the keys', async () => {
    await start({ client: end({ [fresh]: 2, [old]: 1 }), server: end({ [old]: 1 }) })
    await say(2)
    expect(sessionsUsed()).toBe('aa')
    expect(mixed()).toEqual([true])
  })

  it('that only one end has is left out', async () => {
    await start({ client: end({ [fresh]: 2 }), server: end({ [old]: 1 }) })
    await say(2)
    expect(mixed()).toEqual([false])
  })

  it('that differs opens no session, and is told', async () => {
    await start({ client: end({ [old]: 2 }), server: end({ [old]: 1 }) })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(pair.forged).toEqual(['answer-seal'])
    expect(pair.handled).toEqual([])
  })

  it('of a block that is used up between offer and answer is replaced by the next, and nobody is blamed', async () => {
    let here = end({ [old]: 1, [fresh]: 2 }).mixing
    const usingUp: QkdMixing = {
      isRequired: () => false,
      blocks: (peerKmeId) => here.blocks(peerKmeId),
      firstOf: (...asked) => {
        here = end({ [fresh]: 2 }).mixing
        return here.firstOf(...asked)
      },
    }
    await start({ client: { mixing: usingUp }, server: end({ [old]: 1, [fresh]: 2 }) })
    await say(1)
    expect(mixed()).toEqual([true])
    expect([pair.forged, pair.refusals]).toEqual([[], []])
  })

  it('of a block that was not offered opens no session', async () => {
    const choosing = { ...end({ [old]: 1 }).mixing, firstOf: () => end({ [old]: 1 }).mixing.firstOf('kme-b' as KmeId, [old]) }
    await start({ client: end({ [fresh]: 2 }), server: { mixing: choosing } })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(pair.handled).toEqual([])
  })

  it('that is required: nothing but what brings keys is said or heard without', async () => {
    await start({ client: end({}, true) })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(pair.refusals).toEqual([])
    await pair[Symbol.asyncDispose]()
    await start({ server: end({}, true) })
    expect((await pair.call()).status).toBe(401)
    expect(pair.refusals).toEqual([{ peerKmeId: 'kme-a', reason: 'no-qkd-key' }])
    expect(pair.handled).toEqual([])
  })

  it('that is required is mixed in as soon as there is one', async () => {
    const secrets: Record<BlockId, number> = {}
    await start({ client: end(secrets, true), server: end(secrets, true) })
    const greet = () => pair.exchange({ method: 'GET', path: peerPaths.hello })
    expect((await greet()).status).toBe(404)
    secrets[fresh] = 5
    expect((await greet()).status).toBe(404)
    await say(1)
    expect(mixed()).toEqual([false, true])
    expect(pair.refusals).toEqual([])
  })
})

describe('an answer', () => {
  it('without a seal counts for nothing, and the connection is dropped', async () => {
    await start({ before: (app) => void app.post(peerPaths.aborts, (_, response) => sendJson(response, { handled: 1 })) })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: true })
    expect(pair.forged).toEqual(['answer-seal'])
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: true })
    while (pair.listener.connectionCount() > 0) await new Promise(setImmediate)
  })

  const notOfSessions = (change: (answer: TamperedAnswer) => TamperedAnswer) => (answer: TamperedAnswer) =>
    answer.path === peerPaths.sessions ? answer : change(answer)

  it.each<[string, (answer: TamperedAnswer) => TamperedAnswer]>([
    ['a changed body', (answer) => ({ ...answer, body: answer.body.replace('1', '2') })],
    ['a space behind it', (answer) => ({ ...answer, body: `${answer.body} ` })],
    ['another time', (answer) => ({ ...answer, headers: answer.headers.map((text) => text.replace(/time=\d/, 'time=9')) })],
    ['a wish of others', (answer) => ({ ...answer, headers: answer.headers.map((text) => text.replace('renew=0', 'renew=1')) })],
    ['the status of success on a refusal', (answer) => ({ ...answer, status: 200, body: '{"handled":1}' })],
  ])('with %s counts for nothing', async (what, tamper) => {
    const refusing = what.includes('refusal') && {
      reserve: () => Promise.reject(new Error('away')),
      end: () => Promise.resolve(),
    }
    await start({ tamper: notOfSessions(tamper), ...(refusing && { server: { ledger: refusing } }) })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: true })
    expect(pair.forged).toEqual([refusing ? 'answer-seal' : 'answer-mac'])
  })

  it('to another message counts for nothing', async () => {
    let kept: TamperedAnswer | undefined
    await start({ tamper: notOfSessions((answer) => (kept ??= answer)) })
    await say(1)
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: true })
    expect(pair.forged).toEqual(['answer-seal'])
  })

  it('that opens a session proves that both ends have the same keys', async () => {
    const other = (text: string): string => text.replace(/mac=(.)/, (_, first: string) => `mac=${first === 'A' ? 'B' : 'A'}`)
    await start({ tamper: (answer) => ({ ...answer, headers: answer.headers.map(other) }) })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(pair.forged).toEqual(['answer-mac'])
    expect(pair.handled).toEqual([])
  })
})

describe('no session is opened', () => {
  it('with somebody in between who has the keys of both KMEs: the two TLS connections are not one', async () => {
    await start()
    const speaker = pair.speaker()
    // What the initiator would compute on its own connection to such a proxy.
    const session = await speaker.open({ transcript: { exporter: Buffer.alloc(32, 3) } })
    expect((await speaker.send(speaker.seal(session, 'POST', peerPaths.aborts, {}))).status).toBe(401)
    expect(pair.refusals).toEqual([{ peerKmeId: 'kme-a', reason: 'unknown-session' }])
    expect(pair.handled).toEqual([])
  })

  it('with a KME that answers in a version that was not offered', async () => {
    await start({ before: (app) => void app.post(peerPaths.sessions, (_, response) => sendJson(response, { version: 0 })) })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(pair.handled).toEqual([])
  })

  it('with a KME whose certificate nobody approved, and nothing is said to it', async () => {
    await start({ client: { accepts: () => false } })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(pair.listener.connectionCount()).toBe(0)
  })

  it.each([
    ['another KME', ['urn:kme:kme:kme-c']],
    ['another KME besides', ['urn:kme:kme:kme-b', 'urn:kme:kme:kme-c']],
    ['an SAE besides', ['urn:kme:kme:kme-b', 'urn:kme:sae:alice']],
  ])('with a certificate of the authority that names %s', async (_, uris) => {
    await start()
    const { certificatePem, privateKeyPem } = await makeLeaf(pair.authority, {
      subject: 'CN=kme-b',
      uris,
      ips: ['127.0.0.1'],
      usages: ['client', 'server'],
    })
    pair.listener.updateTls({ certificatePem, privateKeyPem, caPem: pair.authority.certificatePem })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(pair.stored.size).toBe(0)
  })

  it('for who hung up meanwhile, which is no offence', async () => {
    let [asked, answered] = [false, false]
    let release: () => void = () => undefined
    const held = new Promise<void>((resolve) => (release = resolve))
    const firstOf = async () => {
      asked = true
      await held
      answered = true
      return undefined
    }
    await start({ server: { mixing: { ...noMixing, firstOf } } })
    const speaker = pair.speaker()
    const opening = speaker.open().catch(() => 'hung up')
    while (!asked) await new Promise(setImmediate)
    speaker.hangUp()
    expect(await opening).toBe('hung up')
    while (pair.listener.connectionCount() > 0) await new Promise(setImmediate)
    release()
    while (!answered) await new Promise(setImmediate)
    await new Promise(setImmediate)
    expect(pair.refusals).toEqual([])
  })

  it('with a KME that has none, and the message is not sent without', async () => {
    const seen: string[] = []
    await start({
      before: (app) =>
        void app.use((request, response) => {
          seen.push(request.url)
          sendJson(response, {}, 404)
        }),
    })
    await expect(pair.call()).rejects.toMatchObject({ maybeReceived: false })
    expect(seen).toEqual([peerPaths.sessions])
  })
})
