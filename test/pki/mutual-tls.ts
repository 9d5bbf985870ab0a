/** One mutual TLS 1.3 handshake on a random port, as a listener of a KME makes it. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { connect, createServer, type SecureContextOptions, type TLSSocket } from 'node:tls'

export interface Verdicts {
  /** What the server thought of the client: 'accepted' or why not. */
  readonly server: string
  /** What the client thought of the server: 'accepted' or why not. */
  readonly client: string
}

/** @param client checks the server's certificate against the name localhost. */
export const handshake = async (server: SecureContextOptions, client: SecureContextOptions): Promise<Verdicts> => {
  const listener = createServer({ ...server, requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.3' })
  const serverVerdict = new Promise<string>((resolve) => {
    listener.on('secureConnection', (socket: TLSSocket) => {
      socket.on('error', () => undefined).end('hello')
      resolve('accepted')
    })
    listener.on('tlsClientError', (error: NodeJS.ErrnoException, socket) =>
      resolve(String(socket.authorizationError ?? error.code)),
    )
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address() as AddressInfo
  const socket = connect({ ...client, port, host: '127.0.0.1', servername: 'localhost', minVersion: 'TLSv1.3' })
  // In TLS 1.3 the client is through before the server has judged it: only bytes from the server prove acceptance.
  const clientVerdict = new Promise<string>((resolve) => {
    socket.on('data', () => resolve('accepted'))
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    socket.on('close', () => resolve('closed'))
  })
  const verdicts = { server: await serverVerdict, client: await clientVerdict }
  socket.destroy()
  listener.close()
  await once(listener, 'close')
  return verdicts
}
