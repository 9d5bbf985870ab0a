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
