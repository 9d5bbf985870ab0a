/** Method "Get key with key IDs" (ETSI GS QKD 014, 5.4): hand a slave SAE the keys a master SAE was given.
 *  Holds: each slave gets a key once; all keys of a request or none; the store commits before bytes leave. */
import type { KeyId, SaeId } from '../kernel/identifiers.ts'
import { parseSaeId } from '../kernel/identifiers.ts'
import type { KeyStore } from '../key-store/key-store.ts'
import type { DeliveredKeys } from './key-container.ts'

export type GetKeyWithKeyIds = (callerSaeId: SaeId, master: string, keyIds: readonly KeyId[]) => Promise<DeliveredKeys>

/** An ID no SAE can have: no key has this master, so the answer is that of an unknown key. */
const NOBODY = '' as SaeId

export const makeGetKeyWithKeyIds =
  (parts: { store: KeyStore }): GetKeyWithKeyIds =>
  (callerSaeId, master, keyIds) =>
    parts.store.fetch({ callerSaeId, masterSaeId: parseSaeId(master) ?? NOBODY, keyIds })
