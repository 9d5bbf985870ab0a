/** Key schedule and seals of peer sessions, against vectors that a second implementation computed (test/vectors/peer_session.py). */
import { createPrivateKey, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from '@jest/globals'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { answerMac, requestMac } from '../../src/peer/message-seal.ts'
import {
  answerAgreement,
  deriveSessionKeys,
  finishAgreement,
  openAgreement,
  type SessionTranscript,
} from '../../src/peer/session-keys.ts'
import { readSessionAnswer, readSessionOffer } from '../../src/peer/wire.ts'

interface Vector {
  readonly initiator: KmeId
  readonly responder: KmeId
  readonly x25519Private: string
  readonly mlKem768Seed: string
  readonly offer: string
  readonly answer: string
  readonly sharedSecrets: string
  readonly qkdKey?: string
  readonly exporter: string
  readonly initiatorFingerprint: string
  readonly responderFingerprint: string
  readonly sessionId: string
  readonly requestKey: string
  readonly answerKey: string
  readonly messages: readonly {
    readonly sequence: number
    readonly timeMs: number
    readonly method: string
    readonly path: string
    readonly body: string
    readonly answerTimeMs: number
    readonly status: number
    readonly renew: boolean
    readonly answerBody: string
    readonly requestMac: string
    readonly answerMac: string
  }[]
}

const vectors = JSON.parse(readFileSync('test/vectors/peer-session.json', 'utf8')) as Vector[]
const hex = (text: string): Buffer => Buffer.from(text, 'hex')
const transcriptOf = (vector: Vector): SessionTranscript => ({
  ...vector,
  exporter: hex(vector.exporter),
  offer: Buffer.from(vector.offer),
  answer: Buffer.from(vector.answer),
})
const exchangedOf = (vector: Vector): Buffer => hex(vector.sharedSecrets)
const qkdSecretOf = ({ qkdKey }: Vector): SecretBytes | undefined =>
  qkdKey === undefined ? undefined : SecretBytes.adopt(hex(qkdKey))
const keysOf = (vector: Vector, change: Partial<SessionTranscript> = {}) =>
  deriveSessionKeys({ ...transcriptOf(vector), ...change }, exchangedOf(vector), qkdSecretOf(vector))

describe.each(vectors.map((vector) => [vector.initiator, vector] as const))('the vector of %s', (_, vector) => {
  it('has the shared secrets of its private keys', () => {
    const x25519 = createPrivateKey({
      key: hex(vector.x25519Private),
      format: 'raw-private',
      asymmetricKeyType: 'x25519',
    })
    const mlKem768 = createPrivateKey({ key: hex(vector.mlKem768Seed), format: 'raw-seed', asymmetricKeyType: 'ml-kem-768' })
    const answer = readSessionAnswer(JSON.parse(vector.answer))
    expect(finishAgreement(x25519, mlKem768, answer).toString('hex')).toBe(vector.sharedSecrets)
  })

  it('has the session ID and keys of its transcript', () => {
    const [exchanged, qkdSecret] = [exchangedOf(vector), qkdSecretOf(vector)]
    const { sessionId, requestKey, answerKey } = deriveSessionKeys(transcriptOf(vector), exchanged, qkdSecret)
    expect(sessionId).toBe(vector.sessionId)
    expect(requestKey.export().toString('hex')).toBe(vector.requestKey)
    expect(answerKey.export().toString('hex')).toBe(vector.answerKey)
    expect(exchanged.every((byte) => byte === 0)).toBe(true)
    if (qkdSecret !== undefined) expect(() => qkdSecret.use(() => undefined)).toThrow('wiped')
  })

  it('has the MACs of its messages', () => {
    const { sessionId, requestKey, answerKey } = keysOf(vector)
    for (const message of vector.messages) {
      const ends = { from: vector.initiator, to: vector.responder, sessionId, sequence: message.sequence }
      const mac = requestMac(requestKey, { ...ends, ...message }, message.body)
      expect(mac.toString('base64')).toBe(message.requestMac)
      const answer = { ...ends, timeMs: message.answerTimeMs, status: message.status, renew: message.renew, requestMac: mac }
      expect(answerMac(answerKey, answer, message.answerBody).toString('base64')).toBe(message.answerMac)
      expect(answerMac(answerKey, answer, Buffer.from(message.answerBody)).toString('base64')).toBe(message.answerMac)
    }
  })
})

describe('the keys of a session', () => {
  const vector = vectors[0]!
  const other = (text: string): string => text.replace(/^../, (pair) => (pair === 'AA' ? 'BB' : 'AA'))

  it.each<[string, Partial<SessionTranscript>]>([
    ['the initiator', { initiator: 'kme-c' as KmeId }],
    ['the responder', { responder: 'kme-c' as KmeId }],
    ['initiator and responder in turn', { initiator: vector.responder, responder: vector.initiator }],
    ['the border between both', { initiator: 'kme-ak' as KmeId, responder: 'me-b' as KmeId }],
    ["the initiator's certificate", { initiatorFingerprint: other(vector.initiatorFingerprint) }],
    ["the responder's certificate", { responderFingerprint: other(vector.responderFingerprint) }],
    ['the TLS connection', { exporter: Buffer.alloc(32, 1) }],
    ['a byte of the offer', { offer: Buffer.from(vector.offer.replace('[1]', '[1,2]')) }],
    ['a byte of the answer', { answer: Buffer.from(vector.answer + ' ') }],
  ])('are others when %s differs', (_, change) => {
    const { sessionId, requestKey, answerKey } = keysOf(vector, change)
    expect(sessionId).not.toBe(vector.sessionId)
    expect(requestKey.export().toString('hex')).not.toBe(vector.requestKey)
    expect(answerKey.export().toString('hex')).not.toBe(vector.answerKey)
  })

  it('are others when either shared secret differs', () => {
    for (const at of [0, 32]) {
      const exchanged = exchangedOf(vector)
      exchanged[at]! ^= 1
      expect(deriveSessionKeys(transcriptOf(vector), exchanged).requestKey.export().toString('hex')).not.toBe(vector.requestKey)
    }
  })

  it('are others with the secret of a block, and with that of another', () => {
    const withBlock = (byte: number): string =>
      deriveSessionKeys(transcriptOf(vector), exchangedOf(vector), SecretBytes.adopt(Buffer.alloc(32, byte))).sessionId
    expect(new Set([vector.sessionId, withBlock(0), withBlock(1)]).size).toBe(3)
  })

  it('have three different values of full length', () => {
    expect(hex(vector.requestKey)).toHaveLength(32)
    expect(vector.requestKey).not.toBe(vector.answerKey)
    expect(vector.sessionId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  })
})

describe('the key agreement', () => {
  it('gives both ends the same secrets, others each time', () => {
    const seen = new Set<string>()
    for (let round = 0; round < 3; round += 1) {
      const initiator = openAgreement()
      const { answer, secrets } = answerAgreement(initiator.offer)
      expect(initiator.finish(answer)).toEqual(secrets)
      seen.add(secrets.toString('hex'))
    }
    expect(seen.size).toBe(3)
  })

  it('with an altered ciphertext gives the ends different secrets', () => {
    const initiator = openAgreement()
    const { answer, secrets } = answerAgreement(initiator.offer)
    const mlKem768Ciphertext = Buffer.from(answer.mlKem768Ciphertext)
    mlKem768Ciphertext[0]! ^= 1
    expect(initiator.finish({ ...answer, mlKem768Ciphertext })).not.toEqual(secrets)
  })

  it.each([
    ['no X25519 key', { x25519: Buffer.alloc(0) }],
    ['an X25519 point of low order', { x25519: Buffer.alloc(32) }],
    ['a short ML-KEM key', { mlKem768: Buffer.alloc(1183) }],
    ['an ML-KEM key with coefficients out of range', { mlKem768: Buffer.alloc(1184, 0xff) }],
  ])('refuses %s', (_, change) => {
    expect(() => answerAgreement({ ...openAgreement().offer, ...change })).toThrow('bad request format')
  })

  it.each([
    ['a point of low order', { x25519: Buffer.alloc(32) }],
    ['a ciphertext of other length', { mlKem768Ciphertext: randomBytes(1087) }],
  ])('refuses the answer with %s', (_, change) => {
    const initiator = openAgreement()
    const { answer } = answerAgreement(initiator.offer)
    expect(() => initiator.finish({ ...answer, ...change })).toThrow('bad request format')
  })
})

describe('the body of an offer', () => {
  it('may hold members and versions nobody here knows', () => {
    const { offer } = openAgreement()
    const body = {
      versions: [7, 1],
      x25519: offer.x25519.toString('base64'),
      mlKem768: offer.mlKem768.toString('base64'),
      later: { a: 1 },
    }
    expect(readSessionOffer(body)).toEqual({ versions: [7, 1], offer, qkdBlocks: [] })
  })

  it.each([
    ['no versions', { versions: [] }],
    ['a version that is no number', { versions: ['1'] }],
    ['a thousand versions', { versions: Array(1000).fill(1) }],
    ['a key that is no text', { x25519: 7 }],
    ['a key of a megabyte', { mlKem768: 'A'.repeat(1_000_000) }],
    ['a block that is no UUID', { qkdBlocks: ['x'] }],
    ['a thousand blocks', { qkdBlocks: Array(1000).fill('3f0c1c2e-8f4d-8d8e-9a51-0f2a6f4b7c11') }],
  ])('with %s is refused', (_, change) => {
    const body = { versions: [1], x25519: '', mlKem768: '', ...change }
    expect(() => readSessionOffer(body)).toThrow('bad request format')
  })

  it('is answered in the version of this code or the answer is refused', () => {
    const answer = JSON.parse(vectors[0]!.answer) as object
    expect(() => readSessionAnswer({ ...answer, version: 0 })).toThrow('bad request format')
    expect(() => readSessionAnswer({ ...answer, version: 2 })).toThrow('bad request format')
    expect(readSessionAnswer(answer).x25519).toHaveLength(32)
  })
})
