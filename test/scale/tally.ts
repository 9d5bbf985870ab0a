/** What is remembered of millions of keys: eight bytes of each key ID and eight of the SHA-256 of each key. */
import { hash } from 'node:crypto'

const PRINT_BYTES = 8
const FIRST_CAPACITY = 2 ** 16

/** A growing column of 64-bit numbers. */
export const createColumn = () => {
  let column = new BigUint64Array(FIRST_CAPACITY)
  let length = 0
  return {
    add: (value: bigint): void => {
      if (length === column.length) {
        const larger = new BigUint64Array(length * 2)
        larger.set(column)
        column = larger
      }
      column[length] = value
      length += 1
    },
    values: (): BigUint64Array => column.slice(0, length),
  }
}

/** Eight random bytes of a UUID of version 4: sixty of their bits are free. */
export const printOfKeyId = (keyId: string): bigint => BigInt(`0x${keyId.replaceAll('-', '').slice(0, 2 * PRINT_BYTES)}`)

/** @param key base64. */
export const printOfKey = (key: string): bigint => {
  const bytes = Buffer.from(key, 'base64')
  const print = hash('sha256', bytes, 'buffer').readBigUInt64BE(0)
  bytes.fill(0)
  return print
}

/** How many values of all columns together equal one that came before. */
export const countDoubles = (columns: readonly BigUint64Array[]): number => {
  const all = new BigUint64Array(columns.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const column of columns) {
    all.set(column, at)
    at += column.length
  }
  all.sort()
  let doubles = 0
  for (let i = 1; i < all.length; i += 1) if (all[i] === all[i - 1]) doubles += 1
  return doubles
}

/** @returns the value below which this share of the sorted latencies lies. */
export const quantile = (sorted: Float32Array, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0

export const joinSorted = (parts: readonly Float32Array[]): Float32Array => {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all.sort()
}
