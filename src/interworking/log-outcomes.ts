/** Says in the log what a neighbour says became of keys.
 *  Holds: however many keys and containers it names, there is one short line for each status. */
import type { KmeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import { ACK_STATUSES, type Ack } from './interworking.ts'

const KEY_IDS_SHOWN = 16

export const logOutcomes = (log: Logger, neighbour: KmeId, acks: readonly Ack[], what: string): void => {
  for (const status of ACK_STATUSES) {
    const keyIds = acks.filter((ack) => ack.status === status).flatMap((ack) => ack.keyIds)
    if (keyIds.length === 0) continue
    log.warn({ neighbour, status, keys: keyIds.length, keyIds: keyIds.slice(0, KEY_IDS_SHOWN) }, what)
  }
}
