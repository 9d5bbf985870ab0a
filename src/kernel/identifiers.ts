/** Branded identifiers and the only functions that make them. A value of one of these types has been checked. */

export type SaeId = string & { readonly brand: 'SaeId' }
export type KmeId = string & { readonly brand: 'KmeId' }
export type LinkId = string & { readonly brand: 'LinkId' }
/** key_ID of ETSI GS QKD 014: a UUID in canonical lower case. */
export type KeyId = string & { readonly brand: 'KeyId' }
/** Identifies one block of key material on both ends of a link; a UUID. */
export type BlockId = string & { readonly brand: 'BlockId' }
/** Identifies one assignment of keys between two KMEs; a UUID. */
export type AssignmentId = string & { readonly brand: 'AssignmentId' }

// RFC 3986 unreserved characters and the sub-delimiters that need no quoting in certificates, URLs or logs.
const NAME = /^[A-Za-z0-9._~:@!$'()*+/-]{1,64}$/
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** @returns the SAE ID, or undefined when the text is not 1 to 64 URI characters. */
export const parseSaeId = (text: string): SaeId | undefined => (NAME.test(text) ? (text as SaeId) : undefined)

/** @returns the KME ID, or undefined when the text is not 1 to 64 URI characters. */
export const parseKmeId = (text: string): KmeId | undefined => (NAME.test(text) ? (text as KmeId) : undefined)

export const parseLinkId = (text: string): LinkId | undefined => (NAME.test(text) ? (text as LinkId) : undefined)

/** Accepts either case, as RFC 9562 asks of readers; nothing but the 8-4-4-4-12 form.
 *  @returns the canonical lower-case form, or undefined. */
export const parseKeyId = (text: string): KeyId | undefined => (UUID.test(text) ? (text.toLowerCase() as KeyId) : undefined)

export const parseBlockId = (text: string): BlockId | undefined => (UUID.test(text) ? (text.toLowerCase() as BlockId) : undefined)

export const parseAssignmentId = (text: string): AssignmentId | undefined =>
  UUID.test(text) ? (text.toLowerCase() as AssignmentId) : undefined

const SHA256 = /^[0-9A-F]{64}$/

/** Fingerprint (SHA-256) of a certificate as OpenSSL, Node.js and browsers print it: with or without colons, in either case.
 *  @returns `AA:BB:...`, or undefined when it is none. */
export const parseFingerprint = (text: string): string | undefined => {
  const digits = text.replaceAll(':', '').toUpperCase()
  return SHA256.test(digits) ? digits.replace(/..(?=.)/g, '$&:') : undefined
}
