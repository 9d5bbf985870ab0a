/** Settles reservations whose outcome at the peer is unknown: after a lost answer, or after a process died.
 *  There are two ways back to the pool and no third. R1: the same live process knows nothing was sent (get-key.ts).
 *  R2, here: the peer voided the assignment for ever before any slave had a key of it. Everything else is burnt, and so are all
 *  units claimed for a key of several KMEs: a one-time pad that may have been sent is never used again, and what another KME may know is no
 *  key of anybody else. */
import type { Clock } from '../kernel/clock.ts'
import type { AssignmentId, KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { KeyPool } from '../key-pool/key-pool.ts'
import type { KeyStore, UnitRun, UnsettledReservation } from '../key-store/key-store.ts'
import type { PeerDirectory } from '../peer/peer.ts'
import type { NeighbourDirectory, NeighbourKme } from './delivery.ts'

export interface SettlementParts {
  readonly store: KeyStore
  readonly pool: KeyPool
  readonly peers: PeerDirectory
  readonly neighbours: NeighbourDirectory
  readonly burnAfterS: number
  /** Counts units for metrics. */
  readonly onBurnt: (unitCount: number) => void
  readonly clock: Clock
  readonly log: Logger
}

export interface Settlement {
  /** RESERVED to ABORTING, and soon settled. Only `issued` means that the keys were issued after all. */
  abort(aid: AssignmentId, reason: string): Promise<'aborting' | 'issued' | 'gone' | 'unknown'>
  /** Back to AVAILABLE. */
  giveBack(aid: AssignmentId, peerKmeId: KmeId, rule: 'R1' | 'R2'): Promise<readonly UnitRun[]>
  /** Gives up a reservation for good. @param peerKmeId only what is shared with this KME. */
  burn(aid: AssignmentId, reason: string, peerKmeId?: KmeId): Promise<void>
  /** Settles what there is to settle, now. */
  settle(): Promise<void>
  /** Settles what this process left, again and again until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
  /** Settles what processes left that are dead. Several may do it at once; one is enough. */
  settleForTheDead(signal: AbortSignal): Promise<void>
}

/** Why units claimed for a key of several KMEs are burnt. */
export const KEY_MAY_BE_KNOWN = 'another KME may know what they make or cover'

const INTERVAL_MS = 500
/** Between two looks when nothing is known to be pending. */
const SETTLE_INTERVAL_MS = 5000

export const createSettlement = (parts: SettlementParts): Settlement => {
  const { store, pool, peers, clock, log } = parts
  /** Something of this process may be unsettled. */
  let pending = false

  const burn = async (aid: AssignmentId, reason: string, peerKmeId?: KmeId): Promise<void> => {
    // Until the peer knows, and also if this fails.
    pending = true
    const unitCount = await store.burn(aid, reason, peerKmeId)
    parts.onBurnt(unitCount)
    log.warn({ aid, unitCount, reason }, 'units burnt')
  }

  const retire = async ({ aid, peerKmeId, units }: UnsettledReservation): Promise<boolean> => {
    const peer = peers.named(peerKmeId)
    if (peer?.available() !== true || (await peer.retire({ aid, units })) === 'failed') return false
    await store.forgetBurnt(aid, peerKmeId)
    return true
  }

  /** Keys that may have been sent to a neighbour are nobody's any more, whatever it says: it knows their bytes. */
  const settleSent = async (neighbour: NeighbourKme, { aid, state }: UnsettledReservation): Promise<boolean> => {
    if (state === 'BURNT') await store.forgetBurnt(aid, neighbour.kmeId)
    else if ((await store.markAborting(aid, 'its process is gone')) === 'aborting') {
      await neighbour.abandon(aid)
      await burn(aid, 'the neighbour may know the keys')
    }
    return true
  }

  const settleOne = async (reservation: UnsettledReservation): Promise<boolean> => {
    const { aid, peerKmeId } = reservation
    const neighbour = parts.neighbours.named(peerKmeId)
    if (neighbour !== undefined) return settleSent(neighbour, reservation)
    if (reservation.state === 'BURNT') return retire(reservation)
    if (reservation.pad) {
      await burn(aid, KEY_MAY_BE_KNOWN, peerKmeId)
      return true
    }
    if (clock.nowMs() - reservation.claimedAtMs > parts.burnAfterS * 1000) {
      await burn(aid, 'not settled in time', peerKmeId)
      return true
    }
    const peer = peers.named(peerKmeId)
    if (peer?.available() !== true) return false
    if ((await store.markAborting(aid, 'its process is gone')) !== 'aborting') return true
    const answer = await peer.abort(aid)
    if (answer === 'failed') return false
    if (answer === 'voided') {
      await pool.giveBack(peerKmeId, await store.giveBack(aid, peerKmeId, 'R2'))
      log.info({ aid, peer: peerKmeId }, 'an unsettled assignment was voided, its units are free again')
    } else {
      await burn(aid, 'the peer had released it', peerKmeId)
    }
    return true
  }

  /** @returns true when nothing is left. */
  const settle = async (of: 'own' | 'dead' | 'all'): Promise<boolean> => {
    const unsettled = await store.unsettled(of)
    const outcomes = await Promise.allSettled(unsettled.map(settleOne))
    return outcomes.every((outcome) => outcome.status === 'fulfilled' && outcome.value)
  }
  const settleOwn = async (): Promise<void> => {
    pending = false
    // Nothing but a settled reservation may end the search.
    if (!(await settle('own'))) pending = true
  }

  return {
    abort: async (aid, reason) => {
      pending = true
      try {
        return await store.markAborting(aid, reason)
      } catch (error) {
        log.error({ aid, error }, 'could not mark a reservation as aborting; it will be settled later')
        return 'unknown'
      }
    },
    giveBack: (aid, peerKmeId, rule) => {
      pending = true
      return store.giveBack(aid, peerKmeId, rule)
    },
    burn,
    settle: async () => {
      await settle('all')
    },
    run: async (signal) => {
      let settledMs = clock.monotonicMs()
      while (!signal.aborted) {
        try {
          if (pending || clock.monotonicMs() - settledMs >= SETTLE_INTERVAL_MS) {
            settledMs = clock.monotonicMs()
            await settleOwn()
          }
        } catch (error) {
          pending = true
          log.warn({ error }, 'reservations could not be settled; trying again')
        }
        await clock.sleep(INTERVAL_MS, signal)
      }
    },
    settleForTheDead: async (signal) => {
      while (!signal.aborted) {
        let allSettled = false
        try {
          allSettled = await settle('dead')
        } catch (error) {
          log.warn({ error }, 'reservations of processes that are gone could not be settled; trying again')
        }
        await clock.sleep(allSettled ? SETTLE_INTERVAL_MS : INTERVAL_MS, signal)
      }
    },
  }
}
