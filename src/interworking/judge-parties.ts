/** Whether a neighbour may speak of these SAEs at all (I17): it speaks for those homed behind it, towards those homed here. */
import type { RegisteredSae, SaeDirectory } from '../delivery/delivery.ts'
import { parseSaeId, type KmeId, type SaeId } from '../kernel/identifiers.ts'
import { invalidRouting, noRoute, unknownTarget } from './refusal.ts'

export interface Parties {
  readonly initiator: string
  readonly targets: readonly string[]
}

export interface JudgeParts {
  readonly kmeId: KmeId
  readonly directory: Pick<SaeDirectory, 'find' | 'mayShare'>
  /** Targets one key may have. */
  readonly targetsMax: number
}

const find = (directory: JudgeParts['directory'], text: string): RegisteredSae | undefined => {
  const saeId = parseSaeId(text)
  return saeId === undefined ? undefined : directory.find(saeId)
}

/** The SAEs of keys a neighbour sends.
 *  @throws Refusal: no key can be sent between these SAEs. */
export const judgeKeys = (
  { kmeId, directory, targetsMax }: JudgeParts,
  caller: KmeId,
  { initiator, targets }: Parties,
): { masterSaeId: SaeId; slaveSaeIds: SaeId[] } => {
  const master = find(directory, initiator)
  if (master?.kmeId !== caller) throw invalidRouting('the initiator SAE is not homed behind the calling KME')
  const slaves = targets.map((target) => {
    const slave = find(directory, target)
    // One answer for what is unknown, disabled and not permitted, so that nobody can enumerate.
    if (slave === undefined || !directory.mayShare(master.saeId, slave.saeId)) throw unknownTarget()
    if (slave.kmeId === caller) throw invalidRouting('a target SAE is homed behind the calling KME itself')
    return slave
  })
  if (slaves.length > targetsMax || slaves.some((slave) => slave.kmeId !== kmeId)) throw noRoute(slaves.length)
  return { masterSaeId: master.saeId, slaveSaeIds: slaves.map(({ saeId }) => saeId) }
}

/** Which way keys between these SAEs went: `received` from the caller, or `sent` to it. An SAE that is disabled by now still has keys that
 *  can be voided.
 *  @throws Refusal when the caller has nothing to do with them. */
export const judgeDirection = (
  { kmeId, directory }: Pick<JudgeParts, 'kmeId' | 'directory'>,
  caller: KmeId,
  { initiator, targets }: Parties,
): 'received' | 'sent' => {
  const home = (text: string): KmeId | undefined => find(directory, text)?.kmeId
  const all = (expected: KmeId): boolean => targets.every((target) => home(target) === expected)
  if (home(initiator) === caller && all(kmeId)) return 'received'
  if (home(initiator) === kmeId && all(caller)) return 'sent'
  throw invalidRouting('no keys go between these SAEs by way of the calling KME')
}
