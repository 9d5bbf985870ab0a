import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { assignmentMoves, blockMoves, reservationMoves } from '../../src/key-store/key-states.ts'
import { createTestDatabase, type TestDatabase } from '../setup/test-database.ts'

const tables = [
  {
    table: 'key_block',
    key: 'block_id',
    moves: blockMoves,
    insert: `INSERT INTO key_block (block_id, link_id, device_block, peer_kme_id, state, unit_count, unit_size_bits, mine, taken, done, term)
      VALUES ($1::uuid, 'l', $1::text, 'kme-b', $2, 4, 256, '1010', '0000', '0000', 1)`,
  },
  {
    table: 'reservation',
    key: 'aid',
    moves: reservationMoves,
    insert: `INSERT INTO reservation (aid, peer_kme_id, state, claimed_by, units) VALUES ($1, 'kme-b', $2, $1, '[]')`,
  },
  {
    table: 'assignment',
    key: 'aid',
    moves: assignmentMoves,
    insert: `INSERT INTO assignment (aid, role, peer_kme_id, state, master_sae_id, slave_sae_ids, size_bits, key_count, units, fetched, expires_at)
      VALUES ($1, 'holder', 'kme-b', $2, 'alice', '{bob}', 256, 2, '[]', '00', now())`,
  },
] as const

const rows = tables.flatMap(({ table, key, insert, moves }) =>
  Object.keys(moves).flatMap((from) =>
    Object.keys(moves).map((to) => {
      const legal = from === to || (moves as Record<string, readonly string[]>)[from]!.includes(to)
      return { name: `a ${table} ${legal ? 'may' : 'never'} goes from ${from} to ${to}`, table, key, insert, from, to, legal }
    }),
  ),
)

describe('the database', () => {
  let database: TestDatabase
  let client: pg.Client

  beforeAll(async () => {
    database = await createTestDatabase()
    client = new pg.Client({ connectionString: database.url })
    await client.connect()
  })
  afterAll(async () => {
    await client?.end()
    await database?.drop()
  })

  it.each(rows)('$name', async ({ table, key, insert, from, to, legal }) => {
    const id = randomUUID()
    await client.query(insert, [id, from])
    const move = client.query(`UPDATE ${table} SET state = $2 WHERE ${key} = $1`, [id, to])
    if (legal) await expect(move).resolves.toMatchObject({ rowCount: 1 })
    else await expect(move).rejects.toMatchObject({ code: 'KM003' })
  })

  it.each([
    ['fetched', 'assignment', 'aid', `'10'`, `'01'`],
    ['done', 'key_block', 'block_id', `'1100'`, `'0110'`],
  ])('never forgets what was %s', async (column, table, key, first, then) => {
    const id = randomUUID()
    const { insert } = tables.find((entry) => entry.table === table)!
    await client.query(insert, [id, table === 'assignment' ? 'ISSUED' : 'AVAILABLE'])
    await client.query(`UPDATE ${table} SET ${column} = ${first} WHERE ${key} = $1`, [id])
    await expect(client.query(`UPDATE ${table} SET ${column} = ${then} WHERE ${key} = $1`, [id])).rejects.toMatchObject({
      code: 'KM003',
    })
  })

  it.each(['master_sae_id', 'slave_sae_ids', 'role'])('never changes the %s of an assignment', async (column) => {
    const id = randomUUID()
    await client.query(tables[2].insert, [id, 'ISSUED'])
    const value = column === 'slave_sae_ids' ? `'{mallory}'` : column === 'role' ? `'local'` : `'mallory'`
    await expect(client.query(`UPDATE assignment SET ${column} = ${value} WHERE aid = $1`, [id])).rejects.toMatchObject({
      code: 'KM002',
    })
  })

  it.each([`UPDATE audit_record SET actor = 'nobody'`, 'DELETE FROM audit_record', 'TRUNCATE audit_record'])(
    'refuses %s',
    async (statement) => {
      await client.query(
        `INSERT INTO audit_record (event, actor, outcome, subject) VALUES ('kme.started', 'system', 'done', '{}')`,
      )
      await expect(client.query(statement)).rejects.toMatchObject({ code: 'KM002' })
    },
  )
})
