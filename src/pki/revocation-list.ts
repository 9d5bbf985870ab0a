/** Signs and reads certificate revocation lists (RFC 5280, section 5). A list exists from an authority's first day,
 *  because a verifier that asks for one refuses everybody without it. */
import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import { CLOCK_SKEW_MS } from './certificate-profiles.ts'
import type { Revocations } from './pki.ts'
import { SIGNING_ALGORITHM, type Signer } from './sign-certificate.ts'

export interface RevokedEntry {
  /** Hex. */
  readonly serial: string
  readonly revokedAtMs: number
}

const CRL_NUMBER = '2.5.29.20'
// RFC 7468, section 6; the library's own label is one that OpenSSL does not know.
const PEM_LABEL = 'X509 CRL'

/** @param number rises with every list of an authority (5.2.3); below 2^31.
 *  @param lifetimeMs how long the list holds from now on.
 *  @returns PEM. */
export const signRevocationList = async (
  signer: Signer,
  revoked: readonly RevokedEntry[],
  number: number,
  nowMs: number,
  lifetimeMs: number,
): Promise<string> => {
  const list = await x509.X509CrlGenerator.create({
    issuer: signer.certificate.subjectName,
    thisUpdate: new Date(nowMs - CLOCK_SKEW_MS),
    nextUpdate: new Date(nowMs + lifetimeMs),
    entries: revoked.map(({ serial, revokedAtMs }) => ({
      serialNumber: serial,
      revocationDate: new Date(revokedAtMs),
      // Without a reason the library writes an empty list of extensions, which RFC 5280 forbids.
      reason: x509.X509CrlReason.privilegeWithdrawn,
    })),
    extensions: [
      await x509.AuthorityKeyIdentifierExtension.create(signer.certificate.publicKey),
      new x509.Extension(CRL_NUMBER, false, derInteger(number)),
    ],
    signingAlgorithm: SIGNING_ALGORITHM,
    signingKey: signer.privateKey,
  })
  return `${x509.PemConverter.encode(list.rawData, PEM_LABEL)}\n`
}

/** Reads a list without checking its signature: TLS does that at each handshake.
 *  @param crlPem one list in PEM.
 *  @throws Error when it is not a list, or does not say how long it holds. */
export const readRevocations = (crlPem: string): Revocations => {
  const list = new x509.X509Crl(crlPem)
  if (list.nextUpdate === undefined) throw new Error('the revocation list has no nextUpdate: nobody can tell when it runs out')
  return {
    revokedSerials: new Set(list.entries.map((entry) => canonicalSerial(entry.serialNumber))),
    nextUpdateMs: list.nextUpdate.getTime(),
    issuer: list.issuer,
  }
}

/** The one form of a serial number used for comparing: lower case, whole bytes, no leading zero bytes, no colons. */
export const canonicalSerial = (hex: string): string => {
  const digits = hex.toLowerCase().replaceAll(':', '').replace(/^0+/, '')
  return digits.length % 2 === 0 ? digits : `0${digits}`
}

const derInteger = (value: number): Buffer => {
  const bytes = Buffer.alloc(6)
  bytes.set([0x02, 0x04])
  bytes.writeInt32BE(value, 2)
  let leading = 2
  while (leading < 5 && bytes[leading] === 0 && bytes[leading + 1]! < 0x80) leading++
  return Buffer.from([0x02, 6 - leading, ...bytes.subarray(leading)])
}
