/** One protected site with two networks: `kme-a` serves alice and anna, `kme-x` serves xavier and xena. Nothing joins the two KMEs but
 *  ETSI GS QKD 020, and between them stands a wire that judges every body by the OpenAPI document and can be told to fail. Further SAEs at
 *  kme-a's: far is homed at another KME of network A, mallory may talk to nobody, yves is homed behind kme-y, a third neighbour that is
 *  never there. Keys of anna for xavier must be relayed over two ways. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, createServer, request as httpsRequest, type Server } from 'node:https'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { parse, stringify } from 'yaml'
import { compose, type Kme } from '../../src/compose.ts'
import { parseConfig } from '../../src/config/config.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { createAuthorities } from '../../src/pki/authorities.ts'
import { makeAuthority, makeLeaf, type Identity } from '../http/test-certificates.ts'
import { createContract } from '../openapi/contract.ts'
import { eventually } from '../setup/eventually.ts'
import { createAdminTokens } from '../setup/admin-tokens.ts'
import { freePort } from '../setup/free-port.ts'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'
import { runStatement } from '../setup/run-statement.ts'

export type KmeName = 'kme-a' | 'kme-x'

export interface Answer {
  readonly status: number
  readonly text: string
  readonly headers: IncomingMessage['headers']
  /** The JSON body. */
  readonly json: unknown
}

export interface Client {
  send(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>
  get(path: string): Promise<Answer>
  post(path: string, body: unknown): Promise<Answer>
}

/** One request between the KMEs and its answer. */
export interface Exchange {
  readonly from: KmeName
  readonly to: KmeName
  readonly method: string
  readonly path: string
  readonly body: string
  /** Undefined while there is none. */
  status?: number
  answer?: string
}

/** What the wire does with a request instead of passing it on and its answer back. `lose-answer`, `cut-answer`: the other side got it, and
 *  nobody hears, or half of it. `cut-request`: the other side gets half of it. `twice`: it gets it two times. `afterwards`: as
 *  `lose-answer`, and this happens before anybody can notice. */
export type Fault =
  | 'lose-request'
  | 'cut-request'
  | 'lose-answer'
  | 'cut-answer'
  | 'twice'
  | { readonly status: number; readonly body?: string; readonly location?: string }
  | { readonly afterwards: () => Promise<void> }
  | undefined

export const contract = createContract('openapi/etsi-gs-qkd-020.yaml')

const HOMES: Readonly<Record<string, string>> = {
  alice: 'kme-a',
  anna: 'kme-a',
  mallory: 'kme-a',
  far: 'kme-far',
  xavier: 'kme-x',
  yves: 'kme-y',
  xena: 'kme-x',
}
const PARTNERS: Readonly<Record<string, readonly string[]>> = {
  alice: ['xavier', 'xena', 'anna', 'yves'],
  anna: ['xavier'],
  mallory: [],
  far: ['xavier'],
  xavier: ['xena'],
  xena: [],
  yves: [],
}

export interface SiteOptions {
  /** Both KMEs send without callback. */
  readonly synchronous?: boolean
  readonly deadlineMs?: number
  readonly keys?: Readonly<Record<string, number>>
  readonly requestsPerS?: number
  readonly keysPerS?: number
  /** Run both as processes of their own (`kme start`), so that they can be killed. */
  readonly processes?: boolean
}

export type Site = Awaited<ReturnType<typeof startSite>>

const otherOf = (name: KmeName): KmeName => (name === 'kme-a' ? 'kme-x' : 'kme-a')
const NAMES: readonly KmeName[] = ['kme-a', 'kme-x']

export const startSite = async (options: SiteOptions = {}) => {
  const directory = mkdtempSync(join(tmpdir(), 'openkme-site-'))
  const file = (name: string, content: string): string => {
    const path = join(directory, name)
    writeFileSync(path, content, { mode: 0o600 })
    return path
  }
  const pki = { clock: systemClock, random: systemRandom }
  const authorities = await createAuthorities(join(directory, 'pki'), pki)
  const adminTokens = createAdminTokens()
  // The two networks agreed on an authority of the site; kme-x's certificate names it in its own way.
  const siteAuthority = await makeAuthority('CN=Site CA')
  const siteCa = file('site-ca.pem', siteAuthority.certificatePem)
  const both = { usages: ['client', 'server'], dns: ['localhost'], ips: ['127.0.0.1'] } as const
  const identities: Readonly<Record<KmeName | 'kme-y', Identity>> = {
    'kme-a': await makeLeaf(siteAuthority, { ...both, subject: 'CN=kme-a', uris: ['urn:kme:kme:kme-a'] }),
    'kme-x': await makeLeaf(siteAuthority, { ...both, subject: 'CN=KME X of Network X' }),
    'kme-y': await makeLeaf(siteAuthority, { ...both, subject: 'CN=Y', uris: ['https://y.example/kme'] }),
  }
  const names = { 'kme-a': { uri: 'urn:kme:kme:kme-a' }, 'kme-x': { commonName: 'KME X of Network X' } } as const

  const ports = new Map<KmeName, { sae: number; peer: number; admin: number; interworking: number }>()
  const databases = new Map<KmeName, TestDatabase>()
  for (const name of NAMES) {
    ports.set(name, { sae: await freePort(), peer: await freePort(), admin: await freePort(), interworking: await freePort() })
    databases.set(name, await createTestDatabase())
  }

  // The wire
  const exchanges: Exchange[] = []
  const faults: string[] = []
  let fail: (exchange: Exchange) => Fault | Promise<Fault> = () => undefined
  const judge = (check: () => unknown): void => {
    try {
      check()
    } catch (error) {
      faults.push((error as Error).message)
    }
  }
  let acksToAnother: number | undefined
  const portOf = ({ to, path }: Exchange): number =>
    acksToAnother !== undefined && to === 'kme-a' && path.endsWith('/ack') ? acksToAnother : ports.get(to)!.interworking
  const wireAgents = new Map(NAMES.map((name) => [name, new Agent({ keepAlive: true })]))
  const passOn = (exchange: Exchange, headers: IncomingMessage['headers']): Promise<Answer> =>
    call(portOf(exchange), identities[exchange.from], siteAuthority, {
      method: exchange.method,
      path: exchange.path,
      body: exchange.body,
      headers: { 'content-type': headers['content-type'] ?? '' },
      agent: wireAgents.get(exchange.from)!,
    })
  /** Resolves when the other side has got half a request, and the end of the connection. */
  const passOnHalf = (exchange: Exchange): Promise<void> =>
    new Promise((resolve) => {
      const { certificatePem: cert, privateKeyPem: key } = identities[exchange.from]
      const socket = connect({ host: '127.0.0.1', port: portOf(exchange), cert, key, ca: siteAuthority.certificatePem }, () => {
        const length = Buffer.byteLength(exchange.body)
        const head = `POST ${exchange.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`
        socket.end(`${head}${exchange.body.slice(0, length / 2)}`)
      })
      socket.on('error', () => undefined)
      socket.on('close', () => resolve()).resume()
    })
  const startWire = (from: KmeName): Promise<Server> => {
    const to = otherOf(from)
    const { certificatePem: cert, privateKeyPem: key } = identities[to]
    const options = { cert, key, ca: siteAuthority.certificatePem, requestCert: true, minVersion: 'TLSv1.3' } as const
    const server = createServer(options, (req, res) => {
      const answering = readAll(req).then(async (body) => {
        const exchange: Exchange = { from, to, method: req.method!, path: req.url!, body: body.toString() }
        exchanges.push(exchange)
        judge(() =>
          contract.checkRequest(exchange.method, exchange.path, req.headers['content-type'], exchange.body || undefined),
        )
        const fault = await fail(exchange)
        if (fault === 'cut-request') await passOnHalf(exchange)
        if (fault === 'lose-request' || fault === 'cut-request') return void req.socket.destroy()
        if (typeof fault === 'object' && 'status' in fault) {
          return void res
            .writeHead(fault.status, {
              'content-type': 'application/json; charset=UTF-8',
              ...(fault.location && { location: fault.location }),
            })
            .end(fault.body ?? '')
        }
        if (fault === 'twice') await passOn(exchange, req.headers)
        const answer = await passOn(exchange, req.headers).catch(() => undefined)
        if (typeof fault === 'object') await fault.afterwards()
        if (answer === undefined || fault === 'lose-answer' || typeof fault === 'object') return void req.socket.destroy()
        if (fault === 'cut-answer') {
          const half = answer.text.slice(0, answer.text.length / 2)
          res.writeHead(answer.status, { 'content-type': 'application/json', 'content-length': answer.text.length + 1 })
          return void res.write(half, () => req.socket.destroy())
        }
        Object.assign(exchange, { status: answer.status, answer: answer.text })
        judge(() =>
          contract.checkResponse(exchange.method, exchange.path, answer.status, answer.headers['content-type'], answer.text),
        )
        res.writeHead(answer.status, { 'content-type': answer.headers['content-type'] ?? '' }).end(answer.text)
      })
      // One of the two is gone.
      answering.catch(() => req.socket.destroy())
    })
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)))
  }
  const wires = new Map<KmeName, Server>()
  const wirePorts = new Map<KmeName, number>()
  for (const name of NAMES) {
    wires.set(name, await startWire(name))
    wirePorts.set(name, (wires.get(name)!.address() as AddressInfo).port)
  }
  /** Where requests from this KME enter the wire. */
  const wireUrl = (from: KmeName): string => `https://127.0.0.1:${wirePorts.get(from)}`
  /** Nobody listens any more where requests from this KME enter the wire. */
  const unplug = async (from: KmeName): Promise<void> => {
    const closed = new Promise((resolve) => wires.get(from)!.close(resolve))
    wires.get(from)!.closeAllConnections()
    await closed
  }
  const plug = (from: KmeName): Promise<void> =>
    new Promise((resolve) => wires.get(from)!.listen(wirePorts.get(from), '127.0.0.1', () => resolve()))
  /** The wire shows another certificate to this KME from now on. */
  const disguise = (from: KmeName, { certificatePem: cert, privateKeyPem: key }: Identity): void => {
    wires.get(from)!.setSecureContext({ cert, key, ca: siteAuthority.certificatePem, minVersion: 'TLSv1.3' })
    wires.get(from)!.closeAllConnections()
  }

  const tokenKey = file('token.pub.pem', adminTokens.publicKeyPem)
  const configs = new Map<KmeName, string>()
  for (const name of NAMES) {
    const other = otherOf(name)
    const issued = await authorities.issue({ profile: 'kme', id: name, hosts: ['localhost', '127.0.0.1'] })
    const tls = { certificate: file(`${name}.pem`, issued.certificatePem), privateKey: file(`${name}.key`, issued.privateKeyPem) }
    const own = ports.get(name)!
    configs.set(
      name,
      stringify({
        kme: { id: name },
        log: { level: 'silent', requests: false },
        custody: { passphraseFile: file(`${name}.passphrase`, `passphrase of ${name}`), argon2MemoryKib: 19456, argon2Passes: 1 },
        saeApi: { port: own.sae, tls: { ...tls, clientCa: authorities.files.sae.certificate } },
        peerApi: { port: own.peer, tls: { ...tls, ca: authorities.files.kme.certificate } },
        adminApi: { port: own.admin, tls, tokenKey },
        keys: { localStored: 300, ...options.keys },
        interworking: {
          port: own.interworking,
          // Neighbours reach this KME through the wire too.
          url: wireUrl(other),
          tls: {
            certificate: file(`${name}.020.pem`, identities[name].certificatePem),
            privateKey: file(`${name}.020.key`, identities[name].privateKeyPem),
            ca: siteCa,
          },
          neighbours: [
            {
              id: other,
              certificate: names[other],
              url: wireUrl(name),
              synchronous: options.synchronous ?? false,
              deadlineMs: options.deadlineMs ?? 10_000,
              ...(options.requestsPerS && { requestsPerS: options.requestsPerS }),
              ...(options.keysPerS && { keysPerS: options.keysPerS }),
            },
            { id: 'kme-y', certificate: { uri: 'https://y.example/kme' }, url: `https://127.0.0.1:${await freePort()}` },
          ],
        },
        ...(name === 'kme-a' && { relay: { pairs: [{ master: 'anna', slave: 'xavier', paths: 2 }] } }),
        saes: Object.entries(HOMES).map(([id, kme]) => ({ id, kme, sharesWith: PARTNERS[id] })),
      }),
    )
  }

  const running = new Map<KmeName, Pick<Kme, 'stop'>>()
  const children = new Map<KmeName, ChildProcess>()
  const startProcess = async (name: KmeName): Promise<void> => {
    const args = ['src/cli/kme.ts', 'start', '--config', file(`${name}.yaml`, configs.get(name)!), '--stop-with-parent']
    const started = spawn(process.execPath, args, {
      env: { ...process.env, DATABASE_URL: databases.get(name)!.url },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    children.set(name, started)
    await new Promise<void>((resolve, reject) => {
      started.stdout.on('data', (chunk: Buffer) => chunk.includes('"event":"listening"') && resolve())
      started.once('exit', () => reject(new Error(`${name} did not start`)))
    })
    const stopProcess = async (): Promise<void> => {
      if (started.exitCode !== null || started.signalCode !== null) return
      started.kill('SIGTERM')
      await once(started, 'exit')
    }
    running.set(name, { stop: stopProcess })
  }
  /** kill -9 of the process. */
  const kill = async (name: KmeName): Promise<void> => {
    const child = children.get(name)!
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    running.delete(name)
  }
  const start = async (name: KmeName): Promise<void> => {
    if (options.processes === true) return startProcess(name)
    const config = parseConfig(configs.get(name)!, join(directory, `${name}.yaml`))
    using passphrase = SecretBytes.take(Buffer.from(`passphrase of ${name}`))
    const log = createLogger(config.log.level, { kme: name })
    running.set(name, await compose({ config, databaseUrl: databases.get(name)!.url, passphrase, version: 'test', log }))
  }
  /** One more process of kme-a, which gets all acknowledgements. */
  const startAnother = async (): Promise<void> => {
    const settings = parse(configs.get('kme-a')!) as Record<'saeApi' | 'peerApi' | 'adminApi' | 'interworking', { port: number }>
    for (const api of ['saeApi', 'peerApi', 'adminApi', 'interworking'] as const) settings[api].port = 0
    const config = parseConfig(stringify(settings), join(directory, 'kme-a.yaml'))
    using passphrase = SecretBytes.take(Buffer.from('passphrase of kme-a'))
    const databaseUrl = databases.get('kme-a')!.url
    another = await compose({ config, databaseUrl, passphrase, version: 'test', log: createLogger('silent') })
    acksToAnother = another.ports.interworking
  }
  let another: Kme | undefined
  const stop = async (name: KmeName): Promise<void> => {
    await running.get(name)?.stop()
    running.delete(name)
  }

  const agents: Agent[] = []
  const clientOf = (
    port: number,
    identity: Pick<Identity, 'certificatePem' | 'privateKeyPem'> | undefined,
    ca: string,
  ): Client => {
    const agent = new Agent({ keepAlive: true, maxSockets: 4 })
    agents.push(agent)
    const send: Client['send'] = (method, path, body, headers = {}) =>
      call(
        port,
        identity,
        { certificatePem: ca },
        {
          method,
          path,
          body: body === undefined ? '' : Buffer.isBuffer(body) || typeof body === 'string' ? body : JSON.stringify(body),
          headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
          agent,
        },
      )
    return { send, get: (path) => send('GET', path), post: (path, body) => send('POST', path, body) }
  }
  const saes = new Map<string, Client>()
  const sae = async (id: string): Promise<Client> => {
    let client = saes.get(id)
    if (client === undefined) {
      const identity = await authorities.issue({ profile: 'sae', id })
      client = clientOf(ports.get(HOMES[id] as KmeName)!.sae, identity, authorities.certificatePem.kme)
      saes.set(id, client)
    }
    return client
  }
  /** Somebody who calls the interworking API of a KME directly. */
  const caller = (to: KmeName, identity: Identity | undefined): Client =>
    clientOf(ports.get(to)!.interworking, identity, siteAuthority.certificatePem)
  const admin = async (name: KmeName): Promise<Client> => {
    const plain = clientOf(ports.get(name)!.admin, undefined, authorities.certificatePem.kme)
    const authorization = { authorization: `Bearer ${await adminTokens.sign()}` }
    return {
      ...plain,
      get: (path) => plain.send('GET', path, undefined, authorization),
      post: (path, body) => plain.send('POST', path, body, authorization),
    }
  }
  const query = <T>(name: KmeName, sql: string, parameters: unknown[] = []): Promise<T[]> =>
    runStatement<T>(databases.get(name)!.url, sql, parameters)
  const count = async (name: KmeName, table: string): Promise<number> =>
    (await query<{ count: number }>(name, `SELECT count(*)::int AS count FROM ${table}`))[0]!.count

  const stopAll = async (): Promise<void> => {
    await Promise.all([...NAMES.map(stop), another?.stop()])
    for (const agent of [...agents, ...wireAgents.values()]) agent.destroy()
    for (const wire of wires.values()) {
      wire.closeAllConnections()
      await new Promise((resolve) => wire.close(resolve))
    }
    for (const database of databases.values()) await database.drop()
    rmSync(directory, { recursive: true, force: true })
  }
  const site = {
    siteAuthority,
    identities,
    exchanges,
    /** What was said between the KMEs and is not in the OpenAPI document. */
    faults,
    /** Decides the fate of each request from now on. */
    failWith: (decide: typeof fail) => void (fail = decide),
    ports,
    wireUrl,
    unplug,
    plug,
    disguise,
    start,
    stop,
    kill,
    startAnother,
    sae,
    caller,
    admin,
    query,
    count,
    /** Both KMEs have keys to send and know each other to be there. */
    ready: () =>
      eventually('both KMEs are ready', async () => {
        const [alice, xavier] = [await sae('alice'), await sae('xavier')]
        return (await storedKeys(alice, 'xavier')) >= 300 && (await storedKeys(xavier, 'alice')) >= 300
      }),
    [Symbol.asyncDispose]: stopAll,
  }
  try {
    await Promise.all(NAMES.map(start))
    await site.ready()
    return site
  } catch (error) {
    await stopAll()
    throw error
  }
}

interface Call {
  readonly method: string
  readonly path: string
  readonly body: string | Buffer
  readonly headers: Record<string, string>
  readonly agent: Agent
}

const call = (
  port: number,
  identity: Pick<Identity, 'certificatePem' | 'privateKeyPem'> | undefined,
  ca: Pick<Identity, 'certificatePem'>,
  { body, headers, ...rest }: Call,
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const outgoing = httpsRequest(
      {
        host: '127.0.0.1',
        port,
        ...rest,
        ca: ca.certificatePem,
        ...(identity && { cert: identity.certificatePem, key: identity.privateKeyPem }),
        headers: { ...headers, ...(rest.method !== 'GET' && { 'content-length': String(Buffer.byteLength(body)) }) },
      },
      (incoming) => {
        readAll(incoming).then((bytes) => {
          const text = bytes.toString()
          resolve({
            status: incoming.statusCode ?? 0,
            headers: incoming.headers,
            text,
            get json(): unknown {
              return JSON.parse(text)
            },
          })
        }, reject)
      },
    )
    outgoing.on('error', reject)
    outgoing.end(rest.method === 'GET' ? undefined : body)
  })

const readAll = async (incoming: IncomingMessage): Promise<Buffer> => {
  const chunks: Buffer[] = []
  for await (const chunk of incoming) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

export const storedKeys = async (client: Client, slave: string): Promise<number> =>
  ((await client.get(`/api/v1/keys/${slave}/status`)).json as { stored_key_count: number }).stored_key_count

export interface SentKey {
  readonly key_ID: string
  readonly key: string
}
export const keysOf = (answer: Answer): SentKey[] => (answer.json as { keys: SentKey[] }).keys

/** "Get key with key IDs". */
export const fetchKeys = (client: Client, master: string, keys: readonly { key_ID: string }[]): Promise<Answer> =>
  client.post(`/api/v1/keys/${master}/dec_keys`, { key_IDs: keys.map(({ key_ID }) => ({ key_ID })) })
