/** Keyring whose terms are recorded in the database: salt and cost of the key derivation, and a check value that tells a
 *  wrong passphrase before anything is written. Argon2id (RFC 9106) -> HKDF-SHA-256 (RFC 5869) -> KEK. */
import { argon2, createHash, createHmac, createSecretKey, hkdfSync, timingSafeEqual, type KeyObject } from 'node:crypto'
import { promisify } from 'node:util'
import type { Database } from '../database/database.ts'
import { KeyDataAccess } from '../kernel/errors.ts'
import type { Random } from '../kernel/random.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import { KEY_BYTES, NONCE_BYTES, openInto, seal, TAG_BYTES } from './aes-gcm.ts'
import type { Keyring } from './custody.ts'

export interface KeyringOptions {
  readonly database: Database
  readonly random: Random
  readonly kmeId: string
  /** Used once and not kept; the caller wipes it. */
  readonly passphrase: SecretBytes
  readonly argon2MemoryKib: number
  readonly argon2Passes: number
}

/** The passphrase does not fit the database. Nothing was written. */
export class WrongRootKey extends Error {
  constructor() {
    super(
      'the passphrase does not open this database: it was set up with another one. Nothing was changed. Correct custody.passphraseFile.',
    )
    this.name = 'WrongRootKey'
  }
}

/** Opens the keyring, or creates term 1 in an empty database.
 *  @throws WrongRootKey. */
export const openKeyring = async (options: KeyringOptions): Promise<Keyring> => {
  const { database, random } = options
  const known = await database.prisma.custodyTerm.findFirst({ orderBy: { term: 'desc' } })
  const term = known?.term ?? 1
  const salt = known === null ? random.fill(Buffer.alloc(16)) : Buffer.from(known.kdfSalt)
  const cost = { memoryKib: known?.kdfMemoryKib ?? options.argon2MemoryKib, passes: known?.kdfPasses ?? options.argon2Passes }
  const kek = await deriveKek(options.passphrase, salt, cost, options.kmeId, term)
  const checkValue = createHmac('sha256', kek).update('openkme key check value').digest()
  if (known === null) {
    const created = await database.query(
      `INSERT INTO custody_term (term, kdf_salt, kdf_memory_kib, kdf_passes, check_value) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT DO NOTHING RETURNING term`,
      [term, salt, cost.memoryKib, cost.passes, checkValue],
    )
    // Another process that started at the same moment was first: its term counts.
    if (created.length === 0) return openKeyring(options)
  } else if (!timingSafeEqual(checkValue, known.checkValue)) {
    throw new WrongRootKey()
  }
  const name = createHash('sha256').update(`openkme keyring name`).update(salt).digest('hex').slice(0, 12)
  return keyringOf(name, kek, term, random)
}

const argon2Async = promisify(argon2)

const deriveKek = async (
  passphrase: SecretBytes,
  salt: Buffer,
  cost: { memoryKib: number; passes: number },
  kmeId: string,
  term: number,
): Promise<KeyObject> => {
  // The buffer is lent beyond one call on purpose: Argon2id runs on another thread until the promise settles.
  const root = await passphrase.use((message) =>
    argon2Async('argon2id', {
      message,
      nonce: salt,
      parallelism: 1,
      tagLength: KEY_BYTES,
      memory: cost.memoryKib,
      passes: cost.passes,
    }),
  )
  const kek = Buffer.from(hkdfSync('sha256', root, salt, `openkme kek 1|${kmeId}|${term}`, KEY_BYTES))
  root.fill(0)
  return takeKey(kek)
}

/** Hands bytes over to OpenSSL and wipes them here. */
const takeKey = (bytes: Buffer): KeyObject => {
  const key = createSecretKey(bytes)
  bytes.fill(0)
  return key
}

const keyringOf = (name: string, kek: KeyObject, activeTerm: number, random: Random): Keyring => {
  const associatedData = (term: number, place: string): Buffer => Buffer.from(`openkme dek 1|${term}|${place}`)
  return {
    name,
    activeTerm,
    createDek: (place) => {
      const bytes = random.fill(Buffer.allocUnsafeSlow(KEY_BYTES))
      const nonce = random.fill(Buffer.alloc(NONCE_BYTES))
      const sealed = seal(kek, nonce, associatedData(activeTerm, place), bytes)
      return { dek: takeKey(bytes), wrapped: Buffer.concat([nonce, sealed]) }
    },
    openDek: (wrapped, term, place) => {
      if (term !== activeTerm || wrapped.length !== NONCE_BYTES + KEY_BYTES + TAG_BYTES) throw new KeyDataAccess()
      const dek = Buffer.allocUnsafeSlow(KEY_BYTES)
      openInto(dek, 0, kek, wrapped.subarray(0, NONCE_BYTES), associatedData(term, place), wrapped.subarray(NONCE_BYTES))
      return takeKey(dek)
    },
  }
}
