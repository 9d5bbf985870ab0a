/** A KME that answers what a test tells it to, over real TLS with certificates of a real PKI, and the files its clients need. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import type { IncomingHttpHeaders } from 'node:http'
import { createServer, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import type { TLSSocket } from 'node:tls'
import { join } from 'node:path'
import { createAuthorities } from '../../src/pki/authorities.ts'
import { writeIssued } from '../../src/pki/certificate-files.ts'
import type { CertificateAuthorities, IssuedCertificate } from '../../src/pki/pki.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'

export interface Asked {
  readonly method: string
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
  /** The SAN of the client's certificate; undefined without one. */
  readonly client: string | undefined
}

/** `hang` never answers. */
export type Told = { readonly status: number; readonly headers?: Record<string, string>; readonly body?: string } | 'hang'

export interface AnsweringKme {
  readonly url: string
  readonly port: number
  readonly asked: Asked[]
  /** What the next requests are answered. */
  answer(told: Told | ((asked: Asked) => Told)): void
  stop(): Promise<void>
}

export interface Pki {
  readonly dir: string
  readonly authorities: CertificateAuthorities
  remove(): Promise<void>
}

export const createPki = async (): Promise<Pki> => {
  const dir = await mkdtemp(join(tmpdir(), 'kme-cli-'))
  const authorities = await createAuthorities(join(dir, 'pki'), { clock: systemClock, random: systemRandom })
  return { dir, authorities, remove: () => rm(dir, { recursive: true, force: true }) }
}

/** Issues and writes a certificate into the folder of the PKI. */
export const issueFiles = async (
  { authorities, dir }: Pki,
  profile: 'kme' | 'sae',
  id: string,
): Promise<{ certificate: string; key: string; issued: IssuedCertificate }> => {
  const issued = await authorities.issue({ profile, id })
  const { certificate, key } = await writeIssued(dir, issued, systemRandom, { force: true })
  return { certificate, key, issued }
}

export const startAnsweringKme = async (
  pki: Pki,
  options: { readonly kmeId?: string; readonly clients?: 'sae' | 'kme' | 'none'; readonly tls?: ServerOptions } = {},
): Promise<AnsweringKme> => {
  const { kmeId = 'kme-a', clients = 'sae' } = options
  const own = await pki.authorities.issue({ profile: 'kme', id: kmeId })
  const asked: Asked[] = []
  let tell: (asked: Asked) => Told = () => ({ status: 503 })
  const server = createServer(
    {
      cert: own.certificatePem,
      key: own.privateKeyPem,
      ...(clients !== 'none' && { ca: pki.authorities.certificatePem[clients], requestCert: true }),
      ...options.tls,
    },
    (request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        const socket = request.socket as TLSSocket
        const one: Asked = {
          method: request.method ?? '',
          path: request.url ?? '',
          headers: request.headers,
          body: Buffer.concat(chunks).toString('utf8'),
          client: clients === 'none' ? undefined : socket.getPeerCertificate().subjectaltname,
        }
        asked.push(one)
        const told = tell(one)
        if (told !== 'hang') response.writeHead(told.status, told.headers).end(told.body)
      })
    },
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `https://localhost:${port}`,
    port,
    asked,
    answer: (told) => (tell = typeof told === 'function' ? told : () => told),
    stop: async () => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

export const json = (body: unknown, status = 200): Told => ({
  status,
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(body),
})
