/** How full each key pool may get: its high watermark, or once more than that when an operator asks for it. A wish is a row,
 *  so that it reaches the process that drives the link, whichever that is.
 *  Holds: a wish ends as soon as whoever fills the pool finds no more room under it. */
import type { Database } from '../database/database.ts'
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { PoolCeilings, PoolMarks } from './key-pool.ts'

export interface PoolCeilingsParts {
  readonly database: Database
  readonly marksOf: (peerKmeId: KmeId) => PoolMarks
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface RunningPoolCeilings extends PoolCeilings {
  /** Learns of the wishes other processes took, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

type Wish = {
  readonly requestId: string
  readonly ceilingKeys: number
}

const INTERVAL_MS = 1000

export const createPoolCeilings = (parts: PoolCeilingsParts): RunningPoolCeilings => {
  const { database, clock, log } = parts
  let wishes: ReadonlyMap<KmeId, Wish> = new Map()
  /** Wishes that are over here and perhaps still in the table. */
  const ended = new Set<string>()
  const listeners = new Set<(peerKmeId: KmeId) => void>()

  const ceilingKeys = (peerKmeId: KmeId): number =>
    Math.max(parts.marksOf(peerKmeId).highWatermark, wishes.get(peerKmeId)?.ceilingKeys ?? 0)

  const read = async (): Promise<void> => {
    const rows = await database.query<Wish & { peerKmeId: KmeId }>(READ)
    const before = wishes
    for (const id of ended) if (!rows.some(({ requestId }) => requestId === id)) ended.delete(id)
    wishes = new Map(rows.filter(({ requestId }) => !ended.has(requestId)).map((row) => [row.peerKmeId, row]))
    for (const [peerKmeId, { requestId }] of wishes) {
      if (before.get(peerKmeId)?.requestId !== requestId) for (const listener of listeners) listener(peerKmeId)
    }
  }
  const end = async (peerKmeId: KmeId, requestId: string): Promise<void> => {
    try {
      await database.query(END, [peerKmeId, requestId])
    } catch (error) {
      // Here it is over already; another process that fills the pool ends it as well.
      log.warn({ peerKmeId, error }, 'the end of a replenishment could not be written')
    }
  }

  return {
    ceilingKeys,
    ask: async (peerKmeId, keys) => {
      await database.query(ASK, [peerKmeId, parts.random.uuid(), keys])
      await read()
    },
    full: (peerKmeId, atKeys) => {
      const wish = wishes.get(peerKmeId)
      if (wish === undefined || ceilingKeys(peerKmeId) !== atKeys) return
      wishes = new Map([...wishes].filter(([id]) => id !== peerKmeId))
      ended.add(wish.requestId)
      void end(peerKmeId, wish.requestId)
    },
    onAsk: (listener) => void listeners.add(listener),
    run: async (signal) => {
      let isRead = true
      while (!signal.aborted) {
        try {
          await read()
          isRead = true
        } catch (error) {
          if (isRead) log.warn({ error }, 'wishes for replenishment cannot be read; trying again')
          isRead = false
        }
        await clock.sleep(INTERVAL_MS, signal)
      }
    },
  }
}

const READ = `SELECT peer_kme_id AS "peerKmeId", request_id AS "requestId", ceiling_keys AS "ceilingKeys" FROM pool_replenishment`

const ASK = `
INSERT INTO pool_replenishment (peer_kme_id, request_id, ceiling_keys) VALUES ($1, $2::uuid, $3)
ON CONFLICT (peer_kme_id) DO UPDATE SET request_id = excluded.request_id, ceiling_keys = excluded.ceiling_keys, asked_at = now()`

const END = `DELETE FROM pool_replenishment WHERE peer_kme_id = $1 AND request_id = $2::uuid`
