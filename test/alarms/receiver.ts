/** A webhook receiver: a real HTTPS server that checks signatures with the rules a receiver is told in docs/operating.md. */
import { createHmac } from 'node:crypto'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { makeAuthority, makeServerLeaf, type Identity } from '../http/test-certificates.ts'

export interface Received {
  readonly path: string
  readonly id: string
  readonly isSigned: boolean
  readonly notice: Record<string, unknown>
  /** What the receiver answered. */
  readonly status: number
}

export interface Receiver {
  readonly url: string
  /** PEM of the authority its certificate comes from. */
  readonly caPem: string
  readonly received: Received[]
  /** Connections that came as far as a TLS handshake that failed. */
  failedHandshakes(): number
  /** Notices it answered with 200. */
  accepted(): Received[]
  /** Status of every answer from now on, and headers. */
  answer(status: number, headers?: Record<string, string>): void
  /** Uses a certificate of another authority from now on, or its own again. */
  present(identity: 'own' | 'foreign'): void
  stop(): Promise<void>
}

/** The key all test webhooks sign with. */
export const SECRET = Buffer.from('0123456789abcdef0123456789abcdef')

let receivers = 0

export const startReceiver = async (): Promise<Receiver> => {
  const name = `Receiver CA ${(receivers += 1)}`
  const [authority, foreign] = [await makeAuthority(`CN=${name}`), await makeAuthority(`CN=Not ${name}`)]
  const identities = { own: await makeServerLeaf(authority), foreign: await makeServerLeaf(foreign) }
  const tls = ({ certificatePem, privateKeyPem }: Identity) => ({ cert: certificatePem, key: privateKeyPem })
  const received: Received[] = []
  let failedHandshakes = 0
  let told: { status: number; headers: Record<string, string> } = { status: 200, headers: {} }

  const server = createServer(tls(identities.own), (request, response) => {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      const body = Buffer.concat(parts).toString()
      const id = String(request.headers['webhook-id'])
      const text = `${id}.${String(request.headers['webhook-timestamp'])}.${body}`
      const isSigned = request.headers['webhook-signature'] === `v1,${createHmac('sha256', SECRET).update(text).digest('base64')}`
      received.push({ path: request.url ?? '', id, isSigned, notice: JSON.parse(body), status: told.status })
      response.writeHead(told.status, told.headers).end()
    })
  })
  server.on('tlsClientError', () => (failedHandshakes += 1))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `https://localhost:${(server.address() as AddressInfo).port}/hooks/kme`,
    caPem: authority.certificatePem,
    received,
    failedHandshakes: () => failedHandshakes,
    accepted: () => received.filter(({ status }) => status === 200),
    answer: (status, headers = {}) => (told = { status, headers }),
    present: (which) => {
      server.setSecureContext(tls(identities[which]))
      server.closeAllConnections()
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
