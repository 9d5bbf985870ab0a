/** Keys for a pair of SAEs whose KMEs have no QKD key left, where the operators of both want that. */
import { afterEach, describe, expect, it } from '@jest/globals'
import { draw, fetchKeys, judged, K, verdict } from '../catalogue/judged-network.ts'
import { createSessionSpeaker } from '../peer/session-speaker.ts'
import { eventually, keysOf, quieten, startNetwork, type Answer, type KmeName, type Network, type SaeClient } from './network.ts'

const EXHAUSTED = { status: 503, message: 'no key material available' }
const MARK = { openkme_source: 'fallback' }
const QKD_ONLY = { extension_mandatory: [{ openkme_source: 'qkd' }] }

let network: Network | undefined
/** In the place of kme-b, speaking to kme-a. */
const forgerWith = (cert: string, key: string) =>
  createSessionSpeaker({
    port: network!.ports.get('kme-a')!.peer,
    cert,
    key,
    ca: network!.authorities.certificatePem.kme,
    from: 'kme-b',
    to: 'kme-a',
  })

afterEach(async () => {
  await network?.[Symbol.asyncDispose]()
  network = undefined
})

/** Two KMEs whose devices are silent. */
const startWith = async (on: readonly KmeName[], maxKeysPerS = 10_000) => {
  network = await startNetwork({
    rateBlocksPerS: 4,
    keys: { lendFloor: 0 },
    settings: (name) => {
      const peer = name === 'kme-a' ? 'kme-b' : 'kme-a'
      return on.includes(name) ? { pools: { fallback: [{ peer, source: 'peer-channel', maxKeysPerS }] } } : {}
    },
  })
  await quieten(network)
  const [alice, bob] = [judged(await network.sae('alice')), judged(await network.sae('bob'))]
  return { network, alice, bob }
}

/** The key_extension of each key of an answer. */
const marksOf = (answer: Answer): unknown[] =>
  keysOf(answer).map((key) => (key as unknown as { key_extension?: unknown }).key_extension)

/** Uses up what the devices delivered: until a request that insists on QKD is refused. */
const drain = async (master: SaeClient, slave: string): Promise<void> => {
  for (let number = 128; number >= 1;) {
    const answer = await master.post(`${K}${slave}/enc_keys`, { number, ...QKD_ONLY })
    if (answer.status === 200) expect(marksOf(answer)).toEqual(Array.from({ length: number }, () => undefined))
    else {
      expect(verdict(answer)).toEqual(EXHAUSTED)
      number = Math.floor(number / 2)
    }
  }
}

const alarmsOf = async (name: KmeName): Promise<string[]> => {
  const { json } = await (await network!.admin(name)).get('/api/v1/alarms')
  return (json['alarms'] as { name: string }[]).map((alarm) => alarm.name)
}
const metric = async (name: KmeName, event: string): Promise<number> => {
  const { text } = await (await network!.admin(name)).get('/metrics')
  return Number(new RegExp(`^kme_fallback_keys_total\\{event="${event}"\\} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
}
const auditedSources = async (name: KmeName, keyId: string): Promise<unknown[]> =>
  network!.query(
    name,
    `SELECT event, subject ->> 'source' AS source FROM audit_record WHERE subject -> 'keyIds' ? $1 ORDER BY seq`,
    [keyId],
  )

describe('the fallback source', () => {
  it('is off unless set: an exhausted pool is 503', async () => {
    const { alice } = await startWith([])
    await drain(alice, 'bob')
    expect(verdict(await alice.post(`${K}bob/enc_keys`, {}))).toEqual(EXHAUSTED)
    expect(await network!.query('kme-b', `SELECT 1 FROM key_block WHERE link_id LIKE 'fallback:%'`)).toEqual([])
  })

  it.each<[KmeName, KmeName]>([
    ['kme-a', 'kme-b'],
    ['kme-b', 'kme-a'],
  ])('set at %s alone gives nothing, and an alarm says so', async (on, off) => {
    const { alice, bob } = await startWith([on])
    const [master, slave] = on === 'kme-a' ? ([alice, 'bob'] as const) : ([bob, 'alice'] as const)
    await drain(master, slave)
    expect(verdict(await master.post(`${K}${slave}/enc_keys`, {}))).toEqual(EXHAUSTED)
    await eventually('the alarm', async () => (await alarmsOf(on)).includes(`pool.fallback-refused:${off}`))
    expect(await network!.query(off, `SELECT 1 FROM key_block WHERE link_id LIKE 'fallback:%'`)).toEqual([])
    const [refused] = await network!.query<{ subject: object }>(
      off,
      `SELECT subject FROM audit_record WHERE event = 'peer.refused' AND subject ->> 'call' = 'fallback-blocks'`,
    )
    expect(refused?.subject).toEqual({ call: 'fallback-blocks', reason: 'the fallback source is off here' })
  })

  it('set at both gives equal keys, marked at both ends, in both directions, until QKD is back', async () => {
    const { alice, bob } = await startWith(['kme-a', 'kme-b'])
    const ways = [
      { master: alice, masterId: 'alice', home: 'kme-a', slave: bob, slaveId: 'bob', away: 'kme-b' },
      { master: bob, masterId: 'bob', home: 'kme-b', slave: alice, slaveId: 'alice', away: 'kme-a' },
    ] as const
    for (const { master, masterId, home, slave, slaveId, away } of ways) {
      await drain(master, slaveId)
      const issued = await master.post(`${K}${slaveId}/enc_keys`, { number: 5, size: 600 })
      expect(verdict(issued)).toEqual({ status: 200 })
      expect(marksOf(issued)).toEqual([MARK, MARK, MARK, MARK, MARK])
      const fetched = await fetchKeys(slave, masterId, keysOf(issued).slice(0, 3))
      expect(keysOf(fetched)).toEqual(keysOf(issued).slice(0, 3))
      expect(new Set(keysOf(issued).map(({ key }) => key)).size).toBe(5)

      const keyId = keysOf(issued)[0]!.key_ID
      expect(await auditedSources(home, keyId)).toEqual([{ event: 'key.issued', source: 'fallback' }])
      expect(await auditedSources(away, keyId)).toEqual([
        { event: 'key.held', source: 'fallback' },
        { event: 'key.delivered', source: 'fallback' },
      ])
      expect(await metric(home, 'issued')).toBe(5)
      expect(await metric(away, 'delivered')).toBe(3)
      // Who insists on QKD gets none of them.
      expect(verdict(await master.post(`${K}${slaveId}/enc_keys`, QKD_ONLY))).toEqual(EXHAUSTED)
      // Nor does who insists on how keys are relayed; who only wishes for it does.
      const insisting = { extension_mandatory: [{ openkme_paths: 2 }] }
      expect(verdict(await master.post(`${K}${slaveId}/enc_keys`, insisting))).toEqual(EXHAUSTED)
      const wishing = { extension_optional: [{ openkme_paths: 2 }] }
      expect(marksOf(await master.post(`${K}${slaveId}/enc_keys`, wishing))).toEqual([MARK])
    }
    for (const name of ['kme-a', 'kme-b'] as const) {
      const other = name === 'kme-a' ? 'kme-b' : 'kme-a'
      await eventually('the alarm', async () => (await alarmsOf(name)).includes(`pool.fallback:${other}`))
    }

    // What is left of the fallback source stays unused as soon as there is QKD key.
    network!.devices.resume()
    await eventually('QKD is back', async () => (await alice.post(`${K}bob/enc_keys`, QKD_ONLY)).status === 200)
    await quieten(network!)
    const issued = await alice.post(`${K}bob/enc_keys`, { number: 3 })
    expect(marksOf(issued)).toEqual([undefined, undefined, undefined])
    expect(keysOf(await fetchKeys(bob, 'alice', keysOf(issued)))).toEqual(keysOf(issued))
  })

  it('gives many requests at once different keys, and a repeated request the same', async () => {
    const { alice, bob } = await startWith(['kme-a', 'kme-b'])
    await drain(alice, 'bob')
    const answers = await Promise.all(
      Array.from({ length: 20 }, async () => (await network!.sae('alice')).post(`${K}bob/enc_keys`, { number: 40 })),
    )
    const keys = answers.flatMap(keysOf)
    expect(keys).toHaveLength(800)
    expect(new Set(keys.map(({ key }) => key)).size).toBe(800)
    for (let at = 0; at < keys.length; at += 100) {
      const part = keys.slice(at, at + 100)
      expect(keysOf(await fetchKeys(bob, 'alice', part))).toEqual(part)
    }

    const repeated = { number: 2, extension_optional: [{ openkme_request_id: '8d0a3c63-5d2f-4b62-9b0e-0d8f5c1f7a11' }] }
    const first = await alice.post(`${K}bob/enc_keys`, repeated)
    const again = await alice.post(`${K}bob/enc_keys`, repeated)
    expect(marksOf(first)).toEqual([MARK, MARK])
    expect(keysOf(again)).toEqual(keysOf(first))
    expect(verdict(await alice.post(`${K}bob/enc_keys`, { ...repeated, ...QKD_ONLY }))).toEqual({
      status: 400,
      message: 'not all extension_mandatory request options could be met',
    })
  })

  it('gives no more in a second than was set, and goes on with what a KME had when it was restarted', async () => {
    const { alice } = await startWith(['kme-a', 'kme-b'], 30)
    await drain(alice, 'bob')
    await draw(alice, 'bob', { number: 100 })
    expect(verdict(await alice.post(`${K}bob/enc_keys`, {}))).toEqual(EXHAUSTED)
    await eventually('the next second', async () => (await alice.post(`${K}bob/enc_keys`, {})).status === 200)

    const blocks = (name: KmeName) =>
      network!.query<{ free: number }>(
        name,
        `SELECT (unit_count - bit_count(taken))::int AS free FROM key_block WHERE link_id = 'fallback:kme-a:kme-b'`,
      )
    expect(await blocks('kme-a')).toEqual([{ free: 27 }])
    expect(await blocks('kme-b')).toEqual([{ free: 27 }])
    await network!.stop('kme-a')
    await network!.start('kme-a')
    await eventually('keys again', async () => (await alice.post(`${K}bob/enc_keys`, { number: 7 })).status === 200)
    expect(await blocks('kme-a')).toEqual([{ free: 20 }])
    expect(await blocks('kme-b')).toEqual([{ free: 20 }])
  })

  it('takes from a peer only whole blocks of its own, and uses none before both ends proved the same bytes', async () => {
    const { alice } = await startWith(['kme-a', 'kme-b'])
    await network!.stop('kme-b')
    const { certificatePem: cert, privateKeyPem: key } = await network!.authorities.issue({
      profile: 'kme',
      id: 'kme-b',
      hosts: ['localhost'],
    })
    const forger = forgerWith(cert, key)
    const block = Buffer.alloc(32 + 2 * 32, 7)
    const send = async (name: string, body: Buffer, type = 'application/octet-stream') => {
      const { status, text } = await forger.say('POST', `/kme/v1/fallback-blocks/${name}`, body, { 'content-type': type })
      return status === 200 ? (JSON.parse(text) as unknown) : status
    }
    const name = '0b7e5a0e-5a45-4d0c-8f0b-2f5a0f3c9d01'
    const refused = { outcome: 'refused' }
    expect(await send('..', block)).toBe(400)
    expect(await send('kme-b', block)).toBe(400)
    expect(await send(name, block, 'application/json')).toBe(400)
    expect(await send(name, Buffer.alloc(0))).toBe(400)
    expect(await send(name, Buffer.alloc(300_000))).toBe(400)
    expect(await send(name, block.subarray(1))).toEqual(refused)
    expect(await send(name, block.subarray(0, 32))).toEqual(refused)
    const stored = () =>
      network!.query<object>(
        'kme-a',
        `SELECT state, block_id::text AS block_id, mine::text AS mine FROM key_block WHERE link_id LIKE 'fallback:%'`,
      )
    expect(await stored()).toEqual([])

    expect(await send(name, block)).toEqual({ outcome: 'stored' })
    expect(await send(name, Buffer.alloc(32 + 3 * 32, 8))).toEqual({ outcome: 'stored' })
    const [row] = (await stored()) as [{ block_id: string }]
    expect(await stored()).toEqual([{ state: 'INGESTED', block_id: row.block_id, mine: '00' }])
    const proposal = { linkId: 'fallback:kme-a:kme-b', blockId: row.block_id, tag: Buffer.alloc(32, 1).toString('base64') }
    const answer = await forger.say('POST', '/kme/v1/blocks', { calls: [proposal] })
    expect(answer.json).toEqual({ answers: [{ outcome: 'different' }] })
    expect(await stored()).toEqual([{ state: 'DESTROYED', block_id: row.block_id, mine: '00' }])
    expect((await alice.get(`${K}anna/status`)).status).toBe(200)
  })

  it('takes no more from a peer than was set', async () => {
    await startWith(['kme-a', 'kme-b'], 5)
    await network!.stop('kme-b')
    const { certificatePem: cert, privateKeyPem: key } = await network!.authorities.issue({
      profile: 'kme',
      id: 'kme-b',
      hosts: ['localhost'],
    })
    const forger = forgerWith(cert, key)
    const outcomes: unknown[] = []
    for (let at = 0; at < 6; at += 1) {
      const body = Buffer.alloc(32 + 100 * 32, at)
      const { json } = await forger.say('POST', `/kme/v1/fallback-blocks/0b7e5a0e-5a45-4d0c-8f0b-2f5a0f3c9d0${at}`, body)
      outcomes.push(json['outcome'])
    }
    expect(outcomes).toEqual(['stored', 'too-many', 'too-many', 'too-many', 'too-many', 'too-many'])
  })

  it('is nothing to two SAEs at one KME: their keys are not from QKD either, and whoever insists is told so', async () => {
    const { alice } = await startWith(['kme-a', 'kme-b'])
    expect(marksOf(await alice.post(`${K}anna/enc_keys`, {}))).toEqual([undefined])
    expect(verdict(await alice.post(`${K}anna/enc_keys`, QKD_ONLY))).toEqual({
      status: 400,
      message: 'not all extension_mandatory request options could be met',
    })
    expect((await alice.post(`${K}anna/enc_keys`, { extension_optional: [{ openkme_source: 'qkd' }] })).status).toBe(200)
    expect((await alice.post(`${K}anna/enc_keys`, { extension_optional: [{ openkme_source: 'any' }] })).status).toBe(400)
  })
})
