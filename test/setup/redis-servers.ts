/** Real redis-server processes for tests: one server, a cluster of masters, or a Sentinel group. Each has a directory and a port of its
 *  own on 127.0.0.1 and writes nothing to disk unless told (`cli('SAVE')`; a later `restart` then loads that file). None outlives the
 *  process that started it, however that ends. */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { systemClock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createAuthorities } from '../../src/pki/authorities.ts'
import { eventually } from './eventually.ts'
import { freePort } from './free-port.ts'

/** The user of the URL, when it is not the default one. */
export interface RedisUser {
  readonly user: string
  readonly password: string
  /** As for ACL SETUSER, without password: `~* &* +@all -eval`. */
  readonly rules: string
}

/** One redis-server process. */
export interface RedisServer {
  readonly port: number
  readonly directory: string
  /** Of the process that runs now. */
  pid(): number
  /** Sends one command as an administrator and returns the reply. @throws Error with the error reply, or when nobody answers in 10 s. */
  cli(...command: (string | number | Buffer)[]): Promise<unknown>
  /** kill -9. */
  kill9(): Promise<void>
  /** Starts it at the same port and in the same directory, after kill -9 if it still runs. */
  restart(): Promise<void>
  /** SIGSTOP: the process neither reads nor answers, its connections stay open. */
  freeze(): void
  /** SIGCONT. */
  thaw(): void
  /** Ends it and removes its directory. */
  stop(): Promise<void>
}

const READY_DEADLINE_MS = 20_000
const COMMAND_DEADLINE_MS = 10_000
const LAST_WORDS_BYTES = 2000

// Its standard input is a pipe that nobody writes to: it ends when `$!` is to be killed, or when the process that holds the other end
// is gone. The frozen are killed as well.
const KEEPER = '"$@" & echo $!; read -r _; kill -9 $!; wait'

interface ServerParts {
  readonly parent: string
  readonly name: string
  /** Lines of redis.conf besides port and directory. */
  readonly settings: readonly string[]
  readonly port: number
  readonly sentinel?: boolean
  /** PEM of the authority when the server speaks TLS. */
  readonly ca?: string
  readonly admin?: { readonly username: string; readonly password: string }
}

const startServer = async (parts: ServerParts): Promise<RedisServer> => {
  const { port } = parts
  const directory = join(parts.parent, parts.name)
  const log = join(directory, 'redis.log')
  const config = join(directory, 'redis.conf')
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const address = ['bind 127.0.0.1', ...(parts.ca === undefined ? [`port ${port}`] : ['port 0', `tls-port ${port}`])]
  const common = [...address, `dir "${directory}"`, `logfile "${log}"`, 'protected-mode no', 'daemonize no']
  writeFileSync(config, [...common, ...parts.settings, ''].join('\n'), { mode: 0o600 })

  let keeper: ChildProcess | undefined
  let pid = 0

  const cli: RedisServer['cli'] = async (command, ...args) => {
    const client = new Redis({
      host: '127.0.0.1',
      port,
      ...parts.admin,
      ...(parts.ca !== undefined && { tls: { ca: parts.ca } }),
      lazyConnect: true,
      enableReadyCheck: false,
      maxRetriesPerRequest: 0,
      retryStrategy: () => null,
      commandTimeout: COMMAND_DEADLINE_MS,
      connectTimeout: COMMAND_DEADLINE_MS,
      // How long its timers outlive it.
      disconnectTimeout: 50,
    })
    // Why a connection broke is in what the command is rejected with.
    client.on('error', () => undefined)
    try {
      return await client.call(String(command), args)
    } finally {
      client.disconnect()
    }
  }
  const kill9 = async (): Promise<void> => {
    if (keeper === undefined) return
    const ended = once(keeper, 'exit')
    keeper.stdin!.end()
    await ended
    keeper = undefined
  }
  const start = async (): Promise<void> => {
    const args = parts.sentinel === true ? [config, '--sentinel'] : [config]
    const child = spawn('sh', ['-c', KEEPER, 'sh', 'redis-server', ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
    child.stdin.on('error', () => undefined)
    keeper = child
    const [said] = (await once(child.stdout, 'data')) as [Buffer]
    pid = Number.parseInt(said.toString('latin1'), 10)
    const answers = (): Promise<boolean> =>
      cli('PING').then(
        (reply) => reply === 'PONG',
        () => false,
      )
    await eventually(`redis-server at port ${port} answers`, answers, READY_DEADLINE_MS).catch(async (error: unknown) => {
      await kill9()
      throw new Error(`redis-server did not start:\n${readFileSync(log, 'utf8').slice(-LAST_WORDS_BYTES)}`, { cause: error })
    })
  }
  await start()
  return {
    port,
    directory,
    pid: () => pid,
    cli,
    kill9,
    restart: async () => {
      await kill9()
      await start()
    },
    freeze: () => void process.kill(pid, 'SIGSTOP'),
    thaw: () => void process.kill(pid, 'SIGCONT'),
    stop: async () => {
      await kill9()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** Settings every server has: nothing goes to disk by itself. */
const VOLATILE = ['save ""', 'appendonly no', 'repl-diskless-sync yes', 'repl-diskless-sync-delay 0']

/** The default user is off as soon as there is another one; the tests themselves come as one of their own. */
const accessOf = (acl: RedisUser | undefined) => {
  if (acl === undefined) return { settings: [], admin: {}, credentials: '' }
  const admin = { username: 'tests', password: randomUUID() }
  return {
    settings: [
      'user default off',
      `user ${admin.username} on >${admin.password} ~* &* +@all`,
      `user ${acl.user} on >${acl.password} ${acl.rules}`,
    ],
    admin: { admin },
    credentials: `${encodeURIComponent(acl.user)}:${encodeURIComponent(acl.password)}@`,
  }
}

const newDirectory = (): string => mkdtempSync(join(tmpdir(), 'openkme-redis-'))

/** One server. `tls`: it speaks only TLS, and asks for no client certificate. `dir`: keeps its files there instead of in a directory
 *  that `stop` removes. `settings`: more lines of redis.conf. */
export const startRedis = async (
  options: { acl?: RedisUser; tls?: boolean; dir?: string; settings?: readonly string[] } = {},
): Promise<RedisServer & { readonly url: string; readonly caFile: string | undefined }> => {
  const parent = options.dir ?? newDirectory()
  const { settings, admin, credentials } = accessOf(options.acl)
  const tls = options.tls === true ? await certificatesIn(join(parent, 'pki')) : undefined
  const port = await freePort()
  const server = await startServer({
    parent,
    name: 'data',
    port,
    settings: [...VOLATILE, ...settings, ...(tls?.settings ?? []), ...(options.settings ?? [])],
    ...admin,
    ...(tls !== undefined && { ca: tls.ca }),
  })
  return {
    ...server,
    url: `${tls === undefined ? 'redis' : 'rediss'}://${credentials}127.0.0.1:${port}`,
    caFile: tls?.caFile,
    stop: async () => {
      await server.kill9()
      if (options.dir === undefined) rmSync(parent, { recursive: true, force: true })
    },
  }
}

const certificatesIn = async (directory: string) => {
  const authorities = await createAuthorities(directory, { clock: systemClock, random: systemRandom })
  const issued = await authorities.issue({ profile: 'kme', id: 'redis', hosts: ['localhost', '127.0.0.1'] })
  const certificate = join(directory, 'redis.pem')
  const privateKey = join(directory, 'redis.key')
  writeFileSync(certificate, issued.certificatePem)
  writeFileSync(privateKey, issued.privateKeyPem, { mode: 0o600 })
  const caFile = authorities.files.kme.certificate
  return {
    ca: authorities.certificatePem.kme,
    caFile,
    settings: [
      `tls-cert-file "${certificate}"`,
      `tls-key-file "${privateKey}"`,
      `tls-ca-cert-file "${caFile}"`,
      'tls-auth-clients no',
    ],
  }
}

const SLOTS = 16_384

/** A cluster of masters without replicas, every slot served. */
export const startRedisCluster = async (
  options: { masters?: number; acl?: RedisUser; settings?: readonly string[] } = {},
): Promise<{
  readonly url: string
  readonly servers: readonly RedisServer[]
  /** Sends a command to every master. */
  cli(...command: (string | number | Buffer)[]): Promise<unknown[]>
  /** All masters, or the one with this index. */
  kill9(index?: number): Promise<void>
  /** All masters, or the one with this index; returns when every slot is served. */
  restart(index?: number): Promise<void>
  stop(): Promise<void>
}> => {
  const parent = newDirectory()
  const count = options.masters ?? 3
  const { settings, admin, credentials } = accessOf(options.acl)
  const servers: RedisServer[] = []
  const stop = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.stop()))
    rmSync(parent, { recursive: true, force: true })
  }
  const isWhole = async (): Promise<boolean> => {
    const infos = await Promise.all(servers.map((server) => server.cli('CLUSTER', 'INFO').catch(() => '')))
    return infos.every((info) => {
      const text = String(info)
      return (
        text.includes('cluster_state:ok') &&
        text.includes(`cluster_slots_ok:${SLOTS}`) &&
        text.includes(`cluster_known_nodes:${count}\r`)
      )
    })
  }
  const some = (index: number | undefined): readonly RedisServer[] => (index === undefined ? servers : [servers[index]!])
  const startMaster = async (index: number): Promise<RedisServer> => {
    const port = await freePort()
    return startServer({
      parent,
      name: `master-${index}`,
      port,
      settings: [
        ...VOLATILE,
        'cluster-enabled yes',
        'cluster-config-file nodes.conf',
        'cluster-node-timeout 2000',
        `cluster-port ${await freePort()}`,
        ...settings,
        ...(options.settings ?? []),
      ],
      ...admin,
    })
  }
  try {
    for (let index = 0; index < count; index += 1) servers.push(await startMaster(index))
    const busPorts = await Promise.all(servers.map((server) => server.cli('CONFIG', 'GET', 'cluster-port')))
    for (const [index, server] of servers.entries()) {
      const from = Math.floor((SLOTS * index) / count)
      const to = Math.floor((SLOTS * (index + 1)) / count) - 1
      await server.cli('CLUSTER', 'ADDSLOTSRANGE', from, to)
      await server.cli('CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
      if (index > 0) await server.cli('CLUSTER', 'MEET', '127.0.0.1', servers[0]!.port, (busPorts[0] as string[])[1]!)
    }
    await eventually('the cluster serves every slot', isWhole, READY_DEADLINE_MS)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    url: `redis+cluster://${credentials}${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    servers,
    cli: (...command) => Promise.all(servers.map((server) => server.cli(...command))),
    kill9: async (index) => {
      await Promise.all(some(index).map((server) => server.kill9()))
    },
    restart: async (index) => {
      await Promise.all(some(index).map((server) => server.restart()))
      await eventually('the cluster serves every slot', isWhole, READY_DEADLINE_MS)
    },
    stop,
  }
}

const MASTER_NAME = 'openkme'
/** Sentinels look around every 10 s by default: too seldom for a test that waits for them. */
const HURRIED = ['info-period', 500, 'publish-period', 300, 'ask-period', 300, 'election-timeout', 1000]

/** A master with replicas, watched by sentinels; a dead master is replaced within a few seconds. */
export const startSentinel = async (
  options: { sentinels?: number; replicas?: number } = {},
): Promise<{
  readonly url: string
  /** The first one is the master of the beginning. */
  readonly servers: readonly RedisServer[]
  readonly sentinels: readonly RedisServer[]
  /** Who is master, as soon as all sentinels say the same. */
  master(): Promise<RedisServer>
  /** Sends a command to the master. */
  cli(...command: (string | number | Buffer)[]): Promise<unknown>
  /** kill -9 of the master. */
  kill9(): Promise<void>
  /** Starts every server that is down; returns when the sentinels know a master that answers, and all its replicas. */
  restart(): Promise<void>
  stop(): Promise<void>
}> => {
  const parent = newDirectory()
  const sentinelCount = options.sentinels ?? 3
  const replicaCount = options.replicas ?? 1
  const servers: RedisServer[] = []
  const sentinels: RedisServer[] = []
  const stop = async (): Promise<void> => {
    await Promise.all([...servers, ...sentinels].map((server) => server.stop()))
    rmSync(parent, { recursive: true, force: true })
  }
  /** Undefined while the sentinels do not agree. */
  const agreedMaster = async (): Promise<RedisServer | undefined> => {
    const ask = (one: RedisServer): Promise<unknown> => one.cli('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', MASTER_NAME)
    const ports = await Promise.all(sentinels.map(async (one) => Number(((await ask(one)) as string[])[1])))
    return servers.find(({ port }) => ports.every((named) => named === port))
  }
  const master = (): Promise<RedisServer> => eventually('the sentinels agree on a master', agreedMaster, READY_DEADLINE_MS)
  const isWhole = async (): Promise<boolean> => {
    const views = await Promise.all(sentinels.map((one) => one.cli('SENTINEL', 'MASTER', MASTER_NAME)))
    const seen = views.every((view) => {
      const fields = view as string[]
      const field = (name: string): string | undefined => fields[fields.indexOf(name) + 1]
      return (
        field('flags') === 'master' &&
        field('num-slaves') === String(replicaCount) &&
        field('num-other-sentinels') === String(sentinelCount - 1)
      )
    })
    const first = seen ? await agreedMaster() : undefined
    if (first === undefined) return false
    const states = await Promise.all(servers.map((server) => server.cli('INFO', 'replication').catch(() => '')))
    return servers.every((server, at) =>
      String(states[at]).includes(
        server === first
          ? 'role:master'
          : `role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:${first.port}\r\nmaster_link_status:up`,
      ),
    )
  }
  const dead = new Set<RedisServer>()
  try {
    const ports: number[] = []
    for (let index = 0; index <= replicaCount; index += 1) ports.push(await freePort())
    for (const [index, port] of ports.entries()) {
      const settings = index === 0 ? VOLATILE : [...VOLATILE, `replicaof 127.0.0.1 ${ports[0]!}`]
      servers.push(await startServer({ parent, name: `server-${index}`, port, settings }))
    }
    for (let index = 0; index < sentinelCount; index += 1) {
      const settings = [
        `sentinel monitor ${MASTER_NAME} 127.0.0.1 ${ports[0]!} ${Math.floor(sentinelCount / 2) + 1}`,
        `sentinel down-after-milliseconds ${MASTER_NAME} 500`,
        `sentinel failover-timeout ${MASTER_NAME} 3000`,
      ]
      const port = await freePort()
      const sentinel = await startServer({ parent, name: `sentinel-${index}`, port, settings, sentinel: true })
      sentinels.push(sentinel)
      await sentinel.cli('SENTINEL', 'DEBUG', ...HURRIED)
    }
    await eventually('the sentinels know each other and the replicas', isWhole, READY_DEADLINE_MS)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${MASTER_NAME}`,
    servers,
    sentinels,
    master,
    cli: async (...command) => (await master()).cli(...command),
    kill9: async () => {
      const server = await master()
      dead.add(server)
      await server.kill9()
    },
    restart: async () => {
      await Promise.all([...dead].map((server) => server.restart()))
      dead.clear()
      await eventually('master and replicas are whole again', isWhole, READY_DEADLINE_MS)
    },
    stop,
  }
}
