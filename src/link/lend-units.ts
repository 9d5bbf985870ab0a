/** Lending between the two ends of a link: when one end has used up the units it issues and the other has plenty, the
 *  richer end makes some of its units the poorer one's. */
import type { Clock } from '../kernel/clock.ts'
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import { BORROWER, unitCountOf, type KeyPool } from '../key-pool/key-pool.ts'
import type { KeyStore, UnitRun } from '../key-store/key-store.ts'
import type { PeerDirectory } from '../peer/peer.ts'

export interface LendUnitsParts {
  readonly store: KeyStore
  readonly pool: KeyPool
  readonly peers: PeerDirectory
  /** Units this end keeps for its own masters. */
  readonly lendFloorUnits: number
  readonly random: Random
  readonly clock: Clock
  readonly log: Logger
}

export interface Lending {
  /** Asks the peer for at least `unitCount` units. False when none came. */
  borrow(peerKmeId: KmeId, unitCount: number): Promise<boolean>
  /** The peer asks for units; repeating a loan ID gets the same answer. */
  lend(peerKmeId: KmeId, loanId: string, unitCount: number): Promise<readonly UnitRun[]>
  /** Finishes loans whose answer was lost, of all processes of this KME, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

/** Asking for more than the moment needs saves the next request a round trip. */
const LOAN_UNITS_MIN = 128
/** A larger loan would not fit one answer, however scattered its units are. */
const LOAN_UNITS_MAX = 4096
const RESUME_INTERVAL_MS = 2000
/** Longer than any call to a peer: whichever process asked for a loan that is open for so long, it does not wait for the answer any more. */
const LOST_AFTER_MS = 35_000

export const createLending = (parts: LendUnitsParts): Lending => {
  const { store, pool, peers, clock, log } = parts
  const underWay = new Map<KmeId, Promise<boolean>>()
  /** Loans of this process that were not answered. */
  const lost = new Set<string>()

  const fetchLoan = async (peerKmeId: KmeId, loanId: string, unitCount: number): Promise<boolean> => {
    const peer = peers.named(peerKmeId)
    if (peer?.available() !== true) return false
    lost.delete(loanId)
    let gained: readonly UnitRun[] | undefined
    try {
      gained = await store.borrow(peerKmeId, loanId, await peer.requestLoan(loanId, unitCount))
    } catch (error) {
      lost.add(loanId)
      throw error
    }
    if (gained === undefined) return false
    for (const run of gained) await pool.offer({ peerKmeId, mine: run, theirs: 0 }, 'loan')
    const count = unitCountOf(gained)
    await pool.adjustTheirs(peerKmeId, -count)
    log.info({ peerKmeId, units: count }, 'units borrowed')
    return count > 0
  }

  const startLoan = async (peerKmeId: KmeId, unitCount: number): Promise<boolean> => {
    // The pool knows what the peer has to spare; asking in vain would cost every request of a drained pool a round trip.
    const { theirs } = await pool.level(peerKmeId)
    if (theirs <= parts.lendFloorUnits || peers.named(peerKmeId)?.available() !== true) return false
    const loanId = parts.random.uuid()
    await store.openLoan(peerKmeId, loanId)
    try {
      return await fetchLoan(peerKmeId, loanId, Math.max(unitCount, LOAN_UNITS_MIN))
    } catch (error) {
      log.warn({ peerKmeId, error }, 'a loan was not answered; asking again')
      return false
    }
  }

  return {
    borrow: (peerKmeId, unitCount) => {
      const running = underWay.get(peerKmeId)
      if (running !== undefined) return running
      const loan = startLoan(peerKmeId, unitCount).finally(() => underWay.delete(peerKmeId))
      underWay.set(peerKmeId, loan)
      return loan
    },
    lend: async (peerKmeId, loanId, unitCount) => {
      const given = await store.loanGiven(peerKmeId, loanId)
      if (given !== undefined) return given
      const { mine } = await pool.level(peerKmeId)
      const spare = Math.max(0, mine - parts.lendFloorUnits)
      // If the hints are stale or the outcome unknown, the units are missing in the pool until it is compared with the store.
      const taken = await pool.take(peerKmeId, BORROWER, Math.min(unitCount, spare, LOAN_UNITS_MAX))
      const runs = 'units' in taken ? taken.units : []
      // At once, so that "Get status" does not miss them while the loan is written: the borrower would lend them back.
      await pool.adjustTheirs(peerKmeId, unitCountOf(runs))
      await store.lend(peerKmeId, loanId, runs)
      return runs
    },
    run: async (signal) => {
      while (!signal.aborted) {
        try {
          const loans = (await store.openLoans()).filter(({ loanId, ageMs }) => lost.has(loanId) || ageMs > LOST_AFTER_MS)
          // Each on its own: one that cannot be finished must not hold up the others.
          const outcomes = await Promise.allSettled(
            loans.map(({ peerKmeId, loanId }) => fetchLoan(peerKmeId, loanId, LOAN_UNITS_MIN)),
          )
          for (const outcome of outcomes) {
            if (outcome.status === 'rejected') log.warn({ error: outcome.reason as unknown }, 'a loan could not be finished yet')
          }
        } catch (error) {
          log.warn({ error }, 'open loans could not be read; trying again')
        }
        await clock.sleep(RESUME_INTERVAL_MS, signal)
      }
    },
  }
}
