/** Watermarks, exhaustion and recovery (I11), and replenishment by hand, on two whole KMEs. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import type { components } from '../../src/generated/admin.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually, keysOf, quieten, startNetwork, storedKeys, type Network, type SaeClient } from './network.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

type Schemas = components['schemas']

const HIGH = 600
/** Units in a block of the emulated devices. */
const BLOCK = 128

let network: Network
let alice: SaeClient
let bob: SaeClient
let admins: Record<'kme-a' | 'kme-b', SaeClient>

beforeAll(async () => {
  network = await startNetwork({
    pools: { lowWatermark: 200, criticalWatermark: 50, highWatermark: HIGH },
    keys: { localStored: 100, lendFloor: 10 },
    // So that hardly anything comes once they are paused.
    bufferBlocks: 2,
  })
  alice = await network.sae('alice')
  bob = await network.sae('bob')
  admins = { 'kme-a': await network.admin('kme-a'), 'kme-b': await network.admin('kme-b') }
})
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
})

const poolAt = async (kme: keyof typeof admins): Promise<Schemas['Pool']> => {
  const other = kme === 'kme-a' ? 'kme-b' : 'kme-a'
  return (await admins[kme].get(`/api/v1/pools/${other}`)).json as unknown as Schemas['Pool']
}
const alarmsAt = async (kme: keyof typeof admins): Promise<string[]> => {
  const rows = await network.query<{ name: string }>(
    kme,
    `SELECT name FROM alarm WHERE cleared_at IS NULL AND name LIKE 'pool.%'`,
  )
  return rows.map(({ name }) => name)
}
/** The link is up and pulls nothing more. */
const isFull = async (kme: keyof typeof admins, ceiling: number): Promise<boolean> => (await poolAt(kme)).stored > ceiling - BLOCK

describe('a pool of keys from a link', () => {
  it('is filled up to its high watermark and no further', async () => {
    await eventually('full pools', async () => (await isFull('kme-a', HIGH)) && (await isFull('kme-b', HIGH)))
    const pool = await poolAt('kme-a')
    expect(pool).toMatchObject({ lowWatermark: 200, criticalWatermark: 50, highWatermark: HIGH, state: 'healthy' })
    expect(pool.stored).toBeLessThanOrEqual(HIGH)
  })

  it('is filled further once when operators at both ends ask for it', async () => {
    const answers = await Promise.all([
      admins['kme-a'].post('/api/v1/pools/kme-b/replenish', { upToKeys: 2000 }),
      admins['kme-b'].post('/api/v1/pools/kme-a/replenish', { upToKeys: 2000 }),
    ])
    for (const { status, json } of answers) {
      expect(status).toBe(200)
      expect(json).toMatchObject({ ceilingKeys: 2000 })
      expect((json['sources'] as object[])[0]).toEqual({ source: 'link a-b', outcome: 'asked', keyCount: 0, reason: null })
    }
    await eventually('pools above the mark', async () => (await isFull('kme-a', 2000)) && (await isFull('kme-b', 2000)))
    await eventually('the wishes are over', async () => {
      const left = await Promise.all(
        (['kme-a', 'kme-b'] as const).map((kme) => network.query(kme, 'SELECT 1 FROM pool_replenishment')),
      )
      return left.flat().length === 0
    })
    const { stored } = await poolAt('kme-a')
    expect(stored).toBeLessThanOrEqual(2000)
    // Once: what is used now does not come again, for as long as a block would take ten times over.
    for (let i = 0; i < 3; i += 1) expect((await alice.post('/api/v1/keys/bob/enc_keys', { number: 100 })).status).toBe(200)
    await systemClock.sleep(1000)
    expect((await poolAt('kme-a')).stored).toBe(stored - 300)
  })

  it('that is empty gives 503 with a sensible Retry-After, alarms, and heals with the first key', async () => {
    network.devices.pause()
    while ((await poolAt('kme-a')).stored > HIGH / 2) await alice.post('/api/v1/keys/bob/enc_keys', { number: 20 })
    await quieten(network)
    let refused
    for (let i = 0; i < 400 && refused === undefined; i += 1) {
      const left = await storedKeys(alice, 'bob')
      const answer = await alice.post('/api/v1/keys/bob/enc_keys', { number: Math.max(1, Math.min(100, left)) })
      if (answer.status !== 200) refused = answer
    }
    expect(refused?.status).toBe(503)
    expect(refused?.json).toEqual({ message: 'no key material available' })
    const waitS = Number(refused?.headers['retry-after'])
    expect(waitS).toBeGreaterThanOrEqual(1)
    expect(waitS).toBeLessThanOrEqual(60)
    await eventually('it is known to be empty', async () => (await poolAt('kme-a')).state === 'exhausted')
    expect((await poolAt('kme-a')).timeToEmptyS).toBe(0)
    await eventually('the alarm', async () => (await alarmsAt('kme-a')).includes('pool.exhausted:kme-b'))

    network.devices.resume()
    await eventually('a block', async () => (await poolAt('kme-a')).mine > 0)
    const hereMs = systemClock.monotonicMs()
    await eventually('a key again', async () => (await alice.post('/api/v1/keys/bob/enc_keys', {})).status === 200)
    expect(systemClock.monotonicMs() - hereMs).toBeLessThan(timeLimitMs(1000))
    await eventually('it is well again', async () => (await poolAt('kme-a')).state === 'healthy')
    await eventually('the alarms are over', async () => (await alarmsAt('kme-a')).length === 0)
    const audited = await network.query<{ state: string }>(
      'kme-a',
      `SELECT subject->>'state' AS state FROM audit_record WHERE event = 'pool.state' AND subject->>'peerKmeId' = 'kme-b' ORDER BY seq`,
    )
    expect(audited.map(({ state }) => state)).toEqual(expect.arrayContaining(['exhausted', 'healthy']))
  })

  it('is evened out between the ends before anybody waits for a loan', async () => {
    await Promise.all([
      admins['kme-a'].post('/api/v1/pools/kme-b/replenish', { upToKeys: 2000 }),
      admins['kme-b'].post('/api/v1/pools/kme-a/replenish', { upToKeys: 2000 }),
    ])
    await eventually('full pools', async () => (await isFull('kme-a', 2000)) && (await isFull('kme-b', 2000)))
    network.devices.pause()
    // At once, so that no loan comes in between: keys of as many units as leave this end with little.
    const size = 256 * Math.floor(((await poolAt('kme-a')).mine - 50) / 100)
    expect((await alice.post('/api/v1/keys/bob/enc_keys', { number: 100, size })).status).toBe(200)
    const isEven = ({ mine, theirs }: Schemas['Pool']): boolean => mine > 250 && Math.abs(mine - theirs) < 150
    // Loans may go on between one look and the other.
    await eventually('even pools, and both ends agree on who issues what', async () => {
      const [here, there] = [await poolAt('kme-a'), await poolAt('kme-b')]
      return isEven(here) && isEven(there) && here.mine === there.theirs && here.theirs === there.mine
    })
    const all = [
      ...keysOf(await alice.post('/api/v1/keys/bob/enc_keys', { number: 100 })),
      ...keysOf(await bob.post('/api/v1/keys/alice/enc_keys', { number: 100 })),
    ]
    expect(new Set(all.map(({ key }) => key)).size).toBe(200)
    network.devices.resume()
  })

  it('has a history of all this, in which what was taken is what was issued', async () => {
    const query = '/api/v1/pools/kme-b/history'
    await eventually('what was taken is written', async () => {
      const { points } = (await admins['kme-a'].get(query)).json as unknown as Schemas['PoolHistory']
      return points.some(({ taken, refused }) => taken > 0 && refused >= 0) && points.some(({ refused }) => refused > 0)
    })
  })
})

describe('the local pool', () => {
  it('is filled beyond its mark once when an operator asks for it', async () => {
    const pool = async () => ((await admins['kme-a'].get('/api/v1/pools/kme-a')).json as unknown as Schemas['Pool']).mine
    await eventually('a local pool', async () => (await pool()) >= 100)
    const before = await pool()
    const answer = await admins['kme-a'].post('/api/v1/pools/kme-a/replenish', { upToKeys: 1000 })
    expect(answer.json).toMatchObject({ ceilingKeys: 1000, sources: [{ source: 'random source', outcome: 'filled' }] })
    await eventually('it is full', async () => (await pool()) >= 1000)
    expect(before).toBeLessThan(500)
  })
})
