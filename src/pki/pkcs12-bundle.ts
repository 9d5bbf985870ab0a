/** One certificate and its key as a PKCS#12 file (RFC 7292), for SAE software and browsers that want one file.
 *  node-forge's own writer knows RSA keys only, so the file is put together here from its ASN.1 and PBES2 parts:
 *  the key under PBES2 with AES-256 and PBKDF2-HMAC-SHA-256, the whole under HMAC-SHA-256. */
import forge from 'node-forge'
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto'
import type { Random } from '../kernel/random.ts'

const { asn1 } = forge

// node-forge derives keys in JavaScript: 10,000 rounds keep a file under a tenth of a second.
const ITERATIONS = 10_000
const SALT_BYTES = 16
const MAC_KEY_ID = 3
const SHA256_BYTES = 32

const oids = forge.pki.oids as Record<string, string>

/** @param friendlyName shown by programs that list the file's contents.
 *  @param password may be empty; then the file protects nothing and needs mode 0600 like a plain key.
 *  @returns DER. */
export const pkcs12Bundle = (
  certificatePem: string,
  privateKeyPem: string,
  friendlyName: string,
  password: string,
  random: Random,
): Buffer => {
  const certificate = new X509Certificate(certificatePem).raw
  const attributes = bagAttributes(createHash('sha1').update(certificate).digest(), friendlyName)
  const safe = encode(
    sequence(
      dataContent(sequence(sequence(oid('certBag'), explicit(certificateValue(certificate)), attributes))),
      dataContent(sequence(sequence(oid('pkcs8ShroudedKeyBag'), explicit(shroudedKey(privateKeyPem, password)), attributes))),
    ),
  )
  const pfx = sequence(integer(3), contentInfo(safe), macData(safe, password, random))
  return Buffer.from(encode(pfx), 'binary')
}

const shroudedKey = (privateKeyPem: string, password: string): forge.asn1.Asn1 => {
  const keyInfo = createPrivateKey(privateKeyPem).export({
    type: 'pkcs8',
    format: 'der',
  })
  const parsed = asn1.fromDer(keyInfo.toString('binary'))
  // PBES2 takes the password as UTF-8, the MAC below as UTF-16 (RFC 7292, appendix B.1).
  return forge.pki.encryptPrivateKeyInfo(parsed, forge.util.encodeUtf8(password), {
    algorithm: 'aes256',
    count: ITERATIONS,
    saltSize: SALT_BYTES,
    prfAlgorithm: 'sha256',
  })
}

const macData = (content: string, password: string, random: Random): forge.asn1.Asn1 => {
  const salt = random.fill(Buffer.alloc(SALT_BYTES)).toString('binary')
  const key = forge.pkcs12.generateKey(
    password,
    forge.util.createBuffer(salt),
    MAC_KEY_ID,
    ITERATIONS,
    SHA256_BYTES,
    forge.md.sha256.create(),
  )
  const mac = forge.hmac.create()
  mac.start('sha256', key)
  mac.update(content)
  const algorithm = sequence(oid('sha256'), asn1.create(asn1.Class.UNIVERSAL, asn1.Type.NULL, false, ''))
  return sequence(sequence(algorithm, octets(mac.digest().getBytes())), octets(salt), integer(ITERATIONS))
}

/** The local key ID tells readers which key belongs to which certificate. */
const bagAttributes = (localKeyId: Buffer, friendlyName: string): forge.asn1.Asn1 => {
  const name = asn1.create(asn1.Class.UNIVERSAL, asn1.Type.BMPSTRING, false, friendlyName)
  return set(sequence(oid('localKeyId'), set(octets(localKeyId.toString('binary')))), sequence(oid('friendlyName'), set(name)))
}

const certificateValue = (der: Buffer): forge.asn1.Asn1 =>
  sequence(oid('x509Certificate'), explicit(octets(der.toString('binary'))))

const dataContent = (safeContents: forge.asn1.Asn1): forge.asn1.Asn1 => contentInfo(encode(safeContents))
const contentInfo = (bytes: string): forge.asn1.Asn1 => sequence(oid('data'), explicit(octets(bytes)))

const sequence = (...parts: forge.asn1.Asn1[]): forge.asn1.Asn1 =>
  asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SEQUENCE, true, parts)
const set = (...parts: forge.asn1.Asn1[]): forge.asn1.Asn1 => asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SET, true, parts)
const explicit = (part: forge.asn1.Asn1): forge.asn1.Asn1 => asn1.create(asn1.Class.CONTEXT_SPECIFIC, 0, true, [part])
const octets = (bytes: string): forge.asn1.Asn1 => asn1.create(asn1.Class.UNIVERSAL, asn1.Type.OCTETSTRING, false, bytes)
const integer = (value: number): forge.asn1.Asn1 =>
  asn1.create(asn1.Class.UNIVERSAL, asn1.Type.INTEGER, false, asn1.integerToDer(value).getBytes())
const oid = (name: string): forge.asn1.Asn1 =>
  asn1.create(asn1.Class.UNIVERSAL, asn1.Type.OID, false, asn1.oidToDer(oids[name]!).getBytes())
const encode = (value: forge.asn1.Asn1): string => asn1.toDer(value).getBytes()
