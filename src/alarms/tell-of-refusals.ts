/** An audit log that also raises an alarm when a peer KME said what it may not: whoever writes the record need not think of it.
 *  Holds: the alarm is raised whether or not the record can be written. */
import type { AuditEvent, AuditLog } from '../audit/audit.ts'
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

export const tellOfRefusals = (audit: AuditLog, alarms: Pick<Alarms, 'raise'>): AuditLog => ({
  ...audit,
  append: (event) => {
    if (event.event === 'peer.refused' && !NOT_HERE.has(event.subject['reason'])) raiseRequestRefused(alarms, event)
    return audit.append(event)
  },
})

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
