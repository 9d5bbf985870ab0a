/** Base64 (RFC 4648, section 4: standard alphabet, padded) between buffers, so that key material never becomes a string. */

const ALPHABET = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', 'latin1')
const PAD = 0x3d
const NOT_A_DIGIT = 0xff

const DIGITS = Buffer.alloc(256, NOT_A_DIGIT)
ALPHABET.forEach((character, value) => (DIGITS[character] = value))

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

/** @returns the text in a buffer of its own, which the caller zeroes. */
export const encodeBase64 = (bytes: Uint8Array): Buffer => {
  const text = Buffer.allocUnsafeSlow(Math.ceil(bytes.length / 3) * 4)
  for (let i = 0, at = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i
    const triple = ((bytes[i] as number) << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0)
    text[at++] = ALPHABET[triple >> 18] as number
    text[at++] = ALPHABET[(triple >> 12) & 63] as number
    text[at++] = left > 1 ? (ALPHABET[(triple >> 6) & 63] as number) : PAD
    text[at++] = left > 2 ? (ALPHABET[triple & 63] as number) : PAD
  }
  return text
}
