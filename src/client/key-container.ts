/** Key container (ETSI GS QKD 014, 6.3) read from the bytes of an answer. The base64 of each key is decoded from the buffer and
 *  blanked there before the rest is parsed as JSON, so that key material never becomes a string. */
import { decodeBase64, encodeBase64 } from '../kernel/base64.ts'
import { parseKeyId, type KeyId } from '../kernel/identifiers.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'

/** One key and the ID both SAEs know it by. The holder wipes the key after use. */
export interface Key {
  readonly keyId: KeyId
  readonly key: SecretBytes
  /** The KME marked it as not from QKD alone: `"key_extension":{"openkme_source":"fallback"}`. */
  readonly fromFallback?: true
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const SLASH = 0x2f
const COMMA = 0x2c
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d

/** @param container is zeroed, whatever happens.
 *  @returns the keys in the order of the container, or undefined when it is not a Key container. */
export const readKeyContainer = (container: Buffer): Key[] | undefined => {
  const secrets: SecretBytes[] = []
  try {
    for (const text of takeKeyTexts(container)) {
      const bytes = decodeBase64(text)
      text.fill(0)
      if (bytes === undefined || bytes.length === 0) throw new Error('a key is not base64')
      secrets.push(SecretBytes.adopt(bytes))
    }
    const entries = readEntries(JSON.parse(container.toString('utf8')))
    if (entries.length !== secrets.length) throw new Error('keys and key IDs do not match')
    return entries.map((entry, i) => ({ ...entry, key: secrets[i] as SecretBytes }))
  } catch {
    for (const secret of secrets) secret.wipe()
    return undefined
  } finally {
    container.fill(0)
  }
}

interface WrittenKey {
  readonly key_ID: string
  readonly key: string
  readonly key_extension?: { readonly openkme_source?: unknown } | null
}

const readEntries = (container: unknown): Omit<Key, 'key'>[] => {
  const { keys } = container as { keys: WrittenKey[] }
  return keys.map(({ key_ID, key, key_extension: extension }) => {
    const keyId = parseKeyId(key_ID)
    // Anything left in a key's place came from an unusual spelling of its name, which the scan did not take for a key.
    if (keyId === undefined || key.trim() !== '') throw new Error('not a key')
    return { keyId, ...(extension?.openkme_source === 'fallback' && { fromFallback: true }) }
  })
}

/** Finds the value of each member `key` of the objects in the member `keys` of the outermost object, copies it out and
 *  overwrites it with spaces. Broken JSON ends the scan early; the parser behind it reports that. */
const takeKeyTexts = (json: Buffer): Buffer[] => {
  const found: Buffer[] = []
  const open: number[] = []
  /** The newest member name on each level. */
  const names: Buffer[] = []
  let nameFollows = false
  for (let at = 0; at < json.length; at += 1) {
    const byte = json[at]
    if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      open.push(byte)
      nameFollows = byte === OPEN_OBJECT
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      open.pop()
      nameFollows = false
    } else if (byte === COMMA) {
      nameFollows = open.at(-1) === OPEN_OBJECT
    } else if (byte === QUOTE) {
      const start = at + 1
      at = endOfString(json, start)
      const text = json.subarray(start, at)
      if (nameFollows) names[open.length] = text
      else if (open.length === 3 && open[1] === OPEN_ARRAY && names[1]?.equals(KEYS) && names[3]?.equals(KEY)) {
        found.push(withoutEscapes(text))
        text.fill(' ')
      }
      nameFollows = false
    }
  }
  return found
}

const KEYS = Buffer.from('keys')
const KEY = Buffer.from('key')

const endOfString = (json: Buffer, start: number): number => {
  let at = start
  while (at < json.length && json[at] !== QUOTE) at += json[at] === BACKSLASH ? 2 : 1
  return at
}

/** A copy in which `\/` is `/`, the one escape that JSON writers use in base64. */
const withoutEscapes = (text: Buffer): Buffer => {
  const copy = Buffer.allocUnsafeSlow(text.length)
  let length = 0
  for (let i = 0; i < text.length; i += 1) {
    if (text[i] === BACKSLASH && text[i + 1] === SLASH) i += 1
    copy[length++] = text[i] as number
  }
  return copy.subarray(0, length)
}

/** The JSON text of a Key container with these keys, in a buffer that the caller zeroes. The keys stay as they are. */
export const writeKeyContainer = (keys: readonly Key[]): Buffer => {
  const parts: Buffer[] = []
  keys.forEach(({ keyId, key, fromFallback }, i) => {
    parts.push(Buffer.from(`${i === 0 ? '{"keys":[' : ','}{"key_ID":"${keyId}","key":"`))
    parts.push(key.use(encodeBase64))
    parts.push(Buffer.from(fromFallback === true ? '","key_extension":{"openkme_source":"fallback"}}' : '"}'))
  })
  const container = Buffer.concat([...parts, Buffer.from(']}\n')])
  for (const part of parts) part.fill(0)
  return container
}
