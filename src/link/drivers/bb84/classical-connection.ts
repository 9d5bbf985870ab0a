/** The classical channel of a BB84 link as a connection: TLS between the two KMEs, each with the certificate it shows its peers. TLS keeps
 *  strangers away, who could otherwise use up authentication key; that nobody changes a word rests on the tags alone. */
import { connect, createServer, type TLSSocket } from 'node:tls'
import type { Duplex } from 'node:stream'
import { certificateFactsOf, kmeIdOf } from '../../../http/client-identity.ts'
import type { Clock } from '../../../kernel/clock.ts'
import type { KmeId } from '../../../kernel/identifiers.ts'

export interface ConnectionTls {
  readonly certificatePem: string
  readonly privateKeyPem: string
  readonly caPem: string
  readonly crlPems?: readonly string[]
}

export interface ClassicalAddress {
  readonly host: string
  readonly port: number
  readonly peerKmeId: KmeId
  readonly tls: ConnectionTls
}

const contextOf = ({ certificatePem, privateKeyPem, caPem, crlPems }: ConnectionTls) => ({
  cert: certificatePem,
  key: privateKeyPem,
  ca: caPem,
  ...(crlPems !== undefined && { crl: [...crlPems] }),
  minVersion: 'TLSv1.3' as const,
  ecdhCurve: 'X25519MLKEM768:X25519:P-256',
})

/** Whoever accepts a connection and then says nothing, being stopped or something else, is given up after that. */
const HANDSHAKE_DEADLINE_MS = 15_000

/** Bob's end. @throws Error when Alice's station is not there, says nothing for 15 s, or is not the peer's. */
export const connectToAlice = (
  { host, port, peerKmeId, tls }: ClassicalAddress,
  signal: AbortSignal,
  clock: Clock,
): Promise<Duplex> =>
  new Promise((resolve, reject) => {
    const finished = new AbortController()
    const socket = connect({
      host,
      port,
      ...contextOf(tls),
      // By the KME it names, below, and not by the host.
      checkServerIdentity: () => undefined,
    })
    const stop = (): void => void socket.destroy(new Error('stopped'))
    signal.addEventListener('abort', stop, { once: true })
    const finish = (): void => {
      finished.abort()
      signal.removeEventListener('abort', stop)
    }
    const refuse = (error: Error): void => {
      finish()
      reject(error)
    }
    void clock.sleep(HANDSHAKE_DEADLINE_MS, finished.signal).then(() => {
      if (!finished.signal.aborted) socket.destroy(new Error('whoever is at this address accepts connections and says nothing'))
    })
    socket.once('error', refuse)
    socket.once('secureConnect', () => {
      finish()
      socket.off('error', refuse)
      if (!isPeer(socket, peerKmeId)) {
        reject(new Error(`the certificate at this address is not that of ${peerKmeId}`))
        socket.on('error', () => {}).destroy()
        return
      }
      socket.setNoDelay(true)
      resolve(socket)
    })
    if (signal.aborted) stop()
  })

/** One rule for both ends: a certificate that names several is nobody's. */
const isPeer = (socket: TLSSocket, peerKmeId: KmeId): boolean => {
  const facts = certificateFactsOf(socket)
  return facts !== undefined && kmeIdOf(facts) === peerKmeId
}

/** Alice's end: waits for the one connection of the peer's station. Others are turned away; while a connection lasts nobody listens.
 *  @throws Error when the port is taken. */
export const acceptBob = ({ host, port, peerKmeId, tls }: ClassicalAddress, signal: AbortSignal): Promise<Duplex> =>
  new Promise((resolve, reject) => {
    const server = createServer({ ...contextOf(tls), requestCert: true, rejectUnauthorized: true })
    const close = (): void => {
      signal.removeEventListener('abort', stop)
      server.close()
    }
    const stop = (): void => {
      close()
      reject(new Error('stopped'))
    }
    signal.addEventListener('abort', stop, { once: true })
    server.on('error', (error: Error) => {
      close()
      reject(error)
    })
    server.on('secureConnection', (socket: TLSSocket) => {
      if (!isPeer(socket, peerKmeId) || !server.listening) {
        socket.on('error', () => {}).destroy()
        return
      }
      close()
      socket.setNoDelay(true)
      resolve(socket)
    })
    server.listen(port, host)
    if (signal.aborted) stop()
  })
