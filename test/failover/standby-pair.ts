/** Two PostgreSQL servers, one the synchronous standby of the other by streaming replication. The primary can be lost, the standby
 *  takes over, and a new standby is made of a copy of it while it serves. KMEs reach the primary at a port that stays, as by way of a
 *  virtual address or HAProxy. */
import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { eventually } from '../setup/eventually.ts'
import { startOwnPostgres, type OwnPostgres } from '../setup/own-postgres.ts'
import { startTcpProxy, type TcpProxy } from '../setup/tcp-proxy.ts'

const run = promisify(execFile)

/** What docs/operating.md tells operators to set. */
const SETTINGS = ['wal_level = replica', 'hot_standby = on', 'wal_keep_size = 512MB', 'synchronous_commit = on']

// Whatever changes or goes while it is copied is put right from the log.
const COPY = `tar -C "$0" --exclude='./pg_wal/*' --exclude='./postmaster.*' --warning=no-file-changed --warning=no-file-removed \
  --ignore-failed-read -cf - . | tar -C "$1" -xpf -`

export type StandbyPair = Awaited<ReturnType<typeof startStandbyPair>>

/** @param synchronous false: a standby that may lag, which loses what was answered. */
export const startStandbyPair = async (synchronous: boolean) => {
  const directory = await mkdtemp(join(tmpdir(), 'openkme-pair-'))
  let members = 0
  let primary: OwnPostgres
  let standby: OwnPostgres | undefined
  let lost: OwnPostgres | undefined
  let stream: TcpProxy | undefined
  const front = await startTcpProxy(() => primary.port)
  primary = await startOwnPostgres({ directory: join(directory, 'server-0'), settings: SETTINGS, reachedAt: front.port })

  const processesOf = async (server: OwnPostgres): Promise<number[]> => {
    const postmaster = server.postmasterPid()
    const pids = [postmaster]
    for (const entry of await readdir('/proc')) {
      if (!/^\d+$/.test(entry)) continue
      const status = await readFile(`/proc/${entry}/stat`, 'utf8').catch(() => '')
      if (Number(/\) . (\d+)/.exec(status)?.[1]) === postmaster) pids.push(Number(entry))
    }
    return pids
  }
  const signalAll = async (server: OwnPostgres, signal: NodeJS.Signals): Promise<void> => {
    for (const pid of await processesOf(server)) {
      try {
        process.kill(pid, signal)
      } catch {
        // It ended by itself meanwhile.
      }
    }
  }

  /** Copies the serving primary, starts the copy as its standby, and (if synchronous) from then on lets no commit be answered before both have it. */
  const attachStandby = async (): Promise<void> => {
    const place = join(directory, `server-${(members += 1)}`)
    const data = join(place, 'data')
    await mkdir(data, { recursive: true, mode: 0o700 })
    await cp(join(primary.directory, 'password'), join(place, 'password'))
    const client = new pg.Client({ connectionString: primary.url('postgres') })
    await client.connect()
    try {
      await client.query(`SELECT pg_backup_start('standby', true)`)
      await run('sh', ['-c', COPY, primary.dataDirectory, data])
      const { rows } = await client.query<{ labelfile: string }>('SELECT labelfile FROM pg_backup_stop(false)')
      await writeFile(join(data, 'backup_label'), rows[0]!.labelfile)
    } finally {
      await client.end()
    }
    stream = await startTcpProxy(primary.port)
    const source = `host=127.0.0.1 port=${stream.port} user=postgres password=${await readFile(join(place, 'password'), 'utf8')}`
    await writeFile(join(data, 'standby.signal'), '')
    await writeFile(join(data, 'postgresql.auto.conf'), `primary_conninfo = '${source} application_name=standby'\n`)
    standby = await startOwnPostgres({ directory: place, reachedAt: front.port })
    await eventually('the standby streams', async () => (await syncState()) !== undefined)
    if (!synchronous) return
    await primary.query('postgres', `ALTER SYSTEM SET synchronous_standby_names = 'standby'`)
    await primary.query('postgres', 'SELECT pg_reload_conf()')
    await eventually('the standby is synchronous', async () => (await syncState()) === 'sync')
  }
  const syncState = async (): Promise<string | undefined> => {
    const rows = await primary.query<{ sync_state: string }>(
      'postgres',
      `SELECT sync_state FROM pg_stat_replication WHERE application_name = 'standby' AND state = 'streaming'`,
    )
    return rows[0]?.sync_state
  }
  const ofStandby = (): OwnPostgres => {
    if (standby === undefined) throw new Error('there is no standby')
    return standby
  }

  return {
    /** For startNetwork(): a database on the primary. */
    createDatabase: (name: string) => primary.createDatabase(name),
    attachStandby,
    /** What the primary sends reaches the standby this much later. */
    delayStandby: (durationMs: number): void => stream?.delay(durationMs),
    /** The standby goes on to receive and keep what the primary sends, but does not apply it. */
    pauseReplay: () => ofStandby().query('postgres', 'SELECT pg_wal_replay_pause()'),
    /** Every process of the primary is killed, or stopped as on a machine that hangs. What is on its way to the standby is lost. */
    losePrimary: async (how: 'kill' | 'freeze'): Promise<void> => {
      stream?.refuse()
      await signalAll(primary, how === 'kill' ? 'SIGKILL' : 'SIGSTOP')
    },
    /** Connections to the lost primary end, new ones lead to the standby, which takes no writes yet. */
    pointAtStandby: (): void => {
      lost = primary
      primary = ofStandby()
      front.cut()
    },
    /** The standby becomes the primary. */
    promote: async (): Promise<void> => {
      await stream?.stop()
      await primary.query('postgres', 'SELECT pg_promote(true, 60)')
      standby = undefined
    },
    /** Rows of the server that is primary now. */
    query: <T>(database: string, sql: string): Promise<T[]> => primary.query<T>(database, sql),
    /** Removes what is left of the lost primary. */
    removeLost: async (): Promise<void> => {
      if (lost === undefined) return
      await signalAll(lost, 'SIGKILL')
      await lost.remove()
      lost = undefined
    },
    remove: async (): Promise<void> => {
      await front.stop()
      await stream?.stop()
      for (const server of [standby, lost, primary]) {
        if (server === undefined) continue
        if (server === lost) await signalAll(server, 'SIGKILL')
        await server.remove()
      }
      await rm(directory, { recursive: true, force: true })
    },
  }
}
