/** Authentication and verification by a universal hash: the polynomial of Poly1305 (RFC 8439, 2.5) under a hash key r that is used again
 *  (Wegman and Carter, J. Comput. Syst. Sci. 22, 265, 1981; recycling of r: Portmann, IEEE Trans. Inf. Theory 60, 4383, 2014).
 *  Nothing here rests on a cipher: the one-time pads are bytes of key, used once.
 *
 *  The bound: r has 106 free bits after clamping. For two different messages of at most L bytes and any difference d of tags,
 *  H_r(a) - H_r(b) = d modulo 2^128 for at most 8 ceil(L/16) of the 2^106 values of r (Bernstein, FSE 2005, theorem 3.3).
 *  So H is Delta-universal with eps = 8 ceil(L/16) / 2^106.
 *  Holds: a pad masks one tag only; who picks the messages does not know r. */
import { equal, Poly1305 } from '@stablelib/poly1305'

export const HASH_KEY_BYTES = 16
export const PAD_BYTES = 16
export const TAG_BYTES = 16

/** Free bits of a clamped hash key. */
const HASH_KEY_FREE_BITS = 106

export interface TranscriptHash {
  /** Appends bytes. How the transcript is cut into calls does not matter. */
  update(bytes: Uint8Array): void
  /** The tag of everything so far, 16 bytes. Wipes the hash: nothing may follow.
   *  @throws Error when called twice. */
  digest(): Uint8Array
}

/** Tag of a running transcript: H_r(transcript) + pad modulo 2^128. An attacker who sees any number of tags under the same `hashKey`, each
 *  with a pad of its own, forges one tag with a probability of at most 2^forgeryBoundLog2(length).
 *  @param hashKey r, 16 secret bytes, recycled.
 *  @param pad 16 secret bytes that were never used before and never will be again. */
export const createTranscriptHash = (hashKey: Uint8Array, pad: Uint8Array): TranscriptHash => {
  if (hashKey.length !== HASH_KEY_BYTES) throw new Error(`a hash key has ${HASH_KEY_BYTES} bytes`)
  if (pad.length !== PAD_BYTES) throw new Error(`a one-time pad has ${PAD_BYTES} bytes`)
  const key = new Uint8Array(HASH_KEY_BYTES + PAD_BYTES)
  key.set(hashKey)
  key.set(pad, HASH_KEY_BYTES)
  const hash = new Poly1305(key)
  key.fill(0)
  return {
    update: (bytes) => {
      hash.update(bytes)
    },
    digest: () => {
      const tag = hash.digest()
      hash.clean()
      return tag
    },
  }
}

/** log2 of eps = 8 ceil(lengthBytes/16) / 2^106: the largest probability with which one forged tag of a message of at most this length is
 *  accepted, or with which two different strings have the same verification tag. 16 MiB: -83. */
export const forgeryBoundLog2 = (lengthBytes: number): number =>
  3 + Math.log2(Math.max(1, Math.ceil(lengthBytes / 16))) - HASH_KEY_FREE_BITS

const NO_PAD = new Uint8Array(PAD_BYTES)

/** The 128 bits that both ends compare after reconciliation. Two different bit strings of the same length have the same tag with a
 *  probability of at most 2^forgeryBoundLog2(bits.length): this is the eps_cor of the block. Without a pad, so it discloses 128 bits.
 *  @param hashKey 16 bytes drawn evenly after reconciliation had ended; they may be public.
 *  @param bits packed, spare bits zero. */
export const verificationTag = (hashKey: Uint8Array, bits: Uint8Array): Uint8Array => {
  const hash = createTranscriptHash(hashKey, NO_PAD)
  hash.update(bits)
  return hash.digest()
}

/** 32 bits that tell which frame of a block was reconciled wrongly. For reliability only: it lets the ends mend or drop a frame before the
 *  block is verified. No epsilon is drawn from it; only `verificationTag` decides. It discloses 32 bits.
 *  @param frameIndex below 2^32; frames with the same bits have different tags.
 *  @param bits packed, spare bits zero. */
export const frameTag = (hashKey: Uint8Array, frameIndex: number, bits: Uint8Array): number => {
  const place = new Uint8Array(16)
  new DataView(place.buffer).setUint32(0, frameIndex, true)
  const hash = createTranscriptHash(hashKey, NO_PAD)
  hash.update(place)
  hash.update(bits)
  const tag = hash.digest()
  return new DataView(tag.buffer, tag.byteOffset).getUint32(0, true)
}

/** Compares two tags in a time that does not depend on their bytes. */
export const sameTag = (a: Uint8Array, b: Uint8Array): boolean => equal(a, b)
