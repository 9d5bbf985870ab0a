/** A neighbour with a good certificate asks for what it may not have, and others who have none. What is refused changes nothing; the
 *  refusal is in the words of the standard and stands in the audit log. */
import { randomBytes, randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { makeAuthority, makeLeaf } from '../http/test-certificates.ts'
import { eventually } from '../setup/eventually.ts'
import { contract, fetchKeys, keysOf, startSite, type Answer, type Client, type Site } from './site.ts'

const KEYS = '/kmapi/v1/ext_keys'
const ACK = `${KEYS}/ack`
const VOID = `${KEYS}/void`

let site: Site
/** kme-x, as its own certificate says. */
let neighbour: Client

beforeAll(async () => {
  site = await startSite()
  neighbour = site.caller('kme-a', site.identities['kme-x'])
})
afterAll(async () => {
  await site?.[Symbol.asyncDispose]()
})

const key = (bytes = 32) => ({ key_id: randomUUID(), value: randomBytes(bytes).toString('base64') })
const transfer = (changes: object = {}) => ({ keys: [key()], initiator_sae_id: 'xavier', target_sae_ids: ['alice'], ...changes })
const parties = { initiator_sae_id: 'xavier', target_sae_ids: ['alice'] }
const callback = (): string => `${site.wireUrl('kme-a')}/kmapi/v1/ext_keys/ack`

const send = async (method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer> => {
  const answer = await neighbour.send(method, path, body, headers)
  contract.checkResponse(method, path, answer.status, answer.headers['content-type'], answer.text)
  return answer
}
const post = (path: string, body: unknown): Promise<Answer> => send('POST', path, body)
const relayed = (sent: { keys: { key_id: string }[] }) => [
  { key_id_container: sent.keys.map(({ key_id }) => ({ key_id })), ack_status: 'relayed', ...parties },
]

/** Everything a neighbour could change. */
const state = async (): Promise<unknown> =>
  site.query(
    'kme-a',
    `SELECT (SELECT count(*) FROM assignment) AS assignments, (SELECT count(*) FROM assigned_key) AS keys,
       (SELECT count(*) FROM key_block WHERE link_id = 'received:kme-x') AS blocks, (SELECT count(*) FROM neighbour_message) AS messages,
       md5((SELECT string_agg(state || fetched::text, ',' ORDER BY aid) FROM assignment)) AS states,
       (SELECT string_agg(state, ',' ORDER BY key_id) FROM sent_key) AS sent`,
  )
const refusals = async (): Promise<number> => {
  const [row] = await site.query<{ count: number }>(
    'kme-a',
    `SELECT count(*)::int AS count FROM audit_record WHERE event = 'peer.refused' AND actor = 'kme:kme-x'`,
  )
  return row!.count
}
/** Nothing waits to be said any more. */
const quiet = (): Promise<boolean> =>
  eventually(
    'silence',
    async () => (await site.count('kme-a', 'neighbour_message')) + (await site.count('kme-x', 'neighbour_message')) === 0,
  )
const type = (problem: string): string => `https://qkd.etsi.org/gs020-interop-kms/${problem}`
/** Sends it and checks that nothing changed and that the refusal was recorded. */
const refused = async (path: string, body: unknown, status: number, problem: string, detail?: string): Promise<void> => {
  const [before, count] = [await state(), await refusals()]
  const answer = await post(path, body)
  expect(answer.json).toMatchObject({ status, type: type(problem) })
  expect(answer.status).toBe(status)
  if (detail !== undefined) expect(Object.keys((answer.json as { details: object }).details)).toEqual([detail])
  expect(await state()).toEqual(before)
  expect(await refusals()).toBe(count + 1)
}

describe('keys that a neighbour sends', () => {
  it('in good order are relayed, so the refusals below have their reason in what was changed', async () => {
    const sent = transfer()
    const answer = await post(KEYS, sent)
    expect([answer.status, answer.json]).toEqual([200, relayed(sent)])
    const fetched = await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: sent.keys[0]!.key_id }])
    expect(keysOf(fetched)).toEqual([{ key_ID: sent.keys[0]!.key_id, key: sent.keys[0]!.value }])
  })

  it('of different sizes in one request each keep theirs', async () => {
    const sent = transfer({ keys: [key(8), key(33), key(512), key(32)] })
    expect((await post(KEYS, sent)).status).toBe(200)
    const ids = sent.keys.map(({ key_id }) => ({ key_ID: key_id }))
    const fetched = keysOf(await fetchKeys(await site.sae('alice'), 'xavier', ids))
    expect(fetched.map((one) => one.key)).toEqual(sent.keys.map(({ value }) => value))
  })

  it('under IDs in upper case are known under the same in lower case', async () => {
    const sent = transfer()
    const shouted = { ...sent, keys: sent.keys.map((one) => ({ ...one, key_id: one.key_id.toUpperCase() })) }
    expect((await post(KEYS, shouted)).json).toEqual(relayed(sent))
  })

  it('with optional extensions of anybody and with members nobody knows are taken', async () => {
    const sent = transfer({ extension_optional: { E99999_note: { any: ['thing'] } }, colour: 'blue', extension_mandatory: null })
    sent.keys[0] = { ...sent.keys[0]!, ...{ extension: { E99999_x: 1 }, unknown: 2 } }
    expect((await post(KEYS, sent)).status).toBe(200)
  })

  it.each<[string, object, number, string, string]>([
    ['for an unknown target', { target_sae_ids: ['nobody'] }, 400, 'key-routing-error', 'target_sae_id_not_recognized'],
    ['for a target not paired', { target_sae_ids: ['mallory'] }, 400, 'key-routing-error', 'target_sae_id_not_recognized'],
    [
      'for one target of two not paired',
      { target_sae_ids: ['alice', 'mallory'] },
      400,
      'key-routing-error',
      'target_sae_id_not_recognized',
    ],
    ['for a target behind itself', { target_sae_ids: ['xena'] }, 400, 'key-routing-error', 'invalid_routing'],
    [
      'for a target here and one behind itself',
      { target_sae_ids: ['alice', 'xena'] },
      400,
      'key-routing-error',
      'invalid_routing',
    ],
    ['for the initiator', { target_sae_ids: ['xavier'] }, 400, 'key-routing-error', 'target_sae_id_not_recognized'],
    ['for a target at a third KME', { target_sae_ids: ['far'] }, 503, 'key-routing-error', 'no_known_route'],
    ['for targets here and there', { target_sae_ids: ['alice', 'far'] }, 503, 'key-routing-error', 'no_route_multiple_targets'],
    ['in the name of an SAE of this KME', { initiator_sae_id: 'anna' }, 400, 'key-routing-error', 'invalid_routing'],
    ['in the name of an SAE of a third KME', { initiator_sae_id: 'far' }, 400, 'key-routing-error', 'invalid_routing'],
    ['in the name of nobody', { initiator_sae_id: 'nobody' }, 400, 'key-routing-error', 'invalid_routing'],
    [
      'with a mandatory extension',
      { extension_mandatory: { E99999_route: 'direct' } },
      503,
      'unsupported-mandatory-extension',
      'unsupported_mandatory_extension',
    ],
    [
      'with a mandatory extension of ETSI',
      { extension_mandatory: { E13019_x: 1 } },
      503,
      'unsupported-mandatory-extension',
      'unsupported_mandatory_extension',
    ],
    ['without keys', { keys: undefined }, 400, 'missing-parameters', 'missing_parameters'],
    ['with null for the targets', { target_sae_ids: null }, 400, 'missing-parameters', 'missing_parameters'],
    ['with no key in the list', { keys: [] }, 400, 'invalid-parameter', 'keys'],
    ['with a key without ID', { keys: [{ value: 'AAAA' }] }, 400, 'missing-parameters', 'missing_parameters'],
    ['with a key without value', { keys: [{ key_id: randomUUID() }] }, 400, 'missing-parameters', 'missing_parameters'],
    ['with keys that are no list', { keys: { 0: 1 } }, 400, 'invalid-parameter', 'keys'],
    ['with a key that is a text', { keys: ['AAAA'] }, 400, 'invalid-parameter', 'keys'],
    ['with a key ID that is no UUID', { keys: [{ ...key(), key_id: 'one' }] }, 400, 'invalid-parameter', 'key_id'],
    ['with a value that is a number', { keys: [{ ...key(), value: 7 }] }, 400, 'invalid-parameter', 'value'],
    ['with an empty value', { keys: [{ ...key(), value: '' }] }, 400, 'invalid-parameter', 'value'],
    ['with base64 that breaks off', { keys: [{ ...key(), value: 'AAAAAAAAAAA' }] }, 400, 'invalid-parameter', 'value'],
    ['with base64 of another alphabet', { keys: [{ ...key(), value: 'AAAAAAAA_-8=' }] }, 400, 'invalid-parameter', 'value'],
    [
      'with spaces in base64',
      { keys: [{ ...key(), value: ` ${randomBytes(32).toString('base64')}` }] },
      400,
      'invalid-parameter',
      'value',
    ],
    ['with padding inside base64', { keys: [{ ...key(), value: 'AAA=AAAAAAAA' }] }, 400, 'invalid-parameter', 'value'],
    ['with a key that is too short', { keys: [key(7)] }, 400, 'invalid-parameter', 'value'],
    ['with a key that is too long', { keys: [key(513)] }, 400, 'invalid-parameter', 'value'],
    ['with one good and one bad key', { keys: [key(), key(7)] }, 400, 'invalid-parameter', 'value'],
    ['with a target twice', { target_sae_ids: ['alice', 'alice'] }, 400, 'invalid-parameter', 'target_sae_ids'],
    ['with no target', { target_sae_ids: [] }, 400, 'invalid-parameter', 'target_sae_ids'],
    ['with an SAE ID of 65 characters', { target_sae_ids: ['a'.repeat(65)] }, 400, 'invalid-parameter', 'target_sae_ids'],
    ['with an SAE ID that is no URI text', { initiator_sae_id: 'xa vier' }, 400, 'invalid-parameter', 'initiator_sae_id'],
    [
      'with an SAE ID with half a percent triplet',
      { initiator_sae_id: 'xavier%4' },
      400,
      'invalid-parameter',
      'initiator_sae_id',
    ],
    [
      'with an extension without number',
      { extension_optional: { colour: 'blue' } },
      400,
      'invalid-parameter',
      'extension_optional',
    ],
    ['with an empty extension', { extension_optional: {} }, 400, 'invalid-parameter', 'extension_optional'],
    ['with an extension that is a list', { extension_optional: [{ E1_x: 1 }] }, 400, 'invalid-parameter', 'extension_optional'],
  ])('%s are refused', async (_, changes, status, problem, detail) => {
    await refused(KEYS, transfer(changes), status, problem, detail)
  })

  it('with more targets than allowed are refused', async () => {
    for (let i = 0; i < 9; i += 1) {
      const admin = await site.admin('kme-a')
      expect((await admin.post('/api/v1/saes', { saeId: `many-${i}`, kmeId: 'kme-a' })).status).toBe(201)
      expect((await admin.post('/api/v1/pairs', { one: `many-${i}`, other: 'xavier', allowed: true })).status).toBe(200)
    }
    const targets = Array.from({ length: 9 }, (_, i) => `many-${i}`)
    await refused(
      KEYS,
      transfer({ target_sae_ids: ['alice', ...targets] }),
      503,
      'key-routing-error',
      'no_route_multiple_targets',
    )
  })

  it.each([1025, 5000])('%d in one request are refused', (count) =>
    refused(KEYS, transfer({ keys: Array.from({ length: count }, () => key(8)) }), 400, 'invalid-parameter', 'keys'),
  )

  it('1024 in one request are taken', async () => {
    const sent = transfer({ keys: Array.from({ length: 1024 }, () => key(32)) })
    expect((await post(KEYS, sent)).json).toEqual(relayed(sent))
  })

  it('in a body of more than 4 MiB are refused', async () => {
    const before = await state()
    const answer = await neighbour.post(KEYS, transfer({ note: 'x'.repeat(4 * 1024 * 1024) }))
    expect(answer.status).toBe(400)
    expect(answer.json).toMatchObject({ type: type('invalid-parameter'), status: 400 })
    expect(await state()).toEqual(before)
  })

  it.each([
    ['no JSON', '{"keys":['],
    ['a member twice', `{"keys":[],"keys":[]}`],
    ['bytes that are not UTF-8', Buffer.from([0x7b, 0xff, 0x7d])],
    ['a list', '[]'],
  ])('in %s are refused', (_, body) => refused(KEYS, body, 400, 'invalid-parameter', 'body'))

  it.each([
    ['a value whose name is spelt otherwise', (value: string) => `{"key_id":"${randomUUID()}","v\\u0061lue":"${value}"}`],
    ['two values', (value: string) => `{"key_id":"${randomUUID()}","value":"${value}","value":"${value}"}`],
  ])('with %s are refused', async (_, entry) => {
    const { keys: _keys, ...rest } = transfer()
    const value = randomBytes(32).toString('base64')
    const body = `{"keys":[${entry(value)}],${JSON.stringify(rest).slice(1)}`
    const answer = await post(KEYS, body)
    expect(answer.status).toBe(400)
    expect(answer.text).not.toContain(value)
  })
})

describe('a callback URL', () => {
  it('that was agreed on is called, and no other place', async () => {
    const sent = transfer({ ack_callback_url: callback() })
    const answer = await post(KEYS, sent)
    expect([answer.status, answer.text]).toEqual([202, ''])
    const [id] = sent.keys
    const ack = await eventually('an acknowledgement', () =>
      site.exchanges.find(({ path, body }) => path === ACK && body.includes(id!.key_id)),
    )
    expect(JSON.parse(ack.body)).toEqual(relayed(sent))
    // The real kme-x never sent that key and refuses the acknowledgement: then nobody here gets the key, and it is told so.
    await eventually('a void', () => site.exchanges.some(({ path, body }) => path === VOID && body.includes(id!.key_id)))
    await quiet()
    expect((await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: id!.key_id }])).status).toBe(400)
  })

  it.each<[string, () => string]>([
    ['of another host', () => callback().replace('127.0.0.1', 'localhost')],
    ['of another port', () => callback().replace(/:\d+/, ':443')],
    ['with another path', () => `${callback()}/../../../../other`],
    ['with a longer path', () => `${callback()}/more`],
    ['with a query', () => `${callback()}?to=me`],
    ['with a fragment', () => `${callback()}#me`],
    ['with a user name', () => callback().replace('https://', 'https://me@')],
    ['without TLS', () => callback().replace('https:', 'http:')],
    ['of another scheme', () => 'file:///etc/passwd'],
    ['of this KME itself', () => `${site.wireUrl('kme-x')}/kmapi/v1/ext_keys/ack`],
    ['that is no URL', () => 'https://'],
    ['that is a number', () => 7 as unknown as string],
    ['of 1025 characters', () => `https://127.0.0.1/${'x'.repeat(1007)}`],
  ])('%s is refused, for keys and for voids', async (_, url) => {
    await refused(KEYS, transfer({ ack_callback_url: url() }), 400, 'invalid-parameter', 'ack_callback_url')
    const request = { key_ids: [randomUUID()], ...parties, ack_callback_url: url() }
    await refused(VOID, request, 400, 'invalid-parameter', 'ack_callback_url')
  })
})

describe('keys sent again', () => {
  it('word for word get the same answer and change nothing', async () => {
    const sent = transfer({ keys: [key(), key(64)] })
    expect((await post(KEYS, sent)).json).toEqual(relayed(sent))
    const before = await state()
    expect((await post(KEYS, sent)).json).toEqual(relayed(sent))
    expect(await state()).toEqual(before)
  })

  it('at the same moment are stored once', async () => {
    const sent = transfer()
    const answers = await Promise.all(Array.from({ length: 8 }, () => post(KEYS, sent)))
    expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200))
    const ids = [{ key_ID: sent.keys[0]!.key_id }]
    expect((await fetchKeys(await site.sae('alice'), 'xavier', ids)).status).toBe(200)
    expect((await fetchKeys(await site.sae('alice'), 'xavier', ids)).status).toBe(400)
  })

  it.each<[string, (sent: ReturnType<typeof transfer>) => object]>([
    ['with other bytes', (sent) => ({ ...sent, keys: [{ ...key(), key_id: sent.keys[0]!.key_id }] })],
    ['with other length', (sent) => ({ ...sent, keys: [{ ...key(64), key_id: sent.keys[0]!.key_id }] })],
    ['for another target', (sent) => ({ ...sent, target_sae_ids: ['anna'] })],
    ['for one more target', (sent) => ({ ...sent, target_sae_ids: ['alice', 'anna'] })],
    ['beside a new key', (sent) => ({ ...sent, keys: [...sent.keys, key()] })],
    ['twice in one request', (sent) => ({ ...sent, keys: [...sent.keys, ...sent.keys] })],
  ])('%s are refused, and the first ones are delivered', async (_, change) => {
    const sent = transfer()
    expect((await post(KEYS, sent)).status).toBe(200)
    await refused(KEYS, change(sent), 400, 'invalid-parameter', 'key_id')
    const [fetched] = keysOf(await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: sent.keys[0]!.key_id }]))
    expect(fetched!.key).toBe(sent.keys[0]!.value)
  })

  it('after they were delivered are refused', async () => {
    const sent = transfer()
    await post(KEYS, sent)
    await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: sent.keys[0]!.key_id }])
    await refused(KEYS, sent, 400, 'invalid-parameter', 'key_id')
  })

  it('under the ID of a key of this KME are refused', async () => {
    const [own] = keysOf(await (await site.sae('alice')).post('/api/v1/keys/anna/enc_keys', {}))
    await refused(KEYS, transfer({ keys: [{ ...key(), key_id: own!.key_ID }] }), 400, 'invalid-parameter', 'key_id')
  })
})

describe('a void', () => {
  const voidOf = (ids: string[], changes: object = {}) => ({ key_ids: ids, ...parties, ...changes })
  const statuses = (answer: Answer): object =>
    Object.fromEntries(
      (answer.json as { ack_status: string; key_id_container: { key_id: string }[] }[]).map((ack) => [
        ack.ack_status,
        ack.key_id_container.map(({ key_id }) => key_id),
      ]),
    )

  it('takes back what nobody has, not what somebody has, and says so of each key', async () => {
    const sent = transfer({ keys: [key(), key(), key()] })
    await post(KEYS, sent)
    const [waiting, fetched, other] = sent.keys.map(({ key_id }) => key_id)
    await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: fetched! }])
    const unknown = randomUUID()
    const expected = { voided: [waiting], 'failed to void': [fetched], 'key not present': [unknown] }
    expect(statuses(await post(VOID, voidOf([waiting!, fetched!, unknown])))).toEqual(expected)
    expect(statuses(await post(VOID, voidOf([waiting!, fetched!, unknown])))).toEqual(expected)
    const alice = await site.sae('alice')
    expect((await fetchKeys(alice, 'xavier', [{ key_ID: waiting! }])).status).toBe(400)
    expect((await fetchKeys(alice, 'xavier', [{ key_ID: other! }])).status).toBe(200)
  })

  it('destroys the key and its data key with the last of its block', async () => {
    const sent = transfer()
    await post(KEYS, sent)
    await post(VOID, voidOf([sent.keys[0]!.key_id]))
    const [block] = await site.query(
      'kme-a',
      `SELECT b.state, b.sealed, b.wrapped_dek FROM key_block b JOIN assignment a ON a.units -> 0 ->> 'blockId' = b.block_id::text
       JOIN assigned_key k USING (aid) WHERE k.key_id = $1`,
      [sent.keys[0]!.key_id],
    )
    expect(block).toEqual({ state: 'DESTROYED', sealed: null, wrapped_dek: null })
  })

  it('that overtakes its keys keeps them out, also when they come later', async () => {
    const sent = transfer()
    expect(statuses(await post(VOID, voidOf([sent.keys[0]!.key_id])))).toEqual({ 'key not present': [sent.keys[0]!.key_id] })
    await refused(KEYS, sent, 400, 'invalid-parameter', 'key_id')
  })

  it('of a key that one of two targets has fails', async () => {
    const sent = transfer({ target_sae_ids: ['alice', 'anna'] })
    await post(KEYS, sent)
    await fetchKeys(await site.sae('anna'), 'xavier', [{ key_ID: sent.keys[0]!.key_id }])
    const request = voidOf([sent.keys[0]!.key_id], { target_sae_ids: ['anna', 'alice'] })
    expect(statuses(await post(VOID, request))).toEqual({ 'failed to void': [sent.keys[0]!.key_id] })
    expect((await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: sent.keys[0]!.key_id }])).status).toBe(200)
  })

  it('does not reach keys of other SAEs, nor of this KME', async () => {
    const sent = transfer()
    await post(KEYS, sent)
    const [own] = keysOf(await (await site.sae('alice')).post('/api/v1/keys/anna/enc_keys', {}))
    const ids = [sent.keys[0]!.key_id, own!.key_ID]
    expect(statuses(await post(VOID, voidOf(ids, { target_sae_ids: ['anna'] })))).toEqual({ 'key not present': ids })
    expect((await fetchKeys(await site.sae('anna'), 'alice', [own!])).status).toBe(200)
    expect((await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: ids[0]! }])).status).toBe(200)
  })

  it('of all keys between two SAEs takes those, and only with confirmation', async () => {
    const [ofAlice, ofAnna] = [transfer({ keys: [key(), key()] }), transfer({ target_sae_ids: ['anna'] })]
    await post(VOID, voidOf([], { all_confirmation: true }))
    await post(KEYS, ofAlice)
    await post(KEYS, ofAnna)
    await refused(VOID, voidOf([]), 400, 'no-key-ids-or-confirmation', 'no_all_confirmation')
    await refused(VOID, voidOf([], { all_confirmation: false }), 400, 'no-key-ids-or-confirmation', 'no_all_confirmation')
    const answer = statuses(await post(VOID, voidOf([], { all_confirmation: true }))) as { voided: string[] }
    expect(new Set(answer.voided)).toEqual(new Set(ofAlice.keys.map(({ key_id }) => key_id)))
    expect((await fetchKeys(await site.sae('anna'), 'xavier', [{ key_ID: ofAnna.keys[0]!.key_id }])).status).toBe(200)
    expect(statuses(await post(VOID, voidOf([], { all_confirmation: true })))).toEqual({ 'key not present': [] })
  })

  it('with a callback is acknowledged there', async () => {
    const sent = transfer()
    await post(KEYS, sent)
    const [id] = sent.keys.map(({ key_id }) => key_id)
    expect((await post(VOID, voidOf([id!], { ack_callback_url: callback() }))).status).toBe(202)
    await eventually('its acknowledgement', () =>
      site.exchanges.some(({ path, body }) => path === ACK && body.includes('"voided"') && body.includes(id!)),
    )
    await quiet()
  })

  it.each<[string, object, number, string, string]>([
    [
      'between SAEs the caller has nothing to do with',
      { initiator_sae_id: 'alice', target_sae_ids: ['anna'] },
      400,
      'key-routing-error',
      'invalid_routing',
    ],
    ['for an unknown target', { target_sae_ids: ['nobody'] }, 400, 'key-routing-error', 'invalid_routing'],
    ['without key IDs', { key_ids: undefined }, 400, 'missing-parameters', 'missing_parameters'],
    ['of key IDs that are no UUIDs', { key_ids: ['one'] }, 400, 'invalid-parameter', 'key_ids'],
    [
      'of more than 1024 keys',
      { key_ids: Array.from({ length: 1025 }, () => randomUUID()) },
      400,
      'invalid-parameter',
      'key_ids',
    ],
    ['with a confirmation that is a text', { all_confirmation: 'yes' }, 400, 'invalid-parameter', 'all_confirmation'],
  ])('%s is refused', async (_, changes, status, problem, detail) => {
    await refused(VOID, voidOf([randomUUID()], changes), status, problem, detail)
  })

  it('that is not understood is refused as such', () => refused(VOID, '{', 400, 'void-request-not-understood', 'body'))
})

describe('an acknowledgement', () => {
  const toX = { initiator_sae_id: 'alice', target_sae_ids: ['xavier'] }
  const ack = (ids: string[], changes: object = {}) => [
    { key_id_container: ids.map((key_id) => ({ key_id })), ack_status: 'relayed', ...toX, ...changes },
  ]
  const issue = async (): Promise<string> =>
    keysOf(await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', {}))[0]!.key_ID

  it.each(['relayed', 'failed', 'voided', 'failed to void', 'key not present'])(
    '"%s" of a key that was issued is taken and changes nothing',
    async (ack_status) => {
      const id = await issue()
      const before = await state()
      expect((await post(ACK, ack([id], { ack_status }))).status).toBe(200)
      expect(await state()).toEqual(before)
    },
  )

  it('of keys it never got is refused, and so is one that also names others', async () => {
    const id = await issue()
    await refused(ACK, ack([randomUUID()]), 400, 'key-not-present', 'key_id')
    await refused(ACK, [...ack([id]), ...ack([randomUUID()])], 400, 'key-not-present', 'key_id')
    await refused(ACK, ack([id], { target_sae_ids: ['xena'] }), 400, 'key-not-present', 'key_id')
  })

  it.each<[string, unknown, string, string]>([
    ['that is no list', {}, 'ack-not-understood', 'body'],
    ['of a draft of the standard', { key_ids: [randomUUID()], target_sae_id: 'xavier' }, 'ack-not-understood', 'body'],
    ['that is no JSON', '[', 'ack-not-understood', 'body'],
    ['of 1025 containers', Array.from({ length: 1025 }, () => ack([])[0]), 'ack-not-understood', 'body'],
    ['with an unknown status', ack([randomUUID()], { ack_status: 'perhaps' }), 'invalid-parameter', 'ack_status'],
    ['without a status', ack([randomUUID()], { ack_status: undefined }), 'missing-parameters', 'missing_parameters'],
    ['with a message that is too long', ack([randomUUID()], { message: 'x'.repeat(4097) }), 'invalid-parameter', 'message'],
    ['of 1025 keys', ack(Array.from({ length: 1025 }, () => randomUUID())), 'invalid-parameter', 'key_id_container'],
    [
      'between SAEs the caller has nothing to do with',
      ack([randomUUID()], { initiator_sae_id: 'anna', target_sae_ids: ['alice'] }),
      'key-routing-error',
      'invalid_routing',
    ],
  ])('%s is refused', (_, body, problem, detail) => refused(ACK, body, 400, problem, detail))

  it('of nothing is nothing', async () => {
    expect((await post(ACK, [])).status).toBe(200)
  })
})

describe('another neighbour', () => {
  const other = (): Client => site.caller('kme-a', site.identities['kme-y'])

  it('may send keys of SAEs behind it, and none of others', async () => {
    const sent = transfer({ initiator_sae_id: 'yves' })
    expect((await other().post(KEYS, sent)).status).toBe(200)
    expect((await other().post(KEYS, transfer())).json).toMatchObject({
      status: 400,
      details: { invalid_routing: expect.any(String) },
    })
    await refused(KEYS, transfer({ initiator_sae_id: 'yves' }), 400, 'key-routing-error', 'invalid_routing')
  })

  it('has no callback at the first', async () => {
    const sent = transfer({ initiator_sae_id: 'yves', ack_callback_url: callback() })
    expect((await other().post(KEYS, sent)).json).toMatchObject({
      status: 400,
      details: { ack_callback_url: expect.any(String) },
    })
  })

  it('cannot send, void or acknowledge keys of the first', async () => {
    const sent = transfer()
    await post(KEYS, sent)
    const [id] = sent.keys.map(({ key_id }) => key_id)
    const [issued] = keysOf(await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', {}))
    const before = await state()
    const fromYves = { initiator_sae_id: 'yves', target_sae_ids: ['alice'] }
    expect((await other().post(KEYS, { keys: sent.keys, ...fromYves })).status).toBe(400)
    expect((await other().post(VOID, { key_ids: [id], ...parties })).status).toBe(400)
    expect((await other().post(VOID, { key_ids: [id], ...fromYves })).json).toMatchObject([{ ack_status: 'key not present' }])
    const toYves = { initiator_sae_id: 'alice', target_sae_ids: ['yves'] }
    for (const between of [toYves, { initiator_sae_id: 'alice', target_sae_ids: ['xavier'] }]) {
      const ack = { key_id_container: [{ key_id: issued!.key_ID }], ack_status: 'voided', ...between }
      expect((await other().post(ACK, [ack])).status).toBe(400)
    }
    expect((await other().post(VOID, { key_ids: [issued!.key_ID], ...toYves })).json).toMatchObject([
      { ack_status: 'key not present' },
    ])
    expect(await state()).toEqual(before)
    expect((await fetchKeys(await site.sae('alice'), 'xavier', [{ key_ID: id! }])).status).toBe(200)
    expect((await fetchKeys(await site.sae('xavier'), 'alice', [issued!])).status).toBe(200)
  })

  it('that is away costs no keys', async () => {
    const before = await state()
    expect((await (await site.sae('alice')).post('/api/v1/keys/yves/enc_keys', {})).status).toBe(503)
    expect(await state()).toEqual(before)
  })
})

describe('what is no request of the standard', () => {
  it.each([
    ['GET', KEYS, 405],
    ['PUT', KEYS, 405],
    ['HEAD', '/kmapi/versions', 405],
    ['POST', '/kmapi/versions', 405],
    ['GET', '/kmapi/v1/versions', 404],
    ['POST', '/kmapi/v1/ext_keys/', 404],
    ['POST', '/kmapi/v1/ext_keys/ack/', 404],
    ['GET', '/kme/v1/hello', 404],
    ['GET', '/api/v1/keys/xavier/status', 404],
  ])('%s %s is answered %d', async (method, path, status) => {
    expect((await send(method, path, method === 'GET' || method === 'HEAD' ? undefined : '{}')).status).toBe(status)
  })

  it.each(['text/plain', 'application/xml', 'application/json; charset=iso-8859-1', 'application/octet-stream'])(
    'keys as %s are refused',
    async (mediaType) => {
      const before = await state()
      expect((await send('POST', KEYS, transfer(), { 'content-type': mediaType })).status).toBe(400)
      expect(await state()).toEqual(before)
    },
  )

  it('the media type of the standard is taken', async () => {
    const answer = await send('POST', KEYS, transfer(), { 'content-type': 'application/json; charset=UTF-8' })
    expect(answer.status).toBe(200)
    expect(answer.headers['content-type']).toBe('application/json; charset=UTF-8')
  })

  it('an empty body is refused', async () => {
    expect((await send('POST', KEYS, '')).status).toBe(400)
  })
})

describe('who is no neighbour', () => {
  const names = { usages: ['client', 'server'], subject: 'CN=KME X of Network X' } as const
  const path = '/kmapi/versions'

  it('has no say: no certificate, one of another authority, one that is over, one for servers only', async () => {
    const strange = await makeLeaf(await makeAuthority('CN=Site CA'), names)
    const over = await makeLeaf(site.siteAuthority, { ...names, notAfter: new Date(Date.now() - 1000) })
    const server = await makeLeaf(site.siteAuthority, { ...names, usages: ['server'] })
    for (const identity of [undefined, strange, over, server]) {
      await expect(site.caller('kme-a', identity).get(path)).rejects.toThrow()
    }
  })

  it.each<[string, Parameters<typeof makeLeaf>[1]]>([
    ['another name', { ...names, subject: 'CN=KME Y' }],
    ['a second name', { ...names, subject: 'CN=KME X of Network X,CN=KME Y' }],
    ['the name in another place', { ...names, subject: 'CN=KME Y', dns: ['KME X of Network X'.replaceAll(' ', '-')] }],
    ['the name of this KME itself', { ...names, subject: 'CN=Y', uris: ['urn:kme:kme:kme-a'] }],
    ['the ID this KME gave the neighbour', { ...names, subject: 'CN=Y', uris: ['urn:kme:kme:kme-x'] }],
    ['the rights of an authority', { ...names, ca: true }],
  ])('a certificate of the site with %s is answered 401', async (_, options) => {
    const answer = await site.caller('kme-a', await makeLeaf(site.siteAuthority, options)).get(path)
    expect(answer.json).toMatchObject({ type: type('unauthorized'), status: 401 })
    contract.checkResponse('GET', path, 401, answer.headers['content-type'], answer.text)
    const keys = await site.caller('kme-a', await makeLeaf(site.siteAuthority, options)).post(KEYS, transfer())
    expect(keys.status).toBe(401)
  })

  it('the neighbour itself is told what this KME can do', async () => {
    expect((await send('GET', path)).json).toEqual({ versions: ['v1'], capabilities: ['synchronous_mode'] })
  })
})

it('what was refused raised an alarm', async () => {
  const { alarms } = (await (await site.admin('kme-a')).get('/api/v1/alarms')).json as { alarms: { name: string }[] }
  expect(alarms.map(({ name }) => name)).toContain('peer.request-refused:kme-x')
})

describe('a neighbour that wants too much', () => {
  let small: Site
  beforeAll(async () => {
    small = await startSite({ keys: { maxStored: 500 }, requestsPerS: 40, keysPerS: 1024 })
  })
  afterAll(async () => {
    await small?.[Symbol.asyncDispose]()
  })

  const atSmall = (): Client => small.caller('kme-a', small.identities['kme-x'])
  const isTooMuch = (path: string, answer: Answer): void => {
    contract.checkResponse(path === '/kmapi/versions' ? 'GET' : 'POST', path, 503, answer.headers['content-type'], answer.text)
    expect(answer.json).toMatchObject({ status: 503, type: type('server-side-general-error') })
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
  }

  it('is told to wait when its requests are too many in a second, and is heard afterwards', async () => {
    const x = atSmall()
    const answers = await Promise.all(Array.from({ length: 100 }, () => x.get('/kmapi/versions')))
    const refusals = answers.filter(({ status }) => status !== 200)
    expect(refusals.length).toBeGreaterThan(0)
    for (const refusal of refusals) isTooMuch('/kmapi/versions', refusal)
    await eventually('it is heard', async () => (await x.get('/kmapi/versions')).status === 200)
  })

  it('is told to wait when its keys are too many in a second, and nothing of them is noted', async () => {
    const x = atSmall()
    const voids = Array.from({ length: 4 }, () => ({ key_ids: Array.from({ length: 1000 }, () => randomUUID()), ...parties }))
    const before = await small.count('kme-a', 'assigned_key')
    const answers = await Promise.all(voids.map((request) => x.post(VOID, request)))
    const taken = answers.filter(({ status }) => status === 200).length
    expect(taken).toBeLessThan(4)
    for (const answer of answers) if (answer.status !== 200) isTooMuch(VOID, answer)
    expect(await small.count('kme-a', 'assigned_key')).toBe(before + taken * 1000)
    await eventually('its keys are taken', async () => (await x.post(KEYS, transfer())).status === 200)
    expect((await x.post(VOID, { key_ids: [], all_confirmation: true, ...parties })).status).toBe(200)
  })

  it('is told to wait when it says of too many keys what became of them, also in containers that name none', async () => {
    const x = atSmall()
    const ids = (count: number) => Array.from({ length: count }, () => ({ key_id: randomUUID() }))
    const made = (count: number) => [{ key_id_container: ids(count), ack_status: 'failed', ...parties }]
    const floods = [made(1000), [...made(1024), ...made(1024)], Array.from({ length: 1024 }, () => made(0)[0]), made(1000)]
    const answers = await Promise.all(floods.map((acks) => x.post(ACK, acks)))
    expect(answers.filter(({ status }) => status === 200).length).toBeLessThan(floods.length)
    for (const answer of answers) if (answer.status !== 200) isTooMuch(ACK, answer)
    // None of them is too much for ever.
    for (const acks of floods) await eventually('it is heard', async () => (await x.post(ACK, acks)).status === 200)
    await eventually('its keys are taken', async () => (await x.post(KEYS, transfer())).status === 200)
    expect((await x.post(VOID, { key_ids: [], all_confirmation: true, ...parties })).status).toBe(200)
  })

  it('can fill what it may and no more, until some are fetched', async () => {
    const x = atSmall()
    const first = transfer({ keys: Array.from({ length: 100 }, () => key()) })
    const rest = transfer({ keys: Array.from({ length: 399 }, () => key()) })
    const last = transfer({ keys: [key(33)] })
    await eventually('a second is over', async () => (await x.post(KEYS, first)).status === 200)
    expect((await x.post(KEYS, rest)).status).toBe(200)
    const refusal = await x.post(KEYS, last)
    contract.checkResponse('POST', KEYS, refusal.status, refusal.headers['content-type'], refusal.text)
    expect(refusal.json).toMatchObject({ status: 503, details: { server_side_general_error: expect.any(String) } })
    expect((await x.post(KEYS, rest)).status).toBe(200)
    const ids = first.keys.map(({ key_id }) => ({ key_ID: key_id }))
    expect((await fetchKeys(await small.sae('alice'), 'xavier', ids)).status).toBe(200)
    await eventually('there is room', async () => (await x.post(KEYS, last)).status === 200)
  })
})

it('nothing was said between the KMEs that is not in the standard', () => {
  expect(site.faults).toEqual([])
})
