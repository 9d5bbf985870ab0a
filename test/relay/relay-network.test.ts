/** Three KMEs in a line, each a process of its own: alice at kme-a and carol at kme-c share keys that no link carries. Whatever dies on
 *  the way, the answer is a key that both have or 503, and what passed kme-b is nowhere at kme-b. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually, keysOf, startNetwork, storedKeys, type Network, type SaeClient, type SentKey } from '../network/network.ts'
import { filesBelow, findKeys } from '../secrecy/file-scan.ts'

let directory: string
/** Of kme-b alone, so that its files are known. */
let serverOfB: EmbeddedPostgres
let others: EmbeddedPostgres
let network: Network
let alice: SaeClient
let carol: SaeClient
const issued: SentKey[] = []

const enc = (number: number) => alice.post('/api/v1/keys/carol/enc_keys', { number })
const dec = (keys: readonly SentKey[]) =>
  carol.post('/api/v1/keys/alice/dec_keys', { key_IDs: keys.map(({ key_ID }) => ({ key_ID })) })

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'openkme-relay-'))
  serverOfB = await startEmbeddedPostgres({ directory: join(directory, 'b'), durable: true })
  others = await startEmbeddedPostgres({ directory: join(directory, 'others'), durable: false })
  network = await startNetwork({
    line: true,
    processes: true,
    logLevel: 'debug',
    rateBlocksPerS: 20,
    settings: (name) => ({
      relay: {
        enabled: true,
        floorKeys: 16,
        blockKeys: 16,
        deadlineMs: 2000,
        routes: name === 'kme-b' ? [] : [{ to: name === 'kme-a' ? 'kme-c' : 'kme-a', via: ['kme-b'] }],
      },
      pools: { lowWatermark: 40, criticalWatermark: 5 },
    }),
    createDatabase: async (name) => {
      const server = name === 'kme_b' ? serverOfB : others
      await server.createDatabase(name)
      await applyMigrations(server.url(name))
      return { url: server.url(name), drop: () => Promise.resolve() }
    },
  })
  alice = await network.sae('alice')
  carol = await network.sae('carol', 'kme-c')
  await eventually('keys by relay', async () => (await storedKeys(alice, 'carol')) > 0 && (await storedKeys(carol, 'alice')) > 0)
}, 180_000)
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
  await serverOfB?.stop()
  await others?.stop()
  rmSync(directory, { recursive: true, force: true })
})

describe('keys by relay', () => {
  it('are equal at both ends, each once, and more come than were stored', async () => {
    await eventually('many keys', async () => {
      const answer = await enc(20)
      if (answer.status !== 200) expect(answer.status).toBe(503)
      else {
        const keys = keysOf(answer)
        expect(keysOf(await dec(keys))).toEqual(keys)
        issued.push(...keys)
      }
      return issued.length >= 200
    })
    expect(new Set(issued.map(({ key }) => key)).size).toBe(issued.length)
    const [first] = issued
    expect((await dec([first!])).status).toBe(400)
  })

  it('have a pool that operators see as any other', async () => {
    const admin = await network.admin('kme-a')
    const { json } = await admin.get('/api/v1/pools/kme-c')
    expect(json).toMatchObject({ kmeId: 'kme-c', keySizeBits: 256 })
    const asked = await admin.post('/api/v1/pools/kme-c/replenish', { upToKeys: 100 })
    expect((asked.json['sources'] as { source: string }[]).map(({ source }) => source)).toContain('relay')
  })

  it('are a key at both ends or 503 while kme-b is killed again and again, and never doubled', async () => {
    const stop = systemClock.monotonicMs() + 12_000
    const answers = { ok: 0, refused: 0 }
    const asking = (async () => {
      while (systemClock.monotonicMs() < stop) {
        const answer = await enc(4)
        if (answer.status === 200) {
          issued.push(...keysOf(answer))
          answers.ok += 1
          const fetched = await dec(keysOf(answer))
          if (fetched.status === 200) expect(keysOf(fetched)).toEqual(keysOf(answer))
          else expect(fetched.status).toBe(503)
        } else {
          expect(answer.status).toBe(503)
          answers.refused += 1
          await systemClock.sleep(100)
        }
      }
    })()
    for (let kills = 0; systemClock.monotonicMs() < stop; kills += 1) {
      await systemClock.sleep(400 + 150 * (kills % 5))
      await network.kill('kme-b')
      await network.start('kme-b')
    }
    await asking
    expect(answers.ok).toBeGreaterThan(0)
    expect(new Set(issued.map(({ key_ID }) => key_ID)).size).toBe(issued.length)
    expect(new Set(issued.map(({ key }) => key)).size).toBe(issued.length)
    await eventually('keys again', async () => {
      const answer = await enc(1)
      return answer.status === 200 && (await dec(keysOf(answer))).status === 200
    })
  })

  it('leave no pad that was used at one end only', async () => {
    network.devices.pause()
    network.furtherDevices.pause()
    await eventually(
      'everything is settled',
      async () => {
        const free = async (name: 'kme-a' | 'kme-b', column: string): Promise<unknown> =>
          network.query(
            name,
            `SELECT block_id, (${column})::text AS free FROM key_block WHERE link_id = 'a-b' AND state = 'AVAILABLE' ORDER BY block_id`,
          )
        return JSON.stringify(await free('kme-a', 'mine & ~taken')) === JSON.stringify(await free('kme-b', '~mine & ~taken'))
      },
      90_000,
    )
  })

  it('are in no file of kme-b, neither its database and its write-ahead log nor its own log', async () => {
    await network.stop('kme-b')
    await serverOfB.stop()
    const files = [...filesBelow(join(directory, 'b')), join(network.directory, 'kme-b.log')]
    expect(files.some((file) => file.includes('pg_wal'))).toBe(true)
    expect(
      findKeys(
        files,
        issued.map(({ key }) => Buffer.from(key, 'base64')),
      ),
    ).toEqual([])
  })
})
