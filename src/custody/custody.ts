/** Door of custody: the key-encryption keys that everything at rest is sealed under.
 *  Root key -> HKDF-SHA-256 -> KEK of a term -> wraps one data key (DEK) per block. */
import type { SecretBytes } from '../kernel/secret-bytes.ts'

export interface WrappedDek {
  readonly dek: SecretBytes
  readonly wrapped: Buffer
}

export interface Keyring extends Disposable {
  /** The term new data keys are wrapped under. */
  readonly activeTerm: number
  /** A fresh data key, wrapped under the active term and bound to `place`. */
  createDek(place: string): WrappedDek
  /** @throws KeyDataAccess when the wrapping was altered, moved to another place, or its term is not known. */
  openDek(wrapped: Uint8Array, term: number, place: string): SecretBytes
}

export { KEY_BYTES, NONCE_BYTES, openInto, seal, TAG_BYTES } from './aes-gcm.ts'
