/** Four KMEs in a diamond, each a process of its own: kme-a and kme-c share keys over kme-b and kme-d. What passes kme-b is not in its memory a
 *  second later, and a key that was split or wrapped never; whatever dies, keys are equal at both ends or there are none; whoever says again
 *  what was said before is not heard. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { randomInt } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { applyMigrations } from '../../src/database/migrate.ts'
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../src/embedded-postgres/embedded-postgres.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import type { UnitRun } from '../../src/key-store/key-store.ts'
import { peerPaths } from '../../src/peer/wire.ts'
import { findIn, memoryOf } from '../bb84-link/process-memory.ts'
import {
  eventually,
  keysOf,
  startNetwork,
  storedKeys,
  type Answer,
  type KmeName,
  type Network,
  type SaeClient,
  type SentKey,
} from '../network/network.ts'
import { createSessionSpeaker, type SessionSpeaker } from '../peer/session-speaker.ts'
import { filesBelow, findKeys } from '../secrecy/file-scan.ts'
import { startRedis } from '../setup/redis-servers.ts'
import { padViolations, readBooks, type Message } from './pad-books.ts'
import { runStatement } from '../setup/run-statement.ts'

const NAMES = ['kme-a', 'kme-b', 'kme-c', 'kme-d'] as const
/** As a client of one request insists on it; plain keys take the first of the written routes, over kme-b. */
const WISHES = {
  plain: {},
  split: { extension_mandatory: [{ openkme_paths: 2 }] },
  wrapped: { extension_mandatory: [{ openkme_end_to_end: true }] },
  both: { extension_mandatory: [{ openkme_paths: 2 }, { openkme_end_to_end: true }] },
}
type Wish = keyof typeof WISHES
interface Parcel {
  readonly relayId: string
  readonly pad: readonly UnitRun[]
  readonly ciphertext: string
  readonly mac: string
}
interface Recorded {
  readonly from: KmeName
  readonly to: KmeName
  readonly parcel: Parcel
}
/** Of each KME. */
const KILLS = Number(process.env['TEST_RELAY_KILLS'] ?? 2)

/** Keeps every message a KME makes, as it was when it could first be sent. */
const JOURNAL = `
CREATE TABLE sent_once (message JSONB NOT NULL, peer TEXT NOT NULL);
CREATE FUNCTION keep_message() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO sent_once VALUES (NEW.message, NEW.peer_kme_id); RETURN NULL; END';
CREATE TRIGGER keep_message AFTER INSERT OR UPDATE ON relay_pad FOR EACH ROW WHEN (NEW.message IS NOT NULL) EXECUTE FUNCTION keep_message()`

let directory: string
let redis: Awaited<ReturnType<typeof startRedis>>
/** Of kme-b alone, so that its files are known. */
let serverOfB: EmbeddedPostgres
let others: EmbeddedPostgres
let network: Network
let alice: SaeClient
let carol: SaeClient
const issued: (SentKey & { readonly wish: Wish })[] = []

const ask = (wish: Wish, number = 4): Promise<Answer> => alice.post('/api/v1/keys/carol/enc_keys', { number, ...WISHES[wish] })
const fetchKeys = (keys: readonly SentKey[]): Promise<Answer> =>
  carol.post('/api/v1/keys/alice/dec_keys', { key_IDs: keys.map(({ key_ID }) => ({ key_ID })) })
const bytesOf = ({ key }: SentKey): Buffer => Buffer.from(key, 'base64')

const pauseDevices = (): void => [network.devices, network.furtherDevices].forEach((devices) => devices.pause())
const resumeDevices = (): void => [network.devices, network.furtherDevices].forEach((devices) => devices.resume())
/** Waits until no relay passed those KMEs for a second. */
const rest = async (names: readonly KmeName[]): Promise<void> => {
  for (const name of names) {
    await eventually(`no relay for a second at ${name}`, async () => {
      const [last] = await network.query<{ rests: boolean | null }>(
        name,
        `SELECT max(at) < now() - interval '1 second' AS rests FROM relay_pad`,
      )
      return last?.rests !== false
    })
  }
}

/** What every KME made, in order. */
const journal = async (): Promise<Recorded[]> => {
  const of = async (from: KmeName): Promise<Recorded[]> =>
    (await network.query<{ message: Parcel; peer: KmeName }>(from, 'SELECT message, peer FROM sent_once')).map(
      ({ message, peer }) => ({ from, to: peer, parcel: message }),
    )
  return (await Promise.all(NAMES.map(of))).flat()
}

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'openkme-diamond-'))
  serverOfB = await startEmbeddedPostgres({ directory: join(directory, 'b'), durable: true })
  others = await startEmbeddedPostgres({ directory: join(directory, 'others'), durable: false })
  redis = await startRedis()
  network = await startNetwork({
    diamond: true,
    redisUrl: redis.url,
    processes: true,
    logLevel: 'debug',
    rateBlocksPerS: 4,
    settings: (name) => ({
      relay: {
        enabled: true,
        floorKeys: 16,
        blockKeys: 16,
        deadlineMs: 2000,
        routes:
          name === 'kme-a' || name === 'kme-c'
            ? ['kme-b', 'kme-d'].map((via) => ({ to: name === 'kme-a' ? 'kme-c' : 'kme-a', via: [via] }))
            : [],
      },
      pools: { lowWatermark: 40, criticalWatermark: 5 },
    }),
    createDatabase: async (name) => {
      const server = name === 'kme_b' ? serverOfB : others
      await server.createDatabase(name)
      await applyMigrations(server.url(name))
      await runStatement(server.url(name), JOURNAL)
      return { url: server.url(name), drop: () => Promise.resolve() }
    },
  })
  alice = await network.sae('alice')
  carol = await network.sae('carol', 'kme-c')
  await eventually('keys by relay', async () => (await storedKeys(alice, 'carol')) > 0)
})
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
  await redis?.stop()
  await serverOfB?.stop()
  await others?.stop()
  rmSync(directory, { recursive: true, force: true })
})

describe('keys by relay', () => {
  it.each(Object.keys(WISHES) as Wish[])('are equal at both ends: %s', async (wish) => {
    await eventually('keys', async () => {
      const answer = await ask(wish)
      if (answer.status !== 200) return false
      const keys = keysOf(answer)
      expect(keysOf(await fetchKeys(keys))).toEqual(keys)
      issued.push(...keys.map((key) => ({ ...key, wish })))
      return issued.filter((key) => key.wish === wish).length >= 20
    })
    const [first] = issued
    expect((await fetchKeys([first!])).status).toBe(400)
  })

  it('that passed kme-b are not in its memory, nor in that of its Redis', async () => {
    const [passed] = await network.query<{ count: number }>(
      'kme-b',
      `SELECT count(*)::int AS count FROM relay_pad WHERE side = 'out'`,
    )
    expect(passed!.count).toBeGreaterThan(10)
    pauseDevices()
    // A plain block is on its way through kme-b for milliseconds; a second is what it may take to be gone.
    await rest(['kme-b'])
    const needles = issued.map((key) => ({ name: key.wish, bytes: bytesOf(key), windowBytes: 8 }))
    // The search finds what is there.
    const certificate = readFileSync(join(network.directory, 'kme-b.pem')).subarray(100, 164)
    const known = { name: 'certificate', bytes: certificate, windowBytes: 8 }
    await redis.cli('SET', 'known', certificate)
    for (const pid of [network.pid('kme-b'), redis.pid()]) {
      process.kill(pid, 'SIGSTOP')
      try {
        expect(findIn(memoryOf(pid), [...needles, known])).toEqual(['certificate'])
      } finally {
        process.kill(pid, 'SIGCONT')
      }
    }
    resumeDevices()
  })
})

describe('while KMEs are killed again and again', () => {
  it.each(NAMES)(
    '%s: a key is at both ends or was never given out, and none comes twice',
    async (victim) => {
      let killing = true
      const left: SentKey[][] = []
      const orNone = async (answer: Promise<Answer>): Promise<Answer | undefined> => answer.catch(() => undefined)
      const asking = (async () => {
        const wishes = Object.keys(WISHES) as Wish[]
        for (let i = 0; killing; i += 1) {
          const wish = wishes[i % wishes.length]!
          const answer = await orNone(ask(wish, 2))
          if (answer?.status !== 200) {
            // 400: the network has no two ways without the KME that is away.
            if (answer !== undefined) expect([400, 503]).toContain(answer.status)
            await systemClock.sleep(50)
            continue
          }
          const keys = keysOf(answer)
          issued.push(...keys.map((key) => ({ ...key, wish })))
          const fetched = await orNone(fetchKeys(keys))
          if (fetched?.status === 200) expect(keysOf(fetched)).toEqual(keys)
          else left.push(keys)
        }
      })()
      for (let kills = 0; kills < KILLS; kills += 1) {
        await systemClock.sleep(300 + 150 * (kills % 4))
        await network.kill(victim)
        await network.start(victim)
      }
      killing = false
      await asking
      expect(new Set(issued.map(({ key_ID }) => key_ID)).size).toBe(issued.length)
      expect(new Set(issued.map(({ key }) => key)).size).toBe(issued.length)
      // Whoever could not fetch then can now, or his answer was lost on the way.
      for (const keys of left) {
        const fetched = await eventually('an answer', async () => {
          const answer = await orNone(fetchKeys(keys))
          return answer !== undefined && answer.status !== 503 ? answer : undefined
        })
        if (fetched.status === 200) expect(keysOf(fetched)).toEqual(keys)
        else expect(fetched.status).toBe(400)
      }
      await eventually('keys of every kind again', async () => {
        for (const wish of Object.keys(WISHES) as Wish[]) if ((await orNone(ask(wish, 1)))?.status !== 200) return false
        return true
      })
    },
    60_000 + 10_000 * KILLS,
  )
})

describe('afterwards', () => {
  it('no unit was used for two things: no two messages, no message and a key', async () => {
    pauseDevices()
    await rest(NAMES)
    const messages = (await journal()).map(({ from, to, parcel }): Message => ({
      from: from as KmeId,
      to: to as KmeId,
      relayId: parcel.relayId,
      pad: parcel.pad,
      secretPart: `${parcel.ciphertext} ${parcel.mac}`,
    }))
    expect(messages.length).toBeGreaterThan(100)
    const books = NAMES.map((name) => readBooks(name as KmeId, (sql) => network.query(name, sql)))
    expect(padViolations(messages, await Promise.all(books))).toEqual([])
  })

  it('no pad is used up at one end only', async () => {
    const free = async (name: KmeName, linkId: string, column: string): Promise<string> =>
      JSON.stringify(
        await network.query(
          name,
          `SELECT block_id, (${column})::text AS free FROM key_block WHERE link_id = $1 AND state = 'AVAILABLE' ORDER BY block_id`,
          [linkId],
        ),
      )
    for (const [one, other, linkId] of [
      ['kme-a', 'kme-b', 'a-b'],
      ['kme-b', 'kme-c', 'b-c'],
      ['kme-a', 'kme-d', 'a-d'],
      ['kme-c', 'kme-d', 'd-c'],
    ] as const) {
      for (const [issuer, peer] of [
        [one, other],
        [other, one],
      ] as const) {
        await eventually(
          `${issuer} and ${peer} count the same units as used`,
          async () => (await free(issuer, linkId, 'mine & ~taken')) === (await free(peer, linkId, '~mine & ~taken')),
        )
      }
    }
  })

  describe('what was said before has no effect when it is said again', () => {
    const MESSAGES = 60
    const SHARING = (
      [
        ['kme-a', 'kme-b'],
        ['kme-b', 'kme-c'],
        ['kme-a', 'kme-d'],
        ['kme-c', 'kme-d'],
        ['kme-a', 'kme-c'],
      ] as const
    ).flatMap(([one, other]) => [[one, other] as const, [other, one] as const])
    const file = (name: string): string => readFileSync(join(network.directory, name), 'utf8')
    /** But for blocks that one end alone has since the other was killed: it gives them up by itself, some of them after minutes. */
    const KEY_BLOCK = `key_block t WHERE state = 'AVAILABLE' OR bit_count(done) > 0`
    const states = (): Promise<unknown> =>
      Promise.all(
        NAMES.map((name) =>
          network.query(
            name,
            [KEY_BLOCK, 'relay_pad t', 'assignment t', 'assigned_key t', 'reservation t']
              .map(
                (rows) =>
                  `SELECT split_part($$${rows}$$, ' ', 1) AS of, md5(string_agg(t::text, ',' ORDER BY t::text)) AS state FROM ${rows}`,
              )
              .join(' UNION ALL '),
          ),
        ),
      )
    /** When no pool wants key, so that the KMEs do nothing by themselves, and what they did has come to its end. */
    const statesAtRest = async (): Promise<unknown> => {
      resumeDevices()
      for (const [one, other] of SHARING) {
        const admin = await network.admin(one)
        await eventually(`${one} has enough keys shared with ${other}`, async () => {
          const { mine, lowWatermark } = (await admin.get(`/api/v1/pools/${other}`)).json
          return Number(mine) >= Number(lowWatermark)
        })
        admin.close()
      }
      pauseDevices()
      let [last, sinceMs] = ['', 0]
      await eventually('nothing changes any more', async () => {
        const now = JSON.stringify(await states())
        if (now !== last) [last, sinceMs] = [now, performance.now()]
        return performance.now() - sinceMs > 2000
      })
      return states()
    }
    const answerAt = async (name: KmeName, relayId: string): Promise<unknown> => {
      const rows = await network.query<{ answer: unknown }>(
        name,
        `SELECT answer FROM relay_pad WHERE relay_id = $1 AND side = 'in'`,
        [relayId],
      )
      return rows[0]?.answer
    }
    /** The last messages of all KMEs, in any order. */
    const someMessages = async (): Promise<Recorded[]> => {
      const recorded = (await Promise.all(NAMES.map(async (name) => (await journal()).filter(({ from }) => from === name))))
        .flatMap((own) => own.slice(-MESSAGES / NAMES.length))
        .map((one) => ({ one, place: randomInt(2 ** 32) }))
        .sort((first, second) => first.place - second.place)
        .map(({ one }) => one)
      expect(recorded.length).toBeGreaterThan(MESSAGES / 2)
      return recorded
    }
    /** @param speaker who says it instead of its sender. @returns what is answered. */
    const sayAgain = async (
      recorded: readonly Recorded[],
      speaker?: (recorded: Recorded) => KmeName,
    ): Promise<(readonly [Recorded, Record<string, unknown>])[]> => {
      const speakers = new Map<string, SessionSpeaker>()
      const answers: (readonly [Recorded, Record<string, unknown>])[] = []
      for (const one of recorded) {
        const from = speaker?.(one) ?? one.from
        const name = `${from} ${one.to}`
        const said = speakers.get(name) ?? speak(from, one.to)
        speakers.set(name, said)
        const answer = await said.say('POST', peerPaths.relays, one.parcel)
        expect(answer.status).toBe(200)
        answers.push([one, answer.json])
      }
      for (const one of speakers.values()) one.hangUp()
      return answers
    }
    const speak = (from: KmeName, to: KmeName): SessionSpeaker =>
      createSessionSpeaker({
        port: network.ports.get(to)!.peer,
        cert: file(`${from}.pem`),
        key: file(`${from}.key`),
        ca: network.authorities.certificatePem.kme,
        from,
        to,
      })
    const alarmsOf = async (name: KmeName): Promise<string[]> =>
      (
        await network.query<{ name: string }>(
          name,
          `SELECT name FROM alarm WHERE cleared_at IS NULL AND (name LIKE 'relay.%' OR name LIKE 'peer.request-refused:%')`,
        )
      ).map((alarm) => alarm.name)

    it.each<[string, () => Promise<void>]>([
      ['twice and in another order', () => Promise.resolve()],
      ['after FLUSHALL', () => redis.cli('FLUSHALL').then(() => undefined)],
      [
        'after its receiver was killed and Redis lost everything',
        async () => {
          for (const name of ['kme-b', 'kme-c', 'kme-d'] as const) await network.kill(name)
          await redis.cli('FLUSHALL')
          for (const name of ['kme-b', 'kme-c', 'kme-d'] as const) await network.start(name)
        },
      ],
    ])('%s', async (_when, happen) => {
      await happen()
      const recorded = await someMessages()
      const before = await statesAtRest()
      for (const [{ to, parcel }, answer] of await sayAgain([...recorded, ...recorded])) {
        const first = await answerAt(to, parcel.relayId)
        if (first === undefined || first === null) expect(answer).toMatchObject({ outcome: 'refused' })
        else expect(answer).toEqual(first)
      }
      expect(await states()).toEqual(before)
      for (const name of NAMES) expect([name, await alarmsOf(name)]).toEqual([name, []])
    })

    it('by another KME, which is refused, recorded and told each time', async () => {
      const other = { 'kme-a': 'kme-c', 'kme-b': 'kme-d', 'kme-c': 'kme-a', 'kme-d': 'kme-b' } as const
      const recorded = (await someMessages()).filter(({ to }) => to === 'kme-c')
      expect(recorded.length).toBeGreaterThan(5)
      const refusals = (): Promise<{ count: number }[]> =>
        network.query('kme-c', `SELECT count(*)::int AS count FROM audit_record WHERE event = 'peer.refused'`)
      const [before, [recordedBefore]] = [await statesAtRest(), await refusals()]
      for (const [, answer] of await sayAgain(recorded, ({ from }) => other[from])) {
        expect(answer).toMatchObject({ outcome: 'refused', at: 'kme-c' })
        // What never arrived the first time is not known, and comes the wrong way.
        expect(['relay-id-in-use', 'path-not-allowed']).toContain(answer['reason'])
      }
      expect(await states()).toEqual(before)
      const [recordedAfter] = await refusals()
      expect(recordedAfter!.count - recordedBefore!.count).toBe(recorded.length)
      await eventually('alarms', async () => {
        const alarms = await alarmsOf('kme-c')
        return alarms.includes('peer.request-refused:kme-b') || alarms.includes('peer.request-refused:kme-d')
      })
    })
  })

  it('no file of kme-b has any of the keys: database, write-ahead log, log', async () => {
    await network.stop('kme-b')
    await serverOfB.stop()
    const files = [...filesBelow(join(directory, 'b')), join(network.directory, 'kme-b.log')]
    expect(files.some((file) => file.includes('pg_wal'))).toBe(true)
    expect(findKeys(files, issued.map(bytesOf))).toEqual([])
  })
})
