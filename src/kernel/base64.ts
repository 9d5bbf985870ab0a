/** Base64 (RFC 4648, section 4: standard alphabet, padded) between buffers, so that key material never becomes a string. */

const ALPHABET = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', 'latin1')
const PAD = 0x3d
const NOT_A_DIGIT = 0xff

const DIGITS = Buffer.alloc(256, NOT_A_DIGIT)
ALPHABET.forEach((character, value) => (DIGITS[character] = value))

/** How many bytes of base64 that many bytes become. */
export const base64Length = (byteCount: number): number => Math.ceil(byteCount / 3) * 4

/** Writes base64 of the bytes `from` up to, not including, `to` of `source` into `target` at the offset `at`.
 *  @returns the offset behind what was written. */
export const writeBase64 = (target: Uint8Array, at: number, source: Uint8Array, from = 0, to = source.length): number => {
  let i = from
  for (; i + 2 < to; i += 3) {
    const triple = ((source[i] as number) << 16) | ((source[i + 1] as number) << 8) | (source[i + 2] as number)
    target[at] = ALPHABET[triple >> 18] as number
    target[at + 1] = ALPHABET[(triple >> 12) & 63] as number
    target[at + 2] = ALPHABET[(triple >> 6) & 63] as number
    target[at + 3] = ALPHABET[triple & 63] as number
    at += 4
  }
  if (i === to) return at
  const two = i + 2 === to
  const rest = ((source[i] as number) << 16) | (two ? (source[i + 1] as number) << 8 : 0)
  target[at] = ALPHABET[rest >> 18] as number
  target[at + 1] = ALPHABET[(rest >> 12) & 63] as number
  target[at + 2] = two ? (ALPHABET[(rest >> 6) & 63] as number) : PAD
  target[at + 3] = PAD
  return at + 4
}

/** @returns the text in a buffer of its own, which the caller zeroes. */
export const encodeBase64 = (bytes: Uint8Array): Buffer => {
  const text = Buffer.allocUnsafeSlow(base64Length(bytes.length))
  writeBase64(text, 0, bytes)
  return text
}

/** @returns the bytes, or undefined when `text` is not base64. */
export const decodeBase64 = (text: Uint8Array): Buffer | undefined => {
  if (text.length % 4 !== 0) return undefined
  let padding = 0
  while (padding < 2 && text[text.length - 1 - padding] === PAD) padding += 1
  const digits = text.length - padding
  const bytes = Buffer.allocUnsafeSlow((text.length / 4) * 3 - padding)
  let bits = 0
  let at = 0
  for (let i = 0; i < digits; i += 1) {
    const digit = DIGITS[text[i] as number] as number
    if (digit === NOT_A_DIGIT) return void bytes.fill(0)
    bits = ((bits << 6) | digit) & 0xffffff
    // Each digit but the first of four completes a byte; what is left of its bits lies below.
    if (i % 4 !== 0) bytes[at++] = bits >> (6 - 2 * (i % 4))
  }
  return bytes
}
