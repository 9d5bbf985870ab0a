/** How much 1, 2 and 4 processes of a KME on Redis serve, beside one process that keeps its pool in memory; all in one run. */
import Table from 'cli-table3'
import { startLoadGenerator, type LoadGenerator, type Result } from '../../bench/load.ts'
import { eventually, quieten, startNetwork, type Network } from '../network/network.ts'
import { startRedis } from '../setup/redis-servers.ts'
import { startDatabase } from './durable-database.ts'

const CONNECTIONS = 64
const BATCH = 100
const ROUNDS = 2
const WARM_UP_MS = 1000
const LINK_BLOCKS_PER_S = 20_000
const BLOCK_BYTES = 8192
/** Of the keys kme-a may issue: enough for a measurement without a loan. */
const STOCK_KEYS = 120_000
const FILL_DEADLINE_MS = 120_000

interface Setup {
  readonly name: string
  readonly workers: number
  readonly redis: boolean
}

const SETUPS: readonly Setup[] = [
  { name: '1 process, memory', workers: 1, redis: false },
  { name: '1 process, Redis', workers: 1, redis: true },
  { name: '2 processes, Redis', workers: 2, redis: true },
  { name: '4 processes, Redis', workers: 4, redis: true },
]

const poolAtKmeA = async (network: Network): Promise<{ mine: number; theirs: number }> => {
  const admin = await network.admin('kme-a')
  const answer = await admin.get('/api/v1/pools')
  admin.close()
  const pools = answer.json['pools'] as { kmeId: string; mine: number; theirs: number }[]
  return pools.find(({ kmeId }) => kmeId === 'kme-b')!
}

/** Fills the pool and keeps the link silent from then on. @returns the keys kme-a may issue. */
const fill = async (network: Network): Promise<number> => {
  network.devices.resume()
  const isFull = async (): Promise<boolean> => (await poolAtKmeA(network)).mine >= STOCK_KEYS
  await eventually('the pool is full', isFull, FILL_DEADLINE_MS)
  await quieten(network)
  return (await poolAtKmeA(network)).mine
}

const measure = async (network: Network, generator: LoadGenerator, number: number, durationMs: number): Promise<Result> => {
  const stock = await fill(network)
  const { certificatePem, privateKeyPem } = await network.authorities.issue({ profile: 'sae', id: 'alice' })
  const result = await generator.run({
    target: {
      port: network.ports.get('kme-a')!.sae,
      certificatePem,
      privateKeyPem,
      caPem: network.authorities.certificatePem.kme,
    },
    connections: CONNECTIONS,
    requests: { kind: 'same', path: `/api/v1/keys/bob/enc_keys?number=${number}`, collectKeyIds: false },
    warmUpMs: WARM_UP_MS,
    durationMs,
    maxRequests: Math.floor((stock * 0.95) / number) - CONNECTIONS,
  })
  if (result.errors > 0) throw new Error(`${result.errors} requests failed, first: ${result.firstError ?? ''}`)
  return result
}

/** @returns a table of requests and keys per second. */
export const measureThroughput = async (options: { seconds: number; say: (text: string) => void }): Promise<string> => {
  await using cleanUp = new AsyncDisposableStack()
  const generator = await startLoadGenerator(new AbortController().signal)
  cleanUp.defer(() => generator.stop())
  const found = new Map<string, Result[]>()
  for (let round = 1; round <= ROUNDS; round += 1) {
    for (const setup of SETUPS) {
      await using part = new AsyncDisposableStack()
      const redis = setup.redis ? await startRedis() : undefined
      part.defer(async () => redis?.stop())
      const database = part.use(await startDatabase())
      const network = part.use(
        await startNetwork({
          processes: true,
          processArgs: ['--workers', String(setup.workers)],
          ...(redis !== undefined && { redisUrl: redis.url }),
          rateBlocksPerS: LINK_BLOCKS_PER_S,
          blockBytes: BLOCK_BYTES,
          bufferBlocks: 64,
          logLevel: 'warn',
          keys: { localStored: 0, maxStored: 4 * STOCK_KEYS },
          createDatabase: database.createDatabase,
        }),
      )
      for (const number of [1, BATCH]) {
        options.say(`round ${round} of ${ROUNDS}: ${setup.name}, enc_keys n=${number}`)
        const result = await measure(network, generator, number, (options.seconds * 1000) / ROUNDS)
        const name = `${setup.name} ${number}`
        found.set(name, [...(found.get(name) ?? []), result])
      }
    }
  }
  const head = ['', 'n=1 req/s', 'p50 ms', 'p99 ms', `n=${BATCH} keys/s`, 'p50 ms', 'p99 ms']
  const table = new Table({ head, style: { head: [], border: [], compact: true } })
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
  for (const { name } of SETUPS) {
    const cells = [1, BATCH].flatMap((number) => {
      const results = found.get(`${name} ${number}`)!
      const rate = mean(results.map(({ requests, durationMs }) => (requests * 1000 * number) / durationMs))
      return [
        String(Math.round(rate)),
        mean(results.map(({ p50Ms }) => p50Ms)).toFixed(1),
        mean(results.map(({ p99Ms }) => p99Ms)).toFixed(1),
      ]
    })
    table.push([name, ...cells])
  }
  return table.toString()
}
