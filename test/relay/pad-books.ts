/** I33 held against everything a network did: the messages that were seen on the way, and what the database of each KME says.
 *  A unit encrypts one message or makes one key; a message may be repeated and is never replaced; its pad is used up, and overwritten,
 *  at its sender before anybody sees it. */
import type { KmeId } from '../../src/kernel/identifiers.ts'
import type { UnitRun } from '../../src/key-store/key-store.ts'

/** A parcel as whoever listens sees it. */
export interface Message {
  readonly from: KmeId
  readonly to: KmeId
  readonly relayId: string
  readonly pad: readonly UnitRun[]
  /** All that depends on the pad. */
  readonly secretPart: string
}

/** What the database of one KME says. */
export interface Books {
  readonly kmeId: KmeId
  readonly pads: readonly { readonly relayId: string; readonly side: 'in' | 'out'; readonly units: readonly UnitRun[] }[]
  /** Units of keys. */
  readonly keys: readonly { readonly aid: string; readonly units: readonly UnitRun[] }[]
  /** By unit, `1` or `0`; `erased` is null when all of the block is. */
  readonly blocks: readonly { readonly blockId: string; readonly taken: string; readonly erased: string | null }[]
}

type Query = <T extends Record<string, unknown>>(sql: string) => Promise<readonly T[]>

/** A sealed unit of 256 bits. */
const SEALED_BYTES = 48

export const readBooks = async (kmeId: KmeId, query: Query): Promise<Books> => ({
  kmeId,
  pads: await query(`SELECT relay_id AS "relayId", side, units FROM relay_pad`),
  keys: await query(`SELECT aid, units FROM assignment WHERE state <> 'VOIDED'`),
  blocks: await query(
    `SELECT block_id AS "blockId", taken::text, (
       SELECT string_agg((substring(sealed FROM unit * ${SEALED_BYTES} + 1 FOR ${SEALED_BYTES}) = decode(repeat('00', ${SEALED_BYTES}), 'hex'))::int::text,
         '' ORDER BY unit)
       FROM generate_series(0, unit_count - 1) unit WHERE sealed IS NOT NULL) AS erased
     FROM key_block`,
  ),
})

const namesOf = (runs: readonly UnitRun[]): string[] =>
  runs.flatMap(({ blockId, units }) => units.map((unit) => `${blockId} ${unit}`))

/** @returns what is wrong, in words; nothing if nothing is. */
export const padViolations = (messages: readonly Message[], books: readonly Books[]): string[] => {
  const wrong = new Set<string>()
  /** Notes who uses something; one user only is allowed. */
  const usedBy = new Map<string, string>()
  const use = (what: string, user: string): void => {
    const before = usedBy.get(what) ?? user
    if (before !== user) wrong.add(`${what} was used by ${before} and by ${user}`)
    usedBy.set(what, before)
  }

  for (const { from, to, relayId, pad, secretPart } of messages) {
    use(`the message of ${relayId} from ${from} to ${to}`, secretPart)
    for (const unit of namesOf(pad)) {
      use(`unit ${unit}`, `message ${relayId}`)
      use(`unit ${unit} on the way`, secretPart)
    }
  }
  const booksOf = new Map(books.map((book) => [book.kmeId, book]))
  for (const { kmeId, pads, keys } of books) {
    for (const { relayId, units } of pads) for (const unit of namesOf(units)) use(`unit ${unit}`, `message ${relayId}`)
    for (const { aid, units } of keys) for (const unit of namesOf(units)) use(`unit ${unit}`, `key ${aid}`)
    for (const { relayId, side, units } of pads) {
      const names = namesOf(units)
      if (new Set(names).size !== names.length) wrong.add(`a unit is twice in the pad of ${relayId} at ${kmeId}, ${side}`)
    }
  }

  const blocksAt = new Map(books.map(({ kmeId, blocks }) => [kmeId, new Map(blocks.map((block) => [block.blockId, block]))]))
  const expectUsedUp = (kmeId: KmeId, units: readonly UnitRun[], relayId: string): void => {
    for (const { blockId, units: numbers } of units) {
      const block = blocksAt.get(kmeId)?.get(blockId)
      for (const unit of numbers) {
        if (block?.taken[unit] !== '1') wrong.add(`unit ${blockId} ${unit} of ${relayId} is free at ${kmeId}`)
        if (block?.erased?.[unit] === '0') wrong.add(`unit ${blockId} ${unit} of ${relayId} was not erased at ${kmeId}`)
      }
    }
  }
  for (const { from, relayId, pad } of messages) if (booksOf.has(from)) expectUsedUp(from, pad, relayId)
  for (const { kmeId, pads } of books) for (const { relayId, units } of pads) expectUsedUp(kmeId, units, relayId)

  return [...wrong]
}
