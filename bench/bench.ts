/** `npm run bench`: two KMEs, PostgreSQL and their ceilings measured in one run, in one table (docs/benchmarks.md). */
import { Command, InvalidArgumentError } from 'commander'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Table from 'cli-table3'
import { cpuTimeMs, treeCpuTimeMs } from './cpu-time.ts'
import { containerOf } from './key-container-size.ts'
import { startLoadGenerator, type Job, type LoadGenerator, type Requests, type Result, type Target } from './load.ts'
import { FULL_RATE_BLOCKS_PER_S, KEYS_PER_BLOCK, startNetwork, type BenchNetwork, type KmeName } from './network.ts'

interface Options {
  readonly seconds: number
  readonly quick: boolean
  readonly long: boolean
  readonly only?: string
  readonly json?: string
  readonly profile?: string
}

const CONNECTIONS = [1, 16, 64]
const BATCH = 100
const STATUS_PATH = '/api/v1/keys/bob/status'
const ENC_PATH = '/api/v1/keys/bob/enc_keys'
/** alice, homed at kme-a, fetches what bob drew at kme-b: so the SAE that is measured always calls kme-a, and the keys
 *  issued by both KMEs are used up evenly. */
const DEC_PATH = '/api/v1/keys/bob/dec_keys'
const PREFETCH_PATH = '/api/v1/keys/alice/enc_keys'
/** More stock than this per request cannot be foreseen; a slice that runs out of keys ends early. */
const FIRST_GUESS_REQUESTS_PER_S = { one: 4000, batch: 600 }
const STOCK_SLICE_REQUESTS = 240
const STOCK_SLICES = 12
const DRAW_ATTEMPTS = 5
const DRAW_AGAIN_MS = 3000

type ServerName = KmeName | 'PostgreSQL' | 'baseline'

/** A row of the table, without the number of connections. */
interface Subject {
  readonly name: string
  readonly keysPerRequest: number
  readonly bodyBytes: number | undefined
  readonly target: Target
  readonly requests: Requests
  readonly baselinePid?: number
  /** The row it is compared with. */
  readonly ceiling?: string
  /** Whose pool it draws on. */
  readonly drawsFrom?: KmeName
}

interface Slice extends Result {
  readonly cpuPerRequestMs: Partial<Record<ServerName, number>>
}

interface Cell {
  readonly subject: Subject
  readonly connections: number
  readonly slices: Slice[]
}

const blocksFor = (keys: number): number => Math.ceil(keys / KEYS_PER_BLOCK)

const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? (sorted[middle] ?? NaN) : ((sorted[middle - 1] ?? NaN) + (sorted[middle] ?? NaN)) / 2
}

const requestsPerS = ({ requests, durationMs }: Slice): number => (requests * 1000) / durationMs

const subjectsOf = (network: BenchNetwork): Subject[] => {
  const one = containerOf(1).length
  const batch = containerOf(BATCH).length
  const same = (path: string): Requests => ({ kind: 'same', path, collectKeyIds: false })
  const baseline = (kind: 'https' | 'express', name: string, number: number): Subject => ({
    name: `${name}, size of n=${number}`,
    keysPerRequest: 0,
    bodyBytes: containerOf(number).length,
    target: network.baseline[kind].target,
    requests: same(`/${number}`),
    baselinePid: network.baseline[kind].pid,
  })
  const ceilingOne = 'lean Express 5, size of n=1'
  const ceilingBatch = `lean Express 5, size of n=${BATCH}`
  const atKmeA = { target: network.saeApi['kme-a'] }
  return [
    baseline('https', 'bare node:https', 1),
    baseline('https', 'bare node:https', BATCH),
    baseline('express', 'lean Express 5', 1),
    baseline('express', 'lean Express 5', BATCH),
    { ...atKmeA, name: 'status', keysPerRequest: 0, bodyBytes: undefined, requests: same(STATUS_PATH), ceiling: ceilingOne },
    {
      ...atKmeA,
      name: 'enc_keys n=1',
      keysPerRequest: 1,
      bodyBytes: one,
      requests: same(ENC_PATH),
      ceiling: ceilingOne,
      drawsFrom: 'kme-a',
    },
    {
      ...atKmeA,
      name: `enc_keys n=${BATCH}`,
      keysPerRequest: BATCH,
      bodyBytes: batch,
      requests: same(`${ENC_PATH}?number=${BATCH}`),
      ceiling: ceilingBatch,
      drawsFrom: 'kme-a',
    },
    {
      ...atKmeA,
      name: 'dec_keys n=1',
      keysPerRequest: 1,
      bodyBytes: one,
      requests: { kind: 'dec_keys', path: DEC_PATH, number: 1 },
      ceiling: ceilingOne,
      drawsFrom: 'kme-b',
    },
    {
      ...atKmeA,
      name: `dec_keys n=${BATCH}`,
      keysPerRequest: BATCH,
      bodyBytes: batch,
      requests: { kind: 'dec_keys', path: DEC_PATH, number: BATCH },
      ceiling: ceilingBatch,
      drawsFrom: 'kme-b',
    },
  ]
}

/** Runs jobs against the network and keeps it in keys. */
const createMeter = (network: BenchNetwork, generator: LoadGenerator, stockKeys: number) => {
  let keyIdsHeld = 0
  const drawErrors: string[] = []

  const cpuNow = (baselinePid: number | undefined): Record<ServerName, number | undefined> => ({
    'kme-a': cpuTimeMs(network.kmes['kme-a'].pid),
    'kme-b': cpuTimeMs(network.kmes['kme-b'].pid),
    PostgreSQL: treeCpuTimeMs(network.postgresPid),
    baseline: baselinePid === undefined ? undefined : cpuTimeMs(baselinePid),
  })

  const measure = async (job: Job, baselinePid?: number): Promise<Slice> => {
    let before = cpuNow(baselinePid)
    const result = await generator.run(job, () => (before = cpuNow(baselinePid)))
    const after = cpuNow(baselinePid)
    keyIdsHeld = result.keyIdsHeld
    const perRequest = (name: ServerName): Partial<Record<ServerName, number>> => {
      const [from, to] = [before[name], after[name]]
      return from === undefined || to === undefined ? {} : { [name]: (to - from) / result.requests }
    }
    const names: ServerName[] = baselinePid === undefined ? ['kme-a', 'kme-b', 'PostgreSQL'] : ['baseline']
    return { ...result, cpuPerRequestMs: Object.assign({}, ...names.map(perRequest)) as Slice['cpuPerRequestMs'] }
  }

  /** Draws keys at a KME without measuring. */
  const draw = (kme: KmeName, keys: number, collectKeyIds: boolean): Promise<Result> =>
    measure({
      target: network.saeApi[kme],
      connections: 8,
      requests: { kind: 'same', path: `${kme === 'kme-a' ? ENC_PATH : PREFETCH_PATH}?number=${BATCH}`, collectKeyIds },
      bodyBytes: containerOf(BATCH).length,
      warmUpMs: 0,
      durationMs: 120_000,
      maxRequests: Math.ceil(keys / BATCH),
    })

  /** Fills the pools until `kme` can issue `keys`. */
  const stockUp = async (kme: KmeName, keys: number): Promise<void> => {
    for (;;) {
      const { mine, theirs } = await network.level(kme)
      if (mine >= keys) return
      // Blocks fill both halves evenly. Where the other half has too much, that is used up first, or the pool would be full.
      const room = stockKeys - mine - theirs
      const shortage = keys - mine
      if (room < 2 * shortage)
        await draw(kme === 'kme-a' ? 'kme-b' : 'kme-a', Math.min(theirs, 2 * shortage - room + 10 * BATCH), false)
      await network.fill(blocksFor(2 * (keys - (await network.level(kme)).mine)), FULL_RATE_BLOCKS_PER_S)
    }
  }

  return {
    measure,
    /** What went wrong outside the measured slices. */
    drawErrors,
    /** Makes sure that a slice of the subject finds enough keys. */
    prepare: async ({ drawsFrom, requests, keysPerRequest }: Subject, wantedRequests: number): Promise<void> => {
      if (drawsFrom === undefined) return
      const keys = Math.min(wantedRequests * keysPerRequest, Math.floor(stockKeys * 0.45))
      if (requests.kind === 'same') return stockUp(drawsFrom, keys)
      if (keyIdsHeld >= keys) return
      for (let attempt = 1; keyIdsHeld < keys; attempt += 1) {
        const missing = Math.ceil((keys - keyIdsHeld) / BATCH) * BATCH
        await stockUp(drawsFrom, missing)
        const { errors, firstError } = await draw(drawsFrom, missing, true)
        if (errors === 0) return
        if (attempt === DRAW_ATTEMPTS) throw new Error(`keys for dec_keys could not be drawn: ${firstError ?? ''}`)
        drawErrors.push(`${errors} enc_keys before a slice of dec_keys were refused, first: ${firstError ?? ''}`)
        await sleep(DRAW_AGAIN_MS)
      }
    },
  }
}

type Meter = ReturnType<typeof createMeter>

/** Every cell in several short slices, round after round, so that a bad second of the machine spoils no cell alone. */
const measureCells = async (
  meter: Meter,
  cells: readonly Cell[],
  seconds: number,
  rounds: number,
  say: (text: string) => void,
) => {
  const sliceMs = (seconds * 1000) / rounds
  for (let round = 1; round <= rounds; round += 1) {
    for (const cell of cells) {
      const { subject, connections } = cell
      say(`round ${round} of ${rounds}: ${subject.name}, ${connections} connections`)
      const warmUpMs = round === 1 ? 1000 : 150
      const guess = subject.keysPerRequest > 1 ? FIRST_GUESS_REQUESTS_PER_S.batch : FIRST_GUESS_REQUESTS_PER_S.one
      const rate = cell.slices.length === 0 ? guess : Math.max(...cell.slices.map(requestsPerS)) * 1.2
      const wanted = Math.ceil((rate * (warmUpMs + sliceMs)) / 1000) + connections
      await meter.prepare(subject, wanted)
      const job: Job = {
        target: subject.target,
        connections,
        requests: subject.requests,
        ...(subject.bodyBytes !== undefined && { bodyBytes: subject.bodyBytes }),
        warmUpMs,
        durationMs: sliceMs,
        maxRequests: subject.drawsFrom === undefined ? Number.MAX_SAFE_INTEGER : wanted,
      }
      cell.slices.push(await meter.measure(job, subject.baselinePid))
    }
  }
}

interface StockFigure {
  readonly storedKeys: number
  readonly requestsPerS: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly cpuPerRequestMs: Partial<Record<ServerName, number>>
  readonly errors: number
  readonly firstError: string | undefined
}

/** enc_keys n=1 while the stock is kept at one level: short slices, topped up in between. */
const measureAtStock = async (network: BenchNetwork, meter: Meter, storedKeys: number): Promise<StockFigure> => {
  const slices: Slice[] = []
  // A slice must neither empty a small stock nor make the KME borrow.
  const maxRequests = Math.min(STOCK_SLICE_REQUESTS, Math.floor(storedKeys / 4))
  for (let i = 0; i < STOCK_SLICES + 1; i += 1) {
    const { mine, theirs } = await network.level('kme-a')
    const blocks = blocksFor(Math.max(storedKeys - mine - theirs, 2 * (maxRequests + 1 - mine)))
    // Slowly, so that the stock is what it should be.
    if (blocks > 0) await network.fill(blocks, 200)
    const slice = await meter.measure({
      target: network.saeApi['kme-a'],
      connections: 16,
      requests: { kind: 'same', path: ENC_PATH, collectKeyIds: false },
      bodyBytes: containerOf(1).length,
      warmUpMs: 0,
      durationMs: 10_000,
      maxRequests,
    })
    // The first one warms up.
    if (i > 0) slices.push(slice)
  }
  return { storedKeys, ...summaryOf(slices) }
}

const summaryOf = (slices: readonly Slice[]) => {
  const requests = slices.reduce((sum, slice) => sum + slice.requests, 0)
  const names = Object.keys(slices[0]?.cpuPerRequestMs ?? {}) as ServerName[]
  // Ticks of 10 ms are coarse for one slice, so CPU is summed over all.
  const cpu = names.map((name) => [
    name,
    slices.reduce((sum, s) => sum + (s.cpuPerRequestMs[name] ?? 0) * s.requests, 0) / requests,
  ])
  return {
    requestsPerS: median(slices.map(requestsPerS)),
    p50Ms: median(slices.map(({ p50Ms }) => p50Ms)),
    p99Ms: median(slices.map(({ p99Ms }) => p99Ms)),
    cpuPerRequestMs: Object.fromEntries(cpu) as Partial<Record<ServerName, number>>,
    errors: slices.reduce((sum, { errors }) => sum + errors, 0),
    firstError: slices.find(({ firstError }) => firstError !== undefined)?.firstError,
  }
}

interface FillFigure {
  readonly keys: number
  readonly keysPerS: number
  readonly blocksPerS: number
  readonly cpuPerKeyMs: Partial<Record<ServerName, number>>
}

/** Fills the pools as fast as the KMEs take blocks. */
const measureFill = async (network: BenchNetwork, untilKeys: number): Promise<FillFigure> => {
  const cpu = (): Partial<Record<ServerName, number | undefined>> => ({
    'kme-a': cpuTimeMs(network.kmes['kme-a'].pid),
    'kme-b': cpuTimeMs(network.kmes['kme-b'].pid),
    PostgreSQL: treeCpuTimeMs(network.postgresPid),
  })
  const { mine, theirs } = await network.level('kme-a')
  const [cpuBefore, startMs] = [cpu(), performance.now()]
  const { keys, endMs } = await network.fill(blocksFor(untilKeys - mine - theirs), FULL_RATE_BLOCKS_PER_S)
  const cpuAfter = cpu()
  const keysPerS = (keys * 1000) / (endMs - startMs)
  const names = (Object.keys(cpuBefore) as ServerName[]).filter((name) => cpuBefore[name] !== undefined)
  const perKey = names.map((name) => [name, ((cpuAfter[name] ?? 0) - (cpuBefore[name] ?? 0)) / keys])
  return {
    keys,
    keysPerS,
    blocksPerS: keysPerS / KEYS_PER_BLOCK,
    cpuPerKeyMs: Object.fromEntries(perKey) as FillFigure['cpuPerKeyMs'],
  }
}

/** Functions with the most time of their own, from a V8 CPU profile. */
const hottest = (file: string, count: number): string[] => {
  interface Profile {
    nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number } }[]
    samples: number[]
    timeDeltas: number[]
  }
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(file, 'utf8')) as Profile
  const nameOf = new Map(
    nodes.map(({ id, callFrame: { functionName, url, lineNumber } }) => {
      const place = url === '' ? '' : ` ${url.replace(/^.*[/](node_modules|src)[/]/, '$1/')}:${lineNumber + 1}`
      return [id, `${functionName === '' ? '(anonymous)' : functionName}${place}`]
    }),
  )
  const selfUs = new Map<string, number>()
  let totalUs = 0
  samples.forEach((id, i) => {
    const name = nameOf.get(id) ?? '?'
    // Idle time, and what taking the profile costs.
    if (name === '(idle)' || name.startsWith('post node:inspector')) return
    totalUs += timeDeltas[i] ?? 0
    selfUs.set(name, (selfUs.get(name) ?? 0) + (timeDeltas[i] ?? 0))
  })
  return [...selfUs]
    .sort(([, a], [, b]) => b - a)
    .slice(0, count)
    .map(([name, us]) => `${((us / totalUs) * 100).toFixed(1).padStart(5)} %  ${name}`)
}

/** Takes CPU profiles of both KMEs while each kind of request runs on 16 connections. */
const profile = async (network: BenchNetwork, meter: Meter, subjects: readonly Subject[], directory: string, seconds: number) => {
  mkdirSync(directory, { recursive: true })
  const kmes = Object.entries(network.kmes)
  for (const subject of subjects.filter(({ baselinePid }) => baselinePid === undefined)) {
    const cell: Cell = { subject, connections: 16, slices: [] }
    await measureCells(meter, [cell], 1, 1, () => undefined)
    await meter.prepare(subject, Math.ceil(requestsPerS(cell.slices[0]!) * seconds * 1.2))
    await Promise.all(kmes.map(([, child]) => child.hook({ hook: 'profile' })))
    await measureCells(meter, [cell], seconds, 1, () => undefined)
    for (const [name, child] of kmes) {
      const file = join(directory, `${subject.name.replace(/\W+/g, '-')}.${name}.cpuprofile`)
      await child.hook({ hook: 'save-profile', file })
      console.log(`\n${subject.name}, ${name} (${file})\n${hottest(file, 25).join('\n')}`)
    }
  }
}

const figure = (value: number | undefined, digits: number): string =>
  value === undefined || Number.isNaN(value)
    ? '-'
    : value.toLocaleString('en', { maximumFractionDigits: digits, minimumFractionDigits: digits })

const newTable = (head: readonly string[], leftColumns: number) =>
  new Table({
    head: [...head],
    colAligns: head.map((_, i) => (i < leftColumns ? 'left' : 'right')),
    style: { head: [], border: [], compact: true },
  })

const printCells = (cells: readonly Cell[]) => {
  const columns = [
    '',
    'conn.',
    'req/s',
    'keys/s',
    'p50 ms',
    'p99 ms',
    'kme-a',
    'kme-b',
    'PostgreSQL',
    'baseline',
    'of Express',
    'errors',
  ]
  const table = newTable(columns, 1)
  const rows = cells.map((cell) => {
    const { subject, connections } = cell
    const summary = summaryOf(cell.slices)
    const ceiling = cells.find((other) => other.subject.name === subject.ceiling && other.connections === connections)
    // Round by round, since the machine is not equally fast in all of them.
    const ratio = ceiling && median(cell.slices.map((slice, i) => requestsPerS(slice) / requestsPerS(ceiling.slices[i]!)))
    const cpu = (name: ServerName): string => figure(summary.cpuPerRequestMs[name], 3)
    table.push([
      subject.name,
      connections,
      figure(summary.requestsPerS, 0),
      subject.keysPerRequest === 0 ? '-' : figure(summary.requestsPerS * subject.keysPerRequest, 0),
      figure(summary.p50Ms, 2),
      figure(summary.p99Ms, 2),
      cpu('kme-a'),
      cpu('kme-b'),
      cpu('PostgreSQL'),
      cpu('baseline'),
      ratio === undefined ? '-' : `${figure(ratio * 100, 0)} %`,
      summary.errors,
    ])
    return {
      name: subject.name,
      connections,
      keysPerRequest: subject.keysPerRequest,
      ...summary,
      ofExpress: ratio,
      slices: cell.slices,
    }
  })
  console.log('CPU columns: milliseconds of processor time per request, user and system.')
  console.log(table.toString())
  return rows
}

const printStock = (figures: readonly StockFigure[]): void => {
  const table = newTable(['stored keys', 'req/s', 'p50 ms', 'p99 ms', 'kme-a', 'kme-b', 'PostgreSQL', 'errors'], 0)
  for (const { storedKeys, requestsPerS, p50Ms, p99Ms, cpuPerRequestMs, errors } of figures) {
    const cpu = (name: ServerName): string => figure(cpuPerRequestMs[name], 3)
    table.push([
      figure(storedKeys, 0),
      figure(requestsPerS, 0),
      figure(p50Ms, 2),
      figure(p99Ms, 2),
      cpu('kme-a'),
      cpu('kme-b'),
      cpu('PostgreSQL'),
      errors,
    ])
  }
  console.log('\nCost per key by stock: enc_keys n=1, 16 connections, short slices')
  console.log(table.toString())
}

const bench = async (options: Options, cleanUp: AsyncDisposableStack, signal: AbortSignal): Promise<void> => {
  const stockKeys = options.long ? 1_250_000 : options.quick ? 150_000 : 400_000
  const rounds = options.quick ? 2 : 4
  const say = (text: string): void => void process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text}` : `${text}\n`)

  // Somebody else's work on these cores shows in every figure.
  const loadBefore = loadavg()[0] ?? 0
  say('starting PostgreSQL, two KMEs, devices and baselines')
  const network = await startNetwork({ cleanUp, signal, maxStoredKeys: Math.ceil(stockKeys * 1.25), answerSizes: [1, BATCH] })
  const generator = await startLoadGenerator(signal)
  cleanUp.defer(() => generator.stop())
  const meter = createMeter(network, generator, stockKeys)
  const subjects = subjectsOf(network).filter(
    ({ name, baselinePid }) => options.only === undefined || baselinePid !== undefined || name.includes(options.only),
  )

  const facts = {
    date: new Date().toISOString(),
    processor: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    node: process.version,
    postgres: network.postgresVersion,
    loadBefore,
    secondsPerCell: options.seconds,
    rounds,
  }
  console.log(`OpenKME benchmark, ${facts.date}`)
  console.log(`${facts.cores} cores (${facts.processor}), Node ${facts.node}, PostgreSQL ${facts.postgres}`)
  console.log('Both KMEs, PostgreSQL with both databases, the devices and the load generator share these cores.')
  console.log(`Load average before the start (0 on an idle machine): ${figure(loadBefore, 1)}.`)
  console.log(`Each cell: ${options.seconds} s in ${rounds} slices, medians of the slices; keys of 256 bits; mutual TLS 1.3.\n`)

  const stock: StockFigure[] = []
  const stockLevels = options.only === undefined ? [1e3, 1e4, 1e5, ...(options.long ? [1e6] : [])] : []
  let fill: FillFigure | undefined
  for (const storedKeys of stockLevels) {
    say(`cost per key with ${storedKeys} keys in stock`)
    if (storedKeys > 20_000) fill = await measureFill(network, storedKeys)
    // Compiled code is faster than code met for the first time; that must not look like an effect of the stock.
    for (let warmUps = storedKeys === 1e3 ? 4 : 1; warmUps > 0; warmUps -= 1)
      stock[stock.length] = await measureAtStock(network, meter, storedKeys)
    stock.splice(0, stock.length, ...new Map(stock.map((entry) => [entry.storedKeys, entry])).values())
  }
  say('filling the pools')
  const rest = await measureFill(network, stockKeys)
  fill = fill !== undefined && fill.keys > rest.keys ? fill : rest
  const { cpuPerKeyMs } = fill
  console.log(
    `Filling: ${figure(fill.blocksPerS, 0)} blocks/s, ${figure(fill.keysPerS, 0)} keys/s agreed and stored at both ends (${figure(fill.keys, 0)} keys); ` +
      `CPU per 1,000 keys: kme-a ${figure((cpuPerKeyMs['kme-a'] ?? NaN) * 1000, 1)} ms, kme-b ${figure((cpuPerKeyMs['kme-b'] ?? NaN) * 1000, 1)} ms, ` +
      `PostgreSQL ${figure((cpuPerKeyMs.PostgreSQL ?? NaN) * 1000, 1)} ms\n`,
  )

  if (options.profile !== undefined) return profile(network, meter, subjects, options.profile, options.seconds)

  const cells: Cell[] = subjects.flatMap((subject) => CONNECTIONS.map((connections) => ({ subject, connections, slices: [] })))
  await measureCells(meter, cells, options.seconds, rounds, say)
  say('')
  const rows = printCells(cells)
  if (stock.length > 0) printStock(stock)
  if (options.json !== undefined)
    writeFileSync(options.json, `${JSON.stringify({ facts, fill, cells: rows, stock }, undefined, 2)}\n`)

  const failed = [...rows, ...stock.map((entry) => ({ ...entry, name: `stock ${entry.storedKeys}`, connections: 16 }))].filter(
    ({ errors }) => errors > 0,
  )
  for (const { name, connections, errors, firstError } of failed) {
    console.error(`${name}, ${connections} connections: ${errors} answers were wrong, first: ${firstError ?? ''}`)
  }
  for (const problem of meter.drawErrors) console.error(problem)
  if (failed.length > 0 || meter.drawErrors.length > 0)
    throw new Error('The figures are not valid: not every request was answered as it should.')
}

const seconds = (text: string): number => {
  const value = Number(text)
  if (!(value > 0 && value <= 600)) throw new InvalidArgumentError('Give a number of seconds up to 600.')
  return value
}

const program = new Command('bench')
  .description('Measures two KMEs against the ceilings of this machine (docs/benchmarks.md)')
  .option('--seconds <n>', 'measured time per cell', seconds)
  .option('--quick', '1 second per cell and a smaller stock: a first look', false)
  .option('--long', 'also the cost per key with 1,000,000 keys in stock', false)
  .option('--only <text>', 'only KME rows whose name contains this; no cost by stock')
  .option('--json <file>', 'write the figures of every slice to a file')
  .option('--profile <directory>', 'no table: CPU profiles of both KMEs for each kind of request')
  .parse()
const given = program.opts<Partial<Options> & Pick<Options, 'quick' | 'long'>>()

const interrupted = new AbortController()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  // Once: a second Ctrl-C ends the bench at once, and its children end with it.
  process.once(name, () => interrupted.abort(new Error(`stopped by ${name}`)))
}
const cleanUp = new AsyncDisposableStack()
try {
  await bench({ ...given, seconds: given.seconds ?? (given.quick ? 1 : 4) }, cleanUp, interrupted.signal)
} catch (error) {
  console.error(`\n${(interrupted.signal.aborted ? (interrupted.signal.reason as Error) : (error as Error)).message}`)
  process.exitCode = 1
} finally {
  await cleanUp.disposeAsync()
}
