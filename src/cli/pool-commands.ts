/** `kme pool ...`: how full the key pools are, how they change, how they were, and a push for one that runs low. */
import type { Command } from 'commander'
import type { components } from '../generated/admin.ts'
import { systemClock } from '../kernel/clock.ts'
import { asAdmin, withAdminOptions, type AdminOptions } from './admin-access.ts'
import { duration, table, toJson, wholeNumber } from './terminal.ts'

type Schemas = components['schemas']
type Pool = Schemas['Pool']

/** Adds `list`, `watch`, `history` and `replenish` to the group. */
export const addPoolCommands = (pool: Command): void => {
  withAdminOptions(pool.command('list'))
    .description('show levels and states of all key pools')
    .action((options: AdminOptions) =>
      asAdmin(options, async (client) => {
        const answer = (await client.get('pools')) as unknown as Schemas['PoolList']
        console.log(options.json === true ? toJson(answer) : poolTable(answer.pools))
      }),
    )
  addWatch(pool)
  addHistory(pool)
  addReplenish(pool)
}

export const poolTable = (pools: readonly Pool[]): string =>
  table(
    ['kme', 'key size', 'state', 'deliverable', 'max', 'mine', 'theirs', 'reserved', 'refill', 'used', 'empty in'],
    pools.map((pool) => [
      pool.kmeId,
      `${pool.keySizeBits} bits`,
      pool.state,
      ...[pool.deliverable, pool.max, pool.mine, pool.theirs, pool.reserved].map(String),
      perSecond(pool.refillKeysPerS),
      perSecond(pool.consumptionKeysPerS),
      pool.timeToEmptyS === null ? '-' : duration(pool.timeToEmptyS * 1000),
    ]),
  )

const perSecond = (keysPerS: number): string => `${keysPerS < 10 ? Number(keysPerS.toFixed(2)) : Math.round(keysPerS)} keys/s`

const addWatch = (pool: Command): void => {
  withAdminOptions(pool.command('watch'))
    .description('show the key pools as they change, until Ctrl-C or until the token expires; with --json one line per change')
    .action((options: AdminOptions) => {
      const stopped = new AbortController()
      const stop = (): void => stopped.abort()
      process.once('SIGINT', stop)
      process.once('SIGTERM', stop)
      const show = (list: Schemas['PoolList']): void => {
        if (options.json === true) return console.log(JSON.stringify(list))
        // On a terminal each table takes the place of the one before.
        if (process.stdout.isTTY) process.stdout.write('\x1b[H\x1b[J')
        console.log(poolTable(list.pools))
        if (!process.stdout.isTTY) console.log('')
      }
      return asAdmin(options, (client) =>
        client.events('pools/events', (data) => show(data as unknown as Schemas['PoolList']), stopped.signal),
      )
    })
}

interface HistoryOptions extends AdminOptions {
  readonly hours: number
}

const HOUR_MS = 3_600_000
const ROWS_MAX = 24

const addHistory = (pool: Command): void => {
  withAdminOptions(pool.command('history <kmeId>'))
    .description('show how full a key pool was')
    .option('--hours <n>', 'how far back', wholeNumber(1, 24 * 3650), 1)
    .action((kmeId: string, options: HistoryOptions) =>
      asAdmin(options, async (client) => {
        const fromMs = Math.max(0, systemClock.nowMs() - options.hours * HOUR_MS)
        const path = `pools/${encodeURIComponent(kmeId)}/history?fromMs=${fromMs}`
        const history = (await client.get(path)) as unknown as Schemas['PoolHistory']
        console.log(options.json === true ? toJson(history) : drawHistory(history))
      }),
    )
}

type Point = Schemas['PoolHistory']['points'][number]

const drawHistory = ({ points, bucketS }: Schemas['PoolHistory']): string => {
  if (points.length === 0) return 'Nothing is recorded of this time.'
  // As many rows as fit a screen; each stands for some points.
  const perRow = Math.ceil(points.length / ROWS_MAX)
  const rows = Array.from({ length: Math.ceil(points.length / perRow) }, (_, i) => points.slice(i * perRow, (i + 1) * perRow))
  const highest = Math.max(1, ...points.map(({ mineLast, theirsLast }) => mineLast + theirsLast))
  const sum = (row: readonly Point[], name: 'offered' | 'taken' | 'refused'): string =>
    String(row.reduce((all, point) => all + point[name], 0))
  return table(
    ['from', 'mine', 'theirs', 'lowest mine', 'came', 'taken', 'refused', `level (${perRow * bucketS} s per row)`],
    rows.map((row) => {
      const last = row.at(-1) as Point
      const level = last.mineLast + last.theirsLast
      return [
        new Date((row[0] as Point).fromMs).toISOString().slice(0, 19) + 'Z',
        String(last.mineLast),
        String(last.theirsLast),
        String(Math.min(...row.map(({ mineMin }) => mineMin))),
        sum(row, 'offered'),
        sum(row, 'taken'),
        sum(row, 'refused'),
        '#'.repeat(Math.round((level / highest) * 20)),
      ]
    }),
  )
}

interface ReplenishOptions extends AdminOptions {
  readonly keys?: number
}

const addReplenish = (pool: Command): void => {
  withAdminOptions(pool.command('replenish <kmeId>'))
    .description('ask every source of keys for a pool now')
    .option('--keys <n>', 'fill the pool up to that many keys once, beyond its high watermark', wholeNumber(1, 100_000_000))
    .action((kmeId: string, options: ReplenishOptions) =>
      asAdmin(options, async (client) => {
        const wish = options.keys === undefined ? {} : { upToKeys: options.keys }
        const path = `pools/${encodeURIComponent(kmeId)}/replenish`
        const answer = (await client.post(path, wish)) as unknown as Schemas['Replenishment']
        if (options.json === true) return console.log(toJson(answer))
        if (answer.sources.length === 0) return console.log('This pool has no source: no link leads to that KME.')
        console.log(
          table(
            ['source', 'outcome', 'keys', 'reason'],
            answer.sources.map(({ source, outcome, keyCount, reason }) => [source, outcome, String(keyCount), reason ?? '-']),
          ),
        )
      }),
    )
}
