/** Rows P of the bad-input catalogue, first half: a peer KME with a good certificate and full knowledge of the shared bytes
 *  asks for what it may not have. Each refusal changes nothing, stands in the audit log and raises an alarm.
 *  What it may say but not in this place, at this time or under this seal (P06, P07, P19, P26, P27) is in test/peer/hostile-peer.test.ts.
 *  Relay, its pads and MACs (P17 to P21) are in test/relay/hostile-hop.test.ts, P28 is in test/network/topology.test.ts. */
import { randomBytes, randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import type { AssignmentId, KeyId, SaeId } from '../../src/kernel/identifiers.ts'
import type { Assignment } from '../../src/key-store/key-store.ts'
import { peerPaths } from '../../src/peer/wire.ts'
import { eventually, keysOf, storedKeys } from '../network/network.ts'
import { createForgingPeer, type ForgingPeer } from './forged-offer.ts'
import { draw, fetchKeys, K, startJudgedNetwork, type JudgedNetwork } from './judged-network.ts'

let test: JudgedNetwork
let peer: ForgingPeer

beforeAll(async () => {
  test = await startJudgedNetwork({ keys: { heldForS: 3600 } })
  peer = await createForgingPeer(test.network)
})
afterAll(async () => {
  await peer?.[Symbol.asyncDispose]()
  await test?.[Symbol.asyncDispose]()
})

const refusals = async (): Promise<number> => {
  const [row] = await test.network.query<{ count: number }>(
    'kme-a',
    `SELECT count(*)::int AS count FROM audit_record WHERE event = 'peer.refused' AND actor = 'kme:kme-b' AND outcome = 'refused'`,
  )
  return row!.count
}
/** Runs `act` and checks that it changed nothing, that its refusal was recorded once, and that an alarm was raised. */
const refusedAndTold = async <T>(act: () => Promise<T>, alarm = 'peer.request-refused:kme-b'): Promise<T> => {
  await test.network.query('kme-a', 'DELETE FROM alarm WHERE name = $1', [alarm])
  const [before, stored] = [await refusals(), await storedKeys(test.alice, 'bob')]
  const result = await test.costsNothing(act)
  await eventually('a record', async () => (await refusals()) > before)
  expect(await refusals()).toBe(before + 1)
  expect(await storedKeys(test.alice, 'bob')).toBe(stored)
  await raised(alarm)
  return result
}
const raised = (alarm: string): Promise<unknown> =>
  eventually(`the alarm ${alarm}`, async () => {
    const rows = await test.network.query('kme-a', 'SELECT 1 FROM alarm WHERE name = $1 AND cleared_at IS NULL', [alarm])
    return rows.length === 1
  })
const refused = (reason: string) => [{ outcome: 'refused', reason }]
const held = [{ outcome: 'held', confirmation: expect.any(String) as unknown }]
const heldRow = async (aid: string) =>
  (
    await test.network.query<{ state: string; life_s: number }>(
      'kme-a',
      `SELECT state, extract(epoch FROM expires_at - created_at)::int AS life_s FROM assignment WHERE aid = $1`,
      [aid],
    )
  )[0]

describe('a forged assignment', () => {
  it('that is good in every respect is held, so the refusals below have their reason in what was changed', async () => {
    const assignment = await peer.assignment()
    expect(await peer.assign(await peer.offer(assignment))).toEqual(held)
    expect(keysOf(await fetchKeys(test.alice, 'bob', [{ key_ID: assignment.keyIds[0]! }]))).toHaveLength(1)
  })

  const sae = (id: string) => id as SaeId
  const uuid = (text: string = randomUUID()) => text as KeyId
  it.each([
    ['P01 a master homed here', { masterSaeId: sae('anna') }, 'sae-not-served'],
    ['P01 a master homed at a third KME', { masterSaeId: sae('carol') }, 'sae-not-served'],
    ['P01 an unknown master', { masterSaeId: sae('nobody') }, 'sae-not-served'],
    ['P02 a slave not homed here', { slaveSaeIds: [sae('bert')] }, 'sae-not-served'],
    ['P02 one slave of two not homed here', { slaveSaeIds: [sae('alice'), sae('bert')] }, 'sae-not-served'],
    ['P02 an unknown slave', { slaveSaeIds: [sae('nobody')] }, 'sae-not-served'],
    ['P16 a pair that may not share keys', { slaveSaeIds: [sae('mallory')] }, 'pair-not-permitted'],
    ['P10 the same key ID twice', { keyIds: Array<KeyId>(2).fill(uuid('3f0c1c2e-8f4d-4d8e-9a51-0f2a6f4b7c11')) }, 'malformed'],
    ['P10 129 key IDs', { keyIds: Array.from({ length: 129 }, () => uuid()) }, 'malformed'],
    ['a size above the limit', { sizeBits: 4104, keyIds: [uuid()] }, 'malformed'],
  ] as [string, Partial<Assignment>, string][])('%s is refused as %s', async (_row, changes, reason) => {
    const units = changes.sizeBits === undefined ? undefined : await peer.units('kme-b', 17)
    const call = await peer.offer(await peer.assignment({ ...changes, ...(units && { units }) }))
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused(reason))
  })

  it.each([
    ['P09 ttl 0', { ttlS: 0 }],
    ['P09 ttl -1', { ttlS: -1 }],
    ['P09 ttl 1,000,000,000', { ttlS: 1_000_000_000 }],
    ['P12 a malformed key ID', { keyIds: ['not-a-uuid'] }],
    ['P12 key IDs that are no list', { keyIds: 'x' }],
    ['P10 1,025 key IDs', { keyIds: Array.from({ length: 1025 }, () => randomUUID()) }],
    ['an odd size', { sizeBits: 7 }],
    ['no units', { units: [] }],
    ['a negative unit', { units: [{ blockId: randomUUID(), units: [-1] }] }],
    ['a commitment of 31 bytes', { commitment: Buffer.alloc(31).toString('base64') }],
    ['a difference that is no text', { difference: 7 }],
    ['a difference of another length than the keys', { difference: Buffer.alloc(31).toString('base64') }],
    ['nothing but an ID', { masterSaeId: undefined, slaveSaeIds: undefined, units: undefined }],
  ])('%s is refused as malformed', async (_row, changes) => {
    const call = await peer.offer(await peer.assignment(), changes)
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('malformed'))
  })

  it('with a difference that makes other keys than it proves is refused, and nothing is held', async () => {
    const assignment = await peer.assignment()
    const call = await peer.offer(assignment, { difference: Buffer.alloc(32, 1).toString('base64') })
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('different'))
    expect(await heldRow(assignment.aid)).toBeUndefined()
  })

  it('P09 a long ttl is cut to what this KME allows', async () => {
    const assignment = await peer.assignment({ ttlS: 1_000_000 })
    expect(await peer.assign(await peer.offer(assignment))).toEqual(held)
    expect(await heldRow(assignment.aid)).toEqual({ state: 'ISSUED', life_s: 3600 })
  })

  it('P03 on blocks of another link is refused', async () => {
    const [local] = await test.network.query<{ block_id: Assignment['units'][number]['blockId'] }>(
      'kme-a',
      `SELECT block_id FROM key_block WHERE peer_kme_id = 'kme-a' AND state = 'AVAILABLE' LIMIT 1`,
    )
    const call = await peer.offer(await peer.assignment(), { units: [{ blockId: local!.block_id, units: [0] }] })
    const [answer] = (await refusedAndTold(() => peer.assign(call))) as [{ outcome: string; reason: string }]
    expect(answer.outcome).toBe('refused')
    expect(['different', 'units-unavailable']).toContain(answer.reason)
  })

  it.each([
    ['P03 on an unknown block', async () => [{ blockId: randomUUID(), units: [0] }]],
    [
      'P03 on a unit the block does not have',
      async () => [{ blockId: (await peer.units('kme-b', 1))[0]!.blockId, units: [100_000] }],
    ],
    ['on more units than the keys need', async () => peer.units('kme-b', 2)],
  ])('%s is refused', async (_row, units) => {
    const call = await peer.offer(await peer.assignment(), { units: await units() })
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('units-unavailable'))
  })

  it('P03 on units this KME issues is refused although the bytes are known', async () => {
    const call = await peer.offer(await peer.assignment({ units: await peer.units('kme-a', 1) }))
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('units-unavailable'))
  })

  it('on one unit for two keys is refused', async () => {
    const [run] = await peer.units('kme-b', 1)
    const keyIds = [randomUUID() as KeyId, randomUUID() as KeyId]
    const call = await peer.offer(
      await peer.assignment({ keyIds, units: [{ ...run!, units: [run!.units[0]!, run!.units[0]!] }] }),
    )
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('units-unavailable'))
  })

  it('on units already taken is refused', async () => {
    const first = await peer.assignment()
    expect(await peer.assign(await peer.offer(first))).toEqual(held)
    const second = await peer.offer(await peer.assignment({ units: first.units }))
    expect(await refusedAndTold(() => peer.assign(second))).toEqual(refused('units-unavailable'))
  })

  it('P04 said again gets the same answer and no new row', async () => {
    const assignment = await peer.assignment()
    const call = await peer.offer(assignment)
    const first = await peer.assign(call)
    expect(first).toEqual(held)
    expect(await test.costsNothing(() => peer.assign(call))).toEqual(first)
  })

  it('P05 with the same ID and other content is refused', async () => {
    const assignment = await peer.assignment()
    await peer.assign(await peer.offer(assignment))
    for (const changes of [
      { units: await peer.units('kme-b', 1) },
      { keyIds: [randomUUID() as KeyId] },
      { slaveSaeIds: ['anna' as SaeId] },
    ]) {
      const call = await peer.offer({ ...assignment, ...changes })
      expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('aid-in-use'))
    }
  })

  it('P05 with the ID of an assignment of this KME itself is refused', async () => {
    await draw(test.alice, 'bob')
    const [own] = await test.network.query<{ aid: AssignmentId }>(
      'kme-a',
      `SELECT aid FROM assignment WHERE role = 'issuer' LIMIT 1`,
    )
    const call = await peer.offer(await peer.assignment({ aid: own!.aid }))
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('aid-in-use'))
  })

  it('P08 with a proof that does not fit the bytes is refused', async () => {
    const call = await peer.offer(await peer.assignment(), { commitment: randomBytes(32).toString('base64') })
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('different'))
  })

  it('P11 with a key ID that exists is refused', async () => {
    const [known] = await draw(test.alice, 'bob')
    const call = await peer.offer(await peer.assignment({ keyIds: [known!.key_ID as KeyId] }))
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('key-id-in-use'))
    expect(keysOf(await fetchKeys(test.bob, 'alice', [known!]))).toEqual([known])
  })

  it('a bad call among good ones is refused alone', async () => {
    const good = await peer.offer(await peer.assignment())
    const bad = await peer.offer(await peer.assignment(), { ttlS: 0 })
    expect(await peer.assign(bad, good, bad)).toEqual([...refused('malformed'), ...held, ...refused('malformed')])
  })

  it('P27 a KME ID in the body is nobody: the certificate says who speaks', async () => {
    const call = await peer.offer(await peer.assignment({ masterSaeId: 'carol' as SaeId }), { kmeId: 'kme-c', caller: 'kme-c' })
    expect(await refusedAndTold(() => peer.assign(call))).toEqual(refused('sae-not-served'))
  })
})

describe('an abort', () => {
  const abort = async (aid: string): Promise<unknown> =>
    ((await peer.say(peerPaths.aborts, { calls: [{ aid }] })).json as { answers: unknown[] }).answers[0]

  it('P13 of an assignment of this KME itself changes nothing and is told', async () => {
    const [key] = await draw(test.alice, 'bob')
    const rows = await test.network.query<{ aid: string }>('kme-a', 'SELECT aid FROM assigned_key WHERE key_id = $1', [
      key!.key_ID,
    ])
    const [local] = await draw(test.alice, 'anna')
    const localRows = await test.network.query<{ aid: string }>('kme-a', 'SELECT aid FROM assigned_key WHERE key_id = $1', [
      local!.key_ID,
    ])
    const foreign = [...rows, ...localRows]
    expect(foreign).not.toHaveLength(0)
    for (const { aid } of foreign) expect(await refusedAndTold(() => abort(aid))).toEqual({ outcome: 'released' })
    expect(keysOf(await fetchKeys(test.bob, 'alice', [key!]))).toEqual([key])
    expect(keysOf(await fetchKeys(test.anna, 'alice', [local!]))).toEqual([local])
  })

  it('P14 after delivery is answered and has no effect', async () => {
    const assignment = await peer.assignment()
    await peer.assign(await peer.offer(assignment))
    expect((await fetchKeys(test.alice, 'bob', [{ key_ID: assignment.keyIds[0]! }])).status).toBe(200)
    expect(await test.costsNothing(() => abort(assignment.aid))).toEqual({ outcome: 'released' })
    expect((await heldRow(assignment.aid))!.state).toBe('DELIVERED')
  })

  it('before delivery voids for ever: the same assignment is not held again', async () => {
    const assignment = await peer.assignment()
    const call = await peer.offer(assignment)
    await peer.assign(call)
    expect(await abort(assignment.aid)).toEqual({ outcome: 'voided' })
    // An honest abort may overtake its assignment: recorded, but no alarm.
    const before = await refusals()
    expect(await test.costsNothing(() => peer.assign(call))).toEqual(refused('aid-voided'))
    expect(await refusals()).toBe(before + 1)
    expect((await fetchKeys(test.alice, 'bob', [{ key_ID: assignment.keyIds[0]! }])).status).toBe(400)
  })
})

describe('a retirement', () => {
  it('P15 for an assignment and units that nobody knows leaves a tombstone and nothing else', async () => {
    const call = { aid: randomUUID(), units: [{ blockId: randomUUID(), units: [0, 1] }] }
    const units = () => test.network.query('kme-a', 'SELECT block_id, taken::text, done::text FROM key_block ORDER BY block_id')
    const before = await units()
    const answer = await peer.say(peerPaths.retirements, { calls: [call] })
    expect(answer.json).toEqual({ answers: [{ outcome: 'retired' }] })
    expect(await units()).toEqual(before)
    expect((await heldRow(call.aid))!.state).toBe('VOIDED')
  })

  it('P13 of units this KME issues leaves them, and that of its assignment is told', async () => {
    const mine = await peer.units('kme-a', 1)
    const [key] = await draw(test.alice, 'bob')
    const [row] = await test.network.query<{ aid: string }>('kme-a', 'SELECT aid FROM assigned_key WHERE key_id = $1', [
      key!.key_ID,
    ])
    const call = { aid: row!.aid, units: mine }
    await refusedAndTold(() => peer.say(peerPaths.retirements, { calls: [call] }))
    expect(keysOf(await fetchKeys(test.bob, 'alice', [key!]))).toEqual([key])
  })
})

describe('a request', () => {
  it('P10 with a million key IDs is refused before it is parsed, by its size', async () => {
    const body = JSON.stringify({ calls: [{ keyIds: Array<string>(1_000_000).fill('3f0c1c2e-8f4d-4d8e-9a51-0f2a6f4b7c11') }] })
    expect(body.length).toBeGreaterThan(30_000_000)
    const outcome = await refusedAndTold(() =>
      peer.say(peerPaths.assignments, body).then(
        (answer) => answer.status,
        () => 'closed',
      ),
    )
    expect([400, 'closed']).toContain(outcome)
  })

  it.each([
    ['no JSON', '{"calls":['],
    ['no object', '[]'],
    ['no calls', '{}'],
    ['no call in it', '{"calls":[]}'],
    ['65 calls', JSON.stringify({ calls: Array.from({ length: 65 }, () => ({ aid: randomUUID() })) })],
  ])('with %s is 400', async (_row, body) => {
    for (const path of [peerPaths.assignments, peerPaths.aborts, peerPaths.blocks]) {
      expect((await refusedAndTold(() => peer.say(path, body))).status).toBe(400)
    }
  })

  it.each([
    ['a loan of nothing', peerPaths.loans, { loanId: randomUUID(), unitCount: 0 }],
    ['a loan of a million units', peerPaths.loans, { loanId: randomUUID(), unitCount: 1_000_000 }],
    ['a loan without an ID', peerPaths.loans, { unitCount: 8 }],
    ['an abort of no UUID', peerPaths.aborts, { calls: [{ aid: 'x' }] }],
    ['a block with a short proof', peerPaths.blocks, { calls: [{ linkId: 'a-b', blockId: randomUUID(), tag: 'AAAA' }] }],
  ])('for %s is 400', async (_row, path, body) => {
    expect((await refusedAndTold(() => peer.say(path, body))).status).toBe(400)
  })

  it('P16 P25 for the SAE API or the admin API on the peer port is 404', async () => {
    for (const path of [
      `${K}alice/status`,
      `${K}alice/enc_keys`,
      `${K}bob/dec_keys?key_ID=${randomUUID()}`,
      '/api/v1/saes',
      '/metrics',
    ]) {
      expect((await refusedAndTold(() => peer.get(path))).status).toBe(404)
    }
  })

  it('P26 for another protocol version finds nothing', async () => {
    for (const path of ['/kme/v0/hello', '/kme/v2/assignments'])
      expect((await refusedAndTold(() => peer.get(path))).status).toBe(404)
  })
})

describe('a loan', () => {
  const borrow = async (loanId: string, unitCount: number): Promise<{ blockId: string; units: number[] }[]> =>
    (await peer.say(peerPaths.loans, { loanId, unitCount })).json['units'] as { blockId: string; units: number[] }[]

  it('never takes the lender below its floor, and the same ID never brings other units', async () => {
    const loanId = randomUUID()
    const first = await borrow(loanId, 8)
    expect(first.flatMap((run) => run.units)).toHaveLength(8)
    expect(await test.costsNothing(() => borrow(loanId, 100))).toEqual(first)
    // A loan has a largest size; asking on and on ends at the floor.
    let lent = 0
    do lent = (await borrow(randomUUID(), 60_000)).length
    while (lent > 0)
    const stillMine = await draw(test.alice, 'bob', { number: 32 })
    expect(keysOf(await fetchKeys(test.bob, 'alice', stillMine))).toHaveLength(32)
  })
})

describe('a block proposal', () => {
  const propose = async (linkId: string, blockId: string): Promise<unknown> => {
    const answer = await peer.say(peerPaths.blocks, { calls: [{ linkId, blockId, tag: randomBytes(32).toString('base64') }] })
    return (answer.json as { answers: unknown[] }).answers[0]
  }

  it('for a link that is not to the caller is unknown, and recorded', async () => {
    expect(await refusedAndTold(() => propose('c-d', randomUUID()))).toEqual({ outcome: 'unknown' })
  })

  it('for a block that is agreed already, or was never delivered, changes nothing', async () => {
    const [run] = await peer.units('kme-b', 1)
    const states = () => test.network.query('kme-a', 'SELECT state, count(*) FROM key_block GROUP BY state ORDER BY state')
    const before = await states()
    await test.network.query('kme-a', `DELETE FROM alarm WHERE name = 'link.blocks-differ:a-b'`)
    expect(await propose('a-b', run!.blockId)).toEqual({ outcome: 'different' })
    await raised('link.blocks-differ:a-b')
    expect(await propose('a-b', randomUUID())).toEqual({ outcome: 'unknown' })
    expect(await states()).toEqual(before)
  })

  it('P08 with another digest than the bytes: no key of the block is ever issued, at neither end', async () => {
    // Only this proposal reaches kme-a: the true kme-b is down while the devices deliver one more block.
    await test.network.stop('kme-b')
    test.network.devices.resume()
    const pending = await eventually('a block waits for agreement', async () => {
      const [block] = await test.network.query<{ block_id: string }>(
        'kme-a',
        `SELECT block_id FROM key_block WHERE state = 'INGESTED' AND link_id = 'a-b' LIMIT 1`,
      )
      return block?.block_id
    })
    test.network.devices.pause()
    expect(await propose('a-b', pending)).toEqual({ outcome: 'different' })
    const stateAt = async (name: 'kme-a' | 'kme-b') =>
      (
        await test.network.query<{ state: string; sealed: Buffer | null }>(
          name,
          'SELECT state, sealed FROM key_block WHERE block_id = $1',
          [pending],
        )
      )[0]
    expect(await stateAt('kme-a')).toEqual({ state: 'DESTROYED', sealed: null })
    await test.network.start('kme-b')
    await eventually('kme-a sees kme-b again', async () => (await storedKeys(test.alice, 'bob')) > 0)
    expect((await stateAt('kme-b'))?.state).not.toBe('AVAILABLE')
    const [key] = await draw(test.alice, 'bob')
    expect(keysOf(await fetchKeys(test.bob, 'alice', [key!]))).toEqual([key])
  })
})
