/** The authentication ledger in PostgreSQL. Each segment is sealed under a data key of its own, which the keyring wraps, as key blocks are.
 *
 *  Holds: a stretch is handed out by one conditional UPDATE that moves `used_bytes` past it, and only when it changed a row and its commit
 *  was answered; `used_bytes` never goes back. A name that was ever known stays known: rows of pre-shared secrets are kept for good, those of
 *  distilled key until SEGMENTS_REMEMBERED others have come after them. */
import { existsSync } from 'node:fs'
import { NONCE_BYTES, openInto, seal, type Keyring } from '../custody/custody.ts'
import type { Database, Row } from '../database/database.ts'
import { parseLinkId, type KmeId, type LinkId } from '../kernel/identifiers.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import {
  AuthenticationKeyRefused,
  SEGMENT_HASH_KEY_BYTES,
  type AuthenticationLedger,
  type LedgerSegment,
} from './authentication-ledger.ts'
import { readPreSharedSecret } from './pre-shared-secret.ts'

export interface AuthenticationLedgerParts {
  readonly database: Database
  readonly keyring: Keyring
  readonly kmeId: KmeId
  readonly linkId: LinkId
}

export interface PrismaAuthenticationLedger extends AuthenticationLedger {
  /** Takes over the pre-shared secret in a file, once: a secret that was ever known here is not taken again, so that neither a restart nor
   *  a file that comes back makes pads be used twice. Afterwards the file is needed no more and may be removed.
   *  @throws Error that names the file and says what to do, also when another link has this secret. */
  importPreShared(file: string): Promise<'added' | 'known'>
}

const SEGMENTS_REMEMBERED = 1000
const INTEGER_HALF = 2 ** 30

/** A data key seals one segment and nothing else, so its nonce need not differ from any. */
const NONCE = Buffer.alloc(NONCE_BYTES)

const RESERVE = `
UPDATE link_auth_segment SET used_bytes = $3::int + $4::int, consumed_bytes = consumed_bytes + $4::int
WHERE link_id = $1 AND segment_id = $2 AND sealed IS NOT NULL AND used_bytes <= $3::int AND size_bytes - $3::int >= $4::int
RETURNING size_bytes, sealed, wrapped_dek, term`

const ADD = `
INSERT INTO link_auth_segment (name, link_id, segment_id, pre_shared, size_bytes, used_bytes, sealed, wrapped_dek, term)
VALUES ($1, $2, $3, $4, $5, ${SEGMENT_HASH_KEY_BYTES}, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING seq`

const DESTROY_USED_UP = `
UPDATE link_auth_segment SET sealed = NULL, wrapped_dek = NULL
WHERE link_id = $1 AND used_bytes = size_bytes AND sealed IS NOT NULL`

const DISCARD = `
UPDATE link_auth_segment SET used_bytes = size_bytes, sealed = NULL, wrapped_dek = NULL
WHERE link_id = $1 AND segment_id = ANY($2::text[]) AND NOT pre_shared AND used_bytes < size_bytes`

const FORGET = `
WITH gone AS (
  DELETE FROM link_auth_segment
  WHERE link_id = $1 AND NOT pre_shared AND sealed IS NULL AND seq <= $2::bigint - ${SEGMENTS_REMEMBERED} RETURNING size_bytes, consumed_bytes
)
INSERT INTO link_auth_forgotten AS f (link_id, size_bytes, consumed_bytes)
SELECT $1, sum(size_bytes), sum(consumed_bytes) FROM gone HAVING count(*) > 0
ON CONFLICT (link_id) DO UPDATE
SET size_bytes = f.size_bytes + excluded.size_bytes, consumed_bytes = f.consumed_bytes + excluded.consumed_bytes`

const FIGURES = `
SELECT sum(size)::float8 AS size, sum(consumed)::float8 AS consumed, sum(remaining)::float8 AS remaining FROM (
  SELECT size_bytes::bigint AS size, consumed_bytes::bigint AS consumed, size_bytes - used_bytes AS remaining
  FROM link_auth_segment WHERE link_id = $1
  UNION ALL SELECT size_bytes, consumed_bytes, 0 FROM link_auth_forgotten WHERE link_id = $1
) held`

interface SealedRow extends Row {
  readonly size_bytes: number
  readonly sealed: Buffer
  readonly wrapped_dek: Buffer
  readonly term: number
}

export const createAuthenticationLedger = (parts: AuthenticationLedgerParts): PrismaAuthenticationLedger => {
  const { database, keyring, kmeId, linkId } = parts
  const placeOf = (segmentId: string): string => `link-auth|${kmeId}|${linkId}|${segmentId}`
  const associatedData = (segmentId: string, term: number): Buffer =>
    Buffer.from(`openkme link auth 1|${placeOf(segmentId)}|${term}`)

  /** A stretch of an opened segment, in a buffer of its own. */
  const openStretch = (segmentId: string, row: SealedRow, fromByte: number, lengthBytes: number): SecretBytes => {
    const dek = keyring.openDek(row.wrapped_dek, row.term, placeOf(segmentId))
    const whole = Buffer.allocUnsafeSlow(row.size_bytes)
    try {
      openInto(whole, 0, dek, NONCE, associatedData(segmentId, row.term), row.sealed)
      return SecretBytes.take(whole.subarray(fromByte, fromByte + lengthBytes))
    } finally {
      whole.fill(0)
    }
  }

  const store = (segmentId: string, secret: SecretBytes, preShared: boolean): Promise<'added' | 'known'> => {
    using own = secret
    if (parseLinkId(segmentId) === undefined) throw new RangeError('a segment has a name of 1 to 64 characters as in a link ID')
    if (own.lengthBytes <= SEGMENT_HASH_KEY_BYTES || own.lengthBytes > INTEGER_HALF)
      throw new RangeError('a segment holds a hash key and pads')
    const term = keyring.activeTerm
    const { dek, wrapped } = keyring.createDek(placeOf(segmentId))
    const sizeBytes = own.lengthBytes
    const sealed = own.use((bytes) => seal(dek, NONCE, associatedData(segmentId, term), bytes))
    const name = preShared ? segmentId : `${linkId}|${segmentId}`
    return database.transaction(async ({ query }) => {
      const [added] = await query<{ seq: string }>(ADD, [name, linkId, segmentId, preShared, sizeBytes, sealed, wrapped, term])
      if (added === undefined) return 'known'
      await query(DESTROY_USED_UP, [linkId])
      await query(FORGET, [linkId, added.seq])
      return 'added'
    })
  }

  const isBegun = async (): Promise<boolean> => {
    const rows = await database.query(`SELECT 1 FROM link_auth_segment WHERE link_id = $1 LIMIT 1`, [linkId])
    return rows.length > 0
  }

  const whyRefused = async (segmentId: string, fromByte: number, lengthBytes: number): Promise<AuthenticationKeyRefused> => {
    const [row] = await database.query<{ size_bytes: number }>(
      `SELECT size_bytes FROM link_auth_segment WHERE link_id = $1 AND segment_id = $2`,
      [linkId, segmentId],
    )
    if (row === undefined) return new AuthenticationKeyRefused('unknown')
    return new AuthenticationKeyRefused(row.size_bytes - fromByte < lengthBytes ? 'exhausted' : 'used')
  }

  return {
    segments: async () => {
      const rows = await database.query<Row & { segment_id: string; size_bytes: number; used_bytes: number }>(
        `SELECT segment_id, size_bytes, used_bytes FROM link_auth_segment
         WHERE link_id = $1 AND used_bytes < size_bytes ORDER BY seq`,
        [linkId],
      )
      return rows.map((row): LedgerSegment => ({
        segmentId: row.segment_id,
        sizeBytes: row.size_bytes,
        usedBytes: row.used_bytes,
      }))
    },

    reserve: async (segmentId, fromByte, lengthBytes) => {
      if (!Number.isInteger(fromByte) || fromByte < SEGMENT_HASH_KEY_BYTES || !Number.isInteger(lengthBytes) || lengthBytes < 1) {
        throw new RangeError('pads are behind the hash key, in whole bytes')
      }
      // The other end had a say in the start; what no integer column holds is beyond every segment.
      const parameters = [linkId, segmentId, Math.min(fromByte, INTEGER_HALF), Math.min(lengthBytes, INTEGER_HALF)]
      const [row] = await database.query<SealedRow>(RESERVE, parameters)
      if (row === undefined) throw await whyRefused(segmentId, fromByte, lengthBytes)
      return openStretch(segmentId, row, fromByte, lengthBytes)
    },

    hashKey: async (segmentId) => {
      const [row] = await database.query<SealedRow>(
        `SELECT size_bytes, sealed, wrapped_dek, term FROM link_auth_segment
         WHERE link_id = $1 AND segment_id = $2 AND sealed IS NOT NULL`,
        [linkId, segmentId],
      )
      if (row === undefined) throw new AuthenticationKeyRefused('unknown')
      return openStretch(segmentId, row, 0, SEGMENT_HASH_KEY_BYTES)
    },

    add: async (segmentId, secret) => store(segmentId, secret, false),

    discard: async (segmentIds) => {
      await database.query(DISCARD, [linkId, segmentIds])
    },

    importPreShared: async (file) => {
      if (!existsSync(file) && (await isBegun())) return 'known'
      const { segmentId, secret } = await readPreSharedSecret(file)
      const outcome = await store(segmentId, secret, true)
      if (outcome === 'added') return 'added'
      const [row] = await database.query<{ link_id: string }>(`SELECT link_id FROM link_auth_segment WHERE name = $1`, [
        segmentId,
      ])
      if (row?.link_id === linkId) return 'known'
      throw new Error(
        `the pre-shared secret ${file} belongs to another link; make one for this link with "kme link new-secret FILE"`,
      )
    },

    figures: async () => {
      const [row] = await database.query<{ size: number | null; consumed: number | null; remaining: number | null }>(FIGURES, [
        linkId,
      ])
      const bits = (bytes: number | null | undefined): number => 8 * (bytes ?? 0)
      const replenishedBits = bits(row?.size)
      const consumedBits = bits(row?.consumed)
      const remainingBits = bits(row?.remaining)
      return { consumedBits, replenishedBits, remainingBits, discardedBits: replenishedBits - consumedBits - remainingBits }
    },
  }
}
