/** Key container (ETSI GS QKD 014, 6.3) read from the bytes of an answer. The base64 of each key is decoded from the buffer and
 *  blanked there before the rest is parsed as JSON, so that key material never becomes a string. */
import { decodeBase64, encodeBase64 } from '../kernel/base64.ts'
import { parseKeyId, type KeyId } from '../kernel/identifiers.ts'
import { takeSecretTexts } from '../kernel/json-secrets.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'

/** One key and the ID both SAEs know it by. The holder wipes the key after use. */
export interface Key {
  readonly keyId: KeyId
  readonly key: SecretBytes
  /** The KME marked it as not from QKD alone: `"key_extension":{"openkme_source":"fallback"}`. */
  readonly fromFallback?: true
}

/** @param container is zeroed, whatever happens.
 *  @returns the keys in the order of the container, or undefined when it is not a Key container. */
export const readKeyContainer = (container: Buffer): Key[] | undefined => {
  const secrets: SecretBytes[] = []
  try {
    for (const text of takeSecretTexts(container, 'keys', 'key')) {
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
