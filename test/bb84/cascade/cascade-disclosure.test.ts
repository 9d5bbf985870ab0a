/** What the wire tells about Alice's key: who has read it can write every parity as a linear functional, and the number
 *  both ends count is at least the rank of these. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { firstAsks, maskOf } from '../../../src/bb84/cascade/cascade-asks.ts'
import { cascadePlan } from '../../../src/bb84/cascade/cascade-plan.ts'
import { createResponder } from '../../../src/bb84/cascade/responder.ts'
import { bytesOfNumber, finish, noisyFrame, reconcile } from './reconcile.ts'

const bitsOf = (mask: Uint32Array): bigint => mask.reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n)

/** By elimination over GF(2). */
const rankOf = (rows: readonly bigint[]): number => {
  const basis = new Map<number, bigint>()
  for (let row of rows) {
    while (row !== 0n) {
      const top = row.toString(2).length
      const other = basis.get(top)
      if (other === undefined) {
        basis.set(top, row)
        break
      }
      row ^= other
    }
  }
  return basis.size
}

const parityOf = (bits: Uint8Array, mask: Uint32Array): number =>
  mask.reduce((sum, bit) => sum ^ ((bits[bit >>> 3]! >>> (bit & 7)) & 1), 0)

describe('the parities of a small frame', () => {
  const frames = fc.record({
    frameBits: fc.integer({ min: 64, max: 400 }),
    qber: fc.double({ min: 0.001, max: 0.2, noNaN: true }),
    noise: fc.nat(),
    shuffle: fc.nat(),
  })

  it('are the functionals that maskOf writes down, and both ends count each of them', () => {
    fc.assert(
      fc.property(frames, ({ frameBits, qber, noise, shuffle }) => {
        const plan = cascadePlan(frameBits, qber)
        const seed = bytesOfNumber(shuffle)
        const { alice, bob } = noisyFrame(frameBits, qber, noise)
        const run = reconcile(alice, bob, plan, seed)
        run.corrector.extend(3)
        finish(run)
        const { asks, responder, corrector } = run
        const masks = asks.map((ask) => maskOf(ask, plan, seed))
        const answers = createResponder({ bits: alice, bitCount: frameBits, plan, seed }).answer(Int32Array.from(asks))
        expect(masks.map((mask) => parityOf(alice, mask))).toEqual(
          asks.map((_, index) => (answers[index >>> 3]! >>> (index & 7)) & 1),
        )
        expect(responder.disclosedBits).toBe(asks.length)
        expect(corrector.disclosedBits).toBe(asks.length)
      }),
      { numRuns: 60 },
    )
  })

  it('that every frame needs do not imply each other', () => {
    for (const frameBits of [1_000, 1_024, 1_500]) {
      const plan = cascadePlan(frameBits, 0.03)
      const masks = [...firstAsks(plan)].map((ask) => bitsOf(maskOf(ask, plan, bytesOfNumber(frameBits))))
      expect(rankOf(masks)).toBe(masks.length)
    }
  })

  it('within one pass never imply each other', () => {
    const plan = cascadePlan(2_000, 0.03)
    const seed = bytesOfNumber(3)
    const { alice, bob } = noisyFrame(2_000, 0.03, 4)
    const { asks } = reconcile(alice, bob, plan, seed)
    for (const pass of [0, 1, 2]) {
      // A pass knows the parity of the frame from the first one.
      const own = [...asks.filter((ask) => ask >>> 21 === pass), ...(pass === 0 ? [] : [2_000])]
      expect(own.length).toBeGreaterThan(2)
      expect(rankOf(own.map((ask) => bitsOf(maskOf(ask, plan, seed))))).toBe(own.length)
    }
  })
})
