/** How an SAE, or the operator for a pair of SAEs, has keys relayed: four KMEs in a diamond, kme-a and kme-c joined by kme-b and by kme-d. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import type { RelayedOver } from '../../src/key-store/key-store.ts'
import {
  eventually,
  untilServed,
  keysOf,
  startNetwork,
  storedKeys,
  type Answer,
  type Network,
  type SaeClient,
  type SentKey,
} from './network.ts'

let network: Network
let alice: SaeClient
let anna: SaeClient
let carol: SaeClient
const NOT_MET = 'not all extension_mandatory request options could be met'
const B_AND_D = expect.arrayContaining([['kme-b'], ['kme-d']])

beforeAll(async () => {
  network = await startNetwork({
    diamond: true,
    rateBlocksPerS: 4,
    settings: () => ({
      relay: {
        enabled: true,
        deadlineMs: 15_000,
        floorKeys: 16,
        blockKeys: 16,
        pairs: [{ master: 'anna', slave: 'carol', avoid: ['kme-b'] }],
      },
      pools: { lowWatermark: 40, criticalWatermark: 5 },
    }),
  })
  alice = await network.sae('alice')
  anna = await network.sae('anna')
  carol = await network.sae('carol', 'kme-c')
  await eventually('keys by relay', async () => (await storedKeys(alice, 'carol')) > 0)
  await eventually('two ways', async () => (await ask({ extension_mandatory: [{ openkme_paths: 2 }] })).status === 200)
})
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
})

const ask = (request: object, client = alice, slave = 'carol'): Promise<Answer> =>
  client.post(`/api/v1/keys/${slave}/enc_keys`, { number: 3, ...request })
const fetchAs = (client: SaeClient, master: string, keys: readonly SentKey[]): Promise<Answer> =>
  client.post(`/api/v1/keys/${master}/dec_keys`, { key_IDs: keys.map(({ key_ID }) => ({ key_ID })) })

/** How the blocks of keys were relayed, as each of the two KMEs noted it. */
const relayedAt = async (kme: 'kme-a' | 'kme-c', keys: readonly SentKey[]): Promise<(RelayedOver | null)[]> => {
  const rows = await network.query<{ relayed: RelayedOver | null }>(
    kme,
    `SELECT DISTINCT b.relayed FROM assigned_key k JOIN assignment a USING (aid), jsonb_array_elements(a.units) run
     JOIN key_block b ON b.block_id = (run ->> 'blockId')::uuid WHERE k.key_id = ANY($1::uuid[])`,
    [keys.map(({ key_ID }) => key_ID)],
  )
  return rows.map(({ relayed }) => relayed)
}

/** Asked for and fetched, and how it was relayed. */
const exchange = async (
  request: object,
): Promise<{ readonly told: unknown; readonly relayed: RelayedOver | null | undefined }> => {
  const answer = await ask(request)
  expect([answer.status, answer.json['message']]).toEqual([200, undefined])
  const keys = keysOf(answer)
  expect(keysOf(await fetchAs(carol, 'alice', keys))).toEqual(keys)
  const [relayed, ...others] = await relayedAt('kme-a', keys)
  expect(others).toEqual([])
  expect(await relayedAt('kme-c', keys)).toEqual([relayed])
  return { told: answer.json['key_container_extension'], relayed }
}

describe('keys that an SAE wants relayed in its own way', () => {
  it('go over one way if it says nothing, and nothing is told', async () => {
    const { told, relayed } = await exchange({})
    expect(told).toBeUndefined()
    expect(relayed?.ways).toHaveLength(1)
  })

  it('are split over two ways, which both ends know of', async () => {
    const { told, relayed } = await exchange({ extension_mandatory: [{ openkme_paths: 2 }] })
    expect(told).toEqual({ openkme_paths: 2, openkme_end_to_end: false })
    expect(relayed).toEqual({ ways: B_AND_D, endToEnd: false })
  })

  it('are wrapped end to end', async () => {
    const { told, relayed } = await exchange({ extension_mandatory: [{ openkme_end_to_end: true }] })
    expect(told).toEqual({ openkme_paths: 1, openkme_end_to_end: true })
    expect(relayed).toMatchObject({ endToEnd: true })
    expect(relayed?.ways).toHaveLength(1)
  })

  it('are both, one insisted on and one wished for', async () => {
    const { told, relayed } = await exchange({
      extension_mandatory: [{ openkme_paths: 2 }],
      extension_optional: [{ openkme_end_to_end: true }],
    })
    expect(told).toEqual({ openkme_paths: 2, openkme_end_to_end: true })
    expect(relayed).toEqual({ ways: B_AND_D, endToEnd: true })
  })

  it('are refused with 400 where the network has no such ways', async () => {
    const answer = await ask({ extension_mandatory: [{ openkme_paths: 3 }] })
    expect([answer.status, answer.json['message']]).toEqual([400, NOT_MET])
  })

  it('are given all the same when they were only wished for, and what was not met is told', async () => {
    const { told, relayed } = await exchange({ extension_optional: [{ openkme_paths: 3 }] })
    expect(told).toEqual({ openkme_paths: 1, openkme_end_to_end: false })
    expect(relayed?.ways).toHaveLength(1)
  })

  it('come for many who ask at once, in fewer blocks', async () => {
    const clients = await Promise.all(Array.from({ length: 12 }, () => network.sae('alice')))
    const insist = (client: SaeClient): Promise<SentKey[]> =>
      untilServed(() => ask({ extension_mandatory: [{ openkme_paths: 2 }] }, client)).then(keysOf)
    const keys = (await Promise.all(clients.map(insist))).flat()
    expect(new Set(keys.map(({ key }) => key)).size).toBe(36)
    const blocks = await network.query<{ count: number }>(
      'kme-a',
      `SELECT count(DISTINCT run ->> 'blockId')::int AS count FROM assigned_key k JOIN assignment a USING (aid),
         jsonb_array_elements(a.units) run WHERE k.key_id = ANY($1::uuid[])`,
      [keys.map(({ key_ID }) => key_ID)],
    )
    expect(blocks[0]!.count).toBeLessThan(12)
  })

  it('are of a link where one joins the two KMEs: they pass nobody', async () => {
    const answer = await ask({ extension_mandatory: [{ openkme_paths: 4 }, { openkme_end_to_end: true }] }, alice, 'bob')
    expect(answer.status).toBe(200)
    expect(await relayedAt('kme-a', keysOf(answer))).toEqual([null])
    expect(answer.json['key_container_extension']).toEqual({ openkme_paths: 4, openkme_end_to_end: true })
  })

  it('pass nobody either when both SAEs are at one KME', async () => {
    expect((await ask({ extension_mandatory: [{ openkme_paths: 2 }] }, alice, 'anna')).status).toBe(200)
  })

  it('are the same again for an equal request with the same ID, and not for one that insists on more', async () => {
    const id = { openkme_request_id: '2f6c1d6e-7d0a-4d34-9a44-7d5d5a0d5b11' }
    const first = await ask({ extension_mandatory: [id] })
    const again = await ask({ extension_mandatory: [id], extension_optional: [{ openkme_paths: 2 }] })
    expect(keysOf(again)).toEqual(keysOf(first))
    expect(again.json['key_container_extension']).toEqual({ openkme_paths: 1, openkme_end_to_end: false })
    const more = await ask({ extension_mandatory: [id, { openkme_paths: 2 }] })
    expect([more.status, more.json['message']]).toEqual([400, NOT_MET])
  })

  it.each([
    [{ openkme_paths: 0 }, 'openkme_paths'],
    [{ openkme_paths: 5 }, 'openkme_paths'],
    [{ openkme_paths: 1.5 }, 'openkme_paths'],
    [{ openkme_paths: '2' }, 'openkme_paths'],
    [{ openkme_end_to_end: 1 }, 'openkme_end_to_end'],
    [{ openkme_end_to_end: null }, 'openkme_end_to_end'],
  ])('are not given for %j', async (extension, parameter) => {
    for (const kind of ['extension_mandatory', 'extension_optional']) {
      const answer = await ask({ [kind]: [extension] })
      expect(answer.status).toBe(400)
      expect(answer.json['details']).toEqual([expect.objectContaining({ parameter })])
    }
  })
})

describe('the pool of a KME that no link leads to', () => {
  it('is one that operators see as any other, filled by relay', async () => {
    const admin = await network.admin('kme-a')
    const { json } = await admin.get('/api/v1/pools/kme-c')
    expect(json).toMatchObject({ kmeId: 'kme-c', keySizeBits: 256 })
    const asked = await admin.post('/api/v1/pools/kme-c/replenish', { upToKeys: 100 })
    expect((asked.json['sources'] as { source: string }[]).map(({ source }) => source)).toContain('relay')
  })
})

describe('keys of a pair of SAEs that an operator wants relayed in another way', () => {
  it('keep away from the KME that must not see them', async () => {
    const answer = await ask({}, anna)
    expect(answer.status).toBe(200)
    const keys = keysOf(answer)
    expect(await relayedAt('kme-a', keys)).toEqual([{ ways: [['kme-d']], endToEnd: false }])
    expect(keysOf(await fetchAs(carol, 'anna', keys))).toEqual(keys)
  })

  it('are refused with 400 when the request insists on what that does not leave', async () => {
    const answer = await ask({ extension_mandatory: [{ openkme_paths: 2 }] }, anna)
    expect([answer.status, answer.json['message']]).toEqual([400, NOT_MET])
  })
})

describe('when one of the ways is gone', () => {
  it('who insists on two gets none, who insists on one gets keys over the other, and a pair that must avoid the other way gets 503', async () => {
    await network.stop('kme-d')
    await eventually('the way is known to be gone', async () => {
      const answer = await ask({ extension_mandatory: [{ openkme_paths: 2 }] })
      expect([400, 503]).toContain(answer.status)
      return answer.status === 400
    })
    const wrapped = await exchange({ extension_mandatory: [{ openkme_end_to_end: true }] })
    expect(wrapped.relayed).toEqual({ ways: [['kme-b']], endToEnd: true })
    // Some may lie in the pool that came over kme-d before.
    const ofPair = await eventually('no keys for the pair', async () => {
      const answer = await ask({}, anna)
      expect([200, 503]).toContain(answer.status)
      return answer.status === 503 ? answer : undefined
    })
    expect(Number(ofPair.headers['retry-after'])).toBeGreaterThan(0)
    expect(ofPair.json['message']).toMatch(/^no key material available: (the network has no such way now|none could be relayed)/)
  })
})
