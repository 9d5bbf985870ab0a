/** How a key pool is doing: how fast it fills and empties, how long it lasts, how urgent that is, and when an SAE that got
 *  nothing should ask again (ETSI GS QKD 014, clause 6.4: 503). Only arithmetic on successive readings of a pool.
 *  Holds: a state once entered is left only when the level is well above its mark, so that nobody is alarmed twice for
 *  one shortage; an exhausted pool is not exhausted any more with its first key. */

export type PoolState = 'healthy' | 'low' | 'critical' | 'exhausted'

/** Keys of default size. 0 <= critical <= low < high. */
export interface PoolMarks {
  readonly lowWatermark: number
  readonly criticalWatermark: number
  readonly highWatermark: number
}

/** Running totals of a pool; they begin at 0 again when it is set up anew. */
export interface PoolTotals {
  readonly offeredTotal: number
  /** Net of what was given back, so it may fall a little. */
  readonly takenTotal: number
  readonly refusedTotal: number
}

export interface PoolReading extends PoolTotals {
  /** On a clock that never jumps. */
  readonly atMs: number
  /** Keys a master SAE could get: those issued here and those the other end would lend. */
  readonly level: number
}

export interface PoolHealth {
  readonly state: PoolState
  readonly level: number
  /** What came in for the SAEs of this KME: new keys, less what the other end used. A loan is none, it only moves keys. */
  readonly refillKeysPerS: number
  readonly consumptionKeysPerS: number
  /** Seconds until the pool is empty if all goes on like this; undefined while it does not empty. */
  readonly timeToEmptyS: number | undefined
  /** For `nextHealth` alone. */
  readonly memory: HealthMemory
}

interface HealthMemory {
  readonly reading: PoolReading
  /** Sums that fade: keys taken per second and change of the level per second, and the weight they have by now: 0 with
   *  the first reading, towards 1 with time. */
  readonly taken: number
  readonly change: number
  readonly weight: number
  /** Seconds since something came in or the pool was well filled. */
  readonly dryS: number
}

/** What came in, went out and was refused between two readings. */
export interface PoolFlow {
  readonly offered: number
  readonly taken: number
  readonly refused: number
}

/** After this time a rate has half forgotten what was. */
const HALF_LIFE_S = 10
/** A state is left when the level is this much above its mark. */
const LEAVE_FACTOR = 1.2
/** Slower is standing still: what is left of a rate that fades. */
const RATE_MIN_KEYS_PER_S = 0.001
const RETRY_MIN_S = 1
const RETRY_MAX_S = 60
/** When nothing is known of the pool yet. */
export const RETRY_UNKNOWN_S = 2

/** Reset-safe difference of totals: after a pool was set up anew its totals are all that is known to have flowed. */
export const flowBetween = (before: PoolTotals, after: PoolTotals): PoolFlow => {
  if (isReset(before, after))
    return { offered: after.offeredTotal, taken: Math.max(0, after.takenTotal), refused: after.refusedTotal }
  return {
    offered: after.offeredTotal - before.offeredTotal,
    taken: after.takenTotal - before.takenTotal,
    refused: after.refusedTotal - before.refusedTotal,
  }
}

// Giving back makes the net of what was taken fall, but never most of it at once.
const isReset = (before: PoolTotals, after: PoolTotals): boolean =>
  after.offeredTotal < before.offeredTotal || after.refusedTotal < before.refusedTotal || after.takenTotal < before.takenTotal / 2

/** @param previous undefined for the first reading of a pool. */
export const nextHealth = (previous: PoolHealth | undefined, reading: PoolReading, marks: PoolMarks): PoolHealth => {
  const { level } = reading
  const memory = remember(previous?.memory, reading, marks)
  const weight = memory.weight === 0 ? 1 : memory.weight
  const consumptionKeysPerS = notNegative(memory.taken / weight)
  const changeKeysPerS = memory.change / weight
  return {
    state: nextState(previous?.state, level, marks),
    level,
    refillKeysPerS: notNegative(consumptionKeysPerS + changeKeysPerS),
    consumptionKeysPerS,
    timeToEmptyS: level <= 0 ? 0 : changeKeysPerS > -RATE_MIN_KEYS_PER_S ? undefined : level / -changeKeysPerS,
    memory,
  }
}

const remember = (before: HealthMemory | undefined, reading: PoolReading, marks: PoolMarks): HealthMemory => {
  if (before === undefined) return { reading, taken: 0, change: 0, weight: 0, dryS: 0 }
  const elapsedS = (reading.atMs - before.reading.atMs) / 1000
  if (elapsedS <= 0) return before
  // A pool that was set up anew is another pool: its level says nothing about a flow.
  if (isReset(before.reading, reading)) return { ...before, reading }
  const { taken } = flowBetween(before.reading, reading)
  const change = reading.level - before.reading.level
  const kept = 2 ** (-elapsedS / HALF_LIFE_S)
  // What flowed in the interval counts as if it had flowed evenly.
  const add = (sum: number, keys: number): number => sum * kept + (keys / elapsedS) * (1 - kept)
  const isWellFilled = reading.level >= Math.max(1, marks.lowWatermark)
  return {
    reading,
    taken: add(before.taken, taken),
    change: add(before.change, change),
    weight: before.weight * kept + (1 - kept),
    dryS: isWellFilled || taken + change > 0 ? 0 : before.dryS + elapsedS,
  }
}

const notNegative = (keysPerS: number): number => (keysPerS < RATE_MIN_KEYS_PER_S ? 0 : keysPerS)

const nextState = (previous: PoolState | undefined, level: number, marks: PoolMarks): PoolState => {
  const { lowWatermark, criticalWatermark, highWatermark } = marks
  if (level <= 0) return 'exhausted'
  if (level < criticalWatermark) return 'critical'
  // Marks that lie close together are left at the next one at the latest: a pool is never filled beyond the high one.
  const wasCritical = previous === 'critical' || previous === 'exhausted'
  if (wasCritical && level < Math.min(criticalWatermark * LEAVE_FACTOR, lowWatermark)) return 'critical'
  const wasLow = previous !== undefined && previous !== 'healthy'
  if (level < lowWatermark || (wasLow && level < Math.min(lowWatermark * LEAVE_FACTOR, highWatermark))) return 'low'
  return 'healthy'
}

/** After how many seconds somebody whom the pool lacks `missingKeys` keys for should ask again: when they will have come
 *  in at the present rate. Where nothing comes in, about as long as that has been so: who waits then waits at most twice
 *  as long as the shortage lasts.
 *  @returns 1 to 60, never less for more keys. */
export const retryAfterS = (health: PoolHealth | undefined, missingKeys: number): number => {
  if (health === undefined || health.memory.weight === 0) return RETRY_UNKNOWN_S
  const { refillKeysPerS, memory } = health
  const waitS = refillKeysPerS > 0 ? missingKeys / refillKeysPerS : Math.max(RETRY_UNKNOWN_S, memory.dryS)
  return Math.min(RETRY_MAX_S, Math.max(RETRY_MIN_S, Math.ceil(waitS)))
}
