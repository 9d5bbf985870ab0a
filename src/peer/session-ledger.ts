/** What must outlive the process: which sessions other KMEs opened here, and up to where their sequence numbers are used up. */
import type { KmeId } from '../kernel/identifiers.ts'

export interface StoredSession {
  readonly sessionId: string
  readonly peerKmeId: KmeId
  /** A QKD key is in its keys. */
  readonly isMixed: boolean
}

export interface SessionLedger {
  /** Reserves the sequence numbers above `from` up to `to`. The first reservation, from 0, makes the session known.
   *  @returns false when they are not free any more: the session is known already, stands elsewhere, or has ended. */
  reserve(session: StoredSession, from: number, to: number): Promise<boolean>
  /** The session is over: nothing of it is ever reserved again. */
  end(sessionId: string): Promise<void>
}
