/** JSON that means one thing to every reader (RFC 8259 plus the refusals of I-JSON, RFC 7493). What two parsers could read
 *  differently is refused: doubled member names, lone surrogates, numbers a double cannot hold, bytes that are not UTF-8.
 *  Holds: depth and size are checked in one pass over the text before anything is built. */
import { isUtf8 } from 'node:buffer'
import { BadRequest } from '../kernel/errors.ts'

export interface JsonLimits {
  /** Arrays and objects inside each other. */
  readonly maxDepth?: number
  /** Strings in all, member names included. */
  readonly maxStrings?: number
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d
const COLON = 0x3a
const MINUS = 0x2d
const DIGIT_0 = 0x30
const DIGIT_9 = 0x39

const NUMBER = /[-+0-9.eE]+/y
// These names mean something to JavaScript objects; no API of a KME has them.
const REFUSED_NAMES = new Set(['__proto__', 'constructor'])

/** @throws BadRequest when the bytes are no JSON text, or one that could be read in two ways, or one beyond the limits. */
export const parseStrictJson = (bytes: Buffer, limits: JsonLimits = {}): unknown => {
  if (!isUtf8(bytes)) throw new BadRequest()
  const text = bytes.toString('utf8')
  checkText(text, limits.maxDepth ?? 8, limits.maxStrings ?? 1024)
  return parseText(text)
}

const parseText = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    throw new BadRequest()
  }
}

/** Looks for what JSON.parse would let through. It need not find grammar errors: JSON.parse runs after it and does
 *  (it refuses a byte order mark as well). */
const checkText = (text: string, maxDepth: number, maxStrings: number): void => {
  // One entry per open container: the member names seen so far, or undefined for an array.
  const open: (Set<string> | undefined)[] = []
  let strings = 0
  let at = 0
  while (at < text.length) {
    const code = text.charCodeAt(at)
    if (code === QUOTE) {
      if (++strings > maxStrings) throw new BadRequest()
      const end = endOfString(text, at)
      const value = readString(text, at, end)
      at = end
      const names = open.at(-1)
      if (names !== undefined && isFollowedByColon(text, at)) {
        if (names.has(value) || REFUSED_NAMES.has(value)) throw new BadRequest()
        names.add(value)
      }
    } else if (code === MINUS || (code >= DIGIT_0 && code <= DIGIT_9)) {
      at = checkNumber(text, at)
    } else {
      if (code === OPEN_OBJECT || code === OPEN_ARRAY) {
        if (open.length === maxDepth) throw new BadRequest()
        open.push(code === OPEN_OBJECT ? new Set() : undefined)
      } else if (code === CLOSE_OBJECT || code === CLOSE_ARRAY) {
        open.pop()
      }
      at++
    }
  }
}

/** @returns the offset behind the closing quote. */
const endOfString = (text: string, start: number): number => {
  for (let at = start + 1; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === QUOTE) return at + 1
    if (code === BACKSLASH) at++
  }
  throw new BadRequest()
}

const readString = (text: string, start: number, end: number): string => {
  const raw = text.slice(start + 1, end - 1)
  if (!raw.includes('\\')) return raw
  // Only an escape can spell a lone surrogate: the text itself came from valid UTF-8.
  const value = parseText(text.slice(start, end)) as string
  if (!value.isWellFormed()) throw new BadRequest()
  return value
}

const isFollowedByColon = (text: string, from: number): boolean => {
  for (let at = from; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === COLON) return true
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return false
  }
  return false
}

const checkNumber = (text: string, start: number): number => {
  NUMBER.lastIndex = start
  NUMBER.test(text)
  const end = NUMBER.lastIndex
  const value = Number(text.slice(start, end))
  if (!Number.isFinite(value) || Object.is(value, -0)) throw new BadRequest()
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) throw new BadRequest()
  return end
}
