/** The database: reachable, new enough, not set up to lose commits, at the right migration, and opened by the passphrase.
 *  Holds: nothing is written. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { databaseUrl } from '../../config/environment.ts'
import { readPassphrase } from '../../config/secrets.ts'
import { openKeyring, WrongRootKey } from '../../custody/prisma-keyring.ts'
import { openDatabase, type Database } from '../../database/database.ts'
import { systemRandom } from '../../kernel/random.ts'
import { reportClock } from './check-clock.ts'
import { messageOf, type DoctorParts, type Report } from './check.ts'

const VERSION_MIN = 14
const MIGRATIONS = new URL('../../../prisma/migrations/', import.meta.url)

interface Settings extends Record<string, unknown> {
  readonly version: number
  readonly fsync: string
  readonly full_page_writes: string
  readonly synchronous_commit: string
  readonly data_checksums: string
  readonly now_ms: number
}

export const checkDatabase = async (parts: DoctorParts, report: Report): Promise<void> => {
  let url: string
  try {
    url = databaseUrl(parts.config)
  } catch (error) {
    return report(
      'fail',
      messageOf(error),
      'write the URL of the database into a file (mode 0600) and name it in database.urlFile',
    )
  }
  await using database = openDatabase({
    url,
    connections: 2,
    connectDeadlineMs: parts.deadlineMs,
    onError: () => undefined,
  })
  const askedAtMs = parts.clock.nowMs()
  let settings: Settings | undefined
  try {
    settings = await readSettings(database)
  } catch (error) {
    const cause = error instanceof Error ? (error.cause ?? error) : error
    const why = messageOf(cause) || (cause as NodeJS.ErrnoException).code || 'no reason given'
    return report('fail', `cannot be reached: ${why}`, 'start PostgreSQL, or correct DATABASE_URL or database.urlFile')
  }
  const answeredAtMs = parts.clock.nowMs()
  if (settings === undefined) return report('fail', 'gives no settings', 'check that the URL leads to PostgreSQL')
  checkSettings(settings, report)
  const middleMs = (askedAtMs + answeredAtMs) / 2
  reportClock('the database', middleMs - settings.now_ms, (answeredAtMs - askedAtMs) / 2, report)
  await checkMigrations(database, report)
  await checkPassphrase(database, parts, report)
}

const readSettings = async (database: Database): Promise<Settings | undefined> => {
  const [settings] = await database.query<Settings>(`
    SELECT current_setting('server_version_num')::int / 10000 AS version,
           current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('data_checksums') AS data_checksums,
           extract(epoch FROM clock_timestamp())::float8 * 1000 AS now_ms`)
  return settings
}

const checkSettings = (settings: Settings, report: Report): void => {
  if (settings.version < VERSION_MIN)
    report('fail', `is PostgreSQL ${settings.version}`, `upgrade to PostgreSQL ${VERSION_MIN} or newer`)
  else report('ok', `reachable, PostgreSQL ${settings.version}`)
  for (const name of ['fsync', 'full_page_writes', 'synchronous_commit'] as const) {
    if (settings[name] !== 'off') continue
    report('fail', `${name} is off: a crash can bring back keys that were handed out`, `set ${name} = on in postgresql.conf`)
  }
  if (settings.data_checksums === 'off')
    report('warn', 'data checksums are off: damage on disk stays unseen', 'stop PostgreSQL and run pg_checksums --enable')
}

const checkMigrations = async (database: Database, report: Report): Promise<void> => {
  const known = readdirSync(MIGRATIONS, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  const applied = await appliedMigrations(database)
  const unknown = [...applied.keys()].filter((name) => !known.some((entry) => entry.name === name))
  if (unknown.length > 0)
    return report('fail', `has migrations this version does not know: ${unknown.join(', ')}`, 'run the newer version of OpenKME')
  for (const [name, { checksum, finished }] of applied) {
    if (!finished) report('fail', `the migration ${name} failed half-way`, 'repair the database and run "prisma migrate resolve"')
    const here = createHash('sha256')
      .update(readFileSync(new URL(`${name}/migration.sql`, MIGRATIONS)))
      .digest('hex')
    if (here !== checksum) report('fail', `the migration ${name} was changed after it had been applied`, 'restore its file')
  }
  const pending = known.map((entry) => entry.name).filter((name) => !applied.has(name))
  if (pending.length > 0) report('ok', `${pending.length} migrations to come (${pending.join(', ')}): "kme start" applies them`)
  else report('ok', 'all migrations are applied')
}

const appliedMigrations = async (database: Database): Promise<Map<string, { checksum: string; finished: boolean }>> => {
  if (!(await hasTable(database, '_prisma_migrations'))) return new Map()
  const rows = await database.query<{ name: string; checksum: string; finished: boolean }>(
    `SELECT migration_name AS name, checksum, finished_at IS NOT NULL AS finished
     FROM _prisma_migrations WHERE rolled_back_at IS NULL ORDER BY migration_name`,
  )
  return new Map(rows.map(({ name, checksum, finished }) => [name, { checksum, finished }]))
}

const hasTable = async (database: Database, name: string): Promise<boolean> => {
  const [row] = await database.query<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [name])
  return row?.there === true
}

const checkPassphrase = async (database: Database, { config }: DoctorParts, report: Report): Promise<void> => {
  // Without a term the keyring would make one.
  const isSetUp = (await hasTable(database, 'custody_term')) && (await database.prisma.custodyTerm.count()) > 0
  if (!isSetUp) return report('ok', 'no keys yet: the first start binds it to the passphrase')
  try {
    using passphrase = readPassphrase(config)
    await openKeyring({ database, random: systemRandom, kmeId: config.kme.id, passphrase, ...config.custody })
    report('ok', 'the passphrase opens it')
  } catch (error) {
    if (error instanceof WrongRootKey)
      report(
        'fail',
        'the passphrase does not open it: it was set up with another one, or for another KME ID',
        'correct custody.passphraseFile',
      )
    else report('fail', messageOf(error), 'correct custody.passphraseFile')
  }
}
