/** The answering side of ETSI GS QKD 020: keys, acknowledgements and voids of neighbours.
 *  Holds: keys are stored durably before anything is answered of them; a neighbour reaches only keys between SAEs behind it and SAEs here;
 *  what is refused changes nothing. */
import type { KmeId, SaeId } from '../kernel/identifiers.ts'
import type { Logger } from '../kernel/log.ts'
import type { ReceivedKeyStore, VoidedKey } from '../key-store/key-store.ts'
import { ACK_STATUSES, type Ack, type AckStatus, type Neighbour } from './interworking.ts'
import { judgeDirection, judgeKeys, type JudgeParts, type Parties } from './judge-parties.ts'
import { logOutcomes } from './log-outcomes.ts'
import type { TransferStore } from './prisma-transfers.ts'
import { invalidParameter, Refusal, tooManyKeys } from './refusal.ts'
import { readAcks, readExtKeys, readVoid, type KeySizeLimits, type VoidRequest } from './wire.ts'

export interface ServeNeighbourParts extends JudgeParts {
  readonly limits: KeySizeLimits
  readonly store: ReceivedKeyStore
  readonly transfers: Pick<TransferStore, 'note' | 'tell' | 'voidSent'>
  readonly heldForS: number
  /** A neighbour's keys that may wait for their targets, in keys of default size. */
  readonly heldUnitsMax: number
  /** Counts keys that a neighbour sends, voids or acknowledges. @throws Unavailable when they are too many for now. */
  readonly admitKeys: (caller: Neighbour, keyCount: number) => Promise<void>
  readonly log: Logger
}

/** What to answer: acknowledgements now (200), or nothing but that the request was taken (202). */
export type Served = { readonly acks: readonly Ack[] } | 'taken'

export interface ServeNeighbour {
  /** @param body is zeroed. @throws Refusal. */
  keys(caller: Neighbour, body: Buffer): Promise<Served>
  /** @throws Refusal. */
  ack(caller: Neighbour, body: Buffer): Promise<void>
  /** @throws Refusal. */
  void(caller: Neighbour, body: Buffer): Promise<Served>
}

export const makeServeNeighbour = (parts: ServeNeighbourParts): ServeNeighbour => {
  const { store, transfers, log } = parts

  /** Acknowledges now, or where the caller wants to hear of it. */
  const acknowledge = async (caller: Neighbour, callbackUrl: string | undefined, acks: readonly Ack[]): Promise<Served> => {
    if (callbackUrl === undefined) return { acks }
    await transfers.tell(caller.kmeId, { kind: 'ack', acks })
    return 'taken'
  }

  const keys: ServeNeighbour['keys'] = async (caller, body) => {
    const sent = readExtKeys(body, parts.limits)
    using bytes = sent.bytes
    const parties = judgeKeys(parts, caller.kmeId, sent)
    checkCallback(caller, sent.callbackUrl)
    await parts.admitKeys(caller, sent.keys.length)
    const outcome = await store.receive({
      peerKmeId: caller.kmeId,
      ...parties,
      keys: sent.keys,
      bytes,
      ttlS: parts.heldForS,
      heldUnitsMax: parts.heldUnitsMax,
    })
    if (outcome === 'key-id-in-use') throw invalidParameter('key_id', 'shall be new')
    if (outcome === 'too-many') throw tooManyKeys()
    const keyIds = sent.keys.map(({ keyId }) => keyId)
    return await acknowledge(caller, sent.callbackUrl, [
      { status: 'relayed', initiator: sent.initiator, targets: sent.targets, keyIds },
    ])
  }

  const ack: ServeNeighbour['ack'] = async (caller, body) => {
    const acks = readAcks(body)
    const ofSent = acks.filter((one) => judgeDirection(parts, caller.kmeId, one) === 'sent')
    const named = acks.reduce((sum, { keyIds }) => sum + keyIds.length, 0)
    // Each container costs something too. More than a second's worth takes a whole second, or it could never be said.
    await parts.admitKeys(caller, Math.min(caller.keysPerS, Math.max(1, named + acks.length)))
    if (!(await transfers.note(caller.kmeId, ofSent))) {
      throw new Refusal(400, 'key-not-present', { key_id: 'shall be of a key sent to the calling KME for these SAEs' })
    }
    const bad = acks.filter(({ status }) => status !== 'relayed')
    logOutcomes(log, caller.kmeId, bad, 'a neighbour says what became of keys')
  }

  const voidKeys: ServeNeighbour['void'] = async (caller, body) => {
    const request = readVoid(body)
    const direction = judgeDirection(parts, caller.kmeId, request)
    checkCallback(caller, request.callbackUrl)
    await parts.admitKeys(caller, request.keyIds === 'all' ? 1 : request.keyIds.length)
    const voided =
      direction === 'sent' ? await transfers.voidSent(caller.kmeId, request) : await voidReceived(store, caller.kmeId, request)
    return acknowledge(caller, request.callbackUrl, toAcks(request, voided))
  }

  return { keys, ack, void: voidKeys }
}

/** The SAEs are registered, as judgeDirection() found. */
const voidReceived = (
  store: ReceivedKeyStore,
  peerKmeId: KmeId,
  { initiator, targets, keyIds }: Pick<VoidRequest, 'initiator' | 'targets' | 'keyIds'>,
): Promise<readonly VoidedKey[]> =>
  store.voidReceived({ peerKmeId, masterSaeId: initiator as SaeId, slaveSaeIds: targets as readonly SaeId[], keyIds })

/** Acknowledgements go to the configured place, whatever the request says; one that says otherwise is refused.
 *  @throws Refusal. */
const checkCallback = ({ callbackUrl }: Neighbour, asked: string | undefined): void => {
  if (asked === undefined || new URL(asked).href === new URL(callbackUrl).href) return
  throw invalidParameter('ack_callback_url', 'shall be the one that was agreed on')
}

const statusOf: Readonly<Record<VoidedKey['outcome'], AckStatus>> = {
  voided: 'voided',
  delivered: 'failed to void',
  absent: 'key not present',
}

const toAcks = ({ initiator, targets }: Parties, voided: readonly VoidedKey[]): Ack[] => {
  const acks = ACK_STATUSES.flatMap((status) => {
    const keyIds = voided.filter(({ outcome }) => statusOf[outcome] === status).map(({ keyId }) => keyId)
    return keyIds.length === 0 ? [] : [{ status, initiator, targets, keyIds }]
  })
  return acks.length > 0 ? acks : [{ status: 'key not present', initiator, targets, keyIds: [] }]
}
