/** One HTTPS listener: TLS with client certificates (ETSI GS QKD 014, clause 5.1), limits on what an unauthenticated or
 *  greedy client can hold, answers to requests the HTTP parser refuses, and an orderly stop.
 *  Holds: no TLS session is ever resumed, so each connection verifies its certificate against the present trust; a socket
 *  can be cut the moment its certificate is revoked (I16); a stop lets running requests finish and nothing else (I38). */
import { constants } from 'node:crypto'
import { createServer } from 'node:https'
import type { Server } from 'node:https'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { createSecureContext } from 'node:tls'
import type { SecureContextOptions, TLSSocket } from 'node:tls'
import type { Clock } from '../kernel/clock.ts'
import { BadRequest, Unavailable } from '../kernel/errors.ts'
import type { KmeError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import { certificateFactsOf } from './client-identity.ts'
import type { CertificateFacts } from './client-identity.ts'
import { rawBadRequest, sendError } from './error-response.ts'
import type { ErrorStyle } from './error-response.ts'
import { isAdmissible } from './request-admission.ts'
import type { RequestLog } from './request-log.ts'

export interface TlsMaterial {
  /** The leaf first, then its chain. */
  readonly certificatePem: string
  readonly privateKeyPem: string
  /** The authorities whose client certificates are accepted; needed when client certificates are required. */
  readonly caPem?: string
  /** Revocation lists, one in each entry. When given, every authority in a client's chain must have a current list among them. */
  readonly crlPems?: readonly string[]
}

export interface ListenerLimits {
  readonly handshakeTimeoutMs: number
  readonly headersTimeoutMs: number
  /** From the first byte of a request to the last of its body. */
  readonly requestTimeoutMs: number
  readonly checkingIntervalMs: number
  readonly maxHeaderBytes: number
  readonly maxHeaders: number
  readonly maxBodyBytes: number
  readonly keepAliveTimeoutMs: number
  /** After this age the next answer closes the connection. */
  readonly maxSocketAgeMs: number
  /** 0 for no limit. */
  readonly maxRequestsPerSocket: number
  /** Pipelined requests handled at once on one connection. */
  readonly maxRequestsInFlightPerSocket: number
  readonly maxConnectionsPerClient: number
  readonly maxConnections: number
}

export const defaultListenerLimits: ListenerLimits = {
  handshakeTimeoutMs: 5_000,
  headersTimeoutMs: 5_000,
  requestTimeoutMs: 10_000,
  checkingIntervalMs: 1_000,
  maxHeaderBytes: 8 * 1024,
  maxHeaders: 64,
  maxBodyBytes: 64 * 1024,
  keepAliveTimeoutMs: 30_000,
  maxSocketAgeMs: 600_000,
  maxRequestsPerSocket: 0,
  maxRequestsInFlightPerSocket: 8,
  maxConnectionsPerClient: 256,
  maxConnections: 2_000,
}

export interface ListenerOptions {
  readonly name: 'sae' | 'peer' | 'admin' | 'interworking'
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  readonly tls: TlsMaterial
  readonly clientCertificate: 'required' | 'none'
  readonly minVersion?: 'TLSv1.3' | 'TLSv1.2'
  readonly app: (req: IncomingMessage, res: ServerResponse) => void
  /** Told of the requests that the listener answers itself and the application never sees. */
  readonly refused?: RequestLog
  /** Those left out have their default. */
  readonly limits?: Partial<ListenerLimits>
  readonly log: Logger
  readonly clock: Clock
}

export interface Listener {
  readonly port: number
  /** New connections use the new material; open ones go on.
   *  @throws Error when it is not usable; the material in use stays. */
  updateTls(material: TlsMaterial): void
  /** Cuts at once every connection whose certificate facts fulfil the predicate.
   *  @returns how many were cut. */
  closeConnections(predicate: (facts: CertificateFacts | undefined) => boolean): number
  /** Connections that finished their handshake and are open. */
  connectionCount(): number
  /** Accepts no more, closes idle connections, lets running requests finish for up to `graceMs`, then cuts the rest. */
  stop(graceMs: number): Promise<void>
}

/** Hybrid first, so that recorded traffic stays closed to a quantum computer. */
const KEY_EXCHANGE_GROUPS = 'X25519MLKEM768:X25519:P-256:P-384'
const CIPHERS = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
].join(':')

const styles: Record<ListenerOptions['name'], ErrorStyle> = {
  sae: 'etsi',
  peer: 'problem',
  admin: 'problem',
  interworking: 'interworking',
}

/** What the listener remembers of an open connection. */
interface Connection {
  readonly socket: TLSSocket
  readonly openedAtMs: number
  readonly running: Map<ServerResponse, IncomingMessage>
  readonly client: string | undefined
}

/** Resolves when the port is open.
 *  @throws Error when the TLS material is not usable or the port is taken. */
export const startListener = async (options: ListenerOptions): Promise<Listener> => {
  const { log, clock } = options
  const limits = { ...defaultListenerLimits, ...options.limits }
  const style = styles[options.name]
  const badRequest = rawBadRequest(style)
  const rawSockets = new Set<Socket>()
  const connections = new Map<Duplex, Connection>()
  const connectionsOfClient = new Map<string, number>()
  let stopping = false

  const server = createServer({
    ...secureContext(options, options.tls),
    requestCert: options.clientCertificate === 'required',
    rejectUnauthorized: true,
    ALPNProtocols: ['http/1.1'],
    handshakeTimeout: limits.handshakeTimeoutMs,
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    connectionsCheckingInterval: limits.checkingIntervalMs,
    maxHeaderSize: limits.maxHeaderBytes,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    // Node's own refusal has no body; isAdmissible looks for the header as well.
    requireHostHeader: false,
    noDelay: true,
  })
  // Node would drop the headers beyond its count in silence; isAdmissible refuses them.
  server.maxHeadersCount = 0
  server.maxRequestsPerSocket = limits.maxRequestsPerSocket
  server.maxConnections = limits.maxConnections

  server.on('connection', (socket: Socket) => {
    rawSockets.add(socket)
    socket.on('close', () => rawSockets.delete(socket))
  })

  server.on('secureConnection', (socket: TLSSocket) => {
    const facts = certificateFactsOf(socket)
    const client = facts && (facts.sanUris.join(' ') || facts.fingerprint256)
    const open = (client !== undefined && connectionsOfClient.get(client)) || 0
    if (open >= limits.maxConnectionsPerClient) {
      log.warn({ listener: options.name, client, limit: limits.maxConnectionsPerClient }, 'too many connections of one client')
      return socket.destroy()
    }
    if (client !== undefined) connectionsOfClient.set(client, open + 1)
    connections.set(socket, { socket, openedAtMs: clock.monotonicMs(), running: new Map(), client })
    socket.on('close', () => {
      connections.delete(socket)
      if (client === undefined) return
      const left = (connectionsOfClient.get(client) ?? 1) - 1
      if (left > 0) connectionsOfClient.set(client, left)
      else connectionsOfClient.delete(client)
    })
  })

  /** Keeps count of the request. @returns whether the application may see it; otherwise it has been answered. */
  const admit = (req: IncomingMessage, res: ServerResponse): boolean => {
    const connection = connections.get(req.socket)
    if (connection === undefined) {
      req.socket.destroy()
      return false
    }
    const { running, socket } = connection
    running.set(res, req)
    res.on('close', () => {
      running.delete(res)
      if (stopping && running.size === 0) socket.destroySoon()
    })
    if (stopping || clock.monotonicMs() - connection.openedAtMs > limits.maxSocketAgeMs) res.shouldKeepAlive = false
    if (!isAdmissible(req, limits)) return refuse(req, res, new BadRequest())
    if (running.size > limits.maxRequestsInFlightPerSocket) return refuse(req, res, new Unavailable())
    return true
  }
  const refuse = (req: IncomingMessage, res: ServerResponse, error: KmeError): false => {
    options.refused?.watch(req, res)
    sendError(res, error, style, { close: true })
    return false
  }

  server.on('request', (req, res) => {
    if (admit(req, res)) options.app(req, res)
  })
  server.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => {
    if (!admit(req, res)) return
    res.writeContinue()
    options.app(req, res)
  })
  server.on('checkExpectation', (req: IncomingMessage, res: ServerResponse) => {
    if (admit(req, res)) refuse(req, res, new BadRequest())
  })

  // Also called for failed handshakes, which get no answer: there is nobody to answer yet.
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => {
    const connection = connections.get(socket)
    log.debug({ listener: options.name, reason: error.code ?? error.message }, connection ? 'broken request' : 'failed handshake')
    if (connection === undefined || !socket.writable) return void socket.destroy()
    refuseBroken(connection, badRequest)
  })

  await listen(server, options)
  const port = (server.address() as AddressInfo).port
  log.info({ listener: options.name, host: options.host, port }, 'listening')

  return {
    port,
    updateTls: (material) => server.setSecureContext(secureContext(options, material)),
    closeConnections: (predicate) => {
      let cut = 0
      for (const { socket } of connections.values()) {
        if (!predicate(certificateFactsOf(socket))) continue
        socket.destroy()
        cut++
      }
      return cut
    },
    connectionCount: () => connections.size,
    stop: async (graceMs) => {
      stopping = true
      const graceOver = new AbortController()
      const closed = new Promise<void>((resolve) => server.close(() => resolve())).then(() => graceOver.abort())
      for (const { socket, running } of connections.values()) {
        if (running.size === 0) socket.destroySoon()
        // Effective unless the header is out; in that case the socket closes behind the answer.
        for (const response of running.keys()) response.shouldKeepAlive = false
      }
      await clock.sleep(graceMs, graceOver.signal)
      const gone = [...connections.values()].map(({ socket }) => new Promise((resolve) => socket.once('close', resolve)))
      for (const { socket } of connections.values()) socket.destroy()
      // Those still in their handshake.
      for (const socket of rawSockets) socket.destroy()
      await Promise.all([closed, ...gone])
    },
  }
}

/** Answers a request the parser gave up on, after the answers to the requests before it, and closes. */
const refuseBroken = (connection: Connection, answer: string): void => {
  const { socket, running } = connection
  const [last] = [...running].at(-1) ?? []
  if (last === undefined) return void socket.end(answer, () => socket.destroySoon())
  const request = running.get(last)
  if (request?.complete) {
    // The broken one came behind a whole request whose answer is still being made.
    last.shouldKeepAlive = false
    last.on('close', () => socket.destroySoon())
  } else if (running.size === 1 && !last.headersSent) {
    socket.end(answer, () => socket.destroySoon())
  } else {
    socket.destroy()
  }
}

const secureContext = (options: ListenerOptions, material: TlsMaterial): SecureContextOptions => {
  // Without a list of its own Node would accept every client of its built-in public authorities.
  if (options.clientCertificate === 'required' && !material.caPem) {
    throw new Error(`the ${options.name} listener requires client certificates but has no CA certificate to check them with`)
  }
  const context: SecureContextOptions = {
    cert: material.certificatePem,
    key: material.privateKeyPem,
    ...(material.caPem && { ca: material.caPem }),
    ...(material.crlPems && { crl: [...material.crlPems] }),
    minVersion: options.minVersion ?? 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    ciphers: CIPHERS,
    honorCipherOrder: true,
    ecdhCurve: KEY_EXCHANGE_GROUPS,
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_COMPRESSION,
  }
  // Fails here, before anything in use is replaced.
  createSecureContext(context)
  return context
}

const listen = (server: Server, options: ListenerOptions): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port, options.host, () => {
      server.removeListener('error', reject)
      server.on('error', (error) => options.log.error({ listener: options.name, error }, 'listener error'))
      resolve()
    })
  })
