/** One quota for all processes of a KME: counted in Redis, and by each process for itself while Redis is away. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { verdict } from '../catalogue/judged-network.ts'
import { eventually, startNetwork, type Network, type SaeClient } from '../network/network.ts'
import { startRedis } from '../setup/redis-servers.ts'

const HOUR_S = 3600
const anHour = (count: number) => ({ requestsPerS: count / HOUR_S, requestsBurst: count })
const STATUS = '/api/v1/keys/bob/status'
const PROCESSES = 2

describe('two processes of a KME', () => {
  const directory = mkdtempSync(join(tmpdir(), 'openkme-quotas-'))
  let redis: Awaited<ReturnType<typeof startRedis>>
  let network: Network
  /** One client at each process. */
  const clients = new Map<string, SaeClient[]>()

  beforeAll(async () => {
    redis = await startRedis()
    const urlFile = join(directory, 'redis-url')
    writeFileSync(urlFile, redis.url, { mode: 0o600 })
    network = await startNetwork({
      processes: true,
      startEmpty: true,
      settings: (name) => (name === 'kme-a' ? { redis: { urlFile, commandDeadlineMs: 3000 } } : {}),
      quotas: {
        saes: [
          { sae: 'alice', ...anHour(20) },
          { sae: 'anna', ...anHour(20) },
          { sae: 'mallory', ...anHour(20) },
        ],
      },
    })
    const another = await network.startAnother('kme-a')
    const admin = await network.admin('kme-a')
    await eventually(
      'both see each other',
      async () => ((await admin.get('/api/v1/kme')).json['processes'] as unknown[]).length === PROCESSES,
    )
    for (const id of ['alice', 'anna', 'mallory']) {
      clients.set(id, [await network.sae(id), await network.saeAt(another.ports, id)])
    }
  })
  afterAll(async () => {
    await network?.[Symbol.asyncDispose]()
    await redis?.stop()
    rmSync(directory, { recursive: true, force: true })
  })

  /** How many requests each process lets through, sent to both at once. */
  const admitted = async (id: string, tries: number): Promise<number[]> =>
    Promise.all(
      clients.get(id)!.map(async (client) => {
        let count = 0
        for (let i = 0; i < tries; i += 1) {
          const answer = await client.get(STATUS)
          if (answer.status === 503) {
            expect(verdict(answer)).toEqual({ status: 503, message: 'rate limit of this SAE reached' })
            expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
          } else count += 1
        }
        return count
      }),
    )

  it('K35 share one limit', async () => {
    const counts = await admitted('alice', 20)
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(20)
  })

  it('have half of it each while Redis is gone, and share it again when Redis is back', async () => {
    await redis.kill9()
    expect(await admitted('anna', 20)).toEqual([10, 10])
    // What Redis knew is lost; what a process let through it remembers for as long as it is on its own.
    expect(await admitted('anna', 5)).toEqual([0, 0])
    await redis.restart()
    const counted = async (): Promise<number> => {
      const keys = (await redis.cli('KEYS', '*:quota:requestsPerS:mallory')) as string[]
      return keys.length === 1 ? Number(await redis.cli('GET', keys[0]!)) : 0
    }
    await eventually('Redis counts up to the limit', async () => {
      await admitted('mallory', 3)
      return (await counted()) >= 20
    })
    expect(await admitted('mallory', 3)).toEqual([0, 0])
    expect(await counted()).toBe(20)
  })
})
