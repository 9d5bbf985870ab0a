/** What becomes of keys when something goes wrong between two KMEs: the initiator gets them, or nobody does. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually } from '../setup/eventually.ts'
import { contract, fetchKeys, keysOf, startSite, storedKeys, type Exchange, type Fault, type Site } from './site.ts'
import { ACK, ackOf, idsIn, KEYS, VOID, watchSite } from './watch-site.ts'

let site: Site
let watch: ReturnType<typeof watchSite>
const startWith = async (options: Parameters<typeof startSite>[0]): Promise<void> => {
  site = await startSite({ deadlineMs: 5000, ...options })
  watch = watchSite(site)
}
const stop = async (): Promise<void> => {
  expect(site?.faults).toEqual([])
  await site?.[Symbol.asyncDispose]()
}
afterEach(() => site?.failWith(() => undefined))

const isAway = { message: 'the KME of the slave SAE is not available' }

/** The requests fail, the neighbour is told to void the keys, nobody gets them, and they are never used again.
 *  @param decide the fate of each request; they have 1, 2, 3, ... keys, and each comes once.
 *  @returns the key IDs of each. */
const areVoided = async (count: number, decide: (exchange: Exchange) => Fault | Promise<Fault>): Promise<string[][]> => {
  const { enc, settled, spentUnits, fetchAtX } = watch
  const [before, spent] = [site.exchanges.length, await spentUnits()]
  site.failWith(decide)
  const answers = await Promise.all(Array.from({ length: count }, (_, i) => enc({ number: i + 1 })))
  expect(answers.map(({ status, json }) => ({ status, json }))).toEqual(Array(count).fill({ status: 503, json: isAway }))
  await settled()
  const said = site.exchanges.slice(before)
  const sent = said.filter(({ path }) => path === KEYS).map(idsIn)
  expect(sent.map((ids) => ids.length).sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i + 1))
  const voids = said
    .filter(({ path, from }) => path === VOID && from === 'kme-a')
    .map(({ body }) => JSON.parse(body) as { key_ids: string[] })
  expect(new Set(voids.flatMap(({ key_ids }) => key_ids))).toEqual(new Set(sent.flat()))
  for (const request of voids) expect(request).toMatchObject({ initiator_sae_id: 'alice', target_sae_ids: ['xavier'] })
  for (const id of sent.flat()) expect(await fetchAtX([id])).toBe(400)
  expect(await spentUnits()).toBe(spent + sent.flat().length)
  site.failWith(() => undefined)
  await site.ready()
  return sent
}

describe.each([
  ['with acknowledgements at a callback URL', false],
  ['synchronously', true],
])('keys exchanged %s', (_, synchronous) => {
  beforeAll(() => startWith({ synchronous }))
  afterAll(stop)

  it('that are lost on the way are voided, and keep out when they come after all', async () => {
    const [ids] = await areVoided(1, ({ path }) => (path === KEYS ? 'lose-request' : undefined))
    const late = watch.newest(KEYS)!
    expect(await watch.statesAtA(ids!)).toEqual([{ state: 'VOIDED', void_answer: 'key not present' }])
    const answer = await site.caller('kme-x', site.identities['kme-a']).post(KEYS, late.body)
    expect(answer.json).toMatchObject({ status: 400, details: { key_id: 'shall be new' } })
    expect(await watch.fetchAtX(ids!)).toBe(400)
  })

  it('of which a half arrives, or whose answer does not or not whole, are voided, however often that must be said', async () => {
    // All are under way before the first of them fails, because after that nothing is sent any more.
    let arrived = 0
    let allArrived = (): void => undefined
    const all = new Promise<void>((resolve) => (allArrived = resolve))
    const fates: Fault[] = ['cut-request', 'lose-answer', 'cut-answer', { status: 200, body: ' '.repeat(9 * 1024 * 1024) }]
    let voids = 0
    const sent = await areVoided(fates.length, async (exchange) => {
      if (exchange.path === VOID && exchange.from === 'kme-a') return (voids += 1) < 3 ? { status: 503 } : undefined
      if (exchange.path !== KEYS) return undefined
      if ((arrived += 1) === fates.length) allArrived()
      await all
      return fates[idsIn(exchange).length - 1]
    })
    const answers = await Promise.all(sent.map(async (ids) => [ids.length, await watch.statesAtA(ids)] as const))
    const voided = (void_answer: string) => [{ state: 'VOIDED', void_answer }]
    expect(Object.fromEntries(answers)).toEqual({
      1: voided('key not present'),
      2: voided('voided'),
      3: voided('voided'),
      4: voided('key not present'),
    })
  })

  it('that are not answered as they should be are voided, and nothing is sent elsewhere', async () => {
    const answers: ((exchange: Exchange) => Fault)[] = [
      () => ({ status: 503, body: '{"type":"about:blank","status":503}' }),
      () => ({ status: 408 }),
      () => ({ status: 500, body: '<html>' }),
      () => ({ status: 404 }),
      () => ({ status: 307, location: site.wireUrl('kme-a') + KEYS }),
      () => ({ status: 200, body: '[]' }),
      () => ({ status: 200, body: 'fine' }),
      () => ({ status: 200, body: '{"key_ids":[],"ack_status":"relayed"}' }),
      (exchange) => ({ status: 200, body: ackOf(exchange, 'relayed', 3) }),
      (exchange) => ({ status: 200, body: ackOf(exchange, 'failed') }),
      (exchange) => ({ status: 200, body: ackOf(exchange, 'Relayed') }),
      (exchange) => ({ status: 200, body: ackOf(exchange, 'relayed').replace('"alice"', '"anna"') }),
    ]
    await areVoided(answers.length, (exchange) =>
      exchange.path === KEYS ? answers[idsIn(exchange).length - 1]!(exchange) : undefined,
    )
  })

  it('that an answer with members nobody knows acknowledges are issued', async () => {
    const more = { colour: 'blue', extension: { E99999_x: 1 } }
    site.failWith((exchange) => (exchange.path === KEYS ? { status: 200, body: ackOf(exchange, 'relayed', 9, more) } : undefined))
    expect((await watch.enc()).status).toBe(200)
  })

  it('that come twice, as everything else does, are there once', async () => {
    site.failWith(() => 'twice')
    const issued = await watch.enc({ number: 2 })
    expect(issued.status).toBe(200)
    await watch.settled()
    const xavier = await site.sae('xavier')
    expect((await fetchKeys(xavier, 'alice', keysOf(issued))).json).toEqual(issued.json)
    expect((await fetchKeys(xavier, 'alice', keysOf(issued))).status).toBe(400)
  })

  it('that the neighbour refuses are not voided: it has no trace of them', async () => {
    const before = site.exchanges.filter(({ path }) => path === VOID).length
    watch.failing(KEYS, { status: 401, body: '{"type":"about:blank","status":401}' })
    expect((await watch.enc()).status).toBe(503)
    watch.failing(KEYS, { status: 400, body: '{"type":"about:blank","details":{"invalid_routing":"x"}}' })
    expect((await watch.enc()).status).toBe(503)
    watch.failing(KEYS, { status: 400, body: '{"type":"about:blank","details":{"target_sae_id_not_recognized":"x"}}' })
    const unknown = await watch.enc()
    expect([unknown.status, unknown.json]).toEqual([400, { message: 'unknown or not permitted slave SAE' }])
    site.failWith(() => undefined)
    await watch.settled()
    expect(site.exchanges.filter(({ path }) => path === VOID)).toHaveLength(before)
  })

  it('of equal requests sent again, of acknowledgements sent again: nothing comes of them', async () => {
    const issued = await watch.enc({ number: 2 })
    const keyIds = keysOf(issued).map(({ key_ID }) => key_ID)
    const replay = site.exchanges.filter(({ path, body }) => path !== '/kmapi/versions' && keyIds.some((id) => body.includes(id)))
    expect(replay.length).toBeGreaterThan(0)
    expect(await watch.fetchAtX(keyIds)).toBe(200)
    for (const { to, from, path, body } of replay) {
      const answer = await site.caller(to, site.identities[from]).post(path, body)
      contract.checkResponse('POST', path, answer.status, answer.headers['content-type'], answer.text)
      expect(answer.status).toBe(path === KEYS ? 400 : 200)
    }
    expect(await watch.fetchAtX(keyIds)).toBe(400)
    expect(await watch.statesAtA(keyIds)).toEqual([{ state: 'ISSUED', void_answer: null }])
  })
})

describe('a neighbour', () => {
  beforeAll(() => startWith({}))
  afterAll(stop)

  it('whose answer comes when nobody waits any more has stored the keys for nothing', async () => {
    let release = (): void => undefined
    const released = new Promise<void>((resolve) => (release = resolve))
    site.failWith(async ({ path }) => {
      if (path === KEYS) await released
      return undefined
    })
    expect((await watch.enc({ number: 2 })).status).toBe(503)
    release()
    const late = watch.newest(KEYS)!
    await eventually('the neighbour has answered', () => late.status !== undefined)
    await watch.settled()
    expect(await watch.fetchAtX(idsIn(late))).toBe(400)
    expect(await watch.statesAtA(idsIn(late))).toMatchObject([{ state: 'VOIDED' }])
  })

  it('that says "relayed" too late is heard, and nobody gets the keys', async () => {
    watch.failing(ACK, { status: 503 })
    expect((await watch.enc()).status).toBe(503)
    const keyIds = idsIn(watch.newest(KEYS)!)
    site.failWith(() => undefined)
    await watch.settled()
    expect(site.exchanges.findLast(({ path, body }) => path === ACK && body.includes('"relayed"'))!.status).toBe(200)
    expect(await watch.statesAtA(keyIds)).toEqual([{ state: 'VOIDED', void_answer: 'voided' }])
    expect(await watch.fetchAtX(keyIds)).toBe(400)
  })

  it('that has disabled the SAE refuses it as an unknown one', async () => {
    const admin = await site.admin('kme-x')
    await admin.post('/api/v1/saes/xavier/disable', {})
    await eventually('the neighbour refuses', async () => (await watch.enc()).status === 400)
    await admin.post('/api/v1/saes/xavier/enable', {})
    await eventually('the neighbour takes keys again', async () => (await watch.enc()).status === 200)
  })

  it('that gets not one byte costs no keys; one that speaks other versions gets none', async () => {
    const before = await watch.spentUnits()
    await site.unplug('kme-a')
    expect((await watch.enc({ number: 3 })).status).toBe(503)
    const said = site.exchanges.length
    watch.failing('/kmapi/versions', { status: 200, body: '{"versions":["v0","v2"]}' })
    await site.plug('kme-a')
    await eventually('kme-a has asked for versions twice', () => site.exchanges.length >= said + 2)
    expect((await watch.enc()).status).toBe(503)
    await watch.settled()
    expect(await watch.spentUnits()).toBe(before)
    expect(new Set(site.exchanges.slice(said).map(({ path }) => path))).toEqual(new Set(['/kmapi/versions']))
    site.failWith(() => undefined)
    await site.ready()
  })

  it('whose certificate bears another name gets none', async () => {
    const before = site.exchanges.length
    for (const stranger of ['kme-a', 'kme-y'] as const) {
      site.disguise('kme-a', site.identities[stranger])
      expect((await watch.enc()).status).toBe(503)
      await watch.settledReservations()
    }
    expect(site.exchanges.slice(before).filter(({ from }) => from === 'kme-a')).toEqual([])
    site.disguise('kme-a', site.identities['kme-x'])
    await site.ready()
    expect((await watch.enc()).status).toBe(200)
  })

  it('that is away costs nothing', async () => {
    await site.stop('kme-x')
    await watch.enc()
    await eventually('kme-a has noticed', async () => (await storedKeys(await site.sae('alice'), 'xavier')) === 0)
    await watch.settledReservations()
    const before = await watch.spentUnits()
    expect((await watch.enc({ number: 5 })).status).toBe(503)
    expect(await watch.spentUnits()).toBe(before)
    await site.start('kme-x')
    await eventually('the neighbour is back', async () => (await watch.enc()).status === 200)
    await watch.settled()
  })
})
