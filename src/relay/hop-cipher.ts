/** Protects a parcel on one link, with key of that link and no cipher: exclusive or with a one-time pad, and a one-time MAC (the hash of
 *  src/bb84/universal-hash.ts under an r of its own). What is encrypted and who speaks is secret and certain whatever may be computed.
 *  Holds: each byte of a pad is used for one thing; a tag of one direction, hop or relay is never one of another.
 *
 *      pad:  | exclusive or, as long as the block | r, 16 bytes | masks the parcel's tag, 16 | masks the answer's tag, 16 | */
import { createHash } from 'node:crypto'
import { createTranscriptHash, HASH_KEY_BYTES, PAD_BYTES, sameTag } from '../bb84/universal-hash.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import type { RelayParcel } from '../peer/peer.ts'

/** How many bytes of pad a block takes. */
export const padBytesFor = (blockBytes: number): number => blockBytes + HASH_KEY_BYTES + 2 * PAD_BYTES

/** A parcel before it is encrypted. */
export type ParcelDraft = Omit<RelayParcel, 'ciphertext' | 'mac'>

/** Everything a parcel says but its block, as one text that is the same at both ends: JSON without a space, in this order. */
const termsOf = (direction: 'parcel' | 'answer', parcel: ParcelDraft, last: unknown): Buffer =>
  Buffer.from(
    JSON.stringify([
      'openkme relay 1',
      direction,
      parcel.relayId,
      parcel.path,
      parcel.hop,
      parcel.block,
      [parcel.share.index, parcel.share.count],
      parcel.pad.map((run) => [run.blockId, run.units]),
      parcel.budgetMs,
      parcel.wrap?.toString('base64') ?? null,
      last,
    ]),
  )

const parcelTag = (draft: ParcelDraft, ciphertext: Buffer, macKey: Buffer): Buffer => {
  const hash = createTranscriptHash(
    macKey.subarray(0, HASH_KEY_BYTES),
    macKey.subarray(HASH_KEY_BYTES, HASH_KEY_BYTES + PAD_BYTES),
  )
  hash.update(termsOf('parcel', draft, ciphertext.length))
  hash.update(ciphertext)
  return Buffer.from(hash.digest())
}

const xor = (bytes: Buffer, pad: Buffer, target: Buffer): Buffer => {
  for (let i = 0; i < bytes.length; i += 1) target[i] = (bytes[i] as number) ^ (pad[i] as number)
  return target
}

/** r and what masks the answer's tag. */
const answerKeyIn = (macKey: Buffer): SecretBytes => {
  const key = Buffer.allocUnsafeSlow(HASH_KEY_BYTES + PAD_BYTES)
  macKey.copy(key, 0, 0, HASH_KEY_BYTES)
  macKey.copy(key, HASH_KEY_BYTES, HASH_KEY_BYTES + PAD_BYTES, HASH_KEY_BYTES + 2 * PAD_BYTES)
  return SecretBytes.adopt(key)
}

/** @param pad at least `padBytesFor` the block. The same arguments give the same parcel.
 *  @returns also the key of the answer, which the caller wipes. */
export const encryptForHop = (
  draft: ParcelDraft,
  block: SecretBytes,
  pad: Buffer,
): { readonly parcel: RelayParcel; readonly answerKey: SecretBytes } => {
  const macKey = pad.subarray(block.lengthBytes, padBytesFor(block.lengthBytes))
  const ciphertext = block.use((bytes) => xor(bytes, pad, Buffer.allocUnsafeSlow(bytes.length)))
  return { parcel: { ...draft, ciphertext, mac: parcelTag(draft, ciphertext, macKey) }, answerKey: answerKeyIn(macKey) }
}

/** @returns undefined when the parcel was not made with this pad; else the block and the key of the answer, which the caller wipes. */
export const decryptFromHop = (
  parcel: RelayParcel,
  pad: Buffer,
): { readonly block: SecretBytes; readonly answerKey: SecretBytes } | undefined => {
  const { ciphertext } = parcel
  if (pad.length < padBytesFor(ciphertext.length)) return undefined
  const macKey = pad.subarray(ciphertext.length, padBytesFor(ciphertext.length))
  if (!sameTag(parcelTag(parcel, ciphertext, macKey), parcel.mac)) return undefined
  const block = SecretBytes.adopt(xor(ciphertext, pad, Buffer.allocUnsafeSlow(ciphertext.length)))
  return { block, answerKey: answerKeyIn(macKey) }
}

/** The tag of `delivered`, which may be made once for a parcel. */
export const answerTag = (parcel: ParcelDraft, reply: Buffer | undefined, answerKey: SecretBytes): Buffer =>
  answerKey.use((key) => {
    const hash = createTranscriptHash(key.subarray(0, HASH_KEY_BYTES), key.subarray(HASH_KEY_BYTES))
    hash.update(termsOf('answer', parcel, reply?.toString('base64') ?? null))
    return Buffer.from(hash.digest())
  })

/** Names everything a parcel says, its tag included. */
export const digestOf = (parcel: RelayParcel): Buffer =>
  createHash('sha256')
    .update(termsOf('parcel', parcel, parcel.mac.toString('base64')))
    .update(parcel.ciphertext)
    .digest()
