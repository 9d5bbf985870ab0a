/** Acknowledgements at a callback URL, when they fail and which of an acknowledgement and a void is first. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals'
import { fetchKeys, keysOf, startSite, type Fault, type Site } from './site.ts'
import { ACK, idsIn, KEYS, VOID, watchSite } from './watch-site.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

let site: Site
let watch: ReturnType<typeof watchSite>
beforeAll(async () => {
  site = await startSite({ deadlineMs: 30_000 })
  watch = watchSite(site)
})
afterEach(() => site?.failWith(() => undefined))
afterAll(async () => {
  expect(site?.faults).toEqual([])
  await site?.[Symbol.asyncDispose]()
})

const parties = { initiator_sae_id: 'alice', target_sae_ids: ['xavier'] }

describe('acknowledgements', () => {
  it('that are refused or lost are posted again until they are taken', async () => {
    const fates: Fault[] = [
      { status: 503 },
      { status: 401 },
      'lose-request',
      'lose-answer',
      'cut-request',
      { status: 307, location: 'https://127.0.0.1:1/' },
    ]
    // Each acknowledgement fails once, in one of these ways.
    const failed = new Set<string>()
    site.failWith(({ path, body }) => {
      if (path !== ACK || failed.has(body)) return undefined
      failed.add(body)
      return fates[failed.size - 1]
    })
    const issued = await Promise.all(fates.map(() => watch.enc()))
    expect(issued.map(({ status }) => status)).toEqual(fates.map(() => 200))
    await watch.settled()
    expect(failed.size).toBe(fates.length)
    for (const answer of issued) {
      expect((await fetchKeys(await site.sae('xavier'), 'alice', keysOf(answer))).json).toEqual(answer.json)
    }
  })

  it('count whichever process of the KME they reach', async () => {
    await site.startAnother()
    const durationsMs: number[] = []
    for (let round = 0; round < 5; round += 1) {
      const startedMs = performance.now()
      const issued = await watch.enc({ number: 2 })
      durationsMs.push(performance.now() - startedMs)
      expect((await fetchKeys(await site.sae('xavier'), 'alice', keysOf(issued))).json).toEqual(issued.json)
    }
    // Told at once: who finds out when it looks the next time needs longer, every time.
    expect(Math.min(...durationsMs)).toBeLessThan(timeLimitMs(200))
  })

  it('that are waiting when the KME stops are posted when it has started again', async () => {
    watch.failing(ACK, { status: 503 })
    const request = watch.enc({ number: 2 })
    await watch.isTaken()
    await site.stop('kme-x')
    expect(await site.count('kme-x', 'neighbour_message')).toBe(1)
    site.failWith(() => undefined)
    await site.start('kme-x')
    const issued = await request
    expect(issued.status).toBe(200)
    expect((await fetchKeys(await site.sae('xavier'), 'alice', keysOf(issued))).json).toEqual(issued.json)
  })

  it('that the sender does not understand void the keys, in the other direction', async () => {
    watch.failing(ACK, { status: 400, body: '{"type":"about:blank","status":400}' })
    expect((await watch.enc()).status).toBe(503)
    const keyIds = idsIn(watch.newest(KEYS)!)
    site.failWith(() => undefined)
    await watch.settled()
    const voids = site.exchanges.filter(({ path, body }) => path === VOID && body.includes(keyIds[0]!))
    expect(new Set(voids.map(({ from }) => from))).toEqual(new Set(['kme-x']))
    expect(await watch.fetchAtX(keyIds)).toBe(400)
  })

  it('that nobody takes for too long void the keys, at both sides', async () => {
    watch.failing(ACK, { status: 503 })
    const request = watch.enc()
    await watch.isTaken()
    const keyIds = idsIn(watch.newest(KEYS)!)
    await site.query('kme-x', `UPDATE neighbour_message SET expires_at = now() - interval '1 second'`)
    expect((await request).status).toBe(503)
    site.failWith(() => undefined)
    await watch.settled()
    expect(await watch.statesAtA(keyIds)).toMatchObject([{ state: 'VOIDED' }])
    expect(await watch.fetchAtX(keyIds)).toBe(400)
  })

  it('that come after a void do nothing', async () => {
    watch.failing(ACK, { status: 503 })
    const request = watch.enc()
    await watch.isTaken()
    const keyIds = idsIn(watch.newest(KEYS)!)
    const voided = await site.caller('kme-a', site.identities['kme-x']).post(VOID, { key_ids: keyIds, ...parties })
    expect(voided.json).toEqual([{ key_id_container: keyIds.map((key_id) => ({ key_id })), ack_status: 'voided', ...parties }])
    expect((await request).status).toBe(503)
    site.failWith(() => undefined)
    await watch.settled()
    expect(await watch.statesAtA(keyIds)).toMatchObject([{ state: 'VOIDED' }])
  })

  it('are final: a neighbour cannot void what the initiator has', async () => {
    const issued = await watch.enc()
    const key_ids = keysOf(issued).map(({ key_ID }) => key_ID)
    const answer = await site.caller('kme-a', site.identities['kme-x']).post(VOID, { key_ids, ...parties })
    expect(answer.json).toEqual([
      { key_id_container: key_ids.map((key_id) => ({ key_id })), ack_status: 'failed to void', ...parties },
    ])
    expect(await watch.fetchAtX(key_ids)).toBe(200)
  })
})
