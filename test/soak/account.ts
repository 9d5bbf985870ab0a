/** What the SAEs were told, and every promise that was broken: no key ID twice, no unit of key bytes twice, both ends equal, no
 *  slave given a key twice. A fault is told with the whole history of the keys it is about; key bytes are never told. */
import type { SentKey } from '../network/network.ts'

/** Keys that came in one answer. */
export interface Batch {
  readonly master: string
  readonly slave: string
  readonly sizeBits: number
  readonly history: string[]
}

export interface IssuedKey {
  readonly keyId: string
  /** base64, as the master got it; forgotten once the slave got the same. */
  key: string | undefined
  readonly batch: Batch
  /** What a fetch of it had instead of keys: the slave may count as served without having it. */
  unsure: 'no answer' | '503' | undefined
}

const UNIT_BYTES = 32
/** Enough bytes of a unit that two never agree by chance. */
const PRINT_BYTES = 8
const RECENT_MAX = 5000

/** A set that may outgrow the 2^24 members of one Set. */
const createBigSet = () => {
  const parts = Array.from({ length: 64 }, () => new Set<string>())
  return {
    /** @returns false when it was there already. */
    add: (text: string): boolean => {
      const part = parts[(text.charCodeAt(0) * 7 + text.charCodeAt(1)) % parts.length]!
      const before = part.size
      return part.add(text).size > before
    },
  }
}

export const createAccount = (sinceStart: () => string) => {
  const keyIds = createBigSet()
  const prints = createBigSet()
  const violations: string[] = []
  const faults: string[] = []
  const recent: IssuedKey[] = []
  const figures = {
    requests: 0,
    keysIssued: 0,
    keysFetched: 0,
    refused503: 0,
    notReached: 0,
    unknownOutcomes: 0,
    refusedAsTheyShould: 0,
    lostWithoutAnswer: 0,
    lostAfter503: 0,
    kills: 0,
    postgresStops: 0,
    postgresKills: 0,
    deviceCuts: 0,
    diedUnasked: 0,
  }

  const tell = (batch: Batch, what: string): void => void batch.history.push(`${sinceStart()} ${what}`)
  const violation = (what: string, keys: readonly IssuedKey[] = []): void => {
    const batches = [...new Set(keys.map(({ batch }) => batch))].slice(0, 3)
    const histories = batches.map(({ master, slave, sizeBits, history }) =>
      [`  keys of ${sizeBits} bits from ${master} to ${slave}:`, ...history.map((line) => `    ${line}`)].join('\n'),
    )
    const before = faults.slice(-8).map((line) => `    ${line}`)
    violations.push([`${sinceStart()} ${what}`, ...histories, '  faults before:', ...before].join('\n'))
  }

  /** An answer 200 to enc_keys. */
  const issued = (batch: Batch, keys: readonly SentKey[], count: number): IssuedKey[] => {
    const known = keys.map(({ key_ID, key }): IssuedKey => ({ keyId: key_ID, key, batch, unsure: undefined }))
    tell(batch, `issued ${keys.map(({ key_ID }) => key_ID).join(' ')}`)
    if (keys.length !== count) violation(`${count} keys asked for, ${keys.length} issued`, known)
    for (const [at, { key_ID, key }] of keys.entries()) {
      const bytes = Buffer.from(key, 'base64')
      if (bytes.length * 8 !== batch.sizeBits) violation(`key ${key_ID} has ${bytes.length * 8} bits`, [known[at]!])
      if (!keyIds.add(key_ID)) violation(`key ID ${key_ID} issued twice`, [known[at]!])
      for (let from = 0; from + PRINT_BYTES <= bytes.length; from += UNIT_BYTES) {
        if (!prints.add(bytes.toString('latin1', from, from + PRINT_BYTES)))
          violation(`unit ${from / UNIT_BYTES} of key ${key_ID} has bytes that were issued before`, [known[at]!])
      }
    }
    figures.keysIssued += keys.length
    return known
  }

  /** An answer 200 to dec_keys. */
  const fetched = (wanted: readonly IssuedKey[], got: readonly SentKey[]): void => {
    const same = got.length === wanted.length && wanted.every(({ keyId }, at) => got[at]!.key_ID === keyId)
    if (!same) violation(`${wanted.length} keys asked for, other ones fetched`, wanted)
    for (const [at, one] of wanted.entries()) {
      if (one.key === undefined) violation(`key ${one.keyId} fetched twice by ${one.batch.slave}`, [one])
      else if (one.key !== got[at]?.key) violation(`key ${one.keyId} differs between the two ends`, [one])
      one.key = undefined
      if (recent.length < RECENT_MAX) recent.push(one)
      else recent[figures.keysFetched % RECENT_MAX] = one
      figures.keysFetched += 1
    }
  }

  return {
    figures,
    violations,
    /** Keys their slaves have, for asking once more. */
    recent,
    tell,
    violation,
    fault: (what: string): void => void faults.push(`${sinceStart()} ${what}`),
    issued,
    fetched,
  }
}

export type Account = ReturnType<typeof createAccount>
