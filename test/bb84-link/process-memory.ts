/** Copies the memory of another process of ours (Linux) and looks for pieces of secrets in it. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'

/** Larger ones are address space set aside, not memory in use. */
const REGION_BYTES_MAX = 2 ** 30
const PAGE_BYTES = 4096
const PAGES_AT_ONCE = 4096

/** Everything the process can write to and has written to: stretches of pages that are not all zeros. It should stand still meanwhile. */
export const memoryOf = (pid: number): Buffer[] => {
  const stretches: Buffer[] = []
  const chunk = Buffer.allocUnsafeSlow(PAGES_AT_ONCE * PAGE_BYTES)
  const memory = openSync(`/proc/${pid}/mem`, 'r')
  try {
    for (const { from, to } of writableRegions(pid)) {
      const pages: Buffer[] = []
      const endStretch = (): void => {
        if (pages.length > 0) stretches.push(Buffer.concat(pages.splice(0)))
      }
      for (let start = from; start < to; start += chunk.length) {
        const bytes = readStretch(memory, chunk.subarray(0, Math.min(chunk.length, to - start)), start)
        for (let at = 0; at < bytes; at += PAGE_BYTES) {
          const page = chunk.subarray(at, at + PAGE_BYTES)
          if (page.equals(NOTHING)) endStretch()
          else pages.push(Buffer.from(page))
        }
      }
      endStretch()
    }
  } finally {
    closeSync(memory)
  }
  return stretches
}

/** @returns how many bytes there are; none of what the process gave back meanwhile. */
const readStretch = (memory: number, into: Buffer, start: number): number => {
  try {
    return readSync(memory, into, 0, into.length, start)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') return 0
    throw error
  }
}

const NOTHING = Buffer.alloc(PAGE_BYTES)

const writableRegions = (pid: number): { readonly from: number; readonly to: number }[] =>
  readFileSync(`/proc/${pid}/maps`, 'latin1')
    .split('\n')
    .flatMap((line) => {
      const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line) ?? []
      if (from === undefined || to === undefined) return []
      return [{ from: Number.parseInt(from, 16), to: Number.parseInt(to, 16) }]
    })
    .filter(({ from, to }) => to - from <= REGION_BYTES_MAX)

export interface Needle {
  readonly name: string
  readonly bytes: Buffer
  /** So many bytes of it in a row are nowhere by chance. */
  readonly windowBytes: number
}

const FILTER_BITS = 22
// A global is slow to get at in the sandbox that tests run in.
const { imul } = Math
const placeOf = (word: number): number => imul(word, 0x9e3779b1) >>> (32 - FILTER_BITS)

/** Looks for any `windowBytes` bytes of a needle that begin at a multiple of that, so that a piece of twice the length is always found;
 *  but for those with four zeros at an end.
 *  @returns names of the needles that are there. */
export const findIn = (stretches: readonly Buffer[], needles: readonly Needle[]): string[] => {
  const found = new Set<string>()
  for (const windowBytes of new Set(needles.map((needle) => needle.windowBytes))) {
    const windows = new Map<string, string>()
    // Its first and its last four bytes tell most places apart without building a string.
    const first = new Uint8Array(1 << FILTER_BITS)
    const last = new Uint8Array(1 << FILTER_BITS)
    const lastAt = windowBytes - 4
    for (const { name, bytes } of needles.filter((needle) => needle.windowBytes === windowBytes)) {
      for (let at = 0; at + windowBytes <= bytes.length; at += windowBytes) {
        const [begin, end] = [bytes.readInt32LE(at), bytes.readInt32LE(at + lastAt)]
        if (begin === 0 || end === 0) continue
        windows.set(bytes.toString('latin1', at, at + windowBytes), name)
        first[placeOf(begin)] = 1
        last[placeOf(end)] = 1
      }
    }
    for (const bytes of stretches) {
      let word = bytes.readInt32LE(0) << 8
      for (let at = 0; at + windowBytes <= bytes.length; at += 1) {
        word = (word >>> 8) | ((bytes[at + 3] as number) << 24)
        if (first[placeOf(word)] !== 1 || last[placeOf(bytes.readInt32LE(at + lastAt))] !== 1) continue
        const name = windows.get(bytes.toString('latin1', at, at + windowBytes))
        if (name !== undefined) found.add(name)
      }
    }
  }
  return [...found].sort()
}
