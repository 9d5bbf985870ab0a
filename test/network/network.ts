/** Whole KMEs for tests: composed in this process from real parts (PostgreSQL, mTLS, emulated QKD devices), each with a
 *  database of its own. `kme-a` serves alice, anna and mallory, `kme-b` serves bob and bert; mallory may talk to nobody. On request
 *  `kme-c`, which serves carol, follows behind kme-b; nothing but relay joins it to kme-a. Another way to it may lead over `kme-d`. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request as httpsRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse, stringify } from 'yaml'
import { compose, type Kme } from '../../src/compose.ts'
import { parseConfig } from '../../src/config/config.ts'
import { createDeviceEmulator } from '../../src/device-emulator/device-emulator.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { createAuthorities } from '../../src/pki/authorities.ts'
import type { CertificateAuthorities } from '../../src/pki/pki.ts'
import { createAdminTokens } from '../setup/admin-tokens.ts'
import { freePort } from '../setup/free-port.ts'
import { eventually } from '../setup/eventually.ts'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'
import { runStatement } from '../setup/run-statement.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

export type KmeName = 'kme-a' | 'kme-b' | 'kme-c' | 'kme-d'

export interface Answer {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly text: string
  /** The JSON body. */
  readonly json: Record<string, unknown>
}

export interface SentKey {
  readonly key_ID: string
  readonly key: string
}

/** One SAE with its certificate and a keep-alive connection to a KME. */
export interface SaeClient {
  get(path: string, headers?: Record<string, string>): Promise<Answer>
  post(path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>
  send(method: string, path: string, body: string | Buffer | undefined, headers: Record<string, string>): Promise<Answer>
  close(): void
}

export interface Ports {
  readonly sae: number
  readonly peer: number
  readonly admin: number
}

/** A process of a KME (`kme start`). */
export interface KmeProcess {
  readonly ports: Ports
  readonly child: ChildProcess
  /** What it wrote so far. */
  log(): string
  /** kill -9. */
  kill(): Promise<void>
  stop(): Promise<void>
}

export interface NetworkOptions {
  /** Settings that replace the defaults below `keys`. */
  readonly keys?: Record<string, number>
  /** The settings below `pools`, at both KMEs. */
  readonly pools?: object
  /** The settings below `quotas`, at both KMEs. */
  readonly quotas?: object
  /** The settings below `sharing`, at both KMEs. */
  readonly sharing?: object
  /** Further settings of one KME. */
  readonly settings?: (name: KmeName) => object
  /** Further settings of the other KME in the `peers` of one. */
  readonly peer?: (name: KmeName) => object
  /** The `alarms` settings of both KMEs. */
  readonly alarms?: object
  readonly rateBlocksPerS?: number
  /** Most connections of a KME to its database; the default of the configuration if left out. */
  readonly databaseConnections?: number
  readonly blockBytes?: number
  /** Blocks a device keeps while nobody pulls them; the emulator's own number if left out. */
  readonly bufferBlocks?: number
  readonly qberMean?: number
  /** With kme-c behind kme-b. */
  readonly line?: boolean
  /** The same, and kme-d as another way from kme-a to kme-c. */
  readonly diamond?: boolean
  /** Do not wait until keys have been agreed. */
  readonly startEmpty?: boolean
  readonly saeIdentity?: 'san-uri' | 'san-uri-or-cn'
  /** Oldest TLS of the SAE API; the default of the configuration if left out. */
  readonly saeTls?: 'TLSv1.2'
  readonly logLevel?: 'silent' | 'debug' | 'info' | 'warn'
  /** One log line per request; off if left out. */
  readonly logRequests?: boolean
  /** Run each KME as a process of its own (`kme start`), so that it can be killed. Its log is in the directory. */
  readonly processes?: boolean
  /** More arguments of `kme start`, such as `--workers 2`. */
  readonly processArgs?: readonly string[]
  /** Redis of both KMEs. Pools are in memory if left out. */
  readonly redisUrl?: string
  /** Databases to use; clones of the test template if left out. */
  readonly createDatabase?: (name: string) => Promise<TestDatabase>
}

const HOMES: Record<string, KmeName> = { alice: 'kme-a', anna: 'kme-a', mallory: 'kme-a', bob: 'kme-b', bert: 'kme-b' }
const PARTNERS: Record<string, string[]> = {
  alice: ['bob', 'bert', 'anna', 'carol'],
  anna: ['alice', 'bob', 'bert', 'carol'],
  bob: ['alice', 'anna', 'bert'],
  bert: ['alice', 'anna', 'bob'],
  mallory: [],
  carol: [],
}

export { eventually }

export type Network = Awaited<ReturnType<typeof startNetwork>>

/** Those that not every network has. */
const FURTHER_LINKS: readonly { readonly id: string; readonly ends: readonly [KmeName, KmeName] }[] = [
  { id: 'b-c', ends: ['kme-b', 'kme-c'] },
  { id: 'a-d', ends: ['kme-a', 'kme-d'] },
  { id: 'd-c', ends: ['kme-d', 'kme-c'] },
]

export const startNetwork = async (options: NetworkOptions = {}) => {
  const directory = mkdtempSync(join(tmpdir(), 'openkme-network-'))
  const authorities: CertificateAuthorities = await createAuthorities(join(directory, 'pki'), {
    clock: systemClock,
    random: systemRandom,
  })
  const adminTokens = createAdminTokens()
  const file = (name: string, content: string): string => {
    const path = join(directory, name)
    writeFileSync(path, content, { mode: 0o600 })
    return path
  }
  const devices = createDeviceEmulator({
    clock: systemClock,
    random: systemRandom,
    linkName: 'a-b',
    rateBlocksPerS: options.rateBlocksPerS ?? 50,
    blockBytes: options.blockBytes ?? 4128,
    ...(options.bufferBlocks !== undefined && { bufferBlocks: options.bufferBlocks }),
    startPaused: false,
    ...(options.qberMean !== undefined && { qberMean: options.qberMean }),
  })
  await devices.start()
  const further = FURTHER_LINKS.filter(
    (link) => options.diamond === true || (options.line === true && link.ends.includes('kme-b')),
  )
  /** Each with the devices of its two ends. */
  const links = [
    { id: 'a-b', ends: ['kme-a', 'kme-b'], devices },
    ...further.map((link) => ({
      ...link,
      devices: createDeviceEmulator({
        clock: systemClock,
        random: systemRandom,
        linkName: link.id,
        rateBlocksPerS: options.rateBlocksPerS ?? 50,
        blockBytes: options.blockBytes ?? 4128,
        ...(options.bufferBlocks !== undefined && { bufferBlocks: options.bufferBlocks }),
        startPaused: false,
      }),
    })),
  ]
  const ofFurtherLinks = links.slice(1).map((link) => link.devices)
  for (const each of ofFurtherLinks) await each.start()
  /** Those of all links but a-b. */
  const furtherDevices = {
    pause: () => ofFurtherLinks.forEach((each) => each.pause()),
    resume: () => ofFurtherLinks.forEach((each) => each.resume()),
    produced: () => ofFurtherLinks.reduce((sum, each) => sum + each.produced(), 0),
  }

  const names: readonly KmeName[] = [...new Set<KmeName>(['kme-a', 'kme-b', ...further.flatMap(({ ends }) => ends)])]
  const ports = new Map<KmeName, Ports>()
  const databases = new Map<KmeName, TestDatabase>()
  const configs = new Map<KmeName, string>()
  for (const name of names) {
    ports.set(name, { sae: await freePort(), peer: await freePort(), admin: await freePort() })
    databases.set(name, await (options.createDatabase ?? createTestDatabase)(name.replace('-', '_')))
  }
  const tokenKey = file('token.pub.pem', adminTokens.publicKeyPem)
  for (const name of names) {
    const issued = await authorities.issue({ profile: 'kme', id: name, hosts: ['localhost', '127.0.0.1'] })
    const certificate = file(`${name}.pem`, issued.certificatePem)
    const privateKey = file(`${name}.key`, issued.privateKeyPem)
    const own = ports.get(name)!
    configs.set(
      name,
      stringify({
        kme: { id: name },
        log: { level: options.logLevel ?? 'silent', requests: options.logRequests ?? false },
        custody: { passphraseFile: file(`${name}.passphrase`, `passphrase of ${name}`), argon2MemoryKib: 19456, argon2Passes: 1 },
        saeApi: {
          port: own.sae,
          tls: {
            certificate,
            privateKey,
            clientCa: authorities.files.sae.certificate,
            clientCrl: authorities.files.sae.revocationList,
            ...(options.saeTls && { minVersion: options.saeTls }),
          },
          saeIdentity: options.saeIdentity ?? 'san-uri',
        },
        peerApi: {
          port: own.peer,
          tls: { certificate, privateKey, ca: authorities.files.kme.certificate, crl: authorities.files.kme.revocationList },
        },
        adminApi: { port: own.admin, tls: { certificate, privateKey }, tokenKey },
        database: {
          ...(options.databaseConnections !== undefined && { connections: options.databaseConnections }),
          // The server that all tests share may be slow to let somebody in.
          ...(options.createDatabase === undefined && { connectDeadlineMs: timeLimitMs(2000) }),
        },
        keys: { localStored: 300, maxStored: 1_000_000, ...options.keys },
        peers: names
          .filter((other) => other !== name)
          .map((other) => ({
            id: other,
            url: `https://127.0.0.1:${ports.get(other)!.peer}`,
            deadlineMs: 10_000,
            ...options.peer?.(name),
          })),
        links: links
          .filter(({ ends }) => ends.includes(name))
          .map(({ id, ends, devices: own }) => {
            const end = ends.indexOf(name)
            return { id, peer: ends[1 - end], driver: 'tcp', port: end === 0 ? own.ports.a : own.ports.b, creditBlocks: 8 }
          }),
        ...(options.pools !== undefined && { pools: options.pools }),
        ...(options.quotas !== undefined && { quotas: options.quotas }),
        ...(options.sharing !== undefined && { sharing: options.sharing }),
        ...options.settings?.(name),
        ...(options.alarms !== undefined && { alarms: options.alarms }),
        saes: [
          ...Object.entries(HOMES).map(([id, kme]) => ({ id, kme, sharesWith: PARTNERS[id] })),
          { id: 'carol', kme: 'kme-c', sharesWith: [] },
        ],
      }),
    )
  }

  const running = new Map<KmeName, Pick<Kme, 'stop'>>()
  const processes = new Map<KmeName, ChildProcess>()
  const spawned: KmeProcess[] = []
  /** @param tag tells its configuration and its log apart from those of other processes of this KME. */
  const spawnKme = async (
    name: KmeName,
    settings: string,
    { tag = '', args = [] }: { tag?: string; args?: readonly string[] },
  ): Promise<KmeProcess> => {
    const config = file(`${name}${tag}.yaml`, settings)
    const logFile = join(directory, `${name}${tag}.log`)
    const log = openSync(logFile, 'a')
    // A KME must not outlive a test run that is killed.
    const child = spawn(process.execPath, ['src/cli/kme.ts', 'start', '--config', config, '--stop-with-parent', ...args], {
      env: {
        ...process.env,
        DATABASE_URL: databases.get(name)!.url,
        ...(options.redisUrl !== undefined && { REDIS_URL: options.redisUrl }),
      },
      stdio: ['pipe', 'pipe', log],
    })
    const ended = once(child, 'exit')
    const own: Omit<KmeProcess, 'ports'> = {
      child,
      log: () => readFileSync(logFile, 'utf8'),
      kill: async () => {
        child.kill('SIGKILL')
        await ended
      },
      stop: async () => {
        child.kill('SIGCONT')
        child.kill('SIGTERM')
        await ended
      },
    }
    const line = await new Promise<string>((resolve, reject) => {
      let text = ''
      child.stdout!.on('data', (chunk: Buffer) => {
        writeFileSync(log, chunk)
        text += chunk.toString('utf8')
        const listening = text.split('\n').find((each) => each.includes('"event":"listening"') && each.endsWith('}'))
        if (listening !== undefined) resolve(listening)
      })
      child.once('exit', () => reject(new Error(`${name} did not start: ${own.log().slice(-2000)}`)))
    })
    const { sae, peer, admin } = JSON.parse(line) as Ports
    const started: KmeProcess = { ...own, ports: { sae, peer, admin } }
    spawned.push(started)
    return started
  }
  const startProcess = async (name: KmeName): Promise<void> => {
    const started = await spawnKme(name, configs.get(name)!, { args: options.processArgs ?? [] })
    processes.set(name, started.child)
    running.set(name, started)
  }
  /** Starts another process of the same KME: same database, listeners of its own. */
  const startAnother = (name: KmeName, args: readonly string[] = []): Promise<KmeProcess> => {
    const settings = parse(configs.get(name)!) as Record<'saeApi' | 'peerApi' | 'adminApi', { port: number }>
    for (const api of ['saeApi', 'peerApi', 'adminApi'] as const) settings[api].port = 0
    return spawnKme(name, stringify(settings), { tag: `-${spawned.length}`, args })
  }
  /** Whether the process of a KME is gone, for whatever reason. */
  const hasEnded = (name: KmeName): boolean => {
    const child = processes.get(name)
    return child === undefined || child.exitCode !== null || child.signalCode !== null
  }
  /** Of the process of a KME, which may have children. */
  const pid = (name: KmeName): number => processes.get(name)!.pid!
  /** kill -9. The next `start` begins a new process. */
  const kill = async (name: KmeName): Promise<void> => {
    const child = processes.get(name)!
    if (!hasEnded(name)) {
      const ended = once(child, 'exit')
      child.kill('SIGKILL')
      await ended
    }
    running.delete(name)
  }
  const start = async (name: KmeName): Promise<void> => {
    if (options.processes === true) return startProcess(name)
    const config = parseConfig(configs.get(name)!, join(directory, `${name}.yaml`))
    using passphrase = SecretBytes.take(Buffer.from(`passphrase of ${name}`))
    const log = createLogger(config.log.level, { kme: name })
    running.set(
      name,
      await compose({
        config,
        databaseUrl: databases.get(name)!.url,
        redisUrl: options.redisUrl,
        passphrase,
        version: 'test',
        log,
      }),
    )
  }
  const stop = async (name: KmeName): Promise<void> => {
    await running.get(name)?.stop()
    running.delete(name)
  }

  const clients: SaeClient[] = []
  /** @param id the SAE named in the certificate; @param kme where it connects to. */
  const sae = (id: string, kme: KmeName = HOMES[id] ?? 'kme-a'): Promise<SaeClient> => saeAt(ports.get(kme)!, id)
  /** @param at where it connects to, such as another process of its KME. */
  const saeAt = async (at: Ports, id: string): Promise<SaeClient> => {
    const { certificatePem, privateKeyPem } = await authorities.issue({ profile: 'sae', id })
    return clientOf(at.sae, { cert: certificatePem, key: privateKeyPem })
  }
  const clientOf = (port: number, credentials: { cert?: string; key?: string }): SaeClient => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const send: SaeClient['send'] = (method, path, body, headers) =>
      new Promise((resolve, reject) => {
        const outgoing = httpsRequest(
          { host: '127.0.0.1', port, method, path, headers, agent, ca: authorities.certificatePem.kme, ...credentials },
          (incoming) => {
            const chunks: Buffer[] = []
            incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
            incoming.on('error', reject)
            incoming.on('end', () => {
              const text = Buffer.concat(chunks).toString('utf8')
              resolve({
                status: incoming.statusCode ?? 0,
                headers: incoming.headers,
                text,
                get json() {
                  return JSON.parse(text) as Record<string, unknown>
                },
              })
            })
          },
        )
        outgoing.on('error', reject)
        outgoing.end(body)
      })
    const client: SaeClient = {
      send,
      get: (path, headers = {}) => send('GET', path, undefined, headers),
      post: (path, body, headers = {}) => {
        const text = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body)
        return send('POST', path, text, {
          'content-type': 'application/json',
          'content-length': String(Buffer.byteLength(text)),
          ...headers,
        })
      },
      close: () => agent.destroy(),
    }
    clients.push(client)
    return client
  }
  const admin = (kme: KmeName): Promise<SaeClient> => adminAt(ports.get(kme)!)
  const adminAt = async (at: Ports): Promise<SaeClient> => {
    const plain = clientOf(at.admin, {})
    const authorization = { authorization: `Bearer ${await adminTokens.sign()}` }
    return {
      ...plain,
      get: (path, headers = {}) => plain.get(path, { ...authorization, ...headers }),
      post: (path, body, headers = {}) => plain.post(path, body, { ...authorization, ...headers }),
    }
  }
  /** Rows of a KME's own database. */
  const query = <T>(name: KmeName, sql: string, parameters: unknown[] = []): Promise<T[]> =>
    runStatement<T>(databases.get(name)!.url, sql, parameters)
  const stopAll = async (): Promise<void> => {
    clients.forEach((client) => client.close())
    await Promise.all([...names.map(stop), ...spawned.map((one) => one.stop())])
    await devices.stop()
    for (const each of ofFurtherLinks) await each.stop()
    for (const database of databases.values()) await database.drop()
    rmSync(directory, { recursive: true, force: true })
  }

  const network = {
    directory,
    authorities,
    devices,
    furtherDevices,
    ports,
    databases,
    running,
    start,
    stop,
    kill,
    pid,
    hasEnded,
    startAnother,
    sae,
    saeAt,
    clientOf,
    admin,
    adminAt,
    query,
    [Symbol.asyncDispose]: stopAll,
  }
  try {
    await Promise.all(names.map(start))
    if (options.startEmpty !== true) {
      const alice = await sae('alice')
      const bob = await sae('bob')
      await eventually(
        'keys in both directions',
        async () => (await storedKeys(alice, 'bob')) > 0 && (await storedKeys(bob, 'alice')) > 0,
      )
    }
    return network
  } catch (error) {
    await stopAll()
    throw error
  }
}

/** What "Get status" says can be drawn. */
export const storedKeys = async (client: SaeClient, slave: string): Promise<number> =>
  (await client.get(`/api/v1/keys/${slave}/status`)).json['stored_key_count'] as number

export const keysOf = (answer: Answer): SentKey[] => answer.json['keys'] as SentKey[]

/** The answer to a request that is repeated until it is 200: a KME that is busy or has just begun may say 503 for a moment. */
export const untilServed = (send: () => Promise<Answer>): Promise<Answer> =>
  eventually('an answer 200', async () => {
    const answer = await send()
    return answer.status === 200 ? answer : undefined
  })

/** Waits until the devices are quiet and both ends have agreed all they delivered, so that counts stand still. */
export const quieten = async (network: Network): Promise<void> => {
  network.devices.pause()
  let state = ''
  await eventually('all blocks agreed', async () => {
    for (const name of ['kme-a', 'kme-b'] as const) {
      const [pending] = await network.query<{ pending: number; total: number }>(
        name,
        `SELECT count(*) FILTER (WHERE state = 'INGESTED')::int AS pending, count(*) FILTER (WHERE link_id = 'a-b')::int AS total FROM key_block`,
      )
      state = `${name} has ${pending!.total} of ${network.devices.produced()} blocks, ${pending!.pending} of them not agreed`
      if (pending!.pending > 0 || pending!.total < network.devices.produced()) return false
    }
    return true
  }).catch((error: unknown) => {
    throw new Error(`${(error as Error).message}: ${state}`)
  })
}
