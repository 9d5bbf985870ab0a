/** The admin API over plain HTTP with small fakes behind its doors. Every request goes out through `call`, which holds each
 *  answer against openapi/admin.yaml. */
import { generateKeyPairSync } from 'node:crypto'
import type { Express } from 'express'
import request from 'supertest'
import { createTokenVerifier, signAdminToken } from '../../src/admin/admin-token.ts'
import { adminScopes, type AdminScope, type InstalledCertificate, type Probe } from '../../src/admin/admin.ts'
import { createReadiness } from '../../src/admin/readiness.ts'
import { mountAdminApi, type AdminApiParts } from '../../src/admin/routes.ts'
import type { AlarmRecord } from '../../src/alarms/alarms.ts'
import type { AuditEvent, AuditPage, AuditQuery } from '../../src/audit/audit.ts'
import type { DeliveryLimits, RegisteredSae, SaeDirectory } from '../../src/delivery/delivery.ts'
import { createApiApp } from '../../src/http/api-app.ts'
import { createEventStreams } from '../../src/http/event-streams.ts'
import { bearerChallenge } from '../../src/http/error-response.ts'
import { Conflict, NotFound } from '../../src/kernel/errors.ts'
import { parseKmeId, parseLinkId, parseSaeId, type KmeId, type LinkId, type SaeId } from '../../src/kernel/identifiers.ts'
import type { Clock } from '../../src/kernel/clock.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { KeyPool, PoolHistory, PoolLevel } from '../../src/key-pool/key-pool.ts'
import { createPoolWatch, type RunningPoolWatch } from '../../src/key-pool/watch-pools.ts'
import type { LinkStatus, Replenisher } from '../../src/link/link.ts'
import type { PeerKme, PeerStatus, PeerTrust } from '../../src/peer/peer.ts'
import type { LiveProcess } from '../../src/processes/processes.ts'
import type { TopologyDirectory } from '../../src/topology/topology.ts'
import { createContract } from '../openapi/contract.ts'

export const contract = createContract('openapi/admin.yaml')

export const saeId = (text: string): SaeId => parseSaeId(text)!
export const kmeId = (text: string): KmeId => parseKmeId(text)!
export const linkId = (text: string): LinkId => parseLinkId(text)!

/** A clock that stands still until told. */
export class FakeClock implements Clock {
  #nowMs = Date.parse('2030-01-01T12:00:00Z')
  readonly #sleepers = new Set<{ readonly atMs: number; readonly wake: () => void }>()
  nowMs(): number {
    return this.#nowMs
  }
  monotonicMs(): number {
    return this.#nowMs
  }
  sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.resolve()
    return new Promise((wake) => {
      this.#sleepers.add({ atMs: this.#nowMs + durationMs, wake })
      signal?.addEventListener('abort', () => wake())
    })
  }
  advanceMs(durationMs: number): void {
    this.#nowMs += durationMs
    for (const { atMs, wake } of this.#sleepers) if (atMs <= this.#nowMs) wake()
  }
}

export const limits: DeliveryLimits = {
  keySizeBits: 256,
  minKeySizeBits: 64,
  maxKeySizeBits: 4096,
  maxKeysPerRequest: 128,
  maxStoredKeys: 1000,
  maxSaeIdCount: 0,
  heldForS: 60,
  retryWindowS: 60,
  lendFloorKeys: () => 64,
}

/** A level with nothing but units. */
export const levelOf = (peerKmeId: KmeId, mine: number, theirs: number): PoolLevel => ({
  peerKmeId,
  mine,
  theirs,
  reserved: 0,
  offeredTotal: 0,
  takenTotal: 0,
  refusedTotal: 0,
})

/** Only the levels matter to the admin API. */
export const poolsWith = (levels: readonly PoolLevel[]): KeyPool => ({
  offer: () => Promise.resolve(),
  take: () => Promise.resolve({ missing: 1 }),
  giveBack: () => Promise.resolve(),
  adjustTheirs: () => Promise.resolve(),
  drawable: () => Promise.resolve(0),
  level: (peerKmeId) => Promise.resolve(levels.find((level) => level.peerKmeId === peerKmeId) ?? levelOf(peerKmeId, 0, 0)),
  levels: () => Promise.resolve(levels),
  doubt: () => undefined,
  needsRebuild: () => false,
  rebuild: () => Promise.resolve(),
})

/** How the pools are, read once. */
export const watchOf = async (pool: KeyPool, clock: Clock = new FakeClock()): Promise<RunningPoolWatch> => {
  const marksOf = () => ({ criticalWatermark: 25, lowWatermark: 100, highWatermark: 900 })
  const log = createLogger('silent')
  const watch = createPoolWatch({ kmeId: kmeId('kme-a'), pool, expected: [], marksOf, lendFloorKeys: () => 64, clock, log })
  await watch.read()
  return watch
}

/** Only whether it is available matters to the admin API. */
const fakePeer = (status: PeerStatus | undefined): PeerKme | undefined => {
  const uncalled = (): Promise<never> => Promise.reject(new Error('the admin API calls no peer'))
  return (
    status && {
      kmeId: status.kmeId,
      available: () => status.available,
      assign: uncalled,
      retire: () => Promise.reject(new Error('not asked')),
      abort: uncalled,
      confirmBlock: uncalled,
      sendFallbackBlock: uncalled,
      requestLoan: uncalled,
    }
  )
}

export const emptyTopology: TopologyDirectory = { kmes: () => [], links: () => [] }

const fakeSaes = (changes: string[]): SaeDirectory => {
  const saes = new Map<SaeId, RegisteredSae>()
  const known = (id: SaeId): RegisteredSae => {
    const sae = saes.get(id)
    if (sae === undefined) throw new NotFound('there is no such SAE')
    return sae
  }
  const setShares = (one: SaeId, other: SaeId, allowed: boolean): void => {
    const sae = known(one)
    saes.set(one, { ...sae, sharesWith: [...sae.sharesWith.filter((id) => id !== other), ...(allowed ? [other] : [])] })
  }
  return {
    find: (id) => saes.get(id),
    mayShare: () => false,
    list: () => [...saes.values()],
    register: async (sae, actor) => {
      if (saes.has(sae.saeId)) throw new Conflict('this SAE is registered already')
      saes.set(sae.saeId, { ...sae, enabled: true, sharesWith: [] })
      changes.push(`${actor} register ${sae.saeId}@${sae.kmeId}`)
    },
    setEnabled: async (id, enabled, actor) => {
      saes.set(id, { ...known(id), enabled })
      changes.push(`${actor} ${enabled ? 'enable' : 'disable'} ${id}`)
    },
    setPair: async (one, other, allowed, actor) => {
      known(one)
      known(other)
      setShares(one, other, allowed)
      setShares(other, one, allowed)
      changes.push(`${actor} pair ${one} ${other} ${allowed}`)
    },
    reload: () => Promise.resolve(),
    onChange: () => undefined,
  }
}

const fakeTrust = (changes: string[]): PeerTrust => {
  const approved = new Map<string, string[]>()
  return {
    accepts: () => true,
    generation: () => 0,
    approved: (peerKmeId) => approved.get(peerKmeId)?.map((fingerprint) => ({ fingerprint, from: 'operator' })),
    setApproved: async (peerKmeId, fingerprint, isApproved, actor) => {
      changes.push(`${actor} ${isApproved ? 'approves' : 'withdraws'} ${fingerprint} of ${peerKmeId}`)
      approved.set(peerKmeId, isApproved ? [fingerprint] : [])
    },
    rekey: async (peerKmeId, actor) => void changes.push(`${actor} asks for new keys with ${peerKmeId}`),
  }
}

export interface Answer {
  readonly status: number
  readonly contentType: string
  readonly headers: Readonly<Record<string, string>>
  /** Parsed and checked. */
  readonly body: unknown
}

export interface CallOptions {
  readonly token?: string
  /** The whole Authorization header instead of a token. */
  readonly authorization?: string
  readonly body?: unknown
}

/** Sends the request and checks the answer against the document. */
export const call = async (
  app: Express,
  method: 'get' | 'post' | 'put' | 'delete' | 'head',
  url: string,
  options: CallOptions = {},
): Promise<Answer> => {
  const sent = request(app)[method](url)
  const authorization = options.authorization ?? (options.token === undefined ? undefined : `Bearer ${options.token}`)
  if (authorization !== undefined) sent.set('Authorization', authorization)
  const response = await (options.body === undefined
    ? sent
    : sent.set('Content-Type', 'application/json').send(JSON.stringify(options.body)))
  const contentType = response.headers['content-type'] ?? ''
  const body = contract.checkResponse(method.toUpperCase(), url, response.status, contentType, response.text ?? '')
  return { status: response.status, contentType, headers: response.headers, body }
}

export interface AdminWorld {
  readonly app: Express
  readonly clock: FakeClock
  readonly parts: AdminApiParts
  readonly privateKeyPem: string
  readonly publicKeyPem: string
  /** What was appended to the audit log. */
  readonly audited: AuditEvent[]
  /** What the audit log was asked. */
  readonly auditQueries: AuditQuery[]
  /** What the SAE directory was told. */
  readonly changes: string[]
  token(scopes?: readonly AdminScope[], options?: { readonly lifeS?: number; readonly kmeId?: string }): Promise<string>
  call(method: Parameters<typeof call>[1], url: string, options?: CallOptions): Promise<Answer>
}

export interface WorldOptions {
  readonly pools?: readonly PoolLevel[]
  readonly links?: readonly LinkStatus[]
  readonly peers?: readonly PeerStatus[]
  readonly alarms?: readonly AlarmRecord[]
  readonly topology?: TopologyDirectory
  readonly processes?: readonly LiveProcess[]
  /** Duty: the ID of the process that holds it. */
  readonly duties?: Readonly<Record<string, string>>
  readonly certificates?: readonly InstalledCertificate[]
  readonly auditPage?: AuditPage
  readonly probes?: readonly Probe[]
  readonly poolHistory?: PoolHistory
  readonly replenisher?: Replenisher
  readonly streamsMax?: number
  readonly keyType?: 'ed25519' | 'p256'
}

export const createAdminWorld = async (options: WorldOptions = {}): Promise<AdminWorld> => {
  const clock = new FakeClock()
  const audited: AuditEvent[] = []
  const auditQueries: AuditQuery[] = []
  const changes: string[] = []
  const { privateKey, publicKey } =
    options.keyType === 'p256' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : generateKeyPairSync('ed25519')
  const privateKeyPem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
  const publicKeyPem = publicKey.export({ type: 'spki', format: 'pem' }).toString()
  const parts: AdminApiParts = {
    kmeId: kmeId('kme-a'),
    version: '1.2.3',
    startedAtMs: clock.nowMs(),
    clock,
    verifier: await createTokenVerifier({ publicKeyPem, kmeId: 'kme-a', clock }),
    audit: {
      append: async (event) => void audited.push(event),
      page: async (query) => {
        auditQueries.push(query)
        return options.auditPage ?? { records: [], nextBefore: undefined }
      },
    },
    pools: await watchOf(poolsWith(options.pools ?? []), clock),
    poolHistory: options.poolHistory ?? { read: () => Promise.resolve({ bucketS: 10, points: [] }) },
    replenisher: options.replenisher ?? { replenishNow: () => Promise.resolve({ ceilingKeys: 1000, sources: [] }) },
    limits,
    links: { statuses: () => options.links ?? [] },
    trust: fakeTrust(changes),
    peers: { statuses: () => options.peers ?? [], named: (id) => fakePeer(options.peers?.find((peer) => peer.kmeId === id)) },
    processes: {
      alive: () => options.processes ?? [],
      reports: () =>
        new Map(
          Object.entries(options.duties ?? {}).map(([duty, processId]) => [duty, { processId, ageMs: 0, report: undefined }]),
        ),
    },
    saes: fakeSaes(changes),
    certificates: () => options.certificates ?? [],
    alarms: { list: async () => options.alarms ?? [], active: () => [] },
    topology: options.topology ?? emptyTopology,
    // A stream does not end; tests of streams say how many they want.
    streams: createEventStreams({ clock, log: createLogger('silent'), streamsMax: options.streamsMax ?? 0 }),
    readiness: createReadiness({ probes: options.probes ?? [{ name: 'database', check: () => true }], clock }),
    metrics: { contentType: 'text/plain; version=0.0.4; charset=utf-8', text: async () => 'kme_up 1\n' },
  }
  const app = createApiApp({
    errors: 'problem',
    log: createLogger('silent'),
    challenge: bearerChallenge,
    mount: (target) => mountAdminApi(target, parts),
  })
  return {
    app,
    clock,
    parts,
    privateKeyPem,
    publicKeyPem,
    audited,
    auditQueries,
    changes,
    token: (scopes = adminScopes, { lifeS = 3600, ...rest } = {}) =>
      signAdminToken({ privateKeyPem, subject: 'erika', scopes, lifeS, ...rest, clock, random: systemRandom }),
    call: (method, url, sent) => call(app, method, url, sent),
  }
}
