/** Both ends of Cascade with nothing between them, and frames to try them on. */
import { createCorrector } from '../../../src/bb84/cascade/corrector.ts'
import type { CascadeCorrector } from '../../../src/bb84/cascade/corrector.ts'
import type { CascadePlan } from '../../../src/bb84/cascade/cascade-plan.ts'
import { createResponder } from '../../../src/bb84/cascade/responder.ts'
import type { CascadeResponder } from '../../../src/bb84/cascade/responder.ts'
import { streamOf } from '../../../src/bb84/cascade/xoshiro.ts'

export const bytesOfNumber = (number: number): Uint8Array => {
  const bytes = new Uint8Array(16)
  new DataView(bytes.buffer).setUint32(0, number, true)
  return bytes
}

/** Alice's random bits and Bob's, which differ at `errors` places drawn binomially with `qber`. */
export const noisyFrame = (
  bitCount: number,
  qber: number,
  seed: number,
): { alice: Uint8Array; bob: Uint8Array; errors: number } => {
  const next = streamOf(bytesOfNumber(seed), 99, bitCount)
  const alice = new Uint8Array((bitCount + 7) >>> 3)
  for (let index = 0; index < alice.length; index++) alice[index] = next()
  if (bitCount & 7) alice[alice.length - 1]! &= (1 << (bitCount & 7)) - 1
  const bob = alice.slice()
  const limit = qber * 4_294_967_296
  let errors = 0
  for (let index = 0; index < bitCount; index++) {
    if (next() >>> 0 >= limit) continue
    bob[index >>> 3]! ^= 1 << (index & 7)
    errors++
  }
  return { alice, bob, errors }
}

export interface Run {
  readonly responder: CascadeResponder
  readonly corrector: CascadeCorrector
  /** Everything Alice was asked for, the first parities included. */
  readonly asks: number[]
}

/** Answers until Bob asks no more. */
export const finish = ({ responder, corrector, asks }: Run): void => {
  for (let wanted = corrector.asks(); wanted.length > 0; wanted = corrector.asks()) {
    asks.push(...wanted)
    corrector.take(responder.answer(wanted))
  }
}

/** Bob has Alice's first parities, and no more. */
export const start = (alice: Uint8Array, bob: Uint8Array, plan: CascadePlan, seed: Uint8Array): Run => {
  const bitCount = plan.frameBits
  const responder = createResponder({ bits: alice, bitCount, plan, seed })
  const corrector = createCorrector({ bits: bob, bitCount, plan, seed })
  const run: Run = { responder, corrector, asks: [...corrector.asks()] }
  corrector.take(responder.firstParities())
  return run
}

export const reconcile = (...frame: Parameters<typeof start>): Run => {
  const run = start(...frame)
  finish(run)
  return run
}

/** h(q), bits per bit. */
export const binaryEntropy = (q: number): number => (q <= 0 || q >= 1 ? 0 : -q * Math.log2(q) - (1 - q) * Math.log2(1 - q))
