/** A KME as a test plays it: it has a good certificate, opens sessions like any peer, and may then say whatever the test wants, with any
 *  seal, on any connection. */
import { Agent, request as httpsRequest } from 'node:https'
import type { TLSSocket } from 'node:tls'
import { expect } from '@jest/globals'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import {
  answerMac,
  isSameMac,
  MESSAGE_HEADER,
  readMessageSeal,
  requestMac,
  writeMessageSeal,
  type MessageSeal,
  type SealedRequest,
} from '../../src/peer/message-seal.ts'
import {
  deriveSessionKeys,
  EXPORTER_BYTES,
  EXPORTER_LABEL,
  openAgreement,
  type SessionKeys,
  type SessionTranscript,
} from '../../src/peer/session-keys.ts'
import { peerPaths, readSessionAnswer, writeSessionOffer } from '../../src/peer/wire.ts'
import type { Answer } from '../network/network.ts'

export interface SpeakerOptions {
  readonly port: number
  readonly cert: string
  readonly key: string
  readonly ca: string
  /** Who speaks, and to whom. */
  readonly from: string
  readonly to: string
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

export interface Said extends Answer {
  readonly socket: TLSSocket
  readonly seal: MessageSeal | undefined
}

export interface SpokenSession {
  readonly keys: SessionKeys
  readonly socket: TLSSocket
  sequence: number
}

/** One message as it goes over the wire. */
export interface Message {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly body: string | Buffer
  readonly headers: Record<string, string>
  readonly mac: Buffer
}

/** What a test makes of a message it seals. */
export interface Tampering {
  readonly sealed?: Partial<SealedRequest>
  /** In the header, other than under the MAC. */
  readonly shown?: Partial<MessageSeal>
  readonly key?: SessionKeys['requestKey']
}

export interface SessionSpeaker {
  /** As it stands. A connection is kept until one end closes it. */
  raw(method: string, path: string, body?: string | Buffer, headers?: Record<string, string>): Promise<Said>
  open(changes?: {
    readonly offer?: Record<string, unknown>
    readonly transcript?: Partial<SessionTranscript>
  }): Promise<SpokenSession>
  seal(session: SpokenSession, method: 'GET' | 'POST', path: string, body?: unknown, tampering?: Tampering): Message
  send(message: Message): Promise<Said>
  /** Inside a session, which is opened when there is none; the answer must have a good seal unless it is a refusal. */
  say(method: 'GET' | 'POST', path: string, body?: unknown, headers?: Record<string, string>): Promise<Said>
  /** The next message goes over a new connection. */
  hangUp(): void
}

export const createSessionSpeaker = (options: SpeakerOptions): SessionSpeaker => {
  const { port, cert, key, ca, from, to } = options
  const now = options.now ?? Date.now
  const ends = { from: from as KmeId, to: to as KmeId }
  let agent = new Agent({ keepAlive: true, maxSockets: 1 })
  let current: SpokenSession | undefined

  const raw: SessionSpeaker['raw'] = (method, path, body = '', headers = {}) =>
    new Promise((resolve, reject) => {
      let socket: TLSSocket
      const outgoing = httpsRequest(
        {
          host: '127.0.0.1',
          port,
          method,
          path,
          headers: {
            ...(method !== 'GET' && { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) }),
            ...headers,
          },
          agent,
          cert,
          key,
          ca,
        },
        (incoming) => {
          const chunks: Buffer[] = []
          incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
          incoming.on('error', reject)
          incoming.on('end', () => {
            const text = Buffer.concat(chunks).toString('utf8')
            if (incoming.headers.connection === 'close') hangUp()
            resolve({
              status: incoming.statusCode ?? 0,
              headers: incoming.headers,
              text,
              get json() {
                return JSON.parse(text) as Record<string, unknown>
              },
              socket,
              seal: readMessageSeal(incoming.headers[MESSAGE_HEADER.toLowerCase()]),
            })
          })
        },
      )
      outgoing.on('socket', (used: TLSSocket) => {
        socket = used
        // One listener for each request would be too many for a connection that lasts.
        if (used.listenerCount('close', forget) === 0) used.on('close', forget)
      })
      outgoing.on('error', (error) => {
        hangUp()
        reject(error)
      })
      outgoing.end(method === 'GET' ? undefined : body)
    })
  const forget = (): void => {
    if (current?.socket.destroyed === true) current = undefined
  }
  const hangUp = (): void => {
    current = undefined
    agent.destroy()
    agent = new Agent({ keepAlive: true, maxSockets: 1 })
  }

  const open: SessionSpeaker['open'] = async ({ offer: changes = {}, transcript = {} } = {}) => {
    const agreement = openAgreement()
    const offer = JSON.stringify({ ...writeSessionOffer(agreement.offer, Buffer.alloc(32, 5)), ...changes })
    const answer = await raw('POST', peerPaths.sessions, offer)
    if (answer.status !== 200) throw new Error(`opened no session: ${answer.status} ${answer.text}`)
    const { socket } = answer
    const keys = deriveSessionKeys(
      {
        initiator: ends.from,
        responder: ends.to,
        initiatorFingerprint: socket.getX509Certificate()!.fingerprint256,
        responderFingerprint: socket.getPeerCertificate().fingerprint256,
        exporter: socket.exportKeyingMaterial(EXPORTER_BYTES, EXPORTER_LABEL, Buffer.alloc(0)),
        offer: Buffer.from(offer),
        answer: Buffer.from(answer.text),
        ...transcript,
      },
      agreement.finish(readSessionAnswer(answer.json)),
    )
    if (Object.keys(transcript).length === 0) expectSeal(keys, 0, Buffer.alloc(0), answer)
    return { keys, socket, sequence: 0 }
  }
  const expectSeal = (keys: SessionKeys, sequence: number, ofRequest: Buffer, { status, text, seal }: Said): void => {
    expect(seal).toMatchObject({ version: 1, sessionId: keys.sessionId, sequence })
    const { timeMs, renew, mac } = seal!
    const sealed = { ...ends, sessionId: keys.sessionId, sequence, timeMs, status, renew: renew!, requestMac: ofRequest }
    expect(isSameMac(answerMac(keys.answerKey, sealed, text), mac)).toBe(true)
  }

  const seal: SessionSpeaker['seal'] = (session, method, path, content, tampering = {}) => {
    const body =
      content === undefined ? '' : Buffer.isBuffer(content) || typeof content === 'string' ? content : JSON.stringify(content)
    const { sessionId, requestKey } = session.keys
    const sequence = (session.sequence += 1)
    const sealed: SealedRequest = { ...ends, sessionId, sequence, timeMs: now(), method, path, ...tampering.sealed }
    const mac = requestMac(tampering.key ?? requestKey, sealed, body)
    const shown = {
      sessionId: sealed.sessionId,
      sequence: sealed.sequence,
      timeMs: sealed.timeMs,
      renew: undefined,
      mac,
      ...tampering.shown,
    }
    const headers = {
      [MESSAGE_HEADER]: writeMessageSeal(shown).replace('v=1', `v=${tampering.shown?.version ?? 1}`),
      ...(Buffer.isBuffer(content) && { 'content-type': 'application/octet-stream' }),
    }
    return { method, path, body, headers, mac }
  }
  const send: SessionSpeaker['send'] = ({ method, path, body, headers }) => raw(method, path, body, headers)

  return {
    raw,
    open,
    seal,
    send,
    say: async (method, path, body, headers) => {
      const session = (current ??= await open())
      const message = seal(session, method, path, body)
      const answer = await send({ ...message, headers: { ...message.headers, ...headers } })
      if (answer.status !== 401 && answer.seal !== undefined) expectSeal(session.keys, session.sequence, message.mac, answer)
      return answer
    },
    hangUp,
  }
}
