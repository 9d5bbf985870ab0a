/** A listener with a small API behind it that counts how often its handlers ran, and clients that send raw bytes to it. */
import type { IncomingHttpHeaders, RequestOptions } from 'node:http'
import https from 'node:https'
import { connect } from 'node:tls'
import type { ConnectionOptions, TLSSocket } from 'node:tls'
import type { Express, Request } from 'express'
import { createApiApp, only } from '../../src/http/api-app.ts'
import { callerSae, requireSae } from '../../src/http/caller.ts'
import type { IdentityMode } from '../../src/http/client-identity.ts'
import { sendJson } from '../../src/http/json-response.ts'
import { startListener } from '../../src/http/listeners.ts'
import type { Listener, ListenerOptions } from '../../src/http/listeners.ts'
import { readJsonObject } from '../../src/http/request-body.ts'
import { parseQuery, pathSegment } from '../../src/http/request-target.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { Clock } from '../../src/kernel/clock.ts'
import type { Logger } from '../../src/kernel/log.ts'
import { makeAuthority, makeSae, makeServerLeaf } from './test-certificates.ts'
import type { Identity } from './test-certificates.ts'

export interface LogLine {
  readonly level: string
  readonly message: string
  readonly fields: Record<string, unknown>
}

export const recordingLogger = (lines: LogLine[]): Logger => {
  const write =
    (level: string) =>
    (fields: object, message: string): void =>
      void lines.push({ level, message, fields: { ...fields } })
  const logger: Logger = {
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    slice: () => logger,
  }
  return logger
}

export interface TestListener {
  readonly listener: Listener
  readonly authority: Identity
  readonly server: Identity
  readonly alice: Identity
  readonly log: LogLine[]
  /** How often a handler ran. */
  runs(): number
  /** Lets the handlers of /slow answer. */
  releaseSlow(): void
  /** Resolves when a handler of /slow started. */
  slowStarted: Promise<void>
}

export interface TestListenerOptions {
  readonly listener?: Partial<ListenerOptions>
  readonly identify?: IdentityMode
  readonly isAdmitted?: (saeId: string) => boolean
  readonly clock?: Clock
  readonly mount?: (app: Express) => void
  readonly authority?: Identity
}

export const K = '/api/v1/keys/'

/** Serves status (GET), enc_keys (GET, POST) and slow (GET) under /api/v1/keys/:slave/ to SAEs. */
export const startTestListener = async (options: TestListenerOptions = {}): Promise<TestListener> => {
  const authority = options.authority ?? (await makeAuthority())
  const server = await makeServerLeaf(authority)
  const alice = await makeSae(authority, 'sae-1')
  const lines: LogLine[] = []
  const log = recordingLogger(lines)
  const clock = options.clock ?? systemClock
  const slow = Promise.withResolvers<void>()
  const slowStarted = Promise.withResolvers<void>()
  let runs = 0

  const describe = (req: Request, more: object): object => ({ slave: pathSegment(req, 3), caller: callerSae(req).saeId, ...more })
  const app = createApiApp({
    errors: 'etsi',
    log,
    mount:
      options.mount ??
      ((api) => {
        api.use(requireSae({ identify: options.identify ?? 'san-uri', isAdmitted: options.isAdmitted ?? (() => true), clock }))
        only(api, '/api/v1/keys/:slave/status', {
          get: (req, res) => {
            const shown = describe(req, {})
            runs++
            sendJson(res, shown)
          },
        })
        only(api, '/api/v1/keys/:slave/enc_keys', {
          get: async (req, res) => {
            const query = parseQuery(req)
            const body = await readJsonObject(req)
            runs++
            sendJson(res, describe(req, { query: Object.fromEntries(query), body: body ?? null }))
          },
          post: async (req, res) => {
            const body = await readJsonObject(req)
            runs++
            sendJson(res, describe(req, { body: body ?? null }))
          },
        })
        only(api, '/api/v1/keys/:slave/slow', {
          get: async (_req, res) => {
            runs++
            slowStarted.resolve()
            await slow.promise
            sendJson(res, { slow: true })
          },
        })
      }),
  })
  const listener = await startListener({
    name: 'sae',
    host: '127.0.0.1',
    port: 0,
    tls: { certificatePem: server.certificatePem, privateKeyPem: server.privateKeyPem, caPem: authority.certificatePem },
    clientCertificate: 'required',
    app,
    log,
    clock,
    ...options.listener,
  })
  return {
    listener,
    authority,
    server,
    alice,
    log: lines,
    runs: () => runs,
    releaseSlow: () => slow.resolve(),
    slowStarted: slowStarted.promise,
  }
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

const clientTls = (test: TestListener, client: Identity | undefined): ConnectionOptions => ({
  host: '127.0.0.1',
  port: test.listener.port,
  ca: test.authority.certificatePem,
  servername: 'localhost',
  ...(client && { cert: client.certificatePem, key: client.privateKeyPem }),
})

/** One request on a connection of its own, unless an agent is given. */
export const request = (
  test: TestListener,
  path: string,
  options: RequestOptions & { readonly client?: Identity; readonly body?: string | Buffer } = {},
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { client, body, ...rest } = options
    const req = https.request(
      { ...clientTls(test, client ?? test.alice), path, agent: false, ...rest } as https.RequestOptions,
      (res) => {
        const chunks: Buffer[] = []
        res.on('data', (chunk: Buffer) => chunks.push(chunk))
        res.on('error', reject)
        res.on('end', () =>
          resolve({ status: res.statusCode ?? 0, headers: res.headers, body: Buffer.concat(chunks).toString('utf8') }),
        )
      },
    )
    req.on('error', reject)
    req.end(body)
  })

/** Opens a TLS connection and waits for the handshake as the client sees it. */
export const openSocket = (
  test: TestListener,
  options: ConnectionOptions & { readonly client?: Identity | 'none' } = {},
): Promise<TLSSocket> =>
  new Promise((resolve, reject) => {
    const { client = test.alice, ...rest } = options
    const socket = connect({ ...clientTls(test, client === 'none' ? undefined : client), ...rest })
    socket.once('error', reject)
    socket.once('secureConnect', () => {
      socket.removeListener('error', reject)
      resolve(socket)
    })
  })

export interface RawOutcome {
  readonly text: string
  /** Status codes of the answers in order. */
  readonly statuses: readonly number[]
  /** The server closed the connection. */
  readonly closed: boolean
  readonly error: string | undefined
}

/** Sends bytes and reads until the server closes, or until `answers` answers came. */
export const sendRaw = async (
  test: TestListener,
  bytes: string | Buffer,
  options: ConnectionOptions & { readonly client?: Identity | 'none'; readonly answers?: number } = {},
): Promise<RawOutcome> => {
  const { answers = Infinity, ...rest } = options
  const outcome = { text: '', statuses: [] as number[], closed: false, error: undefined as string | undefined }
  let socket: TLSSocket
  try {
    socket = await openSocket(test, rest)
  } catch (error) {
    return { ...outcome, closed: true, error: (error as NodeJS.ErrnoException).code ?? String(error) }
  }
  return new Promise((resolve) => {
    const finish = (closed: boolean): void => {
      clearTimeout(limit)
      socket.destroy()
      resolve({ ...outcome, closed })
    }
    // A safety net, not a wait: a row that runs into it fails on `closed`.
    const limit = setTimeout(() => finish(false), 30_000)
    socket.on('data', (chunk: Buffer) => {
      outcome.text += chunk.toString('latin1')
      outcome.statuses = [...outcome.text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map((match) => Number(match[1]))
      if (outcome.statuses.filter((status) => status !== 100).length >= answers) finish(false)
    })
    socket.on('error', (error: NodeJS.ErrnoException) => (outcome.error = error.code ?? error.message))
    socket.on('close', () => finish(true))
    socket.on('end', () => socket.end())
    socket.write(bytes)
  })
}
