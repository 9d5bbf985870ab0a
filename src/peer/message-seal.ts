/** The seal on each message between two KMEs: version, session, sequence number, time and a MAC over all of it and over the message.
 *  It travels in one header, `Kme-Message`. Pure: keys and time are arguments.
 *  Holds: a MAC fits one message only: one method, path and body, from one KME to one other, one place in one session, one direction; the
 *  MAC of an answer covers that of its request; MACs are compared in constant time. */
import { createHmac, timingSafeEqual, type KeyObject } from 'node:crypto'
import type { KmeId } from '../kernel/identifiers.ts'
import { SESSION_VERSION } from './session-keys.ts'

export const MESSAGE_HEADER = 'Kme-Message'

/** The oldest a message may be, and how far the clock of its sender may be ahead. */
export const FRESH_FOR_MS = 300_000
export const CLOCK_SKEW_MS = 30_000

export interface MessageSeal {
  readonly version: number
  readonly sessionId: string
  /** From 1 on in each session; an answer has that of its request. 0 is the answer that opens the session. */
  readonly sequence: number
  /** Of the sender's clock, milliseconds since 1970. */
  readonly timeMs: number
  /** Answers only: the answering KME wants a new session soon. */
  readonly renew: boolean | undefined
  readonly mac: Buffer
}

/** What a MAC covers besides the body. */
interface Sealed {
  /** Of the request, also in its answer. */
  readonly from: KmeId
  readonly to: KmeId
  readonly sessionId: string
  readonly sequence: number
  readonly timeMs: number
}

export interface SealedRequest extends Sealed {
  readonly method: string
  /** The request target as it is sent. */
  readonly path: string
}

export interface SealedAnswer extends Sealed {
  readonly status: number
  readonly renew: boolean
  /** Empty for the answer that opens a session. */
  readonly requestMac: Buffer
}

/** The last character of the MAC has two bits to spare, which are 0. */
const FORM =
  /^v=(0|[1-9]\d{0,2});session=([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12});seq=(0|[1-9]\d{0,14});time=(0|[1-9]\d{0,14})(?:;renew=([01]))?;mac=([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)$/

export const writeMessageSeal = (seal: Omit<MessageSeal, 'version'>): string => {
  const renew = seal.renew === undefined ? '' : `;renew=${seal.renew ? 1 : 0}`
  const { sessionId, sequence, timeMs, mac } = seal
  return `v=${SESSION_VERSION};session=${sessionId};seq=${sequence};time=${timeMs}${renew};mac=${mac.toString('base64')}`
}

/** @returns undefined for anything but exactly one seal. */
export const readMessageSeal = (header: string | readonly string[] | undefined): MessageSeal | undefined => {
  const match = typeof header === 'string' ? FORM.exec(header) : null
  if (match === null) return undefined
  const [, version, sessionId, sequence, timeMs, renew, mac] = match
  return {
    version: Number(version),
    sessionId: sessionId!,
    sequence: Number(sequence),
    timeMs: Number(timeMs),
    renew: renew === undefined ? undefined : renew === '1',
    mac: Buffer.from(mac!, 'base64'),
  }
}

// No field but the path could hold anything that is not its own, and the path holds no line feed.
export const requestMac = (key: KeyObject, sealed: SealedRequest, body: string | Buffer): Buffer => {
  const { from, to, sessionId, sequence, timeMs, method, path } = sealed
  return createHmac('sha256', key)
    .update(
      `openkme message ${SESSION_VERSION}\nrequest\n${from}\n${to}\n${sessionId}\n${sequence}\n${timeMs}\n${method}\n${path}\n${Buffer.byteLength(body)}\n`,
    )
    .update(body)
    .digest()
}

export const answerMac = (key: KeyObject, sealed: SealedAnswer, body: string | Buffer): Buffer => {
  const { from, to, sessionId, sequence, timeMs, status, renew } = sealed
  return createHmac('sha256', key)
    .update(
      `openkme message ${SESSION_VERSION}\nanswer\n${from}\n${to}\n${sessionId}\n${sequence}\n${timeMs}\n${status}\n${renew ? 1 : 0}\n${sealed.requestMac.toString('base64')}\n${Buffer.byteLength(body)}\n`,
    )
    .update(body)
    .digest()
}

/** In constant time. */
export const isSameMac = (one: Buffer, other: Buffer): boolean => one.length === other.length && timingSafeEqual(one, other)

export const isFresh = (timeMs: number, nowMs: number): boolean =>
  nowMs - timeMs <= FRESH_FOR_MS && timeMs - nowMs <= CLOCK_SKEW_MS
