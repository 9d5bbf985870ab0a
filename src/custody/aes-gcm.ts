/** AES-256-GCM (NIST SP 800-38D) with a 16-byte tag behind the ciphertext. Callers own nonces and associated data. */
import { createCipheriv, createDecipheriv, type KeyObject } from 'node:crypto'
import { KeyDataAccess } from '../kernel/errors.ts'

export const TAG_BYTES = 16
export const NONCE_BYTES = 12
export const KEY_BYTES = 32

/** @returns ciphertext and tag in one buffer. */
export const seal = (key: KeyObject, nonce: Uint8Array, associatedData: Uint8Array, plaintext: Uint8Array): Buffer => {
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
  cipher.setAAD(associatedData)
  const ciphertext = cipher.update(plaintext)
  cipher.final()
  return Buffer.concat([ciphertext, cipher.getAuthTag()])
}

/** Opens into `target` at `offset`, so that the plaintext exists in one place only.
 *  @throws KeyDataAccess when anything was altered or moved. */
export const openInto = (
  target: Buffer,
  offset: number,
  key: KeyObject,
  nonce: Uint8Array,
  associatedData: Uint8Array,
  sealed: Uint8Array,
): number => {
  const plaintextBytes = sealed.length - TAG_BYTES
  if (plaintextBytes < 0) throw new KeyDataAccess()
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
  decipher.setAAD(associatedData)
  decipher.setAuthTag(sealed.subarray(plaintextBytes))
  const plaintext = decipher.update(sealed.subarray(0, plaintextBytes))
  try {
    decipher.final()
    return plaintext.copy(target, offset)
  } catch (error) {
    throw new KeyDataAccess({ cause: error })
  } finally {
    plaintext.fill(0)
  }
}
