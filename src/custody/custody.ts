/** Door of custody: the key-encryption keys that everything at rest is sealed under.
 *  Root key -> HKDF-SHA-256 -> KEK of a term -> wraps one data key (DEK) per block. */
import type { KeyObject } from 'node:crypto'

/** Keys of keys are KeyObjects: OpenSSL holds the bytes, prints nothing of them, and clears them when it frees them. */
export interface WrappedDek {
  readonly dek: KeyObject
  readonly wrapped: Buffer
}

export interface Keyring {
  /** Tells the keyring of one database from all others; made from its salt, so it says nothing of a key. */
  readonly name: string
  /** The term new data keys are wrapped under. */
  readonly activeTerm: number
  /** A fresh data key, wrapped under the active term and bound to `place`. */
  createDek(place: string): WrappedDek
  /** @throws KeyDataAccess when the wrapping was altered, moved to another place, or its term is not known. */
  openDek(wrapped: Uint8Array, term: number, place: string): KeyObject
}

export { KEY_BYTES, NONCE_BYTES, openInto, seal, TAG_BYTES } from './aes-gcm.ts'
