/** Which KMEs keys for these SAEs are shared with, if the caller may share keys with them at all. */
import { BadRequest, UnknownSlave } from '../kernel/errors.ts'
import { parseSaeId, type KmeId, type SaeId } from '../kernel/identifiers.ts'
import type { SaeDirectory } from './delivery.ts'

/** The KME of an SAE the caller may share keys with.
 *  @param other as it stands in the path.
 *  @throws UnknownSlave, with one answer for unknown, disabled, not permitted and the caller itself. */
export const findPartner = (directory: SaeDirectory, caller: SaeId, other: string): { saeId: SaeId; kmeId: KmeId } => {
  const saeId = parseSaeId(other)
  const sae = saeId === undefined ? undefined : directory.find(saeId)
  if (sae === undefined || !directory.mayShare(caller, sae.saeId)) throw new UnknownSlave()
  return sae
}

/** SAEs at one KME that are to share a key. */
export interface Target {
  readonly kmeId: KmeId
  readonly slaveSaeIds: readonly SaeId[]
}

export interface Route {
  /** The slave SAE of the path, then the additional ones. */
  readonly slaveSaeIds: readonly SaeId[]
  /** The same by KME, in the order the KMEs come first. */
  readonly targets: readonly Target[]
}

/** Where the slave in the path and the additional slaves are homed.
 *  @throws UnknownSlave, or BadRequest when one is named twice or is the master. */
export const routeToSlaves = (directory: SaeDirectory, master: SaeId, slave: string, additional: readonly SaeId[]): Route => {
  const first = findPartner(directory, master, slave)
  if (additional.includes(master) || additional.includes(first.saeId)) {
    throw new BadRequest([
      { parameter: 'additional_slave_SAE_IDs', reason: 'shall not name the master or the slave SAE of the path' },
    ])
  }
  const slaves = [first, ...additional.map((saeId) => findPartner(directory, master, saeId))]
  return {
    slaveSaeIds: slaves.map(({ saeId }) => saeId),
    targets: [...Map.groupBy(slaves, ({ kmeId }) => kmeId)].map(([kmeId, homed]) => ({
      kmeId,
      slaveSaeIds: homed.map(({ saeId }) => saeId),
    })),
  }
}
