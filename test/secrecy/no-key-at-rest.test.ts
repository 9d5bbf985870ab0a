import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { keysOf, startNetwork, untilServed, type Network } from '../network/network.ts'
import { filesBelow, findKeys } from './file-scan.ts'

describe('after keys were delivered', () => {
  const directory = mkdtempSync(join(tmpdir(), 'openkme-secrecy-'))
  let server: EmbeddedPostgres
  let network: Network
  const delivered: Buffer[] = []

  beforeAll(async () => {
    server = await startEmbeddedPostgres({ directory, durable: true })
    network = await startNetwork({
      processes: true,
      logLevel: 'debug',
      logRequests: true,
      rateBlocksPerS: 10,
      keys: { lendFloor: 0 },
      settings: (name) => ({
        pools: { fallback: [{ peer: name === 'kme-a' ? 'kme-b' : 'kme-a', source: 'peer-channel', maxKeysPerS: 10_000 }] },
      }),
      createDatabase: async (name) => {
        await server.createDatabase(name)
        await applyMigrations(server.url(name))
        return { url: server.url(name), drop: () => Promise.resolve() }
      },
    })
    const alice = await network.sae('alice')
    const bob = await network.sae('bob')
    for (let round = 0; round < 40; round += 1) {
      const issued = keysOf(
        await untilServed(() => alice.post('/api/v1/keys/bob/enc_keys', { number: 5, size: round % 2 === 0 ? 256 : 1024 })),
      )
      delivered.push(...issued.map(({ key }) => Buffer.from(key, 'base64')))
      // Some keys stay with the KME of the slave: they must be as unreadable as the fetched ones.
      if (round % 4 === 0) continue
      await untilServed(() => bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: issued.map(({ key_ID }) => ({ key_ID })) }))
      // Refused requests write other log lines.
      await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: issued.map(({ key_ID }) => ({ key_ID })) })
      await alice.get(`/api/v1/keys/bob/dec_keys?key_ID=${issued[0]!.key_ID}`)
    }
    // Keys that one KME sent to the other, when there are no others.
    network.devices.pause()
    for (let fallbackKeys = 0; fallbackKeys < 40;) {
      const answer = await alice.post('/api/v1/keys/bob/enc_keys', { number: 20 })
      if (!answer.text.includes('"openkme_source":"fallback"')) continue
      const issued = keysOf(answer)
      delivered.push(...issued.map(({ key }) => Buffer.from(key, 'base64')))
      fallbackKeys += issued.length
      if (fallbackKeys > 20) await bob.post('/api/v1/keys/alice/dec_keys', { key_IDs: issued.map(({ key_ID }) => ({ key_ID })) })
    }
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
    await server?.stop()
    rmSync(directory, { recursive: true, force: true })
  })

  it('no database file, write-ahead log, KME log or table holds any part of them in any encoding', async () => {
    expect(delivered).toHaveLength(240)
    const files = [...filesBelow(directory), ...filesBelow(network.directory)]
    expect(files.some((file) => file.includes('pg_wal'))).toBe(true)
    expect(files.some((file) => file.endsWith('kme-a.log'))).toBe(true)
    expect(findKeys(files, delivered)).toEqual([])

    // Stopped, everything PostgreSQL had in memory is in its files too.
    await network.stop('kme-a')
    await network.stop('kme-b')
    await server.stop()
    expect(findKeys([...filesBelow(directory), ...filesBelow(network.directory)], delivered)).toEqual([])
    server = await startEmbeddedPostgres({ directory, durable: true })
  })

  it.each(['raw', 'base64', 'base64url', 'hex'] as const)(
    'the scan would have found a part of one key written as %s',
    (encoding) => {
      const planted = join(directory, `planted-${encoding}`)
      const part = delivered[0]!.subarray(0, 27)
      writeFileSync(
        planted,
        Buffer.concat([Buffer.alloc(1000), encoding === 'raw' ? part : Buffer.from(part.toString(encoding))]),
      )
      expect(findKeys([planted, ...filesBelow(network.directory)], delivered).map(({ file }) => file)).toEqual([planted])
      rmSync(planted)
    },
  )
})
