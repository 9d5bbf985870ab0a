/** Each message once and in order, over restarts and copies of the state. */
import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import {
  createSequenceGate,
  SEQUENCE_JUMP_MAX,
  SEQUENCES_PER_RESERVATION,
  type ReserveSequence,
} from '../../src/peer/sequence-gate.ts'

/** What the database remembers of one session: the reservation succeeds only from where it stands. */
const createMark = (): { reserve: ReserveSequence; mark: () => number; writes: () => number } => {
  let mark = 0
  let writes = 0
  return {
    mark: () => mark,
    writes: () => writes,
    reserve: async (from, to) => {
      writes += 1
      if (mark !== from) return false
      mark = to
      return true
    },
  }
}

describe('the gate', () => {
  it('admits what comes in order, with one write for thousands of messages', async () => {
    const ledger = createMark()
    const gate = createSequenceGate(ledger.reserve)
    for (let sequence = 1; sequence <= 2 * SEQUENCES_PER_RESERVATION; sequence += 1) {
      expect(await gate.admit(sequence)).toBe('admitted')
    }
    expect(ledger.writes()).toBe(2)
  })

  it('admits nothing twice and nothing late, however messages are repeated, held back and mixed', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: -2, max: 3000 }), { maxLength: 300 }), async (arrivals) => {
        const gate = createSequenceGate(createMark().reserve)
        const verdicts = await Promise.all(arrivals.map((sequence) => gate.admit(sequence)))
        const admitted = arrivals.filter((_, i) => verdicts[i] === 'admitted')
        let highest = 0
        arrivals.forEach((sequence, i) => {
          const expected = sequence <= highest ? 'replayed' : sequence > highest + SEQUENCE_JUMP_MAX ? 'jump' : 'admitted'
          expect(verdicts[i]).toBe(expected)
          if (expected === 'admitted') highest = sequence
        })
        expect(new Set(admitted).size).toBe(admitted.length)
        expect(admitted).toEqual(admitted.toSorted((a, b) => a - b))
      }),
    )
  })

  it('does not let a message through before its stretch is reserved', async () => {
    let finish: (done: boolean) => void = () => undefined
    let asked = 0
    const gate = createSequenceGate(() => {
      asked += 1
      return new Promise<boolean>((resolve) => (finish = resolve))
    })
    const verdicts: string[] = []
    const both = [1, 2].map(async (sequence) => verdicts.push(await gate.admit(sequence)))
    await Promise.resolve()
    expect(verdicts).toEqual([])
    expect(asked).toBe(1)
    finish(true)
    await Promise.all(both)
    expect(verdicts).toEqual(['admitted', 'admitted'])
  })

  it('that cannot reserve admits nothing and does not take the number again', async () => {
    const gate = createSequenceGate(() => Promise.reject(new Error('database away')))
    await expect(gate.admit(1)).rejects.toThrow('database away')
    expect(await gate.admit(1)).toBe('replayed')
  })

  it('of a copy of a running session ends at the next reservation', async () => {
    const ledger = createMark()
    const original = createSequenceGate(ledger.reserve)
    for (let sequence = 1; sequence <= SEQUENCES_PER_RESERVATION + 1; sequence += 1) await original.admit(sequence)
    // A process restored from a snapshot of before thinks that nothing was reserved yet.
    const copy = createSequenceGate(ledger.reserve)
    expect(await copy.admit(1)).toBe('ended')
    expect(ledger.mark()).toBe(2 * SEQUENCES_PER_RESERVATION)
  })
})
