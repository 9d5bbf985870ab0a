/** One KME as two processes on one database, one of which is killed, frozen or cut off. F03, F09, I16. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import pg from 'pg'
import { systemClock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import {
  eventually,
  keysOf,
  startNetwork,
  untilServed,
  type Answer,
  type KmeProcess,
  type Network,
  type Ports,
  type SaeClient,
} from '../network/network.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

interface Kme {
  readonly processes: readonly { processId: string; pid: number; duties: string[] }[]
}

let network: Network
let second: KmeProcess

beforeAll(async () => {
  network = await startNetwork({ processes: true, rateBlocksPerS: 20, logLevel: 'info' })
  second = await network.startAnother('kme-a')
})
afterAll(async () => {
  await network?.[Symbol.asyncDispose]()
})

const kmeAt = async (ports: Ports): Promise<Kme> => {
  const client = await network.adminAt(ports)
  const answer = await client.get('/api/v1/kme')
  client.close()
  return answer.json as unknown as Kme
}
const linkAt = async (ports: Ports): Promise<Record<string, unknown>> => {
  const client = await network.adminAt(ports)
  const answer = await client.get('/api/v1/links')
  client.close()
  return (answer.json['links'] as Record<string, unknown>[])[0]!
}
const WITHOUT_REDIS = 'processes.without-redis'
/** The level of such a line. */
const WARN = 40
/** Raised now. */
const alarmsAt = async (ports: Ports): Promise<Record<string, unknown>[]> => {
  const client = await network.adminAt(ports)
  const answer = await client.get('/api/v1/alarms')
  client.close()
  return (answer.json['alarms'] as Record<string, unknown>[]).filter(({ clearedAt }) => clearedAt === null)
}
const isUpAt = (ports: Ports) => async (): Promise<boolean> => {
  const link = await linkAt(ports)
  return link['state'] === 'up' && (link['newestBlockAgeMs'] as number) < 2500
}
const holderOf = async (ports: Ports, duty: string): Promise<number | undefined> =>
  (await kmeAt(ports)).processes.find(({ duties }) => duties.includes(duty))?.pid

describe('two processes of one KME', () => {
  it('see each other, share the duties, and show the same link', async () => {
    const first = network.ports.get('kme-a')!
    for (const ports of [first, second.ports]) {
      await eventually('both are there', async () => (await kmeAt(ports)).processes.length === 2)
      await eventually('the link is up', isUpAt(ports))
      expect((await linkAt(ports))['reason']).toBeNull()
    }
    const { processes } = await kmeAt(second.ports)
    expect(processes.flatMap(({ duties }) => duties).sort()).toEqual(['alarms', 'link:a-b', 'topology', 'upkeep'])
    // Written and read once a second each.
    await eventually('blocks are counted', async () => ((await linkAt(second.ports))['blocksAgreed'] as number) > 0)
    await eventually('a key rate', async () => ((await linkAt(first))['keyRateBps'] as number) > 0)
  })

  it('give one container to equal requests that come to both at once', async () => {
    const [one, other] = [await network.sae('alice'), await network.saeAt(second.ports, 'alice')]
    await eventually('both can issue', async () => {
      const answers = await Promise.all([one, other].map((client) => client.get('/api/v1/keys/bob/enc_keys')))
      return answers.every(({ status }) => status === 200)
    })
    let met = 0
    for (let round = 0; round < 12; round += 1) {
      const body = { number: 2, extension_optional: [{ openkme_request_id: systemRandom.uuid() }] }
      const ask = (client: SaeClient): Promise<Answer> => client.post('/api/v1/keys/bob/enc_keys', body)
      // Hints of two pools that know nothing of each other may be stale; asking again is what an SAE does.
      const insist = (client: SaeClient): Promise<Answer> => untilServed(() => ask(client))
      const [a, b] = await Promise.all([insist(one), insist(other)])
      expect(keysOf(b)).toEqual(keysOf(a))
      met += 1
    }
    expect(met).toBe(12)
    const twice = await network.query('kme-a', `SELECT request_id FROM assignment WHERE request_id IS NOT NULL`)
    expect(twice).toHaveLength(12)
  })

  const disableAndEnable = async (where: Ports): Promise<void> => {
    const anna = await network.saeAt(where, 'anna')
    expect((await anna.get('/api/v1/keys/bob/status')).status).toBe(200)
    const admin = await network.admin('kme-a')
    await admin.post('/api/v1/saes/anna/disable')
    const disabledMs = systemClock.monotonicMs()
    // An open connection is cut, or answers 401; a key is never given after a second.
    await eventually('anna is refused on her open connection', async () => {
      const answer = await anna.get('/api/v1/keys/bob/status').catch(() => undefined)
      return answer === undefined || answer.status === 401
    })
    expect(systemClock.monotonicMs() - disabledMs).toBeLessThan(timeLimitMs(1300))
    const again = await network.saeAt(where, 'anna')
    expect((await again.get('/api/v1/keys/bob/enc_keys')).status).toBe(401)
    await admin.post('/api/v1/saes/anna/enable')
    await eventually('anna is let in again', async () => {
      const client = await network.saeAt(where, 'anna')
      const answer = await client.get('/api/v1/keys/bob/status')
      client.close()
      return answer.status === 200
    })
  }

  it('refuse an SAE within a second after the other one was told to, also on open connections', () =>
    disableAndEnable(second.ports))

  it('refuse it also while no notices arrive', async () => {
    const client = new pg.Client({ connectionString: network.databases.get('kme-a')!.url })
    await client.connect()
    let stop = false
    let cut = 0
    const cutting = (async () => {
      while (!stop) {
        const { rows } = await client.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`,
        )
        cut += rows.length
      }
    })()
    try {
      await eventually('connections were cut', () => cut >= 2)
      await disableAndEnable(second.ports)
    } finally {
      stop = true
      await cutting
      await client.end()
    }
  })

  it('are told of by an alarm, because they have no Redis', async () => {
    const alarm = await eventually('the alarm', async () =>
      (await alarmsAt(second.ports)).find(({ name }) => name === WITHOUT_REDIS),
    )
    expect(alarm).toMatchObject({ severity: 'warning', subject: { processes: 2 } })
    const logs = second.log() + readFileSync(join(network.directory, 'kme-a.log'), 'utf8')
    const raised = logs.split('\n').filter((line) => line.includes(WITHOUT_REDIS))
    expect(raised).toHaveLength(1)
    expect(JSON.parse(raised[0]!)).toMatchObject({ level: WARN, msg: 'alarm raised' })
  })

  it('survive a frozen one: the link goes on within 10 s, and the thawed one lets go', async () => {
    const first = network.ports.get('kme-a')!
    const pid = await eventually('somebody has the link', () => holderOf(first, 'link:a-b'))
    const [holder, other] = pid === second.child.pid ? [second.ports, first] : [first, second.ports]
    process.kill(pid, 'SIGSTOP')
    try {
      await eventually(
        'the other has the link',
        async () => ![undefined, pid].includes(await holderOf(other, 'link:a-b')),
        timeLimitMs(10_000),
      )
      await eventually('keys come in again', isUpAt(other), timeLimitMs(5000))
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    await eventually('the thawed one knows', async () => (await holderOf(holder, 'link:a-b')) !== pid, timeLimitMs(2000))
    await eventually('both show the link up', async () => (await isUpAt(holder)()) && (await isUpAt(other)()))
    expect(await holderOf(holder, 'link:a-b')).toBe(await holderOf(other, 'link:a-b'))
  })

  it('survive a kill -9: the link goes on within 10 s', async () => {
    const first = network.ports.get('kme-a')!
    const pid = await eventually('somebody has the link', () => holderOf(first, 'link:a-b'))
    const isSecond = pid === second.child.pid
    if (isSecond) await second.kill()
    else await network.kill('kme-a')
    const killedMs = systemClock.monotonicMs()
    const survivor = isSecond ? first : second.ports
    await eventually('the link is up', async () => {
      const holder = await holderOf(survivor, 'link:a-b')
      return holder !== undefined && holder !== pid && (await isUpAt(survivor)())
    })
    expect(systemClock.monotonicMs() - killedMs).toBeLessThan(timeLimitMs(10_000))
    await eventually('the dead one is gone', async () => (await kmeAt(survivor)).processes.length === 1, timeLimitMs(8000))
    const names = async (): Promise<unknown[]> => (await alarmsAt(survivor)).map(({ name }) => name)
    await eventually('one process needs no Redis', async () => !(await names()).includes(WITHOUT_REDIS))
  })
})
