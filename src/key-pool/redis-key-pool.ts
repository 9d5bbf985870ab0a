/** KeyPool in Redis, shared by all processes of a KME: block IDs and unit numbers, never key material.
 *
 *  Holds: Redis hurries and decides nothing. Where it does not answer, holds something unusable, or has lost the pool, units are looked up
 *  in the key store instead, more slowly, until the pool is rebuilt. A command whose answer is lost costs no unit: what was given
 *  and not reported received goes back into the line after a while, and what two processes were given is refused to one of them
 *  by the key store. */
import { createBatching } from '../kernel/batching.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { AvailableUnits, KeyStore } from '../key-store/key-store.ts'
import { RedisAway, RedisContentError, type RedisConnection } from '../redis/redis.ts'
import type { Account, KeyPool, PoolLevel, Taken } from './key-pool.ts'
import { poolScripts, type PoolScript } from './redis-scripts.ts'
import { fromRunBytes, toRunBytes } from './run-bytes.ts'
import type { SharePolicy } from './share-out.ts'
import { createStoreReader } from './store-reader.ts'

export interface RedisKeyPoolParts {
  readonly redis: RedisConnection
  readonly kmeId: KmeId
  /** Tells the pools of one database from those of another that used the same Redis. */
  readonly databaseName: string
  /** KMEs there is or was a pool for; others are found when units for them come in. */
  readonly peers: readonly KmeId[]
  readonly processId: string
  readonly policy: SharePolicy
  readonly store: Pick<KeyStore, 'freeUnits' | 'counts'>
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  /** Ends what the pool does by itself. */
  readonly signal: AbortSignal
}

/** Units given and not reported received for so long go back into the line. */
const LEASE_MS = 10_000
/** Answers are reported received after so long, and where no request follows a little later. */
const REPORT_AFTER_MS = 2000
const REPORT_MS = 2500
/** A rebuilding that pauses for longer is given up. */
const REBUILD_PAUSE_MS = 10_000
const RUNS_PER_PAGE = 100
const TAKES_AT_ONCE = 256

const PARTS = ['line', 'opened', 'level', 'reserved', 'asked', 'given', 'due', 'received', 'policy', 'fresh', 'since', 'seen']

interface TakeRequest {
  readonly account: Account
  readonly unitCount: number
}

interface Line {
  readonly peerKmeId: KmeId
  readonly keys: readonly string[]
  /** Whether Redis knows how this pool is to be shared. */
  joined: boolean
  /** Since when its content is not to be relied on. */
  doubtedMs: number | undefined
  /** Whether something unusable was met in it. */
  damaged: boolean
  /** Answers that arrived and of which Redis is not told yet. */
  received: { readonly token: string; readonly atMs: number }[]
  readonly takeTogether: (request: TakeRequest) => Promise<Taken>
}

export const createRedisKeyPool = (parts: RedisKeyPoolParts): KeyPool => {
  const { redis, kmeId, databaseName, processId, policy, clock, random, log } = parts
  const scripts = poolScripts()
  const instead = createStoreReader(parts)
  const lines = new Map<KmeId, Line>()

  const lineOf = (peerKmeId: KmeId): Line => {
    let line = lines.get(peerKmeId)
    if (line === undefined) lines.set(peerKmeId, (line = createLine(peerKmeId)))
    return line
  }
  const createLine = (peerKmeId: KmeId): Line => {
    // One hash slot for each pool.
    const tag = `openkme:{${kmeId}>${peerKmeId}}:${databaseName}`
    const line: Line = {
      peerKmeId,
      keys: PARTS.map((part) => `${tag}:${part}`),
      joined: false,
      doubtedMs: undefined,
      damaged: false,
      received: [],
      takeTogether: createBatching<TakeRequest, Taken>({
        itemsMax: TAKES_AT_ONCE,
        lanes: 1,
        separable: () => false,
        work: (requests) => takeAll(line, requests),
      }),
    }
    return line
  }

  const doubt = (line: Line): void => {
    line.doubtedMs ??= clock.nowMs()
  }
  const run = async (line: Line, script: PoolScript, args: readonly (string | number | Buffer)[]): Promise<unknown> => {
    try {
      if (!line.joined) {
        const built = await redis.run(scripts.join, line.keys, policyArguments(policy))
        line.joined = true
        if (built !== 1) doubt(line)
      }
      return await redis.run(scripts[script], line.keys, args)
    } catch (error) {
      line.joined = false
      doubt(line)
      if (error instanceof RedisContentError) {
        line.damaged = true
        log.error({ peer: line.peerKmeId, error }, 'the pool in Redis is damaged')
      }
      throw error
    }
  }
  const isServing = (line: Line): boolean => line.doubtedMs === undefined && redis.available(line.keys[0] as string)

  /** Changes the pool, or remembers that it lacks the change. */
  const change = async (peerKmeId: KmeId, script: PoolScript, args: readonly (string | number | Buffer)[]): Promise<void> => {
    const line = lineOf(peerKmeId)
    // Also while it is in doubt: a rebuilding under way takes notice of it.
    if (!redis.available(line.keys[0] as string)) return doubt(line)
    try {
      if ((await run(line, script, args)) === null) doubt(line)
    } catch {
      // Said and remembered by run().
    }
  }

  const takeAll = async (line: Line, requests: readonly TakeRequest[]): Promise<readonly Taken[]> => {
    const token = random.uuid()
    // Not at once: until its units are claimed, a rebuilding would take them for free.
    const untilMs = clock.monotonicMs() - REPORT_AFTER_MS
    const received = line.received.filter(({ atMs }) => atMs <= untilMs)
    line.received = line.received.filter(({ atMs }) => atMs > untilMs)
    let answer: unknown
    try {
      answer = await run(line, 'take', [
        processId,
        token,
        clock.nowMs(),
        LEASE_MS,
        received.length,
        ...received.map((one) => one.token),
        ...requests.flatMap(({ account, unitCount }) => [account, unitCount]),
      ])
    } catch (error) {
      line.received.push(...received)
      throw error
    }
    if (!Array.isArray(answer)) {
      doubt(line)
      throw new RedisAway()
    }
    if (requests.length > 0 && line.received.push({ token, atMs: clock.monotonicMs() }) === 1) void reportReceived(line)
    const taken = requests.map(({ unitCount }, i) => toTaken(answer[i], unitCount))
    if (taken.every((one) => one !== undefined)) {
      for (const one of taken) if ('units' in one) instead.noteTaken(one.units)
      return taken
    }
    doubt(line)
    throw new RedisContentError(new Error('units that cannot be read'))
  }

  /** Where no request follows, Redis is told all the same, long before it takes the units back. */
  const reportReceived = async (line: Line): Promise<void> => {
    while (line.received.length > 0 && !parts.signal.aborted) {
      await clock.sleep(REPORT_MS, parts.signal)
      if (parts.signal.aborted || !isServing(line)) return
      try {
        await takeAll(line, [])
      } catch {
        // Said and remembered by run().
      }
    }
  }

  const read = async (line: Line, account?: Account): Promise<{ level: PoolLevel; drawable: number } | undefined> => {
    if (!isServing(line)) return undefined
    try {
      const answer = await run(line, 'read-level', account === undefined ? [clock.nowMs()] : [clock.nowMs(), account])
      if (Array.isArray(answer)) {
        const [mine, theirs, reserved, offeredTotal, takenTotal, refusedTotal, drawable] = answer.map(Number) as [
          number,
          number,
          number,
          number,
          number,
          number,
          number,
        ]
        const level = { peerKmeId: line.peerKmeId, mine, theirs, reserved, offeredTotal, takenTotal, refusedTotal }
        return { level, drawable }
      }
      doubt(line)
    } catch {
      // Said and remembered by run().
    }
    return undefined
  }
  const levelOf = async (line: Line): Promise<PoolLevel> => (await read(line))?.level ?? (await instead.level(line.peerKmeId))

  /** @returns the ID of the rebuilding, undefined when another process sees to it. */
  const beginRebuild = async (line: Line): Promise<string | undefined> => {
    const id = random.uuid()
    const nowMs = clock.nowMs()
    const args = [id, nowMs, REBUILD_PAUSE_MS, line.doubtedMs ?? nowMs, line.damaged ? 1 : 0]
    const began = await run(line, 'begin-rebuild', args)
    line.damaged = false
    return began === 1 ? id : undefined
  }
  const rebuild = async (units: AsyncIterable<AvailableUnits>): Promise<void> => {
    const rebuilding = new Map<Line, { id: string; theirs: number; runs: Buffer[] }>()
    const doubtedMs = new Map<Line, number | undefined>()
    const begin = async (line: Line): Promise<void> => {
      if (!redis.available(line.keys[0] as string)) return
      const id = await beginRebuild(line)
      doubtedMs.set(line, line.doubtedMs)
      if (id !== undefined) rebuilding.set(line, { id, theirs: 0, runs: [] })
    }
    const flush = async (line: Line): Promise<void> => {
      const page = rebuilding.get(line)
      if (page === undefined) return
      await run(line, 'add-to-rebuild', [page.id, clock.nowMs(), REBUILD_PAUSE_MS, page.theirs, ...page.runs])
      rebuilding.set(line, { id: page.id, theirs: 0, runs: [] })
    }
    const known = new Set(lines.values())
    const inDoubt = [...known].filter((line) => line.doubtedMs !== undefined)
    for (const line of inDoubt.length > 0 ? inDoubt : known) await begin(line)
    if (rebuilding.size === 0 && inDoubt.length > 0) units = none()
    for await (const available of units) {
      const line = lineOf(available.peerKmeId)
      if (!known.has(line) && !doubtedMs.has(line)) await begin(line)
      const page = rebuilding.get(line)
      if (page === undefined) continue
      page.theirs += available.theirs
      page.runs.push(toRunBytes(available.mine))
      if (page.runs.length >= RUNS_PER_PAGE) await flush(line)
    }
    for (const [line, before] of doubtedMs) {
      await flush(line)
      const page = rebuilding.get(line)
      const finished = page !== undefined && (await run(line, 'finish-rebuild', [page.id, clock.nowMs()])) === 1
      // What came into doubt meanwhile stays in doubt. Where another process rebuilds, it is asked whether it is done.
      if (line.doubtedMs === before && (finished || (await isBuiltSince(line, before)))) line.doubtedMs = undefined
    }
  }
  const isBuiltSince = async (line: Line, doubtedMs: number | undefined): Promise<boolean> => {
    const builtMs = await redis.client.hget(line.keys[2] as string, 'built')
    return builtMs !== null && Number(builtMs) > (doubtedMs ?? Infinity) && Number(builtMs) <= clock.nowMs()
  }

  for (const peer of new Set([kmeId, ...parts.peers])) lineOf(peer)
  return {
    offer: (units, source = 'new') =>
      change(units.peerKmeId, 'offer', [
        clock.nowMs(),
        source,
        units.theirs,
        units.mine.units.length === 0 ? '' : toRunBytes(units.mine),
      ]),
    take: async (peerKmeId, account, unitCount) => {
      const line = lineOf(peerKmeId)
      if (isServing(line)) {
        try {
          return await line.takeTogether({ account, unitCount })
        } catch {
          // Said and remembered by run().
        }
      }
      return instead.take(peerKmeId, account, unitCount)
    },
    giveBack: (peerKmeId, units) => {
      instead.noteGivenBack(units)
      const runs = units.filter((one) => one.units.length > 0).map(toRunBytes)
      return runs.length === 0 ? Promise.resolve() : change(peerKmeId, 'give-back', [processId, ...runs])
    },
    adjustTheirs: (peerKmeId, unitCount) => change(peerKmeId, 'adjust-theirs', [unitCount]),
    drawable: async (peerKmeId, account) =>
      (await read(lineOf(peerKmeId), account))?.drawable ?? (await instead.level(peerKmeId)).mine,
    level: (peerKmeId) => levelOf(lineOf(peerKmeId)),
    levels: () => Promise.all([...lines.values()].map(levelOf)),
    doubt: (peerKmeId) => {
      doubt(lineOf(peerKmeId))
      instead.startAnew(peerKmeId)
    },
    needsRebuild: () =>
      [...lines.values()].some((line) => line.doubtedMs !== undefined && redis.available(line.keys[0] as string)),
    rebuild,
  }
}

/** Where another process rebuilds, nothing is read. */
// eslint-disable-next-line @typescript-eslint/require-await
async function* none(): AsyncIterable<never> {
  yield* []
}

const toTaken = (answer: unknown, unitCount: number): Taken | undefined => {
  if (typeof answer === 'number') return { missing: answer }
  if (!Array.isArray(answer)) return undefined
  const units = answer.map(fromRunBytes)
  if (!units.every((run) => run !== undefined)) return undefined
  return units.reduce((sum, run) => sum + run.units.length, 0) === unitCount ? { units } : undefined
}

const policyArguments = (policy: SharePolicy): (string | number)[] => [
  ...['#fair', policy.fairUnits, '#emergency', policy.emergencyUnits, '#active', policy.activeMs],
  ...[...policy.accounts].flatMap(([account, { floorUnits, weight, emergency }]) => [
    account,
    `${floorUnits} ${weight} ${emergency ? 1 : 0}`,
  ]),
]
