/** Which KME keys for these SAEs are shared with, if the caller may share keys with them at all. */
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

/** The one KME that the slave in the path and the additional slaves are homed at.
 *  @throws UnknownSlave, or BadRequest when they are homed at different KMEs. */
export const routeToSlaves = (
  directory: SaeDirectory,
  master: SaeId,
  slave: string,
  additional: readonly SaeId[],
): { slaveSaeIds: SaeId[]; targetKmeId: KmeId } => {
  const first = findPartner(directory, master, slave)
  const parameter = 'additional_slave_SAE_IDs'
  if (additional.includes(master) || additional.includes(first.saeId)) {
    throw new BadRequest([{ parameter, reason: 'shall not name the master or the slave SAE of the path' }])
  }
  const others = additional.map((saeId) => findPartner(directory, master, saeId))
  if (others.some((other) => other.kmeId !== first.kmeId)) {
    throw new BadRequest([
      { parameter, reason: 'shall name SAEs at the KME of the slave SAE in the path; other KMEs need key relay' },
    ])
  }
  return { slaveSaeIds: [first.saeId, ...additional], targetKmeId: first.kmeId }
}
