/** The difference of a copy: keys XOR units, kept with the assignment at the KME that holds the copy. On the wire and at rest it is
 *  ciphertext of a one-time pad already; it is sealed all the same, so that the database has nothing a thief could use once the
 *  units' block is destroyed.
 *  Holds: the data key seals one difference and nothing else, so its nonce is constant. */
import { NONCE_BYTES, openInto, seal, TAG_BYTES, type Keyring } from '../custody/custody.ts'
import { KeyDataAccess } from '../kernel/errors.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'

export interface SealedDifference {
  readonly term: number
  readonly wrappedDek: Buffer
  readonly sealed: Buffer
}

/** Where a difference belongs; it opens nowhere else. */
export interface DifferencePlace {
  readonly kmeId: string
  readonly aid: string
}

const placeName = ({ kmeId, aid }: DifferencePlace): string => `difference|${kmeId}|${aid}`
const NONCE = Buffer.alloc(NONCE_BYTES)
const associatedDataOf = (place: DifferencePlace, term: number): Buffer =>
  Buffer.from(`openkme difference 1|${placeName(place)}|${term}`)

export const sealDifference = (keyring: Keyring, place: DifferencePlace, difference: Uint8Array): SealedDifference => {
  const term = keyring.activeTerm
  const { dek, wrapped } = keyring.createDek(placeName(place))
  return { term, wrappedDek: wrapped, sealed: seal(dek, NONCE, associatedDataOf(place, term), difference) }
}

/** @throws KeyDataAccess when it was altered or moved. */
export const openDifference = (
  keyring: Keyring,
  place: DifferencePlace,
  { term, wrappedDek, sealed }: SealedDifference,
): Buffer => {
  const dek = keyring.openDek(wrappedDek, term, placeName(place))
  const difference = Buffer.alloc(Math.max(0, sealed.length - TAG_BYTES))
  openInto(difference, 0, dek, NONCE, associatedDataOf(place, term), sealed)
  return difference
}

/** Keys XOR units, or units XOR difference. @throws KeyDataAccess when the two are not equally long. */
export const differenceOf = (one: SecretBytes, other: SecretBytes): Buffer =>
  one.use((a) =>
    other.use((b) => {
      if (a.length !== b.length) throw new KeyDataAccess()
      const difference = Buffer.allocUnsafeSlow(a.length)
      for (let i = 0; i < a.length; i += 1) difference[i] = (a[i] as number) ^ (b[i] as number)
      return difference
    }),
  )

/** Makes the units of some keys these keys, in place.
 *  @param positions of the keys among all that the difference is of, in the order of `units`. @param keyBytes length of a key.
 *  @throws KeyDataAccess when the difference is not of these keys. */
export const applyDifference = (units: SecretBytes, difference: Buffer, keyBytes: number, positions: readonly number[]): void =>
  units.use((bytes) => {
    if (bytes.length !== keyBytes * positions.length) throw new KeyDataAccess()
    positions.forEach((position, at) => {
      if ((position + 1) * keyBytes > difference.length) throw new KeyDataAccess()
      for (let i = 0; i < keyBytes; i += 1) {
        bytes[at * keyBytes + i] = (bytes[at * keyBytes + i] as number) ^ (difference[position * keyBytes + i] as number)
      }
    })
  })
