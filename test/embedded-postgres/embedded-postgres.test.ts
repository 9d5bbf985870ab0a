/** The embedded server through stops, crashes and leftovers. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, readdir, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { runStatement } from '../setup/run-statement.ts'
import { eventually } from '../setup/eventually.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const KEEP_SERVER = fileURLToPath(new URL('keep-server.ts', import.meta.url))

let directory: string
let servers: EmbeddedPostgres[]
let keepers: ChildProcess[]

beforeEach(async () => {
  // mkdtemp makes it mode 0700: what an unprivileged account could not enter.
  directory = await mkdtemp(join(tmpdir(), 'openkme-embedded-'))
  servers = []
  keepers = []
})

afterEach(async () => {
  for (const server of servers) await server.stop()
  for (const keeper of keepers) keeper.kill('SIGKILL')
  await eventually('the servers have ended', async () => (await findServers()).length === 0)
  await rm(directory, { recursive: true, force: true })
})

const start = async (): Promise<EmbeddedPostgres> => {
  const server = await startEmbeddedPostgres({ directory, durable: false })
  servers.push(server)
  return server
}

const startInOtherProcess = async (): Promise<{ keeper: ChildProcess; url: string }> => {
  const keeper = spawn(process.execPath, [KEEP_SERVER, directory], { stdio: ['pipe', 'pipe', 'inherit'] })
  keepers.push(keeper)
  const [line] = (await once(keeper.stdout, 'data')) as [Buffer]
  return { keeper, url: line.toString().trim() }
}

const killHard = async (process: ChildProcess): Promise<void> => {
  const exited = once(process, 'exit')
  process.kill('SIGKILL')
  await exited
}

/** Process IDs working in the data directory: the server and its workers. */
const findServers = async (): Promise<number[]> => {
  const found: number[] = []
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const workingDirectory = await readlink(`/proc/${entry}/cwd`).catch(() => undefined)
    if (workingDirectory === join(directory, 'data')) found.push(Number(entry))
  }
  return found
}

const postmasterPid = async (): Promise<number> =>
  Number.parseInt(await readFile(join(directory, 'data/postmaster.pid'), 'utf8'), 10)

const parentOf = async (pid: number): Promise<number> =>
  Number(/^PPid:\s*(\d+)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))![1])

describe('startEmbeddedPostgres', () => {
  it('keeps data over a stop and a second start', async () => {
    const first = await start()
    await first.createDatabase('kme-a')
    await first.createDatabase('kme-a')
    await runStatement(first.url('kme-a'), 'CREATE TABLE t AS SELECT 7 AS n')
    await first.stop()
    const second = await start()
    expect(await runStatement(second.url('kme-a'), 'SELECT n FROM t')).toEqual([{ n: 7 }])
  })

  it('lets nobody in without its password, which only the owner can read', async () => {
    const server = await start()
    const wrong = new URL(server.url('postgres'))
    wrong.password = 'wrong'
    await expect(runStatement(wrong.href, 'SELECT 1')).rejects.toThrow('password authentication failed')
    expect((await stat(join(directory, 'password'))).mode & 0o777).toBe(0o600)
  })

  it('writes checksums, UTF-8, and listens on the loopback address alone', async () => {
    const server = await start()
    const settings = `SELECT current_setting('data_checksums') AS checksums, current_setting('server_encoding') AS encoding,
      current_setting('listen_addresses') AS addresses, current_setting('unix_socket_directories') AS sockets`
    expect(await runStatement(server.url('postgres'), settings)).toEqual([
      { checksums: 'on', encoding: 'UTF8', addresses: '127.0.0.1', sockets: '' },
    ])
  })

  it.each([
    [true, 'on'],
    [false, 'off'],
  ])('durable: %s means fsync is %s', async (durable, fsync) => {
    const server = await startEmbeddedPostgres({ directory, durable })
    servers.push(server)
    const settings = `SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages,
      current_setting('synchronous_commit') AS commit`
    expect(await runStatement(server.url('postgres'), settings)).toEqual([{ fsync, pages: fsync, commit: 'on' }])
  })

  it('stops at once while clients are connected', async () => {
    const server = await start()
    const client = new pg.Client({ connectionString: server.url('postgres') })
    client.on('error', () => {})
    const lost = new Promise<void>((resolve) => client.once('end', resolve))
    await client.connect()
    const before = performance.now()
    await server.stop()
    expect(performance.now() - before).toBeLessThan(timeLimitMs(10_000))
    expect(await findServers()).toEqual([])
    await lost
  })

  it('ends the server when the parent is killed', async () => {
    const { keeper } = await startInOtherProcess()
    expect((await findServers()).length).toBeGreaterThan(0)
    await killHard(keeper)
    await eventually('the servers have ended', async () => (await findServers()).length === 0)
  })

  it('starts over a server whose parent and guard were killed', async () => {
    const { keeper, url } = await startInOtherProcess()
    await runStatement(url, 'CREATE TABLE t AS SELECT 7 AS n')
    const orphan = await postmasterPid()
    process.kill(await parentOf(orphan), 'SIGKILL')
    await killHard(keeper)
    expect(await findServers()).toContain(orphan)
    const server = await start()
    expect(await runStatement(server.url('postgres'), 'SELECT n FROM t')).toEqual([{ n: 7 }])
    expect(await findServers()).not.toContain(orphan)
  })

  it('starts over a postmaster.pid whose process ID now belongs to another process', async () => {
    const { keeper, url } = await startInOtherProcess()
    await runStatement(url, 'CREATE TABLE t AS SELECT 7 AS n')
    process.kill(await postmasterPid(), 'SIGKILL')
    await killHard(keeper)
    await eventually('the servers have ended', async () => (await findServers()).length === 0)
    const file = join(directory, 'data/postmaster.pid')
    await writeFile(file, (await readFile(file, 'utf8')).replace(/^\d+/, String(process.pid)))
    const server = await start()
    expect(await runStatement(server.url('postgres'), 'SELECT n FROM t')).toEqual([{ n: 7 }])
  })

  it('waits for the end of a backend that outlives its postmaster', async () => {
    const { keeper, url } = await startInOtherProcess()
    const client = new pg.Client({ connectionString: url })
    client.on('error', () => undefined)
    await client.connect()
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')
    const backend = rows[0]!.pid
    process.kill(backend, 'SIGSTOP')
    process.kill(await postmasterPid(), 'SIGKILL')
    await killHard(keeper)
    const starting = start()
    expect(await Promise.race([starting.then(() => 'started'), wait(2000).then(() => 'waits')])).toBe('waits')
    expect(await findServers()).toEqual([backend])
    process.kill(backend, 'SIGCONT')
    await starting
    expect(await findServers()).not.toContain(backend)
  })

  it('refuses a directory that another living process uses', async () => {
    const { keeper } = await startInOtherProcess()
    await expect(start()).rejects.toThrow(`in use by process ${keeper.pid}`)
  })

  it('tells the last words of a server that does not start', async () => {
    const first = await start()
    const port = Number(new URL(first.url('postgres')).port)
    const other = await mkdtemp(join(tmpdir(), 'openkme-embedded-'))
    try {
      await expect(startEmbeddedPostgres({ directory: other, port, durable: false })).rejects.toThrow('Address already in use')
    } finally {
      await rm(other, { recursive: true, force: true })
    }
  })
})
