import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually, keysOf, untilServed, type Answer, type SaeClient } from '../network/network.ts'
import { startWorld, type World } from './world.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

/** Acquire a connection, wait for a lock, answer: nothing takes longer. */
const REFUSED_WITHIN_MS = 5000

describe('PostgreSQL refuses statements', () => {
  let world: World
  let anna: SaeClient
  let bert: SaeClient

  beforeAll(async () => {
    world = await startWorld({ connections: 6 })
    anna = await world.network.sae('anna')
    bert = await world.network.sae('bert')
  })
  afterAll(async () => {
    await world?.[Symbol.asyncDispose]()
  })

  type DatabaseName = 'kme_a' | 'kme_b'
  const sql = <T>(database: DatabaseName, text: string): Promise<T[]> => world.server.query<T>(database, text)
  const draw = (client: SaeClient, slave: string, number = 1): Promise<Answer> =>
    client.post(`/api/v1/keys/${slave}/enc_keys`, { number })
  /** Under all the traffic a pool may be short for a moment. */
  const drawSoon = (client: SaeClient, slave: string, number = 1): Promise<Answer> =>
    untilServed(() => draw(client, slave, number))
  const fetch = (client: SaeClient, master: string, issued: Answer): Promise<Answer> =>
    client.post(`/api/v1/keys/${master}/dec_keys`, { key_IDs: keysOf(issued).map(({ key_ID }) => ({ key_ID })) })

  /** A trigger on a table while `work` runs. @param body what it does before a row is written. */
  const withTrigger = async (
    database: DatabaseName,
    table: string,
    event: 'INSERT' | 'UPDATE',
    body: string,
    work: () => Promise<void>,
  ): Promise<void> => {
    await sql(
      database,
      `CREATE FUNCTION fault() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN ${body}; RETURN NEW; END $$;
       CREATE TRIGGER fault BEFORE ${event} ON ${table} FOR EACH ROW EXECUTE FUNCTION fault()`,
    )
    try {
      await work()
    } finally {
      await sql(database, 'DROP FUNCTION fault CASCADE')
    }
  }

  it('F16 rows are locked and the connections run out: 503 in time for everybody, no queue is left, and keys flow after it', async () => {
    const clients = await Promise.all(Array.from({ length: 40 }, () => world.network.sae('alice')))
    const holder = new pg.Client({ connectionString: world.server.url('kme_a') })
    await holder.connect()
    try {
      await world.underTraffic(async () => {
        await holder.query('BEGIN')
        await holder.query('LOCK TABLE reservation, assignment IN ACCESS EXCLUSIVE MODE')
        for (let wave = 0; wave < 2; wave += 1) {
          const answers = await Promise.all(clients.map((client) => world.timed(() => draw(client, 'bob'))))
          expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([503]))
          expect(Math.max(...answers.map(({ tookMs }) => tookMs))).toBeLessThan(timeLimitMs(REFUSED_WITHIN_MS))
        }
        await holder.query('ROLLBACK')
      })
    } finally {
      await holder.end()
    }
  })

  const places = [
    ['claim', 'kme_a', 'reservation', 'INSERT'],
    ['issue', 'kme_a', 'assignment', 'INSERT'],
    ['hold', 'kme_b', 'assignment', 'INSERT'],
    ['delivery', 'kme_b', 'assignment', 'UPDATE'],
  ] as const

  it.each(['40001', '40P01', '55P03'])('F17 %s at every place, again and again: repeated a few times, then 503', async (code) => {
    for (const [what, database, table, event] of places) {
      await sql(database, 'CREATE SEQUENCE attempts')
      let lastedMs = 0
      const body = `IF NEW.state IN ('ISSUED', 'DELIVERED') AND NEW.role <> 'local' THEN PERFORM nextval('attempts'); RAISE EXCEPTION 'fault' USING ERRCODE = '${code}'; END IF`
      const ready = what === 'delivery' ? await draw(world.alice, 'bob') : undefined
      await withTrigger(
        database,
        table,
        event,
        what === 'claim' ? body.replace(/IF .* THEN/, 'IF true THEN') : body,
        async () => {
          const send = () => (ready === undefined ? draw(world.alice, 'bob') : fetch(world.bob, 'alice', ready))
          const { status, tookMs } = await world.timed(send)
          expect([what, status]).toEqual([what, 503])
          expect(tookMs).toBeLessThan(timeLimitMs(REFUSED_WITHIN_MS))
          lastedMs = tookMs
        },
      )
      const [attempts] = await sql<{ n: number }>(database, 'SELECT last_value::int AS n FROM attempts')
      await sql(database, 'DROP SEQUENCE attempts')
      // What took a second is not repeated.
      if (lastedMs < 1000) expect(attempts!.n).toBeGreaterThan(1)
      expect(attempts!.n).toBeLessThanOrEqual(5)
      if (ready !== undefined) expect(keysOf(await fetch(world.bob, 'alice', ready))).toEqual(keysOf(ready))
    }
  })

  it('F17 all three at random under traffic: never a double claim', async () => {
    const body = `IF random() < 0.3 THEN RAISE EXCEPTION 'fault' USING ERRCODE = (ARRAY['40001', '40P01', '55P03'])[1 + floor(random() * 3)]; END IF`
    await world.underTraffic(async () => {
      const [, issue] = places
      await withTrigger('kme_a', issue[2], issue[3], body, () =>
        withTrigger('kme_b', 'assignment', 'UPDATE', body, async () => {
          const from = world.account.figures.keysFetched
          await eventually('keys flow all the same', () => world.account.figures.keysFetched > from + 300)
        }),
      )
    })
  })

  it.each([
    ['audit record', 'kme_a', 'audit_record', `NEW.actor = 'sae:anna'`],
    ['assignment', 'kme_a', 'assignment', `NEW.master_sae_id = 'anna'`],
    ['assignment at the other KME', 'kme_b', 'assignment', `NEW.master_sae_id = 'anna'`],
    ['third key', 'kme_a', 'assigned_key', `NEW.position = 2`],
  ] as const)('F18 the %s of one SAE cannot be written: it gets 503 and nothing else, others are served', async (...fault) => {
    const [, database, table, condition] = fault
    const others = await Promise.all(Array.from({ length: 8 }, () => world.network.sae('alice')))
    await world.underTraffic(async () => {
      const rows = async () =>
        (await sql<{ n: number }>(database, `SELECT count(*)::int AS n FROM ${table} NEW WHERE ${condition}`))[0]!.n
      await withTrigger(database, table, 'INSERT', `IF ${condition} THEN RAISE EXCEPTION 'fault'; END IF`, async () => {
        const before = await rows()
        const [refused, ...served] = await Promise.all([
          draw(anna, 'bob', 3),
          ...others.map((client) => drawSoon(client, 'bert', 2)),
        ])
        expect(refused).toMatchObject({ status: 503, json: expect.not.objectContaining({ keys: expect.anything() }) })
        for (const issued of served) expect(keysOf(await fetch(bert, 'alice', issued))).toEqual(keysOf(issued))
        expect(await rows()).toBeLessThanOrEqual(before)
      })
    })
  })

  // The other half of F19, a server that comes back with old data (a restored backup, a standby that had fallen behind), needs an
  // epoch that is kept outside the database. It is not built yet; docs/operating.md says what to do after a restore.
  it.each([
    {
      how: 'under open connections',
      set: ['ALTER SYSTEM SET default_transaction_read_only = on', 'SELECT pg_reload_conf()'],
      reset: ['ALTER SYSTEM RESET default_transaction_read_only', 'SELECT pg_reload_conf()'],
    },
    {
      how: 'for new connections, as a standby is',
      set: [
        'ALTER DATABASE kme_a SET default_transaction_read_only = on',
        'ALTER DATABASE kme_b SET default_transaction_read_only = on',
        `SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname IN ('kme_a', 'kme_b')`,
      ],
      reset: [
        'ALTER DATABASE kme_a RESET default_transaction_read_only',
        'ALTER DATABASE kme_b RESET default_transaction_read_only',
      ],
    },
  ])('F19 the server takes no writes $how: 503, and keys flow when it does again', async ({ set, reset }) => {
    const run = async (statements: readonly string[]): Promise<void> => {
      for (const statement of statements) await world.server.query('postgres', statement)
    }
    const refusedInTime = async (send: () => Promise<Answer>): Promise<void> => {
      const { status, tookMs } = await world.timed(send)
      expect(status).toBe(503)
      expect(tookMs).toBeLessThan(timeLimitMs(REFUSED_WITHIN_MS))
    }
    await world.underTraffic(async () => {
      await world.expectRecovery()
      const issued = await drawSoon(world.alice, 'bob')
      await run(set)
      await eventually('no transaction can write', async () => {
        const [row] = await sql<{ off: boolean }>(
          'kme_a',
          `SELECT current_setting('default_transaction_read_only') = 'on' AS off`,
        )
        return row!.off
      })
      // Open connections hear of it a moment after new ones.
      await systemClock.sleep(500)
      try {
        await refusedInTime(() => draw(world.alice, 'bob'))
        await refusedInTime(() => draw(world.alice, 'anna'))
        await refusedInTime(() => draw(world.bob, 'alice'))
        await refusedInTime(() => fetch(world.bob, 'alice', issued))
        // A standby may not know a key yet: from there nothing is "not found".
        const unknown = { key_IDs: [{ key_ID: randomUUID() }] }
        if (set.length > 2) await refusedInTime(() => world.bob.post('/api/v1/keys/alice/dec_keys', unknown))
      } finally {
        await run(reset)
      }
      await world.expectRecovery()
      expect(keysOf(await fetch(world.bob, 'alice', issued))).toEqual(keysOf(issued))
    })
  })
})
