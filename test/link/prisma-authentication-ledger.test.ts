import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals'
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openKeyring } from '../../src/custody/prisma-keyring.ts'
import type { Keyring } from '../../src/custody/custody.ts'
import type { Database } from '../../src/database/database.ts'
import { KeyDataAccess } from '../../src/kernel/errors.ts'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { writePreSharedSecret } from '../../src/link/pre-shared-secret.ts'
import { createAuthenticationLedger, type PrismaAuthenticationLedger } from '../../src/link/prisma-authentication-ledger.ts'
import { createTestDatabase, type TestDatabase, openTestDatabase } from '../setup/test-database.ts'
import { describeAuthenticationLedger, read, refusal, segment, segmentBytes } from './authentication-ledger.contract.ts'

const KME = 'kme-a' as KmeId

let testDatabase: TestDatabase
let database: Database
let keyring: Keyring
let links = 0

beforeAll(async () => {
  testDatabase = await createTestDatabase()
  database = openTestDatabase(testDatabase.url, 6)
  keyring = await openKeyring({
    database,
    random: systemRandom,
    kmeId: KME,
    passphrase: SecretBytes.take(Buffer.from('correct horse battery staple')),
    argon2MemoryKib: 8192,
    argon2Passes: 1,
  })
})
afterAll(async () => {
  await database?.[Symbol.asyncDispose]()
  await testDatabase?.drop()
})

const freshLink = (): LinkId => `link-${(links += 1)}` as LinkId
const ledgerOf = (linkId: LinkId, over: Database = database): PrismaAuthenticationLedger =>
  createAuthenticationLedger({ database: over, keyring, kmeId: KME, linkId })

describeAuthenticationLedger('the one in PostgreSQL', async () => {
  const linkId = freshLink()
  const opened: Database[] = []
  return {
    ledger: ledgerOf(linkId),
    another: async () => {
      const own = openTestDatabase(testDatabase.url, 3)
      opened.push(own)
      return ledgerOf(linkId, own)
    },
    close: async () => {
      for (const own of opened) await own[Symbol.asyncDispose]()
    },
  }
})

describe('the authentication ledger in PostgreSQL', () => {
  let linkId: LinkId
  let ledger: PrismaAuthenticationLedger

  beforeEach(() => {
    linkId = freshLink()
    ledger = ledgerOf(linkId)
  })

  const rowText = async (): Promise<string> => {
    const rows = await database.query<{ text: string }>(`SELECT s::text AS text FROM link_auth_segment s WHERE link_id = $1`, [
      linkId,
    ])
    return rows.map(({ text }) => text).join('\n')
  }

  it('keeps links apart', async () => {
    const other = ledgerOf(freshLink())
    await ledger.add('one', segment(1, 64))
    expect(await other.segments()).toEqual([])
    expect(await refusal(other.reserve('one', 16, 16))).toBe('unknown')
    expect(await other.add('one', segment(2, 64))).toBe('added')
    expect(await read(ledger.reserve('one', 16, 16))).toEqual(segmentBytes(1, 64).subarray(16, 32))
  })

  it('has marked the bytes as used when the answer of the database is lost', async () => {
    await ledger.add('one', segment(1, 64))
    const losing = ledgerOf(linkId, {
      ...database,
      query: async (sql, parameters) => {
        await database.query(sql, parameters)
        throw new Error('connection lost')
      },
    })
    await expect(losing.reserve('one', 16, 16)).rejects.toThrow('connection lost')
    expect(await refusal(ledger.reserve('one', 16, 16))).toBe('used')
    expect((await ledger.figures()).consumedBits).toBe(8 * 16)
  })

  it('writes nothing of a secret to the database in plaintext, and nothing at all of one that is used up', async () => {
    const bytes = systemRandom.fill(Buffer.alloc(256))
    await ledger.add('one', SecretBytes.take(Buffer.from(bytes)))
    await read(ledger.reserve('one', 16, 100))
    const before = await rowText()
    expect(before).toContain('\\\\x')
    for (let i = 0; i + 4 <= bytes.length; i += 4) expect(before).not.toContain(bytes.toString('hex', i, i + 4))
    await read(ledger.reserve('one', 116, 140))
    await ledger.add('two', segment(2, 64))
    const [row] = await database.query<{ count: string }>(
      `SELECT count(*) FROM link_auth_segment WHERE link_id = $1 AND sealed IS NULL AND wrapped_dek IS NULL`,
      [linkId],
    )
    expect(row?.count).toBe('1')
  })

  it('does not open a segment that was altered, or moved to another name or link', async () => {
    await ledger.add('one', segment(1, 64))
    await ledger.add('two', segment(2, 64))
    await database.query(
      `UPDATE link_auth_segment t SET sealed = o.sealed, wrapped_dek = o.wrapped_dek FROM link_auth_segment o
       WHERE t.link_id = $1 AND t.segment_id = 'two' AND o.link_id = $1 AND o.segment_id = 'one'`,
      [linkId],
    )
    await expect(ledger.hashKey('two')).rejects.toThrow(KeyDataAccess)
    await database.query(
      `UPDATE link_auth_segment SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) WHERE link_id = $1`,
      [linkId],
    )
    await expect(ledger.reserve('one', 16, 16)).rejects.toThrow(KeyDataAccess)
    await database.query(`UPDATE link_auth_segment SET link_id = 'elsewhere' WHERE link_id = $1`, [linkId])
    await expect(ledgerOf('elsewhere' as LinkId).hashKey('one')).rejects.toThrow(KeyDataAccess)
  })

  it('forgets the rows of segments used up long ago, and still adds up', async () => {
    await ledger.add('old', segment(1, 64))
    await ledger.add('kept', segment(1, 64))
    await read(ledger.reserve('old', 20, 44))
    await read(ledger.reserve('kept', 16, 10))
    const before = await ledger.figures()
    await database.query(`UPDATE link_auth_segment SET seq = seq - 2000 WHERE link_id = $1`, [linkId])
    await ledger.add('new', segment(1, 30))
    expect((await rowText()).split('\n')).toHaveLength(2)
    expect((await ledger.segments()).map(({ segmentId }) => segmentId)).toEqual(['kept', 'new'])
    expect(await ledger.figures()).toEqual({
      consumedBits: before.consumedBits,
      replenishedBits: before.replenishedBits + 8 * 30,
      remainingBits: before.remainingBits + 8 * 14,
      discardedBits: before.discardedBits + 8 * 16,
    })
  })

  describe('with a pre-shared secret', () => {
    let directory: string
    let file: string

    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'openkme-ledger-'))
      file = join(directory, 'a-b.secret')
    })
    afterEach(() => rm(directory, { recursive: true, force: true }))

    it('takes it once: not after a restart, not when it was used up and the file came back', async () => {
      const segmentId = await writePreSharedSecret(file, 256, systemRandom)
      const content = await readFile(file)
      expect(segmentId).toBe(content.toString('hex', 0, 16))
      expect(await ledger.importPreShared(file)).toBe('added')
      expect(await ledger.segments()).toEqual([{ segmentId, sizeBytes: 256, usedBytes: 16 }])
      expect(await read(ledger.hashKey(segmentId))).toEqual(content.subarray(16, 32))
      expect(await read(ledger.reserve(segmentId, 16, 240))).toEqual(content.subarray(32))
      const restarted = ledgerOf(linkId)
      expect(await restarted.importPreShared(file)).toBe('known')
      await database.query(`UPDATE link_auth_segment SET seq = seq - 2000 WHERE link_id = $1`, [linkId])
      await ledger.add('distilled', segment(1, 64))
      expect(await restarted.importPreShared(file)).toBe('known')
      expect((await restarted.segments()).map((each) => each.segmentId)).toEqual(['distilled'])
      expect((await restarted.figures()).replenishedBits).toBe(8 * (256 + 64))
    })

    it('is needed no more once it was taken over', async () => {
      await writePreSharedSecret(file, 256, systemRandom)
      await expect(ledgerOf(linkId).importPreShared(`${file}.missing`)).rejects.toThrow('cannot be read')
      await ledger.importPreShared(file)
      await rm(file)
      expect(await ledgerOf(linkId).importPreShared(file)).toBe('known')
    })

    it('keeps it when the other end does not have it yet', async () => {
      const segmentId = await writePreSharedSecret(file, 256, systemRandom)
      await ledger.importPreShared(file)
      await ledger.discard([segmentId])
      expect(await ledger.segments()).toEqual([{ segmentId, sizeBytes: 256, usedBytes: 16 }])
    })

    it('takes it for one link only', async () => {
      await writePreSharedSecret(file, 256, systemRandom)
      await ledger.importPreShared(file)
      await expect(ledgerOf(freshLink()).importPreShared(file)).rejects.toThrow('belongs to another link')
    })

    it('is taken by one of several processes that start at the same moment', async () => {
      await writePreSharedSecret(file, 4096, systemRandom)
      const outcomes = await Promise.all([1, 2, 3, 4].map(() => ledgerOf(linkId).importPreShared(file)))
      expect(outcomes.sort()).toEqual(['added', 'known', 'known', 'known'])
    })

    it('refuses a file that others may read, that is missing, or of the wrong length, and names it', async () => {
      await expect(ledger.importPreShared(file)).rejects.toThrow(`${file} cannot be read`)
      await writeFile(file, Buffer.alloc(16 + 255), { mode: 0o600 })
      await expect(ledger.importPreShared(file)).rejects.toThrow(`${file} must hold 16 bytes and 256`)
      await writeFile(file, Buffer.alloc(16 + 256))
      await chmod(file, 0o640)
      await expect(ledger.importPreShared(file)).rejects.toThrow(`chmod 600 ${file}`)
      expect(await ledger.segments()).toEqual([])
    })

    it('is written for its owner only, and over nothing', async () => {
      await writePreSharedSecret(file, 300, systemRandom)
      const { mode, size } = await stat(file)
      expect([mode & 0o777, size]).toEqual([0o600, 316])
      await expect(writePreSharedSecret(file, 300, systemRandom)).rejects.toThrow(`${file} exists already`)
      await expect(writePreSharedSecret(join(directory, 'none', 'x'), 300, systemRandom)).rejects.toThrow('cannot be written')
    })
  })
})
