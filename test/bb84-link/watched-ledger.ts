/** An authentication ledger that remembers which bytes it handed out. */
import type { AuthenticationLedger } from '../../src/link/authentication-ledger.ts'

export interface Reservation {
  readonly segmentId: string
  readonly fromByte: number
  readonly lengthBytes: number
}

export interface WatchedLedger extends AuthenticationLedger {
  /** Handed out, in order. */
  readonly reservations: readonly Reservation[]
}

export const watchedLedger = (ledger: AuthenticationLedger): WatchedLedger => {
  const reservations: Reservation[] = []
  return {
    ...ledger,
    reservations,
    reserve: async (segmentId, fromByte, lengthBytes) => {
      const pads = await ledger.reserve(segmentId, fromByte, lengthBytes)
      reservations.push({ segmentId, fromByte, lengthBytes })
      return pads
    },
  }
}

/** Bytes that were handed out more than once. */
export const reservedTwice = (reservations: readonly Reservation[]): string[] => {
  const seen = new Set<string>()
  const twice: string[] = []
  for (const { segmentId, fromByte, lengthBytes } of reservations) {
    for (let byte = fromByte; byte < fromByte + lengthBytes; byte += 1) {
      const name = `${segmentId} ${byte}`
      if (seen.has(name)) twice.push(name)
      seen.add(name)
    }
  }
  return twice
}
