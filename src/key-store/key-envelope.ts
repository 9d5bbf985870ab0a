/** Seals and opens the unit keys of one block: AES-256-GCM per unit under the block's own data key. The associated data
 *  names KME, link, block, unit, term and generation, so that a ciphertext moved anywhere else does not open.
 *  Holds: the nonce is the unit's index, and a data key seals one generation of one block only, so no (key, nonce) repeats. */
import type { KeyObject } from 'node:crypto'
import { KEY_BYTES, NONCE_BYTES, openInto, seal, TAG_BYTES } from '../custody/custody.ts'

/** Where a block lives; part of what its ciphertexts are bound to. */
export interface BlockPlace {
  readonly kmeId: string
  readonly linkId: string
  readonly blockId: string
  readonly term: number
  readonly generation: number
}

/** The index the tag key of a block is sealed under; no unit has it. */
export const TAG_KEY_INDEX = 0xffff_ffff
export const TAG_KEY_BYTES = KEY_BYTES

export const placeName = (place: BlockPlace): string => `${place.kmeId}|${place.linkId}|${place.blockId}|${place.generation}`

/** How many bytes a sealed unit of `unitSizeBits` takes. */
export const sealedUnitBytes = (unitSizeBits: number): number => unitSizeBits / 8 + TAG_BYTES

const nonceOf = (index: number): Buffer => {
  const nonce = Buffer.alloc(NONCE_BYTES)
  nonce.writeUInt32BE(index, NONCE_BYTES - 4)
  return nonce
}

const associatedDataOf = (place: BlockPlace, index: number): Buffer =>
  Buffer.from(`openkme unit 1|${placeName(place)}|${place.term}|${index}`)

export const sealUnit = (dek: KeyObject, place: BlockPlace, index: number, unit: Uint8Array): Buffer =>
  seal(dek, nonceOf(index), associatedDataOf(place, index), unit)

/** Opens one unit into `target` at `offset`; returns its length in bytes.
 *  @throws KeyDataAccess. */
export const openUnit = (
  dek: KeyObject,
  place: BlockPlace,
  index: number,
  sealed: Uint8Array,
  target: Buffer,
  offset: number,
): number => openInto(target, offset, dek, nonceOf(index), associatedDataOf(place, index), sealed)
