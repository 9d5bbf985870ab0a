/** Proofs that both ends of a link hold the same bytes, and secrets that follow from it, made with the block's tag key: 256 bits of the block itself that
 *  are never issued. Only the two ends of the link know them, so a proof tells nobody else anything about a key, however
 *  short the key is (HMAC-SHA-256, RFC 2104). */
import { createHmac, type KeyObject } from 'node:crypto'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import type { Assignment } from './key-store.ts'

/** Proves knowledge of a whole block. @param speaker the KME that makes the proof, so that it cannot be played back. */
export const blockTag = (tagKey: KeyObject, blockId: string, speaker: string, units: SecretBytes): Buffer =>
  units.use((bytes) => createHmac('sha256', tagKey).update(`openkme block 1|${blockId}|${speaker}|`).update(bytes).digest())

/** A secret of both ends for a session between their KMEs; it says nothing about the tag key or any other proof. */
export const sessionSecret = (tagKey: KeyObject, blockId: string): SecretBytes =>
  SecretBytes.adopt(createHmac('sha256', tagKey).update(`openkme session 1|${blockId}`).digest())

/** @param role `offer` from the issuing KME, `confirm` from the holding one. */
export const assignmentTag = (
  tagKey: KeyObject,
  role: 'offer' | 'confirm',
  assignment: Assignment,
  keys: SecretBytes,
): Buffer => {
  // JSON of arrays and numbers in a fixed order is the same text at both ends.
  const terms = JSON.stringify([
    assignment.aid,
    assignment.masterSaeId,
    assignment.slaveSaeIds,
    assignment.sizeBits,
    assignment.keyIds,
    assignment.units.map((run) => [run.blockId, run.units]),
  ])
  return keys.use((bytes) => createHmac('sha256', tagKey).update(`openkme assignment 1|${role}|${terms}|`).update(bytes).digest())
}
