/** Key container (ETSI GS QKD 014, 6.3), written byte by byte: key material goes from its secret buffer to the response
 *  buffer as base64 (RFC 4648, standard alphabet, padded) and never becomes a string. The buffer is zeroed once sent. */
import type { ServerResponse } from 'node:http'
import { jsonHeaders } from '../http/json-response.ts'
import { base64Length, writeBase64 } from '../kernel/base64.ts'
import type { KeyId } from '../kernel/identifiers.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'

export interface DeliveredKeys {
  readonly keys: readonly { readonly keyId: KeyId; readonly sizeBits: number; readonly fromFallback: boolean }[]
  /** The keys one after the other. */
  readonly bytes: SecretBytes
  /** For who asked how they were relayed. */
  readonly relayed?: { readonly paths: number; readonly endToEnd: boolean }
}

const OPEN = Buffer.from('{"keys":[', 'latin1')
const KEY_ID = Buffer.from('{"key_ID":"', 'latin1')
const KEY = Buffer.from('","key":"', 'latin1')
const END_OF_KEY = Buffer.from('"}', 'latin1')
/** Marks a key that does not come from QKD alone. */
const END_OF_FALLBACK_KEY = Buffer.from('","key_extension":{"openkme_source":"fallback"}}', 'latin1')
const CLOSE = ']}'
const COMMA = 0x2c
const KEY_ID_BYTES = 36

const endOf = (relayed: DeliveredKeys['relayed']): string =>
  relayed === undefined
    ? CLOSE
    : `],"key_container_extension":{"openkme_paths":${relayed.paths},"openkme_end_to_end":${relayed.endToEnd}}}`

/** The JSON text of a Key container. Wipes the keys it was given. */
export const toKeyContainer = ({ keys, bytes, relayed }: DeliveredKeys): Buffer => {
  const close = endOf(relayed)
  const perKey = KEY_ID.length + KEY_ID_BYTES + KEY.length
  const endOfKey = (fromFallback: boolean): Buffer => (fromFallback ? END_OF_FALLBACK_KEY : END_OF_KEY)
  let length = OPEN.length + close.length + keys.length - 1
  for (const { sizeBits, fromFallback } of keys) length += perKey + base64Length(sizeBits / 8) + endOfKey(fromFallback).length
  const container = Buffer.allocUnsafeSlow(length)
  bytes.use((source) => {
    let at = OPEN.copy(container, 0)
    let read = 0
    keys.forEach(({ keyId, sizeBits, fromFallback }, i) => {
      if (i > 0) container[at++] = COMMA
      at += KEY_ID.copy(container, at)
      at += container.write(keyId, at, 'latin1')
      at += KEY.copy(container, at)
      at = writeBase64(container, at, source, read, read + sizeBits / 8)
      read += sizeBits / 8
      at += endOfKey(fromFallback).copy(container, at)
    })
    container.write(close, at, 'latin1')
  })
  bytes.wipe()
  return container
}

/** Answers 200 and zeroes the container when the socket has taken it, or was lost.
 *  @param onLost called when the connection broke before all was handed to the system. */
export const sendKeyContainer = (response: ServerResponse, container: Buffer, onLost: () => void): void => {
  response.once('close', () => {
    container.fill(0)
    if (!response.writableFinished) onLost()
  })
  response.writeHead(200, jsonHeaders(container.length))
  response.end(container)
}
