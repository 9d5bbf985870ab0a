/** Who gets into the admin API: rows A01 to A14, A16, A19 and A20 of the bad-input catalogue, and default deny. */
import { createHmac, createPrivateKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { beforeAll, describe, expect, it } from '@jest/globals'
import { createTokenVerifier, signAdminToken } from '../../src/admin/admin-token.ts'
import { adminScopes, type AdminScope } from '../../src/admin/admin.ts'
import { mountAdminApi, mountAdminRoutes } from '../../src/admin/routes.ts'
import type { AdminRoute } from '../../src/admin/admin-route.ts'
import { createApiApp } from '../../src/http/api-app.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { contract, createAdminWorld, type AdminWorld } from './admin-world.ts'

const WHOAMI = '/api/v1/whoami'
const encode = (value: object | string): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
const joined = (header: object, claims: object): string => `${encode(header)}.${encode(claims)}`
const signed = (header: object, claims: object, key: KeyObject): string => {
  const input = joined(header, claims)
  const algorithm = key.asymmetricKeyType === 'ed25519' ? null : 'sha256'
  return `${input}.${sign(algorithm, Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
}

let world: AdminWorld
let key: KeyObject
let nowS: number
let header: Record<string, unknown>
let claims: Record<string, unknown>

beforeAll(async () => {
  world = await createAdminWorld()
  key = createPrivateKey(world.privateKeyPem)
  nowS = world.clock.nowMs() / 1000
  header = { alg: 'EdDSA', typ: 'at+jwt' }
  claims = {
    iss: 'openkme',
    aud: 'openkme-admin',
    sub: 'erika',
    jti: '1',
    iat: nowS,
    nbf: nowS,
    exp: nowS + 3600,
    scope: 'kme:read',
  }
})

/** A token with some claims changed; a claim set to undefined is left out. */
const withClaims = (changes: object): string => signed(header, { ...claims, ...changes }, key)
const withHeader = (changes: object): string => signed({ ...header, ...changes }, claims, key)

describe('a token made by hand to the letter', () => {
  it('is accepted', async () => {
    const answer = await world.call('get', WHOAMI, { token: withClaims({}) })
    expect(answer.body).toEqual({ subject: 'erika', scopes: ['kme:read'], expiresAt: '2030-01-01T13:00:00.000Z' })
  })

  it('is accepted with an unknown scope, which allows nothing', async () => {
    const answer = await world.call('get', WHOAMI, { token: withClaims({ scope: 'kme:read root *' }) })
    expect(answer.body).toMatchObject({ scopes: ['kme:read'] })
  })
})

describe('a token is refused with 401 when', () => {
  it.each<[string, () => string]>([
    ['A01 it is not signed', () => `${joined({ ...header, alg: 'none' }, claims)}.`],
    ['A01 its signature is cut off', () => `${joined(header, claims)}.`],
    [
      'A02 it is signed with HS256 and the public key as the secret',
      () => {
        const input = joined({ ...header, alg: 'HS256' }, claims)
        return `${input}.${createHmac('sha256', world.publicKeyPem).update(input).digest('base64url')}`
      },
    ],
    [
      'A02 it is signed with ES256 where the key is Ed25519',
      () => signed({ ...header, alg: 'ES256' }, claims, generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey),
    ],
    ['its algorithm is spelled another way', () => withHeader({ alg: 'eddsa' })],
    ['it is signed with another key of the same type', () => signed(header, claims, generateKeyPairSync('ed25519').privateKey)],
    [
      'its claims were changed after signing',
      () => withClaims({}).replace(/\.[^.]+\./, `.${encode({ ...claims, scope: 'sae:write' })}.`),
    ],
    ['A03 it has expired', () => withClaims({ iat: nowS - 3600, nbf: nowS - 3600, exp: nowS })],
    ['A04 it is not valid yet', () => withClaims({ nbf: nowS + 1 })],
    ['A05 it never expires', () => withClaims({ exp: undefined })],
    ['it lives longer than 12 hours', () => withClaims({ exp: nowS + 12 * 3600 + 1 })],
    ['it was made in the future', () => withClaims({ iat: nowS + 3600, exp: nowS + 7200 })],
    ['it does not say when it was made', () => withClaims({ iat: undefined })],
    ['it has no nbf', () => withClaims({ nbf: undefined })],
    ['it has no ID', () => withClaims({ jti: undefined })],
    ['its expiry is text', () => withClaims({ exp: String(nowS + 3600) })],
    ['A06 it is for somebody else', () => withClaims({ aud: 'other' })],
    ['A06 it is for somebody else as well', () => withClaims({ aud: ['openkme-admin', 'other'] })],
    ['A07 somebody else issued it', () => withClaims({ iss: 'other' })],
    ['A08 it is an ID token', () => withHeader({ typ: 'JWT' })],
    ['A08 it has no type', () => withHeader({ typ: undefined })],
    ['A09 kid is a path', () => withHeader({ kid: '../../etc/passwd' })],
    ['A09 kid is SQL', () => withHeader({ kid: "' OR 1=1--" })],
    ['A09 kid has 2 kB', () => withHeader({ kid: 'k'.repeat(2048) })],
    ['A10 it brings jku', () => withHeader({ jku: 'https://127.0.0.1:1/jwks' })],
    ['A10 it brings x5u', () => withHeader({ x5u: 'https://127.0.0.1:1/cert' })],
    ['A10 it brings its own key', () => withHeader({ jwk: { kty: 'OKP', crv: 'Ed25519', x: 'AA' } })],
    ['A11 it is bound to a certificate', () => withClaims({ cnf: { 'x5t#S256': 'AA' } })],
    ['A12 it has an extension marked critical', () => withHeader({ crit: ['exp'], exp: 1 })],
    ['A12 it is compressed', () => withHeader({ zip: 'DEF' })],
    ['A12 it is encrypted', () => `${encode({ alg: 'dir', enc: 'A256GCM', typ: 'at+jwt' })}..AAAA.AAAA.AAAA`],
    ['A13 it is longer than 4096 characters', () => withClaims({ scope: 'kme:read '.repeat(500) })],
    ['it has no subject', () => withClaims({ sub: undefined })],
    ['its subject would forge a log line', () => withClaims({ sub: 'erika\nadmin' })],
    ['it has no scope claim', () => withClaims({ scope: undefined })],
    ['its scopes are a list', () => withClaims({ scope: ['kme:read'] })],
    ['it was made for another KME', () => withClaims({ kme: 'kme-b' })],
    ['it is not a token at all', () => 'abc'],
    ['it is two tokens', () => `${withClaims({})}.${withClaims({})}`],
  ])('%s', async (_, token) => {
    const answer = await world.call('get', WHOAMI, { token: token() })
    expect(answer).toMatchObject({ status: 401, contentType: 'application/problem+json', body: { title: 'Unauthorized' } })
    expect(answer.headers['www-authenticate']).toMatch(/^Bearer/)
    // The reason helps an attacker more than a user.
    expect(answer.body).not.toHaveProperty('detail')
  })

  it.each([
    ['there is none', undefined],
    ['it comes as Basic', 'Basic ZXJpa2E6eA=='],
    ['the header is empty', ''],
    ['the scheme stands alone', 'Bearer'],
  ])('%s', async (_, authorization) => {
    const answer = await world.call('get', WHOAMI, authorization === undefined ? {} : { authorization })
    expect(answer.status).toBe(401)
  })

  it('A13 it has 10 MB, without being decoded', async () => {
    await expect(world.parts.verifier.verify('a'.repeat(10_000_000))).rejects.toMatchObject({ code: 'unauthorized' })
  })

  it('it stands in the query or a cookie instead of the header', async () => {
    const token = withClaims({})
    expect((await world.call('get', `${WHOAMI}?access_token=${token}`)).status).toBe(401)
  })
})

describe('the algorithm', () => {
  it('is ES256 where the configured key is P-256, and EdDSA is then refused', async () => {
    const p256 = await createAdminWorld({ keyType: 'p256' })
    expect((await p256.call('get', WHOAMI, { token: await p256.token() })).status).toBe(200)
    expect((await p256.call('get', WHOAMI, { token: await world.token() })).status).toBe(401)
  })

  it.each([
    ['RSA', generateKeyPairSync('rsa', { modulusLength: 2048 })],
    ['P-384', generateKeyPairSync('ec', { namedCurve: 'P-384' })],
  ])('cannot come from a key of type %s', async (_, { publicKey, privateKey }) => {
    const publicKeyPem = publicKey.export({ type: 'spki', format: 'pem' }).toString()
    const privateKeyPem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
    await expect(createTokenVerifier({ publicKeyPem, clock: world.clock })).rejects.toThrow('Ed25519 or P-256')
    const request = { privateKeyPem, subject: 'erika', scopes: adminScopes, lifeS: 60, clock: world.clock, random: systemRandom }
    await expect(signAdminToken(request)).rejects.toThrow('Ed25519 or P-256')
  })

  it('is not served by a KME that was given the private key', async () => {
    await expect(createTokenVerifier({ publicKeyPem: world.privateKeyPem, clock: world.clock })).rejects.toThrow('public key')
  })
})

describe('a signed token', () => {
  it('runs out', async () => {
    const own = await createAdminWorld()
    const token = await own.token(['kme:read'], { lifeS: 60 })
    own.clock.advanceMs(59_000)
    expect((await own.call('get', WHOAMI, { token })).status).toBe(200)
    own.clock.advanceMs(1_000)
    expect((await own.call('get', WHOAMI, { token })).status).toBe(401)
  })

  it('for one KME is accepted there and nowhere else', async () => {
    const token = await world.token(['kme:read'], { kmeId: 'kme-a' })
    expect((await world.call('get', WHOAMI, { token })).status).toBe(200)
    const elsewhere = await createTokenVerifier({ publicKeyPem: world.publicKeyPem, kmeId: 'kme-b', clock: world.clock })
    await expect(elsewhere.verify(token)).rejects.toMatchObject({ code: 'unauthorized' })
  })

  it.each([
    ['a life of more than 12 hours', { lifeS: 43_201 }],
    ['no life', { lifeS: 0 }],
    ['no scope', { scopes: [] }],
    ['a subject with a space', { subject: 'erika m' }],
  ])('is not made with %s', async (_, wrong) => {
    const request = {
      privateKeyPem: world.privateKeyPem,
      subject: 'erika',
      scopes: adminScopes,
      lifeS: 60,
      clock: world.clock,
      random: systemRandom,
    }
    await expect(signAdminToken({ ...request, ...wrong })).rejects.toThrow()
  })
})

describe('default deny', () => {
  const urlOf = (template: string): string => template.replace(/\{[^}]+\}/, 'alice')
  const scoped = contract.operations.filter((operation) => operation.scopes.length > 0)

  it('covers every scope there is', () => {
    expect(new Set(scoped.flatMap((operation) => operation.scopes))).toEqual(new Set(adminScopes))
  })

  it.each(
    scoped.map((operation): [string, string, string, AdminScope] => [
      operation.operationId,
      operation.method.toLowerCase(),
      urlOf(operation.template),
      operation.scopes[0] as AdminScope,
    ]),
  )('A14 %s needs exactly its documented scope', async (_, method, url, scope) => {
    const fresh = await createAdminWorld()
    const send = async (scopes: readonly AdminScope[]): Promise<number> =>
      (await fresh.call(method as 'get' | 'post', url, { token: await fresh.token(scopes) })).status
    expect(await send(adminScopes.filter((other) => other !== scope))).toBe(403)
    expect(fresh.changes).toEqual([])
    expect([401, 403]).not.toContain(await send([scope]))
    expect((await fresh.call(method as 'get' | 'post', url)).status).toBe(401)
  })

  it('writes an attempt without the scope into the audit log, and one without a token not', async () => {
    const fresh = await createAdminWorld()
    await fresh.call('post', '/api/v1/saes/alice/disable', { token: await fresh.token(['sae:read']) })
    await fresh.call('post', '/api/v1/saes/alice/disable')
    expect(fresh.audited).toEqual([
      {
        event: 'admin.refused',
        actor: 'admin:erika',
        outcome: 'refused',
        subject: { method: 'POST', route: '/api/v1/saes/:saeId/disable', missingScope: 'sae:write' },
      },
    ])
  })

  it('stops the start for an operation without a scope, or one that is there twice', () => {
    const mount = (...routes: unknown[]): void =>
      void createApiApp({
        errors: 'problem',
        log: createLogger('silent'),
        mount: (app) => mountAdminRoutes(app, world.parts, routes as AdminRoute[]),
      })
    const route = { method: 'get', path: '/api/v1/new', scope: 'kme:read', handle: () => ({ json: {} }) }
    expect(() => mount(route)).not.toThrow()
    expect(() => mount({ ...route, scope: undefined })).toThrow('names no scope')
    expect(() => mount({ ...route, scope: 'root' })).toThrow('names no scope')
    expect(() => mount(route, route)).toThrow('twice')
  })

  it('A19 serves the documented paths and no other, and none of them has a field for key material', () => {
    const paths: string[] = []
    const app = { route: (path: string) => (paths.push(path), { all: () => undefined }) }
    mountAdminApi(app as never, world.parts)
    const documented = new Set(contract.operations.map(({ template }) => template.replace(/\{(.+)\}/, ':$1')))
    expect(new Set(paths)).toEqual(documented)
    expect(readFileSync('openapi/admin.yaml', 'utf8')).not.toMatch(/^ +(key|keys|key_ID|keyId|material|secret|privateKey)s?:/m)
  })
})

describe('requests with a good token are refused', () => {
  let token: string
  beforeAll(async () => {
    token = await world.token()
  })

  it.each<[string, 'get' | 'post', string, unknown]>([
    ['A16 an unknown member', 'post', '/api/v1/saes', { saeId: 'dave', kmeId: 'kme-a', role: 'admin' }],
    ['A16 an unknown member where no body is needed', 'post', '/api/v1/saes/alice/enable', { force: true }],
    ['a missing member', 'post', '/api/v1/saes', { saeId: 'dave' }],
    ['no body', 'post', '/api/v1/saes', undefined],
    ['an array', 'post', '/api/v1/saes', []],
    ['an SAE ID with a space', 'post', '/api/v1/saes', { saeId: 'a b', kmeId: 'kme-a' }],
    ['a number for an ID', 'post', '/api/v1/saes', { saeId: 7, kmeId: 'kme-a' }],
    ['an SAE paired with itself', 'post', '/api/v1/pairs', { one: 'alice', other: 'alice', allowed: true }],
    ['allowed as text', 'post', '/api/v1/pairs', { one: 'alice', other: 'bob', allowed: 'true' }],
    ['a blank SAE ID in the path', 'post', '/api/v1/saes/%20/enable', undefined],
    ['an unknown query parameter', 'get', '/api/v1/saes?role=admin', undefined],
    ['A20 limit -1', 'get', '/api/v1/audit?limit=-1', undefined],
    ['A20 limit 0', 'get', '/api/v1/audit?limit=0', undefined],
    ['A20 limit 1001', 'get', '/api/v1/audit?limit=1001', undefined],
    ['A20 limit 10^9', 'get', '/api/v1/audit?limit=1000000000', undefined],
    ['A20 limit in another notation', 'get', '/api/v1/audit?limit=1e2', undefined],
    ['A20 limit twice', 'get', '/api/v1/audit?limit=1&limit=2', undefined],
    ['an odd parameter name', 'get', '/api/v1/audit?limit[]=1', undefined],
    ['before that is no sequence number', 'get', '/api/v1/audit?before=abc', undefined],
    ['an event with a quote', 'get', "/api/v1/audit?event=key.issued'", undefined],
    ['an empty actor', 'get', '/api/v1/audit?actor=', undefined],
  ])('with 400 for %s', async (_, method, url, body) => {
    const answer = await world.call(method, url, { token, body })
    expect(answer).toMatchObject({ status: 400, contentType: 'application/problem+json', body: { title: 'Bad Request' } })
    expect(JSON.stringify(answer.body)).not.toMatch(/role|force|a b/)
    expect(world.changes).toEqual([])
    expect(world.auditQueries).toEqual([])
  })

  it.each<['put' | 'delete' | 'post' | 'head', string, string]>([
    ['put', '/api/v1/saes', 'GET, POST'],
    ['delete', '/api/v1/kme', 'GET'],
    ['post', '/api/v1/audit', 'GET'],
    ['head', '/metrics', 'GET'],
  ])('with 405 for %s %s', async (method, url, allow) => {
    const answer = await world.call(method, url, { token })
    expect(answer.status).toBe(405)
    expect(answer.headers['allow']).toBe(allow)
  })

  it.each(['/', '/api/v1', '/api/v1/keys/alice/enc_keys', '/API/V1/kme', '/api/v1/kme/', '/api/v1/keys/export'])(
    'with 404 for %s',
    async (url) => {
      expect((await world.call('get', url, { token })).status).toBe(404)
    },
  )
})
