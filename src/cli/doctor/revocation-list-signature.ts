/** The signature on a certificate revocation list (RFC 5280, 5.1): just as much DER as is needed to find it. */
import { verify, type X509Certificate } from 'node:crypto'

interface Element {
  /** With tag and length. */
  readonly whole: Buffer
  readonly content: Buffer
}

/** Signature algorithm (OID content, hex) and the digest it uses; Ed25519 brings its own. */
const DIGESTS: Readonly<Record<string, string | null>> = {
  '2a8648ce3d040302': 'sha256', // ecdsa-with-SHA256
  '2a8648ce3d040303': 'sha384',
  '2a8648ce3d040304': 'sha512',
  '2a864886f70d01010b': 'sha256', // sha256WithRSAEncryption
  '2a864886f70d01010c': 'sha384',
  '2a864886f70d01010d': 'sha512',
  '2b6570': null, // Ed25519
}

/** @returns false also for a list that is not readable or signed in a way that is not known here. */
export const isSignedBy = (crlPem: string, authority: X509Certificate): boolean => {
  try {
    const der = Buffer.from(crlPem.replace(/-----[^-]+-----/g, ''), 'base64')
    const [toBeSigned, algorithm, signature] = elements(readElement(der, 0).content)
    if (toBeSigned === undefined || algorithm === undefined || signature === undefined) return false
    const digest = DIGESTS[elements(algorithm.content)[0]?.content.toString('hex') ?? '']
    // The first byte of a BIT STRING counts its unused bits.
    return digest !== undefined && verify(digest, toBeSigned.whole, authority.publicKey, signature.content.subarray(1))
  } catch {
    return false
  }
}

const elements = (sequence: Buffer): Element[] => {
  const found: Element[] = []
  for (let at = 0; at < sequence.length;) {
    const element = readElement(sequence, at)
    found.push(element)
    at += element.whole.length
  }
  return found
}

/** @throws RangeError behind the end of the bytes. */
const readElement = (der: Buffer, at: number): Element => {
  const first = der.readUInt8(at + 1)
  const lengthBytes = first < 0x80 ? 0 : first & 0x7f
  const length = first < 0x80 ? first : der.readUIntBE(at + 2, lengthBytes)
  const start = at + 2 + lengthBytes
  if (start + length > der.length) throw new RangeError('the element is longer than its surroundings')
  return { whole: der.subarray(at, start + length), content: der.subarray(start, start + length) }
}
