/** Randomness as an argument: nothing outside this file draws random bytes. */
import { randomFillSync, randomUUID } from 'node:crypto'

export interface Random {
  /** Fills `target` with unpredictable bytes and returns it. */
  fill<T extends Uint8Array>(target: T): T
  /** A random UUID, version 4, lower case (RFC 9562, 5.4). */
  uuid(): string
}

export const systemRandom: Random = {
  fill: (target) => randomFillSync(target),
  uuid: () => randomUUID(),
}

/** A number drawn evenly from 0 (included) to 1 (excluded), for jitter and simulated events. */
export const drawUniform = (random: Random): number => random.fill(Buffer.alloc(4)).readUInt32BE(0) / 2 ** 32
