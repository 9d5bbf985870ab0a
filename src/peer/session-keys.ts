/** The keys of a session between two KMEs: ephemeral X25519 and ML-KEM-768, mixed with HKDF-SHA-256 over all that was said and over
 *  the TLS connection it was said on. Pure: nothing here waits, connects or remembers.
 *  Holds: both ends have the same keys only if they saw the same bytes, on the same TLS connection, under the same two certificates;
 *  nobody has them who breaks only one of the two key exchanges; shared secrets are wiped when the keys are made. */
import {
  createHash,
  createPublicKey,
  createSecretKey,
  decapsulate,
  diffieHellman,
  encapsulate,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto'
import { BadRequest } from '../kernel/errors.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'

/** Versions of sessions this code speaks. 0 is none and stays so. */
export const SESSION_VERSION = 1

/** What names a TLS connection: `tls-exporter` of RFC 9266, with no context. */
export const EXPORTER_BYTES = 32
export const EXPORTER_LABEL = 'EXPORTER-Channel-Binding'

const X25519_BYTES = 32
const ML_KEM_768_KEY_BYTES = 1184
const ML_KEM_768_CIPHERTEXT_BYTES = 1088
const KEY_BYTES = 32
const LABEL = 'openkme session 1'

/** Public halves of the initiator. */
export interface AgreementOffer {
  readonly x25519: Buffer
  readonly mlKem768: Buffer
}

/** Of the responder. */
export interface AgreementAnswer {
  readonly x25519: Buffer
  readonly mlKem768Ciphertext: Buffer
}

export interface OpenAgreement {
  readonly offer: AgreementOffer
  /** @returns the shared secrets, to be handed to `deriveSessionKeys`.
   *  @throws BadRequest when the answer is none. */
  finish(answer: AgreementAnswer): Buffer
}

/** What both ends must have seen alike. */
export interface SessionTranscript {
  readonly initiator: KmeId
  readonly responder: KmeId
  /** SHA-256 of the certificates, as `AA:BB:...`. */
  readonly initiatorFingerprint: string
  readonly responderFingerprint: string
  readonly exporter: Buffer
  /** The bodies as they were sent. */
  readonly offer: Buffer
  readonly answer: Buffer
}

export interface SessionKeys {
  /** A UUID that nobody can choose and nobody else can know beforehand. */
  readonly sessionId: string
  /** Of messages from the initiator, */
  readonly requestKey: KeyObject
  /** and of answers to them. */
  readonly answerKey: KeyObject
}

const rawPublic = (key: KeyObject): Buffer => key.export({ format: 'raw-public' })

const x25519Public = (raw: Buffer): KeyObject => createPublicKey({ key: raw, format: 'raw-public', asymmetricKeyType: 'x25519' })

/** What OpenSSL refuses (a point of low order, a key that is none) was sent by the peer. */
const orRefuse = <T>(work: () => T): T => {
  try {
    return work()
  } catch {
    throw new BadRequest()
  }
}

/** The initiator's half. */
export const openAgreement = (): OpenAgreement => {
  const curve = generateKeyPairSync('x25519')
  const lattice = generateKeyPairSync('ml-kem-768')
  return {
    offer: { x25519: rawPublic(curve.publicKey), mlKem768: rawPublic(lattice.publicKey) },
    finish: (answer) => finishAgreement(curve.privateKey, lattice.privateKey, answer),
  }
}

/** As `OpenAgreement.finish`, with the private keys at hand: for test vectors. */
export const finishAgreement = (x25519: KeyObject, mlKem768: KeyObject, answer: AgreementAnswer): Buffer => {
  if (answer.x25519.length !== X25519_BYTES || answer.mlKem768Ciphertext.length !== ML_KEM_768_CIPHERTEXT_BYTES) {
    throw new BadRequest()
  }
  return orRefuse(() =>
    joinAndWipe(
      diffieHellman({ privateKey: x25519, publicKey: x25519Public(answer.x25519) }),
      decapsulate(mlKem768, answer.mlKem768Ciphertext),
    ),
  )
}

/** The responder's half.
 *  @throws BadRequest when the offer is none. */
export const answerAgreement = (offer: AgreementOffer): { readonly answer: AgreementAnswer; readonly secrets: Buffer } => {
  if (offer.x25519.length !== X25519_BYTES || offer.mlKem768.length !== ML_KEM_768_KEY_BYTES) throw new BadRequest()
  return orRefuse(() => {
    const curve = generateKeyPairSync('x25519')
    const lattice = createPublicKey({ key: offer.mlKem768, format: 'raw-public', asymmetricKeyType: 'ml-kem-768' })
    const { sharedKey, ciphertext } = encapsulate(lattice)
    const shared = diffieHellman({ privateKey: curve.privateKey, publicKey: x25519Public(offer.x25519) })
    return {
      answer: { x25519: rawPublic(curve.publicKey), mlKem768Ciphertext: ciphertext },
      secrets: joinAndWipe(shared, sharedKey),
    }
  })
}

const joinAndWipe = (...parts: Buffer[]): Buffer => {
  const joined = Buffer.concat(parts)
  for (const part of parts) part.fill(0)
  return joined
}

/** Each field with its length before it, so that no two transcripts give the same bytes. */
const transcriptHash = (transcript: SessionTranscript): Buffer => {
  const hash = createHash('sha256')
  const field = (bytes: Buffer): void => {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    hash.update(length).update(bytes)
  }
  field(Buffer.from(LABEL))
  field(Buffer.from(transcript.initiator))
  field(Buffer.from(transcript.responder))
  field(fingerprintBytes(transcript.initiatorFingerprint))
  field(fingerprintBytes(transcript.responderFingerprint))
  field(transcript.exporter)
  field(transcript.offer)
  field(transcript.answer)
  return hash.digest()
}

const fingerprintBytes = (fingerprint256: string): Buffer => Buffer.from(fingerprint256.replaceAll(':', ''), 'hex')

/** @param exchanged what the two key exchanges gave; wiped. @param qkdSecret of a block both ends hold, where there is one; wiped. */
export const deriveSessionKeys = (transcript: SessionTranscript, exchanged: Buffer, qkdSecret?: SecretBytes): SessionKeys => {
  const salt = transcriptHash(transcript)
  const secrets = qkdSecret?.use((bytes) => Buffer.concat([exchanged, bytes])) ?? exchanged
  const expand = (what: string, lengthBytes: number): Buffer =>
    Buffer.from(hkdfSync('sha256', secrets, salt, `${LABEL} ${what}`, lengthBytes))
  const secretKey = (what: string): KeyObject => {
    const bytes = expand(what, KEY_BYTES)
    const key = createSecretKey(bytes)
    bytes.fill(0)
    return key
  }
  const keys = {
    sessionId: toUuid(expand('id', 16)),
    requestKey: secretKey('request key'),
    answerKey: secretKey('answer key'),
  }
  secrets.fill(0)
  exchanged.fill(0)
  qkdSecret?.wipe()
  return keys
}

/** Version 8 (RFC 9562): bytes of one's own making. */
const toUuid = (bytes: Buffer): string => {
  bytes[6] = (bytes[6]! & 0x0f) | 0x80
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
