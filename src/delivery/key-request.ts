/** Key request and Key IDs (ETSI GS QKD 014, 6.2 and 6.4) from what a client sent to a checked request.
 *  Holds: what comes out is within the limits; nothing was touched when this throws. `null` for an optional member means
 *  absent and unknown members are ignored, as clients in the field expect. */
import { BadRequest } from '../kernel/errors.ts'
import { parseKeyId, parseSaeId, type KeyId, type SaeId } from '../kernel/identifiers.ts'
import type { DeliveryLimits } from './delivery.ts'
import { NO_EXTENSIONS, readExtensions, type RequestExtensions } from './extensions.ts'

export interface KeyRequest {
  readonly number: number
  readonly sizeBits: number
  readonly additionalSlaveSaeIds: readonly SaeId[]
  readonly extensions: RequestExtensions
}

const bad = (parameter: string, reason: string): BadRequest => new BadRequest([{ parameter, reason }])

const integerWithin = (value: unknown, parameter: string, min: number, max: number): number => {
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw bad(parameter, 'shall be an integer')
  if (value < min || value > max) throw bad(parameter, `shall be between ${min} and ${max}`)
  return value
}

const toNumber = (value: unknown, limits: DeliveryLimits): number =>
  value === undefined || value === null ? 1 : integerWithin(value, 'number', 1, limits.maxKeysPerRequest)

const toSizeBits = (value: unknown, limits: DeliveryLimits): number => {
  if (value === undefined || value === null) return limits.keySizeBits
  const size = integerWithin(value, 'size', 1, Number.MAX_SAFE_INTEGER)
  if (size % 8 !== 0) throw new BadRequest(undefined, 'size shall be a multiple of 8')
  if (size < limits.minKeySizeBits || size > limits.maxKeySizeBits) {
    throw bad('size', `is in bits and shall be between ${limits.minKeySizeBits} and ${limits.maxKeySizeBits}`)
  }
  return size
}

/** The POST form. @param body undefined when the request had none, which is the empty Key request. */
export const parseKeyRequest = (body: Record<string, unknown> | undefined, limits: DeliveryLimits): KeyRequest => {
  const request = body ?? {}
  // The extensions come first: a KME that does not understand the request must not judge the rest of it.
  const extensions = readExtensions(request['extension_mandatory'], request['extension_optional'])
  return {
    number: toNumber(request['number'], limits),
    sizeBits: toSizeBits(request['size'], limits),
    additionalSlaveSaeIds: additionalSlaves(request['additional_slave_SAE_IDs'], limits),
    extensions,
  }
}

/** The GET form: `number` and `size` only, as decimal strings. */
export const parseKeyQuery = (query: ReadonlyMap<string, string>, limits: DeliveryLimits): KeyRequest => {
  for (const name of query.keys()) {
    if (name !== 'number' && name !== 'size') throw new BadRequest([{ reason: 'GET takes number and size only, use POST' }])
  }
  return {
    number: toNumber(decimal(query.get('number'), 'number'), limits),
    sizeBits: toSizeBits(decimal(query.get('size'), 'size'), limits),
    additionalSlaveSaeIds: [],
    extensions: NO_EXTENSIONS,
  }
}

const decimal = (text: string | undefined, parameter: string): number | undefined => {
  if (text === undefined) return undefined
  if (!/^(0|[1-9][0-9]{0,14})$/.test(text)) throw bad(parameter, 'shall be a decimal integer')
  return Number(text)
}

const additionalSlaves = (value: unknown, limits: DeliveryLimits): SaeId[] => {
  if (value === undefined || value === null) return []
  const parameter = 'additional_slave_SAE_IDs'
  if (!Array.isArray(value)) throw bad(parameter, 'shall be an array of strings')
  if (value.length > limits.maxSaeIdCount) throw bad(parameter, `shall have at most ${limits.maxSaeIdCount} entries`)
  const ids = value.map((id: unknown) => {
    const saeId = typeof id === 'string' ? parseSaeId(id) : undefined
    if (saeId === undefined) throw bad(parameter, 'shall be an array of SAE IDs')
    return saeId
  })
  if (new Set(ids).size < ids.length) throw bad(parameter, 'shall not name an SAE twice')
  return ids
}

/** The POST form of "Get key with key IDs". */
export const parseKeyIds = (body: Record<string, unknown> | undefined, limits: DeliveryLimits): KeyId[] => {
  const entries = body?.['key_IDs']
  if (!Array.isArray(entries) || entries.length === 0) throw bad('key_IDs', 'shall be a non-empty array of objects')
  if (entries.length > limits.maxKeysPerRequest) throw bad('key_IDs', `shall have at most ${limits.maxKeysPerRequest} entries`)
  optionalObject(body?.['key_IDs_extension'], 'key_IDs_extension')
  const keyIds = entries.map((entry: unknown) => {
    if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) throw bad('key_IDs', 'shall be an array of objects')
    const { key_ID: keyId, key_ID_extension: extension } = entry as Record<string, unknown>
    optionalObject(extension, 'key_ID_extension')
    return toKeyId(keyId)
  })
  if (new Set(keyIds).size < keyIds.length) throw bad('key_IDs', 'shall not name a key twice')
  return keyIds
}

/** The GET form: exactly one `key_ID`. */
export const parseKeyIdQuery = (query: ReadonlyMap<string, string>): KeyId[] => {
  if (query.size !== 1 || !query.has('key_ID')) throw new BadRequest([{ reason: 'GET takes exactly one key_ID, use POST' }])
  return [toKeyId(query.get('key_ID'))]
}

const toKeyId = (value: unknown): KeyId => {
  const keyId = typeof value === 'string' ? parseKeyId(value) : undefined
  if (keyId === undefined) throw bad('key_ID', 'shall be a UUID')
  return keyId
}

const optionalObject = (value: unknown, parameter: string): void => {
  if (value !== undefined && value !== null && (typeof value !== 'object' || Array.isArray(value))) {
    throw bad(parameter, 'shall be an object')
  }
}
