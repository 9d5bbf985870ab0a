/** An audit log that also raises an alarm when a peer KME said what it may not: whoever writes the record need not think of it.
 *  Holds: the alarm is raised whether or not the record can be written; no KME fills the audit log with records of its refusals, and what
 *  is left out is counted in the next one. */
import type { AuditEvent, AuditLog } from '../audit/audit.ts'
import { createAllowance } from '../kernel/allowance.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Alarms } from './alarms.ts'

/** Between honest KMEs too a message may overtake another. */
const RACES = ['block-pending', 'aid-voided']
/** Of relays; they raise a graver alarm of their own: `relay.pad`. */
const AGAINST_THE_LINK = ['pad-used', 'not-authentic']
const NOT_HERE: ReadonlySet<unknown> = new Set([...RACES, ...AGAINST_THE_LINK])

/** Reasons that more often have a harmless cause. */
const HINTS: Readonly<Record<string, string>> = {
  'sae-not-served': '. Compare saes at both KMEs',
  'pair-not-permitted': '. Compare sharesWith at both KMEs, and which SAEs are disabled',
  'key-routing-error': '. Compare saes and sharesWith at both KMEs',
  'path-not-allowed': '. Compare relay, peers and links at both KMEs',
  'next-hop-unknown': '. Compare links at both KMEs',
  'unknown-call': '. Does that KME run another version of OpenKME?',
}

/** Records about one KME, of each process. One request of a peer can be refused 64 times over; an operator who compares two
 *  configurations can well do with the first few of those. */
const RECORDS = { atOnce: 256, perS: 2 }

export const tellOfRefusals = (audit: AuditLog, alarms: Pick<Alarms, 'raise'>, clock: Pick<Clock, 'monotonicMs'>): AuditLog => {
  const mayRecord = createAllowance(clock, RECORDS)
  const unrecorded = new Map<string, number>()

  const appendRefusal = async (event: AuditEvent): Promise<void> => {
    const { actor, subject } = event
    const leftOut = unrecorded.get(actor) ?? 0
    if (!mayRecord(actor)) {
      unrecorded.set(actor, leftOut + 1)
      return
    }
    unrecorded.delete(actor)
    try {
      await audit.append(leftOut === 0 ? event : { ...event, subject: { ...subject, unrecorded: leftOut } })
    } catch (error) {
      unrecorded.set(actor, (unrecorded.get(actor) ?? 0) + leftOut)
      throw error
    }
  }

  return {
    ...audit,
    append: (event) => {
      if (event.event !== 'peer.refused') return audit.append(event)
      if (!NOT_HERE.has(event.subject['reason'])) raiseRequestRefused(alarms, event)
      return appendRefusal(event)
    },
  }
}

const raiseRequestRefused = (alarms: Pick<Alarms, 'raise'>, { actor, subject }: AuditEvent): void => {
  const peerKmeId = actor.replace(/^kme:/, '')
  const [call, reason] = [String(subject['call']), String(subject['reason'])]
  alarms.raise(
    `peer.request-refused:${peerKmeId}`,
    'warning',
    `what KME ${peerKmeId} said was refused (${call}: ${reason}); nothing was changed by it${HINTS[reason] ?? ''}`,
    { peerKmeId, call, reason },
  )
}
