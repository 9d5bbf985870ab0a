/** Two ends of a conversation between KMEs, in this process and over real TLS, on one clock that a test moves: `kme-a` calls, `kme-b`
 *  answers. What the answering end keeps in PostgreSQL is kept here as the statements would. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Express } from 'express'
import type { AuditEvent, AuditLog } from '../../src/audit/audit.ts'
import { createApiApp, only } from '../../src/http/api-app.ts'
import { requireKme } from '../../src/http/caller.ts'
import { sendJson } from '../../src/http/json-response.ts'
import { startListener, type Listener } from '../../src/http/listeners.ts'
import { readBody } from '../../src/http/request-body.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { QkdMixing } from '../../src/peer/qkd-mixing.ts'
import { mountSessions } from '../../src/peer/routes.ts'
import {
  createSessionClient,
  type PeerRequest,
  type PeerResponse,
  type SessionClientOptions,
} from '../../src/peer/session-client.ts'
import type { SessionLedger } from '../../src/peer/session-ledger.ts'
import { createSessionServer, type SessionServerParts } from '../../src/peer/session-server.ts'
import type { RekeyPolicy } from '../../src/peer/session-life.ts'
import { peerPaths } from '../../src/peer/wire.ts'
import { makeAuthority, makeLeaf, type Identity } from '../http/test-certificates.ts'
import { FakeClock } from '../admin/admin-world.ts'
import { createSessionSpeaker, type SessionSpeaker } from './session-speaker.ts'

export const A = 'kme-a' as KmeId
export const B = 'kme-b' as KmeId

export interface StoredSession {
  mark: number
  ended: boolean
  readonly isMixed: boolean
}

export interface PeerPair extends AsyncDisposable {
  readonly clock: FakeClock
  readonly listener: Listener
  /** Sessions as the ledger knows them. */
  readonly stored: Map<string, StoredSession>
  /** What a handler behind the sessions was asked. */
  readonly handled: { readonly sessionId: string; readonly body: string }[]
  readonly refusals: { readonly peerKmeId: string; readonly reason: string }[]
  readonly audited: AuditEvent[]
  readonly forged: string[]
  /** Asks for new keys, as an operator does at both ends. */
  rekey(): void
  /** kme-a gets its certificate anew. */
  updateTls(): void
  /** Calls kme-b as a KME does. */
  exchange(request: PeerRequest): Promise<PeerResponse>
  /** The same, with a message that is handled. */
  call(body?: string): Promise<PeerResponse>
  /** Calls as a test likes. */
  speaker(): SessionSpeaker
  readonly authority: Identity
  readonly identities: Readonly<Record<'kme-a' | 'kme-b', Identity>>
}

export interface PeerPairOptions {
  readonly client?: Partial<SessionClientOptions>
  readonly server?: Partial<SessionServerParts>
  readonly policy?: Partial<RekeyPolicy>
  /** Registers routes before the sessions. */
  readonly before?: (app: Express) => void
  /** What a stranger in between makes of an answer. */
  readonly tamper?: (answer: TamperedAnswer) => TamperedAnswer
}

export interface TamperedAnswer {
  readonly path: string
  readonly status: number
  /** Names and values in turn, without the length. */
  readonly headers: readonly string[]
  readonly body: string
}

/** Lets `tamper` see each answer before it goes out. */
const tampering =
  (app: Express, tamper: NonNullable<PeerPairOptions['tamper']>) =>
  (request: IncomingMessage, response: ServerResponse): void => {
    const held = response as { writeHead: unknown; end: unknown }
    const [writeHead, end] = [response.writeHead.bind(response), response.end.bind(response)]
    let head: [status: number, headers: string[]] = [0, []]
    held.writeHead = (...args: typeof head) => void (head = args)
    held.end = (body: string) => {
      const [status, all] = head
      const headers = all.filter((_, i) => all[i - (i % 2)] !== 'Content-Length')
      const changed = tamper({ path: request.url ?? '', status, headers, body })
      writeHead(changed.status, [...changed.headers])
      end(changed.body)
    }
    app(request as never, response as never)
  }

/** Of KMEs without a QKD link between them. */
export const noMixing: QkdMixing = { isRequired: () => false, blocks: async () => [], firstOf: async () => undefined }

const SESSION = /session=([^;]+)/

export const startPeerPair = async (options: PeerPairOptions = {}): Promise<PeerPair> => {
  const clock = new FakeClock()
  clock.advanceMs(Date.now() - clock.nowMs())
  const authority = await makeAuthority('CN=KME authority')
  const kme = (id: string): Promise<Identity> =>
    makeLeaf(authority, { subject: `CN=${id}`, uris: [`urn:kme:kme:${id}`], ips: ['127.0.0.1'], usages: ['client', 'server'] })
  const identities = { 'kme-a': await kme('kme-a'), 'kme-b': await kme('kme-b') }
  const stored = new Map<string, StoredSession>()
  const handled: { sessionId: string; body: string }[] = []
  const refusals: { peerKmeId: string; reason: string }[] = []
  const audited: AuditEvent[] = []
  const forged: string[] = []
  let generation = 0
  const policy: RekeyPolicy = { afterMs: 300_000, afterMessages: 1_000_000, generation: () => generation, ...options.policy }
  const ledger: SessionLedger = {
    reserve: async ({ sessionId, isMixed }, from, to) => {
      const session = stored.get(sessionId)
      if (from === 0 ? session !== undefined : session?.mark !== from || session.ended) return false
      stored.set(sessionId, { mark: to, ended: false, isMixed })
      return true
    },
    end: async (sessionId) => {
      const session = stored.get(sessionId)
      if (session !== undefined) session.ended = true
    },
  }
  const audit: AuditLog = {
    append: async (event) => void audited.push(event),
    page: async () => ({ records: [], nextBefore: undefined }),
  }
  const sessions = createSessionServer({
    kmeId: B,
    ledger,
    rekey: policy,
    mixing: noMixing,
    demandsSession: () => true,
    audit,
    onRefused: (peerKmeId, reason) => void refusals.push({ peerKmeId, reason }),
    clock,
    random: systemRandom,
    log: createLogger('silent'),
    ...options.server,
  })
  const app = createApiApp({
    errors: 'problem',
    log: createLogger('silent'),
    mount: (mounted) => {
      mounted.use(requireKme({ isAdmitted: () => true, clock }))
      options.before?.(mounted)
      mountSessions(mounted, sessions)
      only(mounted, peerPaths.aborts, {
        post: async (request, response) => {
          const sessionId = SESSION.exec(String(request.headers['kme-message']))?.[1] ?? 'none'
          handled.push({ sessionId, body: (await readBody(request)).toString('utf8') })
          sendJson(response, { handled: handled.length })
        },
      })
    },
  })
  const material = ({ certificatePem, privateKeyPem }: Identity) => ({
    certificatePem,
    privateKeyPem,
    caPem: authority.certificatePem,
  })
  const listener = await startListener({
    name: 'peer',
    host: '127.0.0.1',
    port: 0,
    tls: material(identities['kme-b']),
    clientCertificate: 'required',
    app: options.tamper === undefined ? app : tampering(app, options.tamper),
    log: createLogger('silent'),
    clock,
  })
  const client = createSessionClient({
    kmeId: A,
    peerKmeId: B,
    origin: `https://127.0.0.1:${listener.port}`,
    deadlineMs: 5000,
    sessions: true,
    rekey: policy,
    mixing: noMixing,
    accepts: () => true,
    onForged: (reason) => void forged.push(reason),
    tls: material(identities['kme-a']),
    clock,
    random: systemRandom,
    ...options.client,
  })
  const exchange = (request: PeerRequest): Promise<PeerResponse> => client.exchange(request, AbortSignal.timeout(5000))
  const speakers: SessionSpeaker[] = []
  return {
    clock,
    listener,
    stored,
    handled,
    refusals,
    audited,
    forged,
    authority,
    identities,
    rekey: () => void (generation += 1),
    updateTls: () => client.updateTls(material(identities['kme-a'])),
    exchange,
    call: (body = '{}') => exchange({ method: 'POST', path: peerPaths.aborts, contentType: 'application/json', body }),
    speaker: () => {
      const { certificatePem: cert, privateKeyPem: key } = identities['kme-a']
      const ca = authority.certificatePem
      const speaker = createSessionSpeaker({ port: listener.port, cert, key, ca, from: A, to: B, now: () => clock.nowMs() })
      speakers.push(speaker)
      return speaker
    },
    [Symbol.asyncDispose]: async () => {
      speakers.forEach((speaker) => speaker.hangUp())
      await client.close()
      const stopped = listener.stop(0)
      clock.advanceMs(1000)
      await stopped
    },
  }
}
