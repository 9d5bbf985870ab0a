/** Rows K of the bad-input catalogue: what "Get key" is asked for. Every refusal costs nothing at either KME. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually, keysOf, storedKeys, type KmeName, type SaeClient } from '../network/network.ts'
import {
  bad,
  draw,
  expectVerdict,
  fetchKeys,
  K,
  MESSAGES,
  OK,
  startJudgedNetwork,
  verdict,
  type Expected,
  type JudgedNetwork,
} from './judged-network.ts'
import { databaseSwitch } from '../setup/test-database.ts'

const ENC = `${K}bob/enc_keys`
const OUT_OF_KEYS: Expected = { status: 503, message: 'x' }
let test: JudgedNetwork
let alice: SaeClient

beforeAll(async () => {
  // The maximal request is 128 keys of 65,536 bits: more than the devices deliver before they are quiet.
  test = await startJudgedNetwork({ keys: { maxSizeBits: 65_536, lendFloor: 16 } })
  alice = test.alice
})
afterAll(() => test?.[Symbol.asyncDispose]())

const costsNothing = async <T>(act: () => Promise<T>): Promise<T> => {
  const before = await storedKeys(alice, 'bob')
  const result = await test.costsNothing(act)
  expect(await storedKeys(alice, 'bob')).toBe(before)
  return result
}
const extensions = (count: number): object[] => Array.from({ length: count }, (_, at) => ({ [`abc_${at}`]: 1 }))
const nested = (depth: number): unknown => JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`)

describe('a Key request', () => {
  it.each([
    ['K01 number 0', { number: 0 }, bad('f')],
    ['K02 number -1', { number: -1 }, bad('f')],
    ['K03 number 1.5', { number: 1.5 }, bad('f')],
    ['K04 number "3"', { number: '3' }, bad('f')],
    ['K05 number true', { number: true }, bad('f')],
    ['K07 one more than max_key_per_request', { number: 129 }, bad('f')],
    ['K08 size 0', { size: 0 }, bad('f')],
    ['K08 size -8', { size: -8 }, bad('f')],
    ['K09 size 257', { size: 257 }, bad('m1')],
    ['K10 size below min_key_size', { size: 8 }, bad('f')],
    ['K10 size in bytes by mistake', { size: 32 }, bad('f')],
    ['K11 size above max_key_size', { size: 65_544 }, bad('f')],
    ['K12 size "256"', { size: '256' }, bad('f')],
    ['K12 size 256.5', { size: 256.5 }, bad('f')],
    ['K13 number and size both maximal, the pool too small', { number: 128, size: 65_536 }, OUT_OF_KEYS],
    ['K14 additional slaves are a string', { additional_slave_SAE_IDs: 'bert' }, bad('f')],
    ['K15 with a number', { additional_slave_SAE_IDs: [7] }, bad('f')],
    ['K15 with null', { additional_slave_SAE_IDs: [null] }, bad('f')],
    ['K15 with an object', { additional_slave_SAE_IDs: [{}] }, bad('f')],
    ['K15 with an empty string', { additional_slave_SAE_IDs: [''] }, bad('f')],
    ['K16 with duplicates', { additional_slave_SAE_IDs: ['bert', 'bert'] }, bad('f')],
    ['K17 with the master', { additional_slave_SAE_IDs: ['alice'] }, bad('f')],
    ['K18 with the slave of the path', { additional_slave_SAE_IDs: ['bob'] }, bad('f')],
    [
      'K19 one more than max_SAE_ID_count',
      { additional_slave_SAE_IDs: Array.from({ length: 9 }, (_, at) => `sae-${at}`) },
      bad('f'),
    ],
    ['K20 one unknown SAE among valid ones', { additional_slave_SAE_IDs: ['bert', 'nobody'] }, bad('u')],
    ['K20 one not permitted among valid ones', { additional_slave_SAE_IDs: ['bert', 'mallory'] }, bad('u')],
    ['K22 unknown extension_mandatory', { extension_mandatory: [{ abc_route_type: 'direct' }] }, bad('m2')],
    ['K22 unknown among known', { extension_mandatory: [{ openkme_request_id: randomUUID() }, { abc_x: 1 }] }, bad('m2')],
    ['K24 extension_mandatory is an object', { extension_mandatory: { abc_x: 1 } }, bad('f')],
    ['K26 element is a string', { extension_mandatory: ['abc_x'] }, bad('f')],
    ['K26 element is empty', { extension_mandatory: [{}] }, bad('f')],
    ['K26 element has two names', { extension_optional: [{ abc_x: 1, abc_y: 2 }] }, bad('f')],
    ['K28 extension_optional is a string', { extension_optional: 'x' }, bad('f')],
    ['K29 33 extensions', { extension_optional: extensions(33) }, bad('f')],
    ['K29 4,000 extensions (10,000 are over the body limit)', { extension_optional: extensions(4000) }, bad('f')],
    ['K29 a value 100 deep', { extension_optional: [{ abc_x: nested(100) }] }, bad('f')],
    ['K37 a request ID that is no UUID', { extension_mandatory: [{ openkme_request_id: '1' }] }, bad('f')],
  ] as [string, object, Expected][])('%s is refused and costs nothing', async (_row, body, expected) => {
    expectVerdict(await costsNothing(() => alice.post(ENC, body)), expected)
  })

  it('K22 the details say how many extensions are not supported and repeat nothing', async () => {
    const answer = await alice.post(ENC, { extension_mandatory: [{ abc_secret: 'direct' }, { abc_other: null }] })
    expect(answer.json).toEqual({ message: MESSAGES.m2, details: [{ extension_mandatory_unsupported: 2 }] })
  })

  it.each([
    ['K06 number null is absent', { number: null }],
    ['K25 an empty extension_mandatory', { extension_mandatory: [] }],
    ['K27 an unknown extension_optional', { extension_optional: [{ abc_max_age: 30_000 }] }],
    ['K29 32 extensions', { extension_optional: extensions(32) }],
    [
      'values of every JSON type',
      { extension_optional: [{ a_o: { b: 1 } }, { a_a: [1] }, { a_n: null }, { a_1: 1.5 }, { a_t: true }] },
    ],
  ] as [string, object][])('%s is served', async (_row, body) => {
    expect(await draw(alice, 'bob', body)).toHaveLength(1)
  })
})

describe('who asks for whom', () => {
  it('K30 K31 an unknown slave, one not permitted and one elsewhere get the same bytes', async () => {
    const unknown = await costsNothing(() => alice.post(`${K}nobody/enc_keys`, {}))
    expectVerdict(unknown, bad('u'))
    for (const slave of ['mallory', 'alice', '%20']) {
      const other = await costsNothing(() => alice.post(`${K}${slave}/enc_keys`, {}))
      expect([other.status, other.text]).toEqual([unknown.status, unknown.text])
    }
    for (const method of ['status', 'enc_keys']) {
      const asked = await test.mallory.get(`${K}bob/${method}`)
      expect([asked.status, asked.text]).toEqual([unknown.status, unknown.text])
    }
  })

  it('K31 a pair that an administrator took away is refused at once, and served again once given back', async () => {
    const admin = await test.network.admin('kme-a')
    expect((await admin.post('/api/v1/pairs', { one: 'alice', other: 'bob', allowed: false })).status).toBe(200)
    expectVerdict(await test.costsNothing(() => alice.post(ENC, {})), bad('u'))
    expect((await admin.post('/api/v1/pairs', { one: 'alice', other: 'bob', allowed: true })).status).toBe(200)
    await draw(alice, 'bob')
  })

  it('the other KME does not allow the pair: 400 u and no key is lost', async () => {
    const admin = await test.network.admin('kme-b')
    await admin.post('/api/v1/pairs', { one: 'alice', other: 'bob', allowed: false })
    const before = await storedKeys(alice, 'bob')
    expectVerdict(await alice.post(ENC, {}), bad('u'))
    await admin.post('/api/v1/pairs', { one: 'alice', other: 'bob', allowed: true })
    await eventually('the unit is back', async () => (await storedKeys(alice, 'bob')) === before)
  })

  it('K36 an SAE homed at the other KME', async () => {
    const bobHere = await test.sae('bob', 'kme-a')
    for (const path of ['bob/status', 'alice/enc_keys', 'alice/dec_keys?key_ID=00000000-0000-4000-8000-000000000000']) {
      expectVerdict(await test.costsNothing(() => bobHere.get(K + path)), { status: 401 })
    }
  })

  it('an SAE homed at a KME without a link gets 503 with a long Retry-After', async () => {
    const answer = await costsNothing(() => alice.post(`${K}carol/enc_keys`, {}))
    expect(answer.status).toBe(503)
    expect(answer.json).toEqual({ message: 'no key material available: this KME has no link to the KME of the slave SAE' })
    expect(Number(answer.headers['retry-after'])).toBeGreaterThanOrEqual(30)
    expect(await storedKeys(alice, 'carol')).toBe(0)
  })
})

describe('a request ID', () => {
  const ask = (client: SaeClient, requestId: string, body: object = {}, list = 'extension_optional') =>
    client.post(ENC, { ...body, [list]: [{ openkme_request_id: requestId }] })

  it('K38 replayed equal brings the same container and costs nothing more', async () => {
    const requestId = randomUUID()
    const first = await ask(alice, requestId, { number: 3, size: 512 })
    const again = await costsNothing(() => ask(alice, requestId, { number: 3, size: 512 }))
    expect(again.text).toBe(first.text)
    expect(keysOf(first)).toHaveLength(3)
  })

  it('K37 used again with other parameters', async () => {
    const requestId = randomUUID()
    expectVerdict(await ask(alice, requestId, { number: 2 }), OK)
    for (const body of [{}, { number: 3 }, { number: 2, size: 512 }, { number: 2, additional_slave_SAE_IDs: ['bert'] }]) {
      expectVerdict(await costsNothing(() => ask(alice, requestId, body)), bad('f'))
    }
    expectVerdict(
      await costsNothing(() =>
        alice.post(`${K}bert/enc_keys`, { number: 2, extension_optional: [{ openkme_request_id: requestId }] }),
      ),
      bad('f'),
    )
  })

  it('K38 in ten parallel equal requests makes one assignment, and all get its keys', async () => {
    const requestId = randomUUID()
    const clients = await test.connections('alice', 'kme-a', 10)
    const answers = await Promise.all(clients.map((client) => ask(client, requestId, { number: 2 })))
    expect(answers.map((answer) => answer.status)).toEqual(Array(10).fill(200))
    expect(new Set(answers.map((answer) => answer.text)).size).toBe(1)
    const rows = await test.network.query('kme-a', 'SELECT aid FROM assignment WHERE request_id = $1', [requestId])
    expect(rows).toHaveLength(1)
  })

  it('belongs to its master: another SAE with the same one gets keys of its own', async () => {
    const requestId = randomUUID()
    const mine = keysOf(await ask(alice, requestId))
    const hers = keysOf(await ask(test.anna, requestId))
    expect(hers[0]!.key_ID).not.toBe(mine[0]!.key_ID)
  })

  it('K23 whose time has passed cannot be met: m3 if mandatory, m4 if optional', async () => {
    const requestId = randomUUID()
    await ask(alice, requestId, {}, 'extension_mandatory')
    await test.network.query('kme-a', `UPDATE assignment SET created_at = created_at - interval '1 hour' WHERE request_id = $1`, [
      requestId,
    ])
    expectVerdict(await costsNothing(() => ask(alice, requestId, {}, 'extension_mandatory')), bad('m3'))
    expectVerdict(await costsNothing(() => ask(alice, requestId)), bad('m4'))
  })
})

describe('a KME that is away', () => {
  it('K21 answers 503 for slaves at a KME that is down, nothing stays assigned, and keys flow again after', async () => {
    const before = await storedKeys(alice, 'bob')
    await test.network.stop('kme-b')
    const answer = await alice.post(ENC, { additional_slave_SAE_IDs: ['bert'] })
    expectVerdict(answer, { status: 503, message: 'p' })
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
    await eventually(
      'nothing is reserved',
      async () => (await test.network.query('kme-a', 'SELECT 1 FROM reservation')).length === 0,
    )
    await eventually('status says so', async () => (await storedKeys(alice, 'bob')) === 0)
    await test.network.start('kme-b')
    await eventually('keys again', async () => (await storedKeys(alice, 'bob')) === before)
    const [key] = await draw(alice, 'bob')
    expect(keysOf(await fetchKeys(test.bob, 'alice', [key!]))).toEqual([key])
  })

  it.each([
    ['kme-a', { status: 503, message: 'b' }],
    ['kme-b', { status: 503, message: 'p' }],
  ] as [KmeName, Expected][])('K34 whose database is down (%s) answers 503 and recovers by itself', async (name, expected) => {
    const [waiting] = await draw(alice, 'bob')
    const database = databaseSwitch(test.network.databases.get(name)!.url)
    await database.refuse()
    try {
      expectVerdict(await alice.post(ENC, {}), expected)
      const here = name === 'kme-a' ? alice : test.bob
      const status = `/api/v1/keys/${name === 'kme-a' ? 'bob' : 'alice'}/status`
      await eventually('status promises nothing', async () => (await here.get(status)).status === 503)
      if (name === 'kme-b') expectVerdict(await fetchKeys(test.bob, 'alice', [waiting!]), { status: 503, message: 'b' })
    } finally {
      await database.allow()
    }
    await eventually('keys again', async () => (await alice.post(ENC, {})).status === 200)
    expect(keysOf(await fetchKeys(test.bob, 'alice', [waiting!]))).toEqual([waiting])
  })
})

describe('the last keys', () => {
  beforeAll(async () => {
    // What a test before this one left in doubt may give its keys back later.
    await eventually('no request is in doubt', async () => {
      const [{ reserved }] = (await test.network.query<{ reserved: number }>(
        'kme-a',
        'SELECT count(*)::int AS reserved FROM reservation',
      )) as [{ reserved: number }]
      return reserved === 0
    })
    await eventually('kme-a serves again', async () => (await alice.get('/api/v1/keys/bob/status')).status === 200)
  })

  it('K33 one key short of the number: 503, nothing is lost, and the exact number is served', async () => {
    for (let left = await storedKeys(alice, 'bob'); left > 100; left = await storedKeys(alice, 'bob')) {
      await draw(alice, 'bob', { number: Math.min(128, left - 50) })
    }
    const left = await storedKeys(alice, 'bob')
    expect(left).toBeGreaterThan(1)
    expectVerdict(await costsNothing(() => alice.post(ENC, { number: left + 1 })), OUT_OF_KEYS)
    expect(await draw(alice, 'bob', { number: left })).toHaveLength(left)
  })

  it('K32 an empty pool: 503 with Retry-After, on GET and POST', async () => {
    expect(await storedKeys(alice, 'bob')).toBe(0)
    for (const ask of [() => alice.post(ENC, {}), () => alice.get(ENC)]) {
      const answer = await costsNothing(ask)
      expect(verdict(answer)).toEqual({ status: 503, message: MESSAGES.x })
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
    }
  })
})
