/** A number drawn evenly from 0 (included) to 1 (excluded), for jitter and simulated events. */
import type { Random } from '../../kernel/random.ts'

export const drawUniform = (random: Random): number => random.fill(Buffer.alloc(4)).readUInt32BE(0) / 2 ** 32
