/** The states of key material and the legal moves between them (names after NIST SP 800-57 Part 1). A unit key's state is
 *  that of the row that speaks for it: its block until it is claimed, then the reservation, then the assignment.
 *  Triggers in the database refuse every move that is not in these tables; a test holds the two against each other. */

export type BlockState = 'INGESTED' | 'AVAILABLE' | 'QUARANTINED' | 'DESTROYED'
export type ReservationState = 'RESERVED' | 'ABORTING' | 'BURNT'
export type AssignmentState = 'ISSUED' | 'DELIVERED' | 'EXPIRED' | 'REVOKED' | 'VOIDED'

/** INGESTED: stored, not yet agreed with the other end. QUARANTINED: taken out of use. DESTROYED: no material, no data key. */
export const blockMoves: Readonly<Record<BlockState, readonly BlockState[]>> = {
  INGESTED: ['AVAILABLE', 'QUARANTINED', 'DESTROYED'],
  AVAILABLE: ['QUARANTINED', 'DESTROYED'],
  QUARANTINED: ['DESTROYED'],
  DESTROYED: [],
}

/** RESERVED: claimed by a request. ABORTING: its fate at the peer is unknown. BURNT: its units will never be issued, and the
 *  peer has yet to be told. A reservation ends by being deleted: into an assignment (ISSUED, from RESERVED only), back to
 *  AVAILABLE (rules R1 and R2), or once the peer knows that its units are burnt. */
export const reservationMoves: Readonly<Record<ReservationState, readonly ReservationState[]>> = {
  RESERVED: ['ABORTING', 'BURNT'],
  ABORTING: ['BURNT'],
  BURNT: [],
}

/** ISSUED: the master may have the keys. DELIVERED: every slave has them. VOIDED: never to be fetched, by the peer's abort. */
export const assignmentMoves: Readonly<Record<AssignmentState, readonly AssignmentState[]>> = {
  ISSUED: ['DELIVERED', 'EXPIRED', 'REVOKED', 'VOIDED'],
  DELIVERED: [],
  EXPIRED: [],
  REVOKED: [],
  VOIDED: [],
}
