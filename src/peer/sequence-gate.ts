/** Lets each message of a session through at most once and in order. Messages of a session travel one after the other on one connection,
 *  so a number that is not above all before it was seen already or was held back.
 *  Holds: a number is let through only after a stretch of numbers that contains it was reserved durably, by a statement that succeeds once;
 *  whoever goes on from a copy of this state (a process restored from a snapshot) cannot reserve the next stretch. */

/** @returns whether the numbers up to `to` are reserved; false when somebody else did, or the session has ended. */
export type ReserveSequence = (from: number, to: number) => Promise<boolean>

export type SequenceVerdict = 'admitted' | 'replayed' | 'jump' | 'ended'

export interface SequenceGate {
  /** @throws what `reserve` throws; the number is used up all the same. */
  admit(sequence: number): Promise<SequenceVerdict>
  /** The highest number seen. */
  highest(): number
}

/** One write to the database for so many messages. */
export const SEQUENCES_PER_RESERVATION = 4096
/** Calls given up before they were sent leave gaps; a larger one is no accident. */
export const SEQUENCE_JUMP_MAX = 1024

export const createSequenceGate = (reserve: ReserveSequence): SequenceGate => {
  let highest = 0
  let reserved = 0
  let reserving: Promise<boolean> | undefined

  const reserveMore = async (): Promise<boolean> => {
    try {
      const done = await reserve(reserved, reserved + SEQUENCES_PER_RESERVATION)
      if (done) reserved += SEQUENCES_PER_RESERVATION
      return done
    } finally {
      reserving = undefined
    }
  }
  return {
    highest: () => highest,
    admit: async (sequence) => {
      if (sequence <= highest) return 'replayed'
      if (sequence > highest + SEQUENCE_JUMP_MAX) return 'jump'
      highest = sequence
      while (sequence > reserved) {
        reserving ??= reserveMore()
        if (!(await reserving)) return 'ended'
      }
      return 'admitted'
    },
  }
}
