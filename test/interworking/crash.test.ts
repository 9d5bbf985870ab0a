/** kill -9 of either KME between the steps of an exchange: the initiator gets the keys, or nobody does. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals'
import { eventually } from '../setup/eventually.ts'
import { fetchKeys, keysOf, startSite, type Exchange, type Site } from './site.ts'
import { ACK, idsIn, KEYS, VOID, watchSite } from './watch-site.ts'

let site: Site
let watch: ReturnType<typeof watchSite>
beforeAll(async () => {
  site = await startSite({ deadlineMs: 30_000, processes: true })
  watch = watchSite(site)
})
afterEach(() => site?.failWith(() => undefined))
afterAll(async () => {
  expect(site?.faults).toEqual([])
  await site?.[Symbol.asyncDispose]()
})

describe('a receiver that is killed', () => {
  it('between storing the keys and saying so has them for nobody', async () => {
    watch.failing(KEYS, { afterwards: () => site.kill('kme-x') })
    expect((await watch.enc({ number: 2 })).status).toBe(503)
    site.failWith(() => undefined)
    const keyIds = idsIn(watch.newest(KEYS)!)
    await site.start('kme-x')
    await watch.settled()
    expect(await watch.statesAtA(keyIds)).toEqual([{ state: 'VOIDED', void_answer: 'voided' }])
    expect(await watch.fetchAtX(keyIds)).toBe(400)
    await site.ready()
  })

  it('before its acknowledgement posts it when it is back, and the initiator gets the keys', async () => {
    watch.failing(ACK, { status: 503 })
    const request = watch.enc({ number: 2 })
    await watch.isTaken()
    await site.kill('kme-x')
    site.failWith(() => undefined)
    await site.start('kme-x')
    const issued = await request
    expect(issued.status).toBe(200)
    const xavier = await site.sae('xavier')
    expect((await fetchKeys(xavier, 'alice', keysOf(issued))).json).toEqual(issued.json)
    expect((await fetchKeys(xavier, 'alice', keysOf(issued))).status).toBe(400)
  })
})

describe('a sender that is killed', () => {
  it('while keys are on their way or wait for their acknowledgement voids them when it is back; nobody gets them', async () => {
    let release = (): void => undefined
    const released = new Promise<void>((resolve) => (release = resolve))
    let held: Exchange | undefined
    site.failWith(async (exchange) => {
      if (exchange.path === ACK) return { status: 503 }
      if (exchange.path !== KEYS || held !== undefined) return undefined
      held = exchange
      await released
      return undefined
    })
    const requests = [1, 2].map((number) => watch.enc({ number }).catch(() => undefined))
    await watch.isTaken()
    await site.kill('kme-a')
    release()
    expect(await Promise.all(requests)).toEqual([undefined, undefined])
    await eventually('what was on its way has arrived', () => held?.status === 202)
    await site.start('kme-a')
    await eventually('the voids were answered', () => {
      const answered = site.exchanges.filter(({ path, from, status }) => path === VOID && from === 'kme-a' && status === 202)
      return sent().every((id) => answered.some(({ body }) => body.includes(id)))
    })
    site.failWith(() => undefined)
    await watch.settled()
    expect(sent()).toHaveLength(3)
    expect(await watch.statesAtA(sent())).toEqual([{ state: 'VOIDED', void_answer: 'voided' }])
    for (const id of sent()) expect(await watch.fetchAtX([id])).toBe(400)
  })

  const sent = (): string[] =>
    site.exchanges
      .filter(({ path }) => path === KEYS)
      .slice(-2)
      .flatMap(idsIn)
})
