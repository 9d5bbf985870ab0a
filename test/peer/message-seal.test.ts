/** The seal of a message: what its header looks like, and that its MAC fits this message only. */
import { createSecretKey } from 'node:crypto'
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import {
  answerMac,
  isFresh,
  isSameMac,
  readMessageSeal,
  requestMac,
  writeMessageSeal,
  type SealedAnswer,
  type SealedRequest,
} from '../../src/peer/message-seal.ts'

const key = createSecretKey(Buffer.alloc(32, 7))
const sessionId = '3f0c1c2e-8f4d-8d8e-9a51-0f2a6f4b7c11'
const request: SealedRequest = {
  from: 'kme-a' as KmeId,
  to: 'kme-b' as KmeId,
  sessionId,
  sequence: 12,
  timeMs: 1_767_225_600_000,
  method: 'POST',
  path: '/kme/v1/aborts',
}
const answer: SealedAnswer = { ...request, status: 200, renew: false, requestMac: Buffer.alloc(32, 1) }
const seal = { sessionId, sequence: 12, timeMs: 1_767_225_600_000, renew: undefined, mac: Buffer.alloc(32, 9) }

describe('the header of a message', () => {
  it('is read as it was written', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 2 ** 40 }),
        fc.nat({ max: 2 ** 45 }),
        fc.constantFrom(undefined, true, false),
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        (sequence, timeMs, renew, mac) => {
          const written = { sessionId, sequence, timeMs, renew, mac: Buffer.from(mac) }
          expect(readMessageSeal(writeMessageSeal(written))).toEqual({ version: 1, ...written })
        },
      ),
    )
  })

  const good = writeMessageSeal(seal)
  it.each([
    ['nothing', ''],
    ['two headers that were joined', `${good}, ${good}`],
    ['two headers', [good, good]],
    ['a space', good.replace(';seq', '; seq')],
    ['a signed number', good.replace('seq=12', 'seq=-12')],
    ['a number with a leading zero', good.replace('seq=12', 'seq=012')],
    ['a version with a leading zero', good.replace('v=1', 'v=01')],
    ['a number beyond all counting', good.replace('seq=12', 'seq=9999999999999999')],
    ['an upper-case session', good.replace(sessionId, sessionId.toUpperCase())],
    ['a MAC in another spelling', good.replace(/.=$/, (last) => `${String.fromCharCode(last.charCodeAt(0) + 1)}=`)],
    ['a short MAC', good.replace(/mac=..../, 'mac=')],
    ['a parameter nobody knows', good.replace(';mac', ';x=1;mac')],
    ['something behind it', `${good};`],
    ['a line feed behind it', `${good}\n`],
  ])('with %s is none', (_, header) => {
    expect(readMessageSeal(header)).toBeUndefined()
  })
})

describe('the MAC of a request', () => {
  it.each<[string, Partial<SealedRequest>]>([
    ['sender', { from: 'kme-c' as KmeId }],
    ['receiver', { to: 'kme-c' as KmeId }],
    ['session', { sessionId: sessionId.replace('3f', '4f') }],
    ['sequence number', { sequence: 13 }],
    ['time', { timeMs: request.timeMs + 1 }],
    ['method', { method: 'GET' }],
    ['path', { path: '/kme/v1/loans' }],
    ['both KMEs in turn', { from: request.to, to: request.from }],
  ])('is another for another %s', (_, change) => {
    expect(requestMac(key, { ...request, ...change }, 'body')).not.toEqual(requestMac(key, request, 'body'))
  })

  it('is another for another body, wherever the fields end', () => {
    fc.assert(
      fc.property(fc.webPath(), fc.string(), fc.webPath(), fc.string(), (path, body, otherPath, otherBody) => {
        fc.pre(path !== otherPath || body !== otherBody)
        const [one, other] = [
          requestMac(key, { ...request, path }, body),
          requestMac(key, { ...request, path: otherPath }, otherBody),
        ]
        expect(isSameMac(one, other)).toBe(false)
      }),
    )
  })

  it('is not that of an answer with the same content', () => {
    expect(answerMac(key, answer, 'body')).not.toEqual(requestMac(key, request, 'body'))
  })
})

describe('the MAC of an answer', () => {
  it.each<[string, Partial<SealedAnswer>]>([
    ['status', { status: 400 }],
    ['request', { requestMac: Buffer.alloc(32, 2) }],
    ['wish for a new session', { renew: true }],
    ['sequence number', { sequence: 13 }],
    ['time', { timeMs: request.timeMs + 1 }],
    ['session', { sessionId: sessionId.replace('3f', '4f') }],
    ['both KMEs in turn', { from: request.to, to: request.from }],
  ])('is another for another %s', (_, change) => {
    expect(answerMac(key, { ...answer, ...change }, 'body')).not.toEqual(answerMac(key, answer, 'body'))
  })
})

describe('a message', () => {
  const nowMs = 1_767_225_600_000
  it.each([
    [0, true],
    [-300_000, true],
    [-300_001, false],
    [30_000, true],
    [30_001, false],
  ])('whose time is %d ms from now is fresh: %p', (awayMs, fresh) => {
    expect(isFresh(nowMs + awayMs, nowMs)).toBe(fresh)
  })
})
