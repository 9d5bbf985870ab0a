/** Several processes of a KME that start at the same moment on an empty database, and word of changes between them. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { openKeyring } from '../../src/custody/prisma-keyring.ts'
import type { Database } from '../../src/database/database.ts'
import { applyMigrations } from '../../src/database/migrate.ts'
import { createSaeDirectory } from '../../src/delivery/prisma-sae-directory.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { parseKmeId, parseSaeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { eventually } from '../setup/eventually.ts'
import { createEmptyDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'

const PROCESSES = 6

let stored: TestDatabase
let databases: Database[]
beforeEach(async () => {
  stored = await createEmptyDatabase()
  databases = Array.from({ length: PROCESSES }, () => openTestDatabase(stored.url, 3))
})
afterEach(async () => {
  await Promise.all(databases.map((database) => database[Symbol.asyncDispose]()))
  await stored.drop()
})

const atOnce = <T>(work: (database: Database, index: number) => Promise<T>): Promise<T[]> => Promise.all(databases.map(work))

describe('processes that start at once on an empty database', () => {
  it('make one schema, one term and one set of SAEs, and open what any of them sealed', async () => {
    await Promise.all(databases.map(() => applyMigrations(stored.url)))
    const keyrings = await atOnce((database) =>
      openKeyring({
        database,
        random: systemRandom,
        kmeId: 'kme-a',
        passphrase: SecretBytes.take(Buffer.from('one passphrase')),
        argon2MemoryKib: 8192,
        argon2Passes: 1,
      }),
    )
    const { wrapped } = keyrings[0]!.createDek('place')
    for (const keyring of keyrings) expect(keyring.openDek(wrapped, keyring.activeTerm, 'place').symmetricKeySize).toBe(32)
    expect(await databases[0]!.query('SELECT term FROM custody_term')).toEqual([{ term: 1 }])

    const kme = parseKmeId('kme-a')!
    const ids = Array.from({ length: 40 }, (_, index) => parseSaeId(`sae-${index}`)!)
    const seeds = ids.map((id, index) => ({ id, kme, sharesWith: ids.filter((_, other) => Math.abs(other - index) === 1) }))
    const log = createLogger('silent')
    const directories = await atOnce(async (database, index) => {
      const directory = createSaeDirectory({ database, clock: systemClock, log })
      // Nobody promises that all list them in one order.
      await directory.seed(index % 2 === 0 ? seeds : seeds.toReversed())
      return directory
    })
    for (const directory of directories) {
      expect(directory.list()).toHaveLength(40)
      expect(directory.mayShare(ids[7]!, ids[8]!)).toBe(true)
    }
  })

  it('that have another passphrase than the one that was first are refused', async () => {
    await applyMigrations(stored.url)
    const outcomes = await Promise.allSettled(
      databases.map((database, index) =>
        openKeyring({
          database,
          random: systemRandom,
          kmeId: 'kme-a',
          passphrase: SecretBytes.take(Buffer.from(`passphrase ${index % 2}`)),
          argon2MemoryKib: 8192,
          argon2Passes: 1,
        }),
      ),
    )
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(PROCESSES / 2)
  })
})

describe('notices', () => {
  it('come from every change of SAEs and pairs, and the listener comes back when it was cut', async () => {
    await applyMigrations(stored.url)
    const [database, other] = databases as [Database, Database]
    const heard: (string | undefined)[] = []
    const stopping = new AbortController()
    const listening = database.listen('kme_changes', (payload) => heard.push(payload), stopping.signal)
    await eventually('it listens', () => heard.length === 1)
    await other.query(`INSERT INTO sae (sae_id, kme_id) VALUES ('one', 'kme-a'), ('two', 'kme-a')`)
    await other.query(`INSERT INTO sae_pair (sae_a, sae_b) VALUES ('one', 'two')`)
    await other.query(`UPDATE sae SET enabled = false WHERE sae_id = 'one'`)
    await other.query(`DELETE FROM sae_pair`)
    await eventually('all is heard', () => heard.length === 5)
    expect(heard).toEqual([undefined, 'sae', 'sae_pair', 'sae', 'sae_pair'])

    const cut = await other.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`,
    )
    expect(cut).toHaveLength(1)
    await eventually('it listens again', () => heard.length === 6)
    await other.query(`UPDATE sae SET enabled = true`)
    await eventually('it hears again', () => heard.length === 7)
    expect(heard.slice(5)).toEqual([undefined, 'sae'])
    stopping.abort()
    await listening
  })
})
