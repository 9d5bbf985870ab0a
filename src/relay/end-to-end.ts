/** Wraps a relayed block end to end: origin and destination add a key stream to it that no KME in between can compute. The block that is
 *  used is the relayed bytes exclusive-or the stream, so it is secret if either the way or the key exchange was.
 *  X25519 (RFC 7748) and ML-KEM-768 (FIPS 203) together, HKDF-SHA-256 (RFC 5869) over both secrets and everything that was said, AES-256 in
 *  counter mode as the stream.
 *  Holds: keys are made for one block and forgotten with it. Who they are exchanged with is not known here: a node that plays both
 *  ends leaves them with different blocks, and they find that out when they agree on the block directly. */
import {
  createCipheriv,
  createHash,
  createPublicKey,
  decapsulate,
  diffieHellman,
  encapsulate,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { RelayParcel } from '../peer/peer.ts'

/** What the stream is bound to. */
type Context = Pick<RelayParcel, 'path' | 'block' | 'share'>

export interface Wrapping {
  /** Public keys for the destination. */
  readonly offer: Buffer
  /** Makes the block the destination has. @returns false when the reply cannot be understood; the block is then of no use. */
  apply(block: SecretBytes, reply: Buffer): boolean
}

const CURVE_BYTES = 32
const LATTICE_PUBLIC_BYTES = 1184
const LATTICE_CIPHERTEXT_BYTES = 1088

const exportRaw = (key: KeyObject): Buffer => key.export({ format: 'raw-public' })

const addStream = (block: SecretBytes, secrets: readonly Buffer[], context: Context, offer: Buffer, reply: Buffer): void => {
  const { path, share } = context
  const said = createHash('sha256')
    .update(JSON.stringify(['openkme relay wrap 1', path[0], path.at(-1), context.block, [share.index, share.count]]))
    .update(offer)
    .update(reply)
    .digest()
  const secret = Buffer.concat(secrets)
  const key = Buffer.from(hkdfSync('sha256', secret, said, 'openkme relay wrap 1', 32))
  block.use((bytes) => {
    // Counter mode adds its stream to what it encrypts.
    const wrapped = createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(bytes)
    wrapped.copy(bytes)
    wrapped.fill(0)
  })
  for (const bytes of [secret, key, ...secrets]) bytes.fill(0)
}

/** At the origin, before a block is sent. */
export const createWrapping = (context: Context): Wrapping => {
  const curve = generateKeyPairSync('x25519')
  const lattice = generateKeyPairSync('ml-kem-768')
  const offer = Buffer.concat([exportRaw(curve.publicKey), exportRaw(lattice.publicKey)])
  return {
    offer,
    apply: (block, reply) => {
      if (reply.length !== CURVE_BYTES + LATTICE_CIPHERTEXT_BYTES) return false
      try {
        const publicKey = createPublicKey({
          key: reply.subarray(0, CURVE_BYTES),
          format: 'raw-public',
          asymmetricKeyType: 'x25519',
        })
        const secrets = [
          diffieHellman({ privateKey: curve.privateKey, publicKey }),
          decapsulate(lattice.privateKey, reply.subarray(CURVE_BYTES)),
        ]
        addStream(block, secrets, context, offer, reply)
        return true
      } catch {
        // A point that gives no secret.
        return false
      }
    },
  }
}

/** At the destination, when a block came. @returns what the origin needs; undefined when its offer cannot be understood. */
export const wrapAtDestination = (block: SecretBytes, context: Context, offer: Buffer): Buffer | undefined => {
  if (offer.length !== CURVE_BYTES + LATTICE_PUBLIC_BYTES) return undefined
  try {
    const theirs = createPublicKey({ key: offer.subarray(0, CURVE_BYTES), format: 'raw-public', asymmetricKeyType: 'x25519' })
    const lattice = createPublicKey({
      key: offer.subarray(CURVE_BYTES),
      format: 'raw-public',
      asymmetricKeyType: 'ml-kem-768',
    })
    const own = generateKeyPairSync('x25519')
    const { sharedKey, ciphertext } = encapsulate(lattice)
    const reply = Buffer.concat([exportRaw(own.publicKey), ciphertext])
    const secrets = [diffieHellman({ privateKey: own.privateKey, publicKey: theirs }), sharedKey]
    addStream(block, secrets, context, offer, reply)
    return reply
  } catch {
    return undefined
  }
}
