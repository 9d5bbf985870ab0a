/** `kme start --workers n`: one KME as several processes behind the same listeners. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually, keysOf, startNetwork, type KmeProcess, type Network, type SaeClient } from '../network/network.ts'
import { startRedis } from '../setup/redis-servers.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

const WORKERS = 2

let redis: Awaited<ReturnType<typeof startRedis>>
let network: Network
let kme: KmeProcess
let admin: SaeClient

beforeAll(async () => {
  redis = await startRedis()
  network = await startNetwork({
    processes: true,
    redisUrl: redis.url,
    startEmpty: true,
    rateBlocksPerS: 20,
    logLevel: 'info',
    logRequests: true,
  })
  await network.stop('kme-a')
  // An empty database, where the workers start at the same moment.
  await network.query('kme-a', 'TRUNCATE custody_term, sae, sae_pair, key_block, kme_process, duty')
  kme = await network.startAnother('kme-a', ['--workers', String(WORKERS)])
  admin = await network.adminAt(kme.ports)
})
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
  await redis?.stop()
})

const pids = async (): Promise<number[]> => {
  const { json } = await admin.get('/api/v1/kme')
  return (json['processes'] as { pid: number }[]).map(({ pid }) => pid)
}
const isRunning = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
/** Requests of the admin API answered with 200. */
const answersOk = async (): Promise<number> => {
  const { text } = await admin.get('/metrics')
  return Number(/^kme_requests_total\{listener="admin",method="GET",status="200"\} (\d+)/m.exec(text)?.[1] ?? 0)
}
/** False too when a connection leads to a worker that is just dying: then nobody may ever answer. */
const issueOne = async (): Promise<boolean> => {
  const alice = await network.saeAt(kme.ports, 'alice')
  const answered = alice.get('/api/v1/keys/bob/enc_keys').catch(() => undefined)
  const answer = await Promise.race([answered, systemClock.sleep(5000)])
  alice.close()
  return answer?.status === 200 && keysOf(answer).length === 1
}

describe('a KME with workers', () => {
  it('says once that it listens, when all of them do', async () => {
    // What a worker says takes its own way into the log.
    await eventually('both say so', () => kme.log().split('"KME started"').length > WORKERS)
    const lines = kme.log().split('\n')
    expect(lines.filter((line) => line.includes('"event":"listening"'))).toHaveLength(1)
    const started = lines.filter((line) => line.includes('"KME started"')).map((line) => JSON.parse(line) as { worker: string })
    expect(started.map(({ worker }) => worker).sort()).toEqual(['1', '2'])
  })

  it('counts what load balancers ask for their health, and does not log it', async () => {
    const healthBefore = await answersOk()
    for (const path of ['/health/live', '/health/ready', '/health/ready']) expect((await admin.get(path)).status).toBe(200)
    await eventually('they are counted', async () => (await answersOk()) >= healthBefore + 3)
    // Logged after them.
    await admin.get('/api/v1/links')
    await eventually('the line of another request', () => kme.log().includes('"route":"/api/v1/links"'))
    expect(kme.log()).not.toContain('"route":"/health')
  })

  it('serves with each of them, under one passphrase', async () => {
    await eventually('all show themselves', async () => (await pids()).length === WORKERS)
    expect(await network.query('kme-a', 'SELECT term FROM custody_term')).toHaveLength(1)
    expect((await pids()).includes(kme.child.pid!)).toBe(false)
    await eventually('a key', issueOne)
  })

  it('answers a scrape with the metrics of all of them', async () => {
    // A worker that does not answer within a second is missing from a page.
    let before = -1
    await eventually('a page of all', async () => before === (before = await issuedTotal()))
    let issued = 0
    for (let i = 0; i < 6; i += 1) if (await issueOne()) issued += 1
    expect(issued).toBeGreaterThan(0)
    for (let i = 0; i < 4; i += 1) await eventually('all are counted', async () => (await issuedTotal()) - before === issued)
    await eventually('the link counts once', async () => /^kme_link_up\{link="a-b",peer="kme-b"\} 1$/m.test(await metricsPage()))
    expect(await metricsPage()).toMatch(/^kme_info\{version="[^"]+"\} 1$/m)
  })

  it('goes on when one of them is killed, and starts another', async () => {
    const [victim, ...others] = await pids()
    process.kill(victim!, 'SIGKILL')
    await eventually('a key', issueOne, timeLimitMs(10_000))
    await eventually('another is there', async () => {
      const now = await pids()
      return now.length === WORKERS && !now.includes(victim!) && others.every((pid) => now.includes(pid))
    })
    await eventually('the log says so', () => kme.log().includes('a worker ended; starting it again'))
    await eventually('a key again', issueOne, timeLimitMs(10_000))
  })

  it('stops all of them within 10 s', async () => {
    const all = await pids()
    const alice = await network.saeAt(kme.ports, 'alice')
    await alice.get('/api/v1/keys/bob/status')
    const stoppingMs = systemClock.monotonicMs()
    await kme.stop()
    expect(systemClock.monotonicMs() - stoppingMs).toBeLessThan(timeLimitMs(10_000))
    expect(kme.child.exitCode).toBe(0)
    expect(all.filter(isRunning)).toEqual([])
    expect(kme.log().match(/"KME stopped"/g)).toHaveLength(WORKERS)
  })

  it('leaves no worker behind when it is killed itself', async () => {
    kme = await network.startAnother('kme-a', ['--workers', String(WORKERS)])
    admin = await network.adminAt(kme.ports)
    const all = await eventually('all show themselves', async () => {
      const now = await pids()
      return now.length === WORKERS ? now : undefined
    })
    await kme.kill()
    await eventually('they are gone', () => !all.some(isRunning), timeLimitMs(10_000))
    expect(kme.log().match(/"KME stopped"/g)).toHaveLength(WORKERS)
  })

  it('stops them all when its standard input ends', async () => {
    kme = await network.startAnother('kme-a', ['--workers', String(WORKERS)])
    admin = await network.adminAt(kme.ports)
    const all = await eventually('all show themselves', async () => {
      const now = await pids()
      return now.length === WORKERS ? now : undefined
    })
    kme.child.stdin!.end()
    await eventually('they are gone', () => kme.child.exitCode === 0 && !all.some(isRunning), timeLimitMs(10_000))
  })

  it('does not start when a worker cannot', async () => {
    await network.query('kme-a', `UPDATE custody_term SET check_value = sha256('another passphrase')`)
    await expect(network.startAnother('kme-a', ['--workers', String(WORKERS)])).rejects.toThrow(/did not start/)
  })
})

const metricsPage = async (): Promise<string> => {
  const client = await network.adminAt(kme.ports)
  const answer = await client.get('/metrics').finally(() => client.close())
  return answer.text
}
const issuedTotal = async (): Promise<number> => Number(/^kme_keys_issued_total (\d+)$/m.exec(await metricsPage())?.[1])
