/** What the audit log says of requests that were refused before any call could say it. */
import { X509Certificate } from 'node:crypto'
import { request as httpsRequest } from 'node:https'
import { afterEach, beforeEach, expect, it } from '@jest/globals'
import type { AuditEvent } from '../../src/audit/audit.ts'
import { createApiApp, only } from '../../src/http/api-app.ts'
import { startListener, type Listener } from '../../src/http/listeners.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { createRefusalLog } from '../../src/peer/refusal-log.ts'
import { peerPaths } from '../../src/peer/wire.ts'
import { makeAuthority, makeLeaf, type Identity } from '../http/test-certificates.ts'

const log = createLogger('silent')
let authority: Identity
let approved: Identity
let other: Identity
let fingerprint: string
let listener: Listener
let audited: AuditEvent[]
let seen: string[]

beforeEach(async () => {
  authority = await makeAuthority('CN=KME authority')
  const kme = (id: string): Promise<Identity> =>
    makeLeaf(authority, { subject: `CN=${id}`, uris: [`urn:kme:kme:${id}`], ips: ['127.0.0.1'], usages: ['client', 'server'] })
  const own = await kme('kme-b')
  ;[approved, other] = [await kme('kme-a'), await kme('kme-a')]
  fingerprint = new X509Certificate(approved.certificatePem).fingerprint256
  audited = []
  seen = []
  const refusals = createRefusalLog({
    isPeer: (kmeId, fingerprint256) => {
      seen.push(fingerprint256)
      return kmeId === 'kme-a' && fingerprint256 === fingerprint
    },
    audit: { append: async (event) => void audited.push(event), page: async () => ({ records: [], nextBefore: undefined }) },
    log,
  })
  listener = await startListener({
    name: 'peer',
    host: '127.0.0.1',
    port: 0,
    tls: { certificatePem: own.certificatePem, privateKeyPem: own.privateKeyPem, caPem: authority.certificatePem },
    clientCertificate: 'required',
    app: createApiApp({
      errors: 'problem',
      log,
      requestLog: refusals.ofCalls,
      mount: (app) => only(app, peerPaths.statements, { post: () => undefined }),
    }),
    refused: refusals.ofListener,
    log,
    clock: systemClock,
  })
})
afterEach(() => listener.stop(0))

const ask = (by: Identity, path: string, headers: Record<string, string | string[]> = {}): Promise<number | undefined> =>
  new Promise((resolve, reject) => {
    const { port } = listener
    const [cert, key, ca] = [by.certificatePem, by.privateKeyPem, authority.certificatePem]
    const outgoing = httpsRequest({ host: '127.0.0.1', port, path, headers, cert, key, ca, agent: false }, (incoming) => {
      incoming.resume()
      incoming.on('close', () => resolve(incoming.statusCode))
    })
    outgoing.on('error', reject)
    outgoing.end()
  })
const broken = { 'Content-Type': ['application/json', 'text/plain'] }
const recorded = async (count: number): Promise<object[]> => {
  while (seen.length < count) await new Promise(setImmediate)
  return audited.map(({ actor, subject }) => ({ actor, ...subject }))
}

it('has what a peer sent that the listener refused, but not in its name what came with a certificate nobody approved', async () => {
  expect(await ask(approved, peerPaths.hello, broken)).toBe(400)
  expect(await ask(other, peerPaths.hello, broken)).toBe(400)
  expect(await recorded(2)).toEqual([{ actor: 'kme:kme-a', call: 'hello', reason: 'malformed' }])
})

it('has each call that does not exist', async () => {
  expect(await ask(approved, peerPaths.statements)).toBe(405)
  expect(await ask(approved, '/kme/v1/none')).toBe(404)
  expect(await recorded(2)).toEqual([
    { actor: 'kme:kme-a', call: 'statements', reason: 'unknown-call' },
    { actor: 'kme:kme-a', call: 'other', reason: 'unknown-call' },
  ])
})
