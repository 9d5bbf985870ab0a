/** `npm run bench:sessions`: what the seals between two KMEs cost. Two networks run side by side, one with sessions and one without, and
 *  take turns slice by slice, so that whatever else the machine does falls on both alike (docs/benchmarks.md). */
import Table from 'cli-table3'
import { loadavg } from 'node:os'
import { cpuTimeMs, treeCpuTimeMs } from './cpu-time.ts'
import { containerOf } from './key-container-size.ts'
import { startLoadGenerator } from './load.ts'
import { FULL_RATE_BLOCKS_PER_S, KEYS_PER_BLOCK, startNetwork, type BenchNetwork } from './network.ts'

const ROUNDS = 12
const SLICE_MS = 1000
const WARM_UP_MS = 150
const STOCK_KEYS = 120_000
/** More requests than a slice answers. */
const REQUESTS_MAX = 6000
const CONNECTIONS = [1, 16]

const signal = new AbortController()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(name, () => signal.abort(new Error(`stopped by ${name}`)))
}

interface Slice {
  readonly requests: number
  readonly requestsPerS: number
  readonly p99Ms: number
  readonly kmesCpuMs: number
  readonly postgresCpuMs: number
}

const cpuOf = ({ kmes, postgresPid }: BenchNetwork): { kmes: number; postgres: number } => ({
  kmes: (cpuTimeMs(kmes['kme-a'].pid) ?? NaN) + (cpuTimeMs(kmes['kme-b'].pid) ?? NaN),
  postgres: treeCpuTimeMs(postgresPid) ?? NaN,
})

const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return ((sorted[(sorted.length - 1) >> 1] ?? NaN) + (sorted[sorted.length >> 1] ?? NaN)) / 2
}
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

await using cleanUp = new AsyncDisposableStack()
const loadBefore = loadavg()[0] ?? NaN
const start = (sessions: 'required' | 'off'): Promise<BenchNetwork> =>
  startNetwork({ cleanUp, signal: signal.signal, maxStoredKeys: 2 * STOCK_KEYS, answerSizes: [1], peer: { sessions } })
const networks = [
  ['sessions', await start('required')],
  ['none', await start('off')],
] as const
const generator = await startLoadGenerator(signal.signal)
cleanUp.defer(() => generator.stop())

const measure = async (network: BenchNetwork, connections: number, isFirst: boolean): Promise<Slice> => {
  const { mine, theirs } = await network.level('kme-a')
  if (mine < REQUESTS_MAX) {
    await network.fill(Math.ceil((STOCK_KEYS - mine - theirs) / KEYS_PER_BLOCK), FULL_RATE_BLOCKS_PER_S)
  }
  let before = cpuOf(network)
  const result = await generator.run(
    {
      target: network.saeApi['kme-a'],
      connections,
      requests: { kind: 'same', path: '/api/v1/keys/bob/enc_keys', collectKeyIds: false },
      bodyBytes: containerOf(1).length,
      warmUpMs: isFirst ? 1000 : WARM_UP_MS,
      durationMs: SLICE_MS,
      maxRequests: REQUESTS_MAX,
    },
    () => (before = cpuOf(network)),
  )
  if (result.errors > 0) throw new Error(`${result.errors} answers were wrong, first: ${result.firstError ?? ''}`)
  const after = cpuOf(network)
  const { requests, durationMs, p99Ms } = result
  return {
    requests,
    requestsPerS: (requests * 1000) / durationMs,
    p99Ms,
    kmesCpuMs: after.kmes - before.kmes,
    postgresCpuMs: after.postgres - before.postgres,
  }
}

const table = new Table({
  head: ['enc_keys n=1', 'conn.', 'req/s', 'p99 ms', 'both KMEs', 'PostgreSQL', 'req/s of none'],
  colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
  style: { head: [], border: [], compact: true },
})
for (const connections of CONNECTIONS) {
  const slices = { sessions: [] as Slice[], none: [] as Slice[] }
  for (let round = 0; round < ROUNDS; round += 1) {
    process.stderr.write(`round ${round + 1} of ${ROUNDS}, ${connections} connections\n`)
    // Who comes first changes from round to round.
    for (const [name, network] of round % 2 === 0 ? networks : networks.toReversed()) {
      slices[name].push(await measure(network, connections, round === 0))
    }
  }
  for (const name of ['sessions', 'none'] as const) {
    const own = slices[name]
    const perRequest = (of: (slice: Slice) => number): string =>
      (sum(own.map(of)) / sum(own.map(({ requests }) => requests))).toFixed(3)
    const ratio = median(own.map((slice, i) => slice.requestsPerS / (slices.none[i]?.requestsPerS ?? NaN)))
    table.push([
      name,
      connections,
      median(own.map(({ requestsPerS }) => requestsPerS)).toFixed(0),
      median(own.map(({ p99Ms }) => p99Ms)).toFixed(2),
      perRequest(({ kmesCpuMs }) => kmesCpuMs),
      perRequest(({ postgresCpuMs }) => postgresCpuMs),
      `${(ratio * 100).toFixed(1)} %`,
    ])
  }
}
console.log(`Load average before the start (0 on an idle machine): ${loadBefore.toFixed(1)}.`)
console.log(`Each row: ${ROUNDS} slices of ${SLICE_MS / 1000} s, in turn with the other; CPU in milliseconds per request.`)
console.log(table.toString())
