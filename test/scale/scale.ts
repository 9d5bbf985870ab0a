/** `npm run scale`: two KMEs of several processes each, on a real Redis Cluster and then on a real Sentinel group, with a durable
 *  PostgreSQL and an emulated link; SAEs drive many keys through enc_keys and dec_keys in both directions. Then every key answered 200
 *  must have been fetched, equal at both ends, none twice, and the books of both ends must balance.
 *  Exit status: 0 all is well, 129 a promise was broken, 128 the books did not come to balance, 127 a KME died, 1 the run itself failed. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import Table from 'cli-table3'
import { Command, InvalidArgumentError, Option } from 'commander'
import { treeCpuTimeMs } from '../../bench/cpu-time.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { imbalances } from '../network/ledger.ts'
import { eventually, startNetwork, type KmeName, type Network } from '../network/network.ts'
import { startRedis, startRedisCluster, startSentinel, type RedisServer } from '../setup/redis-servers.ts'
import { startDatabase } from './durable-database.ts'
import { runLoad, type Account, type LoadFigures, type LoadResult } from './load.ts'
import { countDoubles, joinSorted, quantile } from './tally.ts'
import { measureThroughput } from './throughput.ts'

const EXIT_CRASHED = 127
const EXIT_NOT_HEALED = 128
const EXIT_VIOLATION = 129
const REPORT_INTERVAL_MS = 10_000
const LOOK_MS = 1000
const HEAL_DEADLINE_MS = 60_000
const SHOWN = 20
const KMES: readonly KmeName[] = ['kme-a', 'kme-b']
/** The SAEs of each load process. */
const PAIRS = [
  ['alice', 'bob'],
  ['anna', 'bert'],
] as const
/** As many blocks as the KMEs take. */
const LINK_BLOCKS_PER_S = 20_000
const BLOCK_BYTES = 8192

type RedisKind = 'cluster' | 'sentinel' | 'single'

const say = (text: string): void => void process.stdout.write(`${text}\n`)

interface Redis {
  readonly url: string
  readonly servers: readonly RedisServer[]
  readonly fault: () => Promise<void>
  readonly stop: () => Promise<void>
}

const startRedisOf = async (kind: RedisKind): Promise<Redis> => {
  if (kind === 'cluster') {
    const cluster = await startRedisCluster({ masters: 3 })
    return { ...cluster, fault: () => cluster.restart() }
  }
  if (kind === 'sentinel') {
    const group = await startSentinel({ sentinels: 3, replicas: 1 })
    return { ...group, servers: [...group.servers, ...group.sentinels], fault: () => group.kill9() }
  }
  const server = await startRedis()
  return { url: server.url, servers: [server], fault: () => server.restart(), stop: server.stop }
}

/** Milliseconds of processor time each kind of process has used. */
const cpuNow = (network: Network, databasePid: number, redis: Redis): Map<string, number> => {
  const own = process.cpuUsage()
  return new Map([
    ...KMES.map((name): [string, number] => [name, treeCpuTimeMs(network.pid(name)) ?? 0]),
    ['PostgreSQL', treeCpuTimeMs(databasePid) ?? 0],
    ['Redis', redis.servers.reduce((sum, server) => sum + (treeCpuTimeMs(server.pid()) ?? 0), 0)],
    ['link', (own.user + own.system) / 1000],
  ])
}

interface LogLine {
  readonly msg: string
  readonly reason?: string
  /** Of an alarm. */
  readonly name?: string
  readonly error?: { readonly message?: string; readonly cause?: { readonly message?: string } }
}

/** How often a KME logged what, as one line for each text. */
const logged = (network: Network, name: KmeName): string[] => {
  const counts = new Map<string, number>()
  for (const line of readFileSync(join(network.directory, `${name}.log`), 'utf8').split('\n')) {
    if (!line.startsWith('{"level"')) continue
    const { msg, reason, name: alarm, error } = JSON.parse(line) as LogLine
    const why = [alarm, reason, error?.message, error?.cause?.message].filter((part) => part !== undefined)
    const text = [msg, ...why].join(': ')
    counts.set(text, (counts.get(text) ?? 0) + 1)
  }
  return [...counts].map(([text, count]) => `${name} logged ${count} times: ${text}`)
}

interface Part {
  readonly kind: RedisKind
  readonly keys: number
  readonly seconds: number
  readonly encMs: Float32Array
  readonly decMs: Float32Array
  readonly refused: number
  readonly unanswered: number
  readonly cpuMs: ReadonlyMap<string, number>
  readonly violations: readonly string[]
  readonly unhealed: string | undefined
  readonly died: readonly string[]
}

interface Options {
  readonly keys: number
  readonly processes: number
  readonly redis: 'both' | RedisKind
  readonly faults: boolean
  readonly throughput: boolean
  readonly seconds: number
}

const accountOf = async (network: Network, saeId: string, kme: KmeName): Promise<Account> => {
  const { certificatePem, privateKeyPem } = await network.authorities.issue({ profile: 'sae', id: saeId })
  return { saeId, port: network.ports.get(kme)!.sae, certificatePem, privateKeyPem }
}

const runPart = async (kind: RedisKind, keys: number, options: Options): Promise<Part> => {
  await using cleanUp = new AsyncDisposableStack()
  const redis = await startRedisOf(kind)
  cleanUp.defer(() => redis.stop())
  const database = cleanUp.use(await startDatabase())
  const network = cleanUp.use(
    await startNetwork({
      processes: true,
      processArgs: ['--workers', String(options.processes)],
      redisUrl: redis.url,
      rateBlocksPerS: LINK_BLOCKS_PER_S,
      blockBytes: BLOCK_BYTES,
      bufferBlocks: 64,
      logLevel: 'warn',
      keys: { localStored: 0, maxStored: 100_000 },
      createDatabase: database.createDatabase,
    }),
  )
  const ending = new AbortController()
  const died: string[] = []
  const watch = (async () => {
    while (!ending.signal.aborted) {
      for (const name of KMES) if (network.hasEnded(name)) died.push(name)
      if (died.length > 0) ending.abort(new Error(`${died.join(' and ')} died`))
      await systemClock.sleep(LOOK_MS, ending.signal)
    }
  })()

  const progress = PAIRS.map((): LoadFigures => ({ issued: 0, fetched: 0, refused: 0, unanswered: 0 }))
  const total = (name: keyof LoadFigures): number => progress.reduce((sum, figures) => sum + figures[name], 0)
  const startMs = systemClock.monotonicMs()
  const seconds = (): number => (systemClock.monotonicMs() - startMs) / 1000
  const report = (): void =>
    say(
      `${kind} ${seconds().toFixed(0)} s: ${total('issued')} keys issued, ${total('fetched')} fetched (${Math.round(total('fetched') / seconds())}/s), ` +
        `${total('refused')} answers 503, ${total('unanswered')} requests without an answer`,
    )
  const reports = (async () => {
    while (!ending.signal.aborted) {
      await systemClock.sleep(REPORT_INTERVAL_MS, ending.signal)
      if (!ending.signal.aborted) report()
    }
  })()
  let faulted: Promise<void> | undefined
  const cpuBefore = cpuNow(network, database.pid, redis)
  const loads: Promise<LoadResult>[] = []
  for (const [at, [first, second]] of PAIRS.entries()) {
    const order = {
      caPem: network.authorities.certificatePem.kme,
      saes: [await accountOf(network, first, 'kme-a'), await accountOf(network, second, 'kme-b')] as const,
      keysPerDirection: Math.ceil(keys / PAIRS.length / 2),
      seed: 1000 * at,
    }
    const onProgress = (figures: LoadFigures): void => {
      progress[at] = figures
      if (!options.faults || faulted !== undefined || total('fetched') < keys / 2) return
      say(`${kind} ${seconds().toFixed(0)} s: Redis is killed with -9`)
      faulted = redis.fault()
    }
    loads.push(runLoad(order, onProgress, ending.signal))
  }
  let results: LoadResult[]
  try {
    results = await Promise.all(loads)
  } catch (error) {
    if (died.length === 0) throw error
    results = []
  }
  const took = seconds()
  const cpuAfter = cpuNow(network, database.pid, redis)
  ending.abort()
  await Promise.allSettled([watch, reports, ...loads])
  await faulted
  results.forEach((result, at) => (progress[at] = result))
  report()
  say(`${kind}: ${await database.deadlocks()} deadlocks in PostgreSQL`)
  for (const name of KMES) for (const line of logged(network, name).slice(0, SHOWN)) say(`${kind}: ${line}`)
  for (const { refusals } of results) for (const [text, count] of refusals) say(`${kind}: ${count} answers 503: ${text}`)

  const violations = results.flatMap((result) => result.violations)
  const doubleIds = countDoubles(results.map((result) => result.keyIds))
  const doubleKeys = countDoubles(results.map((result) => result.keys))
  if (doubleIds > 0) violations.push(`${doubleIds} key IDs were issued more than once`)
  if (doubleKeys > 0) violations.push(`${doubleKeys} keys were issued more than once`)
  if (total('issued') !== total('fetched'))
    violations.push(`${total('issued')} keys were issued, ${total('fetched')} were fetched`)
  let unhealed: string | undefined
  if (died.length === 0) {
    let faults: string[] = []
    try {
      // Blocks the pools have no room for stay in the devices.
      network.devices.pause()
      await eventually('the books balance', async () => (faults = await imbalances(network)).length === 0, HEAL_DEADLINE_MS)
    } catch (error) {
      unhealed = (error as Error).message
      violations.push(...faults.map((fault) => `books: ${fault}`))
    }
  }
  // A process that was killed takes its figures with it.
  const cpuMs = new Map([...cpuAfter].map(([name, ms]) => [name, Math.max(0, ms - (cpuBefore.get(name) ?? 0))]))
  cpuMs.set(
    'load',
    results.reduce((sum, result) => sum + result.cpuMs, 0),
  )
  return {
    kind,
    keys: total('fetched'),
    seconds: took,
    encMs: joinSorted(results.map((result) => result.encMs)),
    decMs: joinSorted(results.map((result) => result.decMs)),
    refused: total('refused'),
    unanswered: total('unanswered'),
    cpuMs,
    violations,
    unhealed,
    died,
  }
}

const printParts = (parts: readonly Part[]): void => {
  const kinds = [...parts[0]!.cpuMs.keys()]
  const head = ['Redis', 'keys', 's', 'keys/s', 'requests', 'enc p50 ms', 'p99', 'dec p50 ms', 'p99', '503', ...kinds]
  const table = new Table({ head, style: { head: [], border: [], compact: true } })
  for (const part of parts) {
    const { encMs, decMs } = part
    const latencies = [quantile(encMs, 0.5), quantile(encMs, 0.99), quantile(decMs, 0.5), quantile(decMs, 0.99)]
    table.push([
      part.kind,
      part.keys,
      part.seconds.toFixed(1),
      Math.round(part.keys / part.seconds),
      encMs.length + decMs.length,
      ...latencies.map((ms) => ms.toFixed(1)),
      part.refused,
      ...kinds.map((kind) => ((part.cpuMs.get(kind) ?? 0) / (part.keys / 1000)).toFixed(1)),
    ])
  }
  say(table.toString())
  say('Columns by the names of processes: milliseconds of processor time per 1,000 keys, from the device to the slave.')
}

const scale = async (options: Options): Promise<void> => {
  if (options.throughput) {
    say(await measureThroughput({ seconds: options.seconds, say }))
    return
  }
  const kinds: RedisKind[] = options.redis === 'both' ? ['cluster', 'sentinel'] : [options.redis]
  const parts: Part[] = []
  for (const kind of kinds) parts.push(await runPart(kind, Math.ceil(options.keys / kinds.length), options))
  printParts(parts)
  const violations = parts.flatMap((part) => part.violations.map((what) => `${part.kind}: ${what}`))
  for (const what of violations.slice(0, SHOWN)) say(`VIOLATION ${what}`)
  if (violations.length > SHOWN) say(`... and ${violations.length - SHOWN} more`)
  for (const part of parts) {
    if (part.unhealed !== undefined) say(`NOT HEALED ${part.kind}: ${part.unhealed}`)
    if (part.died.length > 0) say(`DIED ${part.kind}: ${part.died.join(' and ')}`)
  }
  const keys = parts.reduce((sum, part) => sum + part.keys, 0)
  const died = parts.some((part) => part.died.length > 0)
  const isWhole = violations.length === 0 && !died && parts.every((part) => part.unhealed === undefined)
  if (isWhole) say(`${keys} keys: 0 twice, 0 lost, 0 wrong; the books of both ends balance`)
  process.exitCode = died
    ? EXIT_CRASHED
    : parts.some((part) => part.unhealed !== undefined)
      ? EXIT_NOT_HEALED
      : violations.length > 0
        ? EXIT_VIOLATION
        : 0
}

const whole = (text: string): number => {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('a whole number from 1')
  return value
}
const program = new Command('scale')
  .option('--keys <number>', 'how many keys to drive through', whole, 1_000_000)
  .option('--processes <number>', 'processes of each KME', whole, 4)
  .addOption(new Option('--redis <kind>', 'what Redis').choices(['both', 'cluster', 'sentinel', 'single']).default('both'))
  .option('--faults', 'kill Redis with -9 half-way', false)
  .option('--throughput', 'instead: enc_keys at 64 connections with 1, 2 and 4 processes', false)
  .option('--seconds <number>', 'of each measurement of --throughput', whole, 5)
  .parse()
await scale(program.opts())
