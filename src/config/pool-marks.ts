/** The marks of the key pools: `pools` of the configuration. A mark counts keys a master SAE could get: those this KME
 *  issues and those the other end would lend. What is not written for a pool holds for all, and what is not written at
 *  all follows from how many keys may be stored. */
import { z } from 'zod'

const mark = z.int().min(0).max(100_000_000)

const marks = {
  /** Below it the KME acts: it borrows, and asks every source of keys. */
  lowWatermark: mark.optional(),
  /** Below it somebody must act. */
  criticalWatermark: mark.optional(),
  /** Filling stops here. */
  highWatermark: mark.optional(),
}

/** @param peer reads a KME ID. */
export const poolsSchema = <Peer extends z.ZodType>(peer: Peer) =>
  z.strictObject({
    ...marks,
    /** How long the coarse history of the pools is kept. */
    historyDays: z.int().min(1).max(3650).default(90),
    /** Marks of single pools; the KME's own ID names the pool of keys between its own SAEs. */
    perPeer: z.array(z.strictObject({ peer, ...marks })).default([]),
    /** Peers whose SAEs may be given keys that are not from QKD when the pool is exhausted. Counts only when both KMEs want it. */
    fallback: z
      .array(
        z.strictObject({
          peer,
          /** The KME of the master makes the keys and sends them to the peer over the KME-to-KME channel. */
          source: z.literal('peer-channel'),
          maxKeysPerS: z.int().min(1).max(100_000),
        }),
      )
      .default([]),
  })

export interface WrittenMarks {
  readonly lowWatermark?: number | undefined
  readonly criticalWatermark?: number | undefined
  readonly highWatermark?: number | undefined
}

export interface Marks {
  readonly lowWatermark: number
  readonly criticalWatermark: number
  readonly highWatermark: number
}

/** A request for many keys should not be the one that empties a pool, nor should a large pool be called low for years. */
const LOW_MAX = 2000

/** @param written the nearest first. @param maxStored keys the pool may hold. */
export const settleMarks = (maxStored: number, ...written: readonly (WrittenMarks | undefined)[]): Marks => {
  const nearest = (name: keyof Marks): number | undefined => written.find((one) => one?.[name] !== undefined)?.[name]
  const highWatermark = nearest('highWatermark') ?? maxStored
  const lowWatermark = nearest('lowWatermark') ?? Math.min(LOW_MAX, Math.floor(highWatermark / 10))
  const criticalWatermark = nearest('criticalWatermark') ?? Math.floor(lowWatermark / 4)
  return { lowWatermark, criticalWatermark, highWatermark }
}

/** What is wrong between the marks of one pool. @param at names it, such as `pools.perPeer[0]`. */
export const checkMarks = (
  at: string,
  maxStored: number,
  { lowWatermark, criticalWatermark, highWatermark }: Marks,
): string[] => {
  const faults: string[] = []
  // A pool too small for marks has none: both are 0.
  if (criticalWatermark >= lowWatermark && lowWatermark + criticalWatermark > 0) {
    faults.push(`${at}.criticalWatermark: ${criticalWatermark} is not below the low watermark ${lowWatermark}`)
  }
  if (lowWatermark >= highWatermark) {
    faults.push(`${at}.lowWatermark: ${lowWatermark} is not below the high watermark ${highWatermark}`)
  }
  if (highWatermark > maxStored) {
    faults.push(`${at}.highWatermark: ${highWatermark} is more than the ${maxStored} keys that may be stored`)
  }
  return faults
}
