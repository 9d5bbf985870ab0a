/** Rows D of the bad-input catalogue: who may fetch which key, and that a refusal leaves every key where it was. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { keysOf, type SaeClient, type SentKey } from '../network/network.ts'
import {
  bad,
  connectAll,
  draw,
  expectVerdict,
  fetchKeys,
  K,
  startJudgedNetwork,
  verdict,
  type Expected,
  type JudgedNetwork,
} from './judged-network.ts'

const DEC = `${K}alice/dec_keys`
const SEALED_UNIT_BYTES = 48
let test: JudgedNetwork
let alice: SaeClient
let bob: SaeClient
let own: SentKey

beforeAll(async () => {
  test = await startJudgedNetwork()
  ;({ alice, bob } = test)
  own = (await draw(alice, 'bob'))[0]!
})
afterAll(() => test?.[Symbol.asyncDispose]())

/** Fetches the key: it was still there, once. */
const expectFetchable = async (client: SaeClient, keys: readonly SentKey[]): Promise<void> => {
  expect(keysOf(await fetchKeys(client, 'alice', keys))).toEqual(keys)
  expectVerdict(await fetchKeys(client, 'alice', keys), bad('m5'))
}

describe('a key ID', () => {
  it.each([
    ['D01 no UUID', () => 'not-a-uuid', bad('f')],
    ['D02 the nil UUID', () => '00000000-0000-0000-0000-000000000000', bad('m5')],
    ['D03 never issued', () => randomUUID(), bad('m5')],
    ['D05 in braces', () => `{${own.key_ID}}`, bad('f')],
    ['D05 as a URN', () => `urn:uuid:${own.key_ID}`, bad('f')],
    ['D05 with a space', () => ` ${own.key_ID}`, bad('f')],
    ['D05 without dashes', () => own.key_ID.replaceAll('-', ''), bad('f')],
    ['an empty string', () => '', bad('f')],
    ['a number', () => 7, bad('f')],
    ['null', () => null, bad('f')],
  ] as [string, () => unknown, Expected][])('%s', async (_row, keyId, expected) => {
    expectVerdict(await test.costsNothing(() => bob.post(DEC, { key_IDs: [{ key_ID: keyId() }] })), expected)
  })

  it('D04 in upper case is the same key, and comes back in lower case', async () => {
    const [key] = await draw(alice, 'bob')
    const answer = await bob.post(DEC, { key_IDs: [{ key_ID: key!.key_ID.toUpperCase() }] })
    expect(keysOf(answer)).toEqual([key])
  })

  it('D15 twice in one list, also in another case', async () => {
    for (const twin of [own.key_ID, own.key_ID.toUpperCase()]) {
      expectVerdict(await test.costsNothing(() => fetchKeys(bob, 'alice', [own, { key_ID: twin }])), bad('f'))
    }
  })
})

describe('the form of Key IDs', () => {
  it.each([
    ['D16 empty list', { key_IDs: [] }],
    ['D17 missing', {}],
    ['D17 a string', { key_IDs: randomUUID() }],
    ['D17 an object', { key_IDs: { key_ID: randomUUID() } }],
    ['D17 an array of strings', { key_IDs: [randomUUID()] }],
    ['D17 null', { key_IDs: null }],
    ['D17 an entry without key_ID', { key_IDs: [{ key_id: randomUUID() }] }],
    ['D18 1,000 IDs', { key_IDs: Array.from({ length: 1000 }, () => ({ key_ID: randomUUID() })) }],
    ['D18 one more than max_key_per_request', { key_IDs: Array.from({ length: 129 }, () => ({ key_ID: randomUUID() })) }],
    ['D19 key_ID_extension is a string', { key_IDs: [{ key_ID: randomUUID(), key_ID_extension: 'x' }] }],
    ['D19 key_IDs_extension is a list', { key_IDs: [{ key_ID: randomUUID() }], key_IDs_extension: [] }],
    ['D20 a Key request', { number: 1, size: 256 }],
  ] as [string, object][])('%s is 400', async (_row, body) => {
    expectVerdict(await test.costsNothing(() => bob.post(DEC, body)), bad('f'))
  })

  it('a POST without a body is 400', async () => {
    expectVerdict(await test.costsNothing(() => bob.post(DEC)), bad('f'))
  })

  it('D19 extensions with unknown content are ignored, and so are unknown members of an entry', async () => {
    const [key] = await draw(alice, 'bob')
    const entry = { key_ID: key!.key_ID, key_ID_extension: { abc_x: [1] }, master_SAE_ID: 'alice' }
    const answer = await bob.post(DEC, { key_IDs: [entry], key_IDs_extension: { abc_y: null } })
    expect(keysOf(answer)).toEqual([key])
  })
})

describe('who may fetch', () => {
  it('D06 D22 an SAE the key was not meant for gets 401, and the key stays', async () => {
    const [key] = await draw(alice, 'bob')
    expectVerdict(await test.costsNothing(() => fetchKeys(test.bert, 'alice', [key!])), { status: 401 })
    expectVerdict(await test.costsNothing(() => test.bert.get(`${DEC}?key_ID=${key!.key_ID}`)), { status: 401 })
    await expectFetchable(bob, [key!])
  })

  it('D07 own and foreign keys in one list: 401, the own one stays', async () => {
    const [mine] = await draw(alice, 'bob')
    const [foreign] = await draw(alice, 'bert')
    expectVerdict(await test.costsNothing(() => fetchKeys(bob, 'alice', [mine!, foreign!])), { status: 401 })
    await expectFetchable(bob, [mine!])
    await expectFetchable(test.bert, [foreign!])
  })

  it('D08 own and unknown keys in one list: not found, the own one stays', async () => {
    const [mine] = await draw(alice, 'bob')
    expectVerdict(await test.costsNothing(() => fetchKeys(bob, 'alice', [mine!, { key_ID: randomUUID() }])), bad('m5'))
    await expectFetchable(bob, [mine!])
  })

  it('D09 the master asks for its own key: 401', async () => {
    const [key] = await draw(alice, 'bob')
    expectVerdict(await test.costsNothing(() => fetchKeys(alice, 'bob', [key!])), { status: 401 })
    expectVerdict(await test.costsNothing(() => fetchKeys(alice, 'alice', [key!])), { status: 401 })
    const [local] = await draw(alice, 'anna')
    expectVerdict(await test.costsNothing(() => fetchKeys(alice, 'anna', [local!])), { status: 401 })
    await expectFetchable(bob, [key!])
    await expectFetchable(test.anna, [local!])
  })

  it('D10 the right key under the wrong master: not found, the key stays', async () => {
    const [key] = await draw(alice, 'bob')
    for (const master of ['anna', 'nobody', 'bob', '%20']) {
      expectVerdict(await test.costsNothing(() => fetchKeys(bob, master, [key!])), bad('m5'))
    }
    await expectFetchable(bob, [key!])
  })

  it('D21 an additional slave gets the same bytes', async () => {
    const keys = await draw(alice, 'bob', { number: 2, additional_slave_SAE_IDs: ['bert'] })
    await expectFetchable(bob, keys)
    await expectFetchable(test.bert, keys)
  })
})

describe('when', () => {
  it('D11 a second time: not found', async () => {
    const [key] = await draw(alice, 'bob')
    expect(keysOf(await fetchKeys(bob, 'alice', [key!]))).toEqual([key])
    expectVerdict(await test.costsNothing(() => fetchKeys(bob, 'alice', [key!])), bad('m5'))
    expectVerdict(await test.costsNothing(() => bob.get(`${DEC}?key_ID=${key!.key_ID}`)), bad('m5'))
  })

  it('D14 in 100 parallel requests for one key: one gets it', async () => {
    const [key] = await draw(alice, 'bob')
    const clients = await test.connections('bob', 'kme-b', 100)
    await connectAll(clients, 'alice')
    const answers = await Promise.all(clients.map((client) => fetchKeys(client, 'alice', [key!])))
    clients.forEach((client) => client.close())
    const served = answers.filter((answer) => answer.status === 200)
    expect(served).toHaveLength(1)
    expect(keysOf(served[0]!)).toEqual([key])
    for (const answer of answers) if (answer !== served[0]) expectVerdict(answer, bad('m5'))
  })

  it('D14 in 60 parallel requests for one key that wait behind others: one gets it, and the others get theirs', async () => {
    const [key, ...others] = await draw(alice, 'bob', { number: 21 })
    const clients = await test.connections('bob', 'kme-b', 80)
    await connectAll(clients, 'alice')
    const ask = (wanted: SentKey) => (client: SaeClient) => fetchKeys(client, 'alice', [wanted])
    const [theirs, same] = await Promise.all([
      Promise.all(others.map((other, at) => ask(other)(clients[at]!))),
      Promise.all(clients.slice(20).map(ask(key!))),
    ])
    clients.forEach((client) => client.close())
    expect(theirs.map((answer) => answer.status)).toEqual(Array(20).fill(200))
    expect(same.filter((answer) => answer.status === 200).length).toBe(1)
  })

  it('D23 at the moment the master has it, a hundred times', async () => {
    for (let round = 0; round < 100; round += 1) {
      const [key] = await draw(alice, 'bob')
      expect(verdict(await bob.get(`${DEC}?key_ID=${key!.key_ID}`))).toEqual({ status: 200 })
    }
  })

  it.each([
    ['D12 expired', `expires_at = now() - interval '1 second'`],
    ['D13 revoked', `state = 'REVOKED'`],
  ])('%s: the same answer as for a key that never was', async (_row, change) => {
    const [key] = await draw(alice, 'bob')
    const changed = await test.network.query(
      'kme-b',
      `UPDATE assignment SET ${change} WHERE aid = (SELECT aid FROM assigned_key WHERE key_id = $1) RETURNING aid`,
      [key!.key_ID],
    )
    expect(changed).toHaveLength(1)
    const never = await fetchKeys(bob, 'alice', [{ key_ID: randomUUID() }])
    const gone = await fetchKeys(bob, 'alice', [key!])
    expect([gone.status, gone.text]).toEqual([never.status, never.text])
    expectVerdict(gone, bad('m5'))
  })

  it('D25 the slave was disabled: its open connection ends or is answered 401 within a second, and works again after', async () => {
    const [key] = await draw(alice, 'bob')
    const admin = await test.network.admin('kme-b')
    await bob.get(`${K}alice/status`)
    expect((await admin.post('/api/v1/saes/bob/disable', {})).status).toBe(200)
    const refused = await test.costsNothing(() =>
      fetchKeys(bob, 'alice', [key!]).then(
        (answer) => answer.status,
        () => 'closed',
      ),
    )
    expect([401, 'closed']).toContain(refused)
    expectVerdict(await test.costsNothing(async () => fetchKeys(await test.sae('bob'), 'alice', [key!])), { status: 401 })
    expect((await admin.post('/api/v1/saes/bob/enable', {})).status).toBe(200)
    await expectFetchable(await test.sae('bob'), [key!])
  })
})

describe('a damaged row', () => {
  /** Flips one bit of the sealed bytes of the key's first unit at kme-b; done again, it is whole. */
  const flipBit = async (keyId: string): Promise<void> => {
    const flipped = await test.network.query(
      'kme-b',
      `UPDATE key_block b SET sealed = set_byte(b.sealed, u.at, get_byte(b.sealed, u.at) # 1)
       FROM (SELECT (a.units->0->>'blockId')::uuid AS block_id, (a.units->0->'units'->0)::int * ${SEALED_UNIT_BYTES} AS at
             FROM assignment a JOIN assigned_key k USING (aid) WHERE k.key_id = $1) u
       WHERE b.block_id = u.block_id RETURNING b.block_id`,
      [keyId],
    )
    expect(flipped).toHaveLength(1)
  }

  it('D24 is 503 and hands out nothing; repaired, the key is there', async () => {
    const [key] = await draw(alice, 'bob')
    await flipBit(key!.key_ID)
    const answer = await test.costsNothing(() => fetchKeys(bob, 'alice', [key!]))
    expectVerdict(answer, { status: 503, message: 'd' })
    await flipBit(key!.key_ID)
    await expectFetchable(bob, [key!])
  })

  it('D26 in a batch with nine good keys is 503, and the nine are still fetchable', async () => {
    const damaged = (await draw(alice, 'bob'))[0]!
    const good = await draw(alice, 'bob', { number: 9 })
    await flipBit(damaged.key_ID)
    expectVerdict(await test.costsNothing(() => fetchKeys(bob, 'alice', [...good, damaged])), { status: 503, message: 'd' })
    await expectFetchable(bob, good)
    await flipBit(damaged.key_ID)
    await expectFetchable(bob, [damaged])
  })
})
