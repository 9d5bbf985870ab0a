/** Two OpenKMEs that nothing joins but ETSI GS QKD 020 exchange keys; every body between them is judged by the OpenAPI document. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually } from '../setup/eventually.ts'
import { fetchKeys, keysOf, startSite, type Site } from './site.ts'

describe.each([
  ['with acknowledgements at a callback URL', false],
  ['synchronously', true],
])('keys exchanged %s', (_, synchronous) => {
  let site: Site
  beforeAll(async () => {
    site = await startSite({ synchronous })
  })
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]()
  })

  it.each([
    ['alice', 'xavier'],
    ['xavier', 'alice'],
  ])('from %s to %s are the same at both ends, once', async (master, slave) => {
    const issued = await (await site.sae(master)).post(`/api/v1/keys/${slave}/enc_keys`, { number: 3 })
    expect(issued.status).toBe(200)
    expect(keysOf(issued)).toHaveLength(3)
    const receiver = await site.sae(slave)
    const fetched = await fetchKeys(receiver, master, keysOf(issued))
    expect(fetched.json).toEqual(issued.json)
    expect((await fetchKeys(receiver, master, keysOf(issued).slice(0, 1))).status).toBe(400)
  })

  it.each([64, 128, 264, 512, 4096])('of %d bits keep their size', async (size) => {
    const issued = await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', { number: 2, size })
    const fetched = await fetchKeys(await site.sae('xavier'), 'alice', keysOf(issued))
    expect(fetched.json).toEqual(issued.json)
    for (const { key } of keysOf(fetched)) expect(Buffer.from(key, 'base64')).toHaveLength(size / 8)
  })

  it('for two targets reach each of them once, one by one', async () => {
    const issued = await (
      await site.sae('alice')
    ).post('/api/v1/keys/xavier/enc_keys', {
      number: 2,
      additional_slave_SAE_IDs: ['xena'],
    })
    const [first, second] = keysOf(issued)
    for (const slave of ['xavier', 'xena']) {
      expect(keysOf(await fetchKeys(await site.sae(slave), 'alice', [first!]))).toEqual([first])
      expect((await fetchKeys(await site.sae(slave), 'alice', [first!])).status).toBe(400)
    }
    expect(keysOf(await fetchKeys(await site.sae('xena'), 'alice', [second!]))).toEqual([second])
  })

  it('for a target behind the neighbour and one here reach both', async () => {
    const issued = await (
      await site.sae('alice')
    ).post('/api/v1/keys/xavier/enc_keys', {
      number: 2,
      additional_slave_SAE_IDs: ['anna', 'xena'],
    })
    expect(issued.status).toBe(200)
    for (const slave of ['xavier', 'anna', 'xena']) {
      expect((await fetchKeys(await site.sae(slave), 'alice', keysOf(issued))).json).toEqual(issued.json)
      expect((await fetchKeys(await site.sae(slave), 'alice', keysOf(issued))).status).toBe(400)
    }
  })

  it('for targets behind two neighbours are refused', async () => {
    const request = { additional_slave_SAE_IDs: ['yves'] }
    expect((await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', request)).status).toBe(400)
  })

  it('are for their targets only', async () => {
    const issued = await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', {})
    expect((await fetchKeys(await site.sae('xena'), 'alice', keysOf(issued))).status).toBe(401)
    expect((await fetchKeys(await site.sae('alice'), 'alice', keysOf(issued))).status).toBe(401)
    expect((await fetchKeys(await site.sae('xavier'), 'anna', keysOf(issued))).status).toBe(400)
    expect((await fetchKeys(await site.sae('xavier'), 'alice', keysOf(issued))).status).toBe(200)
  })

  it('are the same again for a repeated request with a request ID', async () => {
    const request = { number: 2, extension_mandatory: [{ openkme_request_id: crypto.randomUUID() }] }
    const alice = await site.sae('alice')
    const issued = await alice.post('/api/v1/keys/xavier/enc_keys', request)
    expect(issued.status).toBe(200)
    expect((await alice.post('/api/v1/keys/xavier/enc_keys', request)).json).toEqual(issued.json)
  })

  it.each([{ openkme_source: 'qkd' }, { openkme_paths: 2 }, { openkme_end_to_end: true }])(
    'for which nothing is promised: a request that insists on %j is refused',
    async (extension) => {
      const request = { extension_mandatory: [extension] }
      expect((await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', request)).status).toBe(400)
    },
  )

  it('for which nothing is promised: a request that would like two ways is told of one', async () => {
    const request = { extension_optional: [{ openkme_paths: 2 }, { openkme_end_to_end: true }] }
    const issued = await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', request)
    expect(issued.status).toBe(200)
    expect(issued.json).toMatchObject({ key_container_extension: { openkme_paths: 1, openkme_end_to_end: false } })
  })

  it('are none for a pair that the operator wants two ways for', async () => {
    expect((await (await site.sae('anna')).post('/api/v1/keys/xavier/enc_keys', {})).status).toBe(503)
  })

  it('many at once are all there', async () => {
    const [alice, xavier] = [await site.sae('alice'), await site.sae('xavier')]
    const rounds = Array.from({ length: 20 }, async () => {
      const issued = await alice.post('/api/v1/keys/xavier/enc_keys', { number: 4 })
      expect((await fetchKeys(xavier, 'alice', keysOf(issued))).json).toEqual(issued.json)
    })
    await Promise.all(rounds)
  })

  it(`${synchronous ? 'without any' : 'with'} callback, and every body fits the standard`, () => {
    const answered = site.exchanges.filter(({ status }) => status !== undefined)
    const paths = answered.map(({ method, path, status }) => `${method} ${path} ${status}`)
    const expected = synchronous
      ? ['GET /kmapi/versions 200', 'POST /kmapi/v1/ext_keys 200']
      : ['GET /kmapi/versions 200', 'POST /kmapi/v1/ext_keys 202', 'POST /kmapi/v1/ext_keys/ack 200']
    expect(new Set(paths)).toEqual(new Set(expected))
    expect(site.faults).toEqual([])
  })

  it('leave no reservation, no message and no key bytes behind', async () => {
    const issued = await (await site.sae('alice')).post('/api/v1/keys/xavier/enc_keys', {})
    const bytes = Buffer.from(keysOf(issued)[0]!.key, 'base64')
    for (const name of ['kme-a', 'kme-x'] as const) {
      for (const table of ['key_block', 'assignment', 'assigned_key', 'sent_key', 'neighbour_message', 'audit_record']) {
        const rows = (await site.query<{ row: string }>(name, `SELECT t::text AS row FROM ${table} t`))
          .map(({ row }) => row)
          .join()
        for (const form of ['hex', 'base64'] as const) expect(rows).not.toContain(bytes.toString(form))
      }
    }
    for (const name of ['kme-a', 'kme-x'] as const) {
      expect(await site.count(name, 'reservation')).toBe(0)
      await eventually('all messages are told', async () => (await site.count(name, 'neighbour_message')) === 0)
      expect(await site.query(name, `SELECT DISTINCT state FROM sent_key`)).toEqual([{ state: 'ISSUED' }])
    }
  })

  it('are shown by the neighbours among the KMEs of the operator', async () => {
    const { peers } = (await (await site.admin('kme-a')).get('/api/v1/peers')).json as {
      peers: { kmeId: string; available: boolean }[]
    }
    expect(peers).toEqual([
      expect.objectContaining({ kmeId: 'kme-x', available: true }),
      expect.objectContaining({ kmeId: 'kme-y', available: false }),
    ])
  })
})
