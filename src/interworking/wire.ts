/** The JSON of ETSI GS QKD 020, read and written. Key material goes between buffers and never becomes a string.
 *  Holds: what comes out of a reader is within the limits of the standard and of this KME; nothing was touched when it throws. Unknown
 *  members are ignored, and `null` for an optional member means absent. */
import type { components } from '../generated/etsi-gs-qkd-020.ts'
import type { InterworkingProblem } from '../http/interworking-problem.ts'
import { parseStrictJson } from '../http/strict-json.ts'
import { base64Length, decodeBase64, writeBase64 } from '../kernel/base64.ts'
import { parseKeyId, type KeyId, type SaeId } from '../kernel/identifiers.ts'
import { takeSecretTexts } from '../kernel/json-secrets.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { ACK_STATUSES, type Ack, type AckStatus } from './interworking.ts'
import { invalidParameter, missingParameters, Refusal, unsupportedExtension } from './refusal.ts'

export type AckContainers = components['schemas']['AckContainers']
type VoidContainer = components['schemas']['VoidContainer']

export const VERSION = 'v1'
export const SYNCHRONOUS = 'synchronous_mode'

export const interworkingPaths = {
  versions: '/kmapi/versions',
  keys: '/kmapi/v1/ext_keys',
  ack: '/kmapi/v1/ext_keys/ack',
  void: '/kmapi/v1/ext_keys/void',
} as const

/** As many as one acknowledgement can name. */
export const KEYS_MAX = 1024
const CONTAINERS_MAX = 1024
const TARGETS_MAX = 1024
const VERSIONS_MAX = 1000
const URL_LENGTH_MAX = 1024
const MESSAGE_LENGTH_MAX = 4096
const EXTENSIONS_MAX = 1024
const JSON_LIMITS = { maxDepth: 16, maxStrings: 100_000 }

const SAE_ID = /^(?:[A-Za-z0-9._~:/?#[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$/
const SAE_ID_LENGTH_MAX = 64
const EXTENSION_NAME = /^E[0-9]+_/

export interface KeySizeLimits {
  readonly minKeySizeBits: number
  readonly maxKeySizeBits: number
}

/** Keys a neighbour sent. Whoever has them wipes `bytes`. */
export interface ExtKeys {
  readonly keys: readonly { readonly keyId: KeyId; readonly sizeBits: number }[]
  /** One after the other. */
  readonly bytes: SecretBytes
  readonly initiator: string
  readonly targets: readonly string[]
  readonly callbackUrl: string | undefined
}

export interface VoidRequest {
  readonly initiator: string
  readonly targets: readonly string[]
  readonly keyIds: readonly KeyId[] | 'all'
  readonly callbackUrl: string | undefined
}

type Members = Readonly<Record<string, unknown>>

const asMembers = (value: unknown): Members | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Members) : undefined

const isAbsent = (value: unknown): boolean => value === undefined || value === null

/** @throws Refusal of this type for what is no JSON text. */
const parse = (body: Buffer, problem: InterworkingProblem): unknown => {
  try {
    return parseStrictJson(body, JSON_LIMITS)
  } catch {
    throw new Refusal(400, problem, { body: 'shall be JSON that can be read in one way only' })
  }
}

const required = (members: Members, names: readonly string[]): void => {
  const missing = names.filter((name) => isAbsent(members[name]))
  if (missing.length > 0) throw missingParameters(missing)
}

const saeId = (value: unknown, name: string): string => {
  if (typeof value === 'string' && value.length <= SAE_ID_LENGTH_MAX && SAE_ID.test(value)) return value
  throw invalidParameter(name, 'shall be an SAE ID: 1 to 64 characters of a URI')
}

const saeIds = (value: unknown, name: string): string[] => {
  if (!Array.isArray(value) || value.length === 0 || value.length > TARGETS_MAX) {
    throw invalidParameter(name, `shall be an array of 1 to ${TARGETS_MAX} SAE IDs`)
  }
  const ids = value.map((id: unknown) => saeId(id, name))
  if (new Set(ids).size < ids.length) throw invalidParameter(name, 'shall not name an SAE twice')
  return ids
}

const keyId = (value: unknown, name: string): KeyId => {
  const id = typeof value === 'string' ? parseKeyId(value) : undefined
  if (id === undefined) throw invalidParameter(name, 'shall be a UUID')
  return id
}

const distinct = (ids: readonly KeyId[], name: string): readonly KeyId[] => {
  if (new Set(ids).size < ids.length) throw invalidParameter(name, 'shall not name a key twice')
  return ids
}

const callbackUrl = (value: unknown): string | undefined => {
  if (isAbsent(value)) return undefined
  if (typeof value === 'string' && value.length <= URL_LENGTH_MAX && value.startsWith('https://') && URL.canParse(value))
    return value
  throw invalidParameter('ack_callback_url', `shall be an https URL of at most ${URL_LENGTH_MAX} characters`)
}

/** @returns how many it has. */
const extension = (value: unknown, name: string): number => {
  if (isAbsent(value)) return 0
  const names = Object.keys(asMembers(value) ?? {})
  if (names.length > 0 && names.length <= EXTENSIONS_MAX && names.every((each) => EXTENSION_NAME.test(each))) return names.length
  throw invalidParameter(
    name,
    `shall be an object of 1 to ${EXTENSIONS_MAX} members whose names begin with E<enterprise number>_`,
  )
}

/** @param body is zeroed, whatever happens.
 *  @throws Refusal. */
export const readExtKeys = (body: Buffer, limits: KeySizeLimits): ExtKeys => {
  const texts = takeSecretTexts(body, 'keys', 'value')
  const secrets: Buffer[] = []
  try {
    const members = asMembers(parse(body, 'invalid-parameter'))
    if (members === undefined) throw invalidParameter('body', 'shall be an object')
    required(members, ['keys', 'initiator_sae_id', 'target_sae_ids'])
    // What is said of extensions comes first: a KME that does not understand the request must not judge the rest of it.
    const mandatory = extension(members['extension_mandatory'], 'extension_mandatory')
    if (mandatory > 0) throw unsupportedExtension(mandatory)
    extension(members['extension_optional'], 'extension_optional')
    const keyIds = readKeyEntries(members['keys'])
    if (texts.length !== keyIds.length) throw invalidParameter('value', 'shall be one base64 text in each key')
    for (const text of texts) {
      const secret = decodeBase64(text)
      if (secret === undefined) throw invalidParameter('value', 'shall be base64 with padding')
      secrets.push(secret)
    }
    const sizesBits = secrets.map((secret) => secret.length * 8)
    if (sizesBits.some((size) => size < limits.minKeySizeBits || size > limits.maxKeySizeBits)) {
      throw invalidParameter('value', `shall be a key of ${limits.minKeySizeBits} to ${limits.maxKeySizeBits} bits`)
    }
    const rest = {
      initiator: saeId(members['initiator_sae_id'], 'initiator_sae_id'),
      targets: saeIds(members['target_sae_ids'], 'target_sae_ids'),
      callbackUrl: callbackUrl(members['ack_callback_url']),
    }
    return {
      keys: keyIds.map((id, i) => ({ keyId: id, sizeBits: sizesBits[i] as number })),
      bytes: SecretBytes.adopt(joined(secrets)),
      ...rest,
    }
  } finally {
    for (const secret of [...texts, ...secrets, body]) secret.fill(0)
  }
}

const joined = (secrets: readonly Buffer[]): Buffer => {
  const all = Buffer.allocUnsafeSlow(secrets.reduce((sum, secret) => sum + secret.length, 0))
  secrets.reduce((at, secret) => at + secret.copy(all, at), 0)
  return all
}

const readKeyEntries = (value: unknown): readonly KeyId[] => {
  if (!Array.isArray(value) || value.length === 0 || value.length > KEYS_MAX) {
    throw invalidParameter('keys', `shall be an array of 1 to ${KEYS_MAX} keys`)
  }
  const ids = value.map((entry: unknown) => {
    const key = asMembers(entry)
    if (key === undefined) throw invalidParameter('keys', 'shall be an array of objects')
    required(key, ['key_id', 'value'])
    // Anything left in a value's place came from an unusual spelling of its name.
    if (typeof key['value'] !== 'string' || key['value'].trim() !== '')
      throw invalidParameter('value', 'shall be base64 with padding')
    extension(key['extension'], 'extension')
    return keyId(key['key_id'], 'key_id')
  })
  return distinct(ids, 'key_id')
}

const NOT_UNDERSTOOD = { ack: 'ack-not-understood', void: 'void-request-not-understood' } as const

/** @throws Refusal. */
export const readAcks = (body: Buffer): Ack[] => readAckContainers(parse(body, NOT_UNDERSTOOD.ack))

/** @throws Refusal. */
export const readAckContainers = (value: unknown): Ack[] => {
  const bad = (reason: string): Refusal => new Refusal(400, NOT_UNDERSTOOD.ack, { body: reason })
  if (!Array.isArray(value) || value.length > CONTAINERS_MAX) throw bad(`shall be an array of at most ${CONTAINERS_MAX} objects`)
  return value.map((entry: unknown): Ack => {
    const members = asMembers(entry)
    if (members === undefined) throw bad('shall be an array of objects')
    required(members, ['key_id_container', 'ack_status', 'initiator_sae_id', 'target_sae_ids'])
    const { ack_status: status, key_id_container: container, message } = members
    if (!ACK_STATUSES.includes(status as AckStatus))
      throw invalidParameter('ack_status', `shall be one of ${ACK_STATUSES.join(', ')}`)
    if (!isAbsent(message) && (typeof message !== 'string' || message.length > MESSAGE_LENGTH_MAX)) {
      throw invalidParameter('message', `shall be a text of at most ${MESSAGE_LENGTH_MAX} characters`)
    }
    extension(members['extension'], 'extension')
    if (!Array.isArray(container) || container.length > KEYS_MAX) {
      throw invalidParameter('key_id_container', `shall be an array of at most ${KEYS_MAX} objects`)
    }
    const keyIds = container.map((each: unknown) => {
      const key = asMembers(each)
      if (key === undefined) throw invalidParameter('key_id_container', 'shall be an array of objects')
      required(key, ['key_id'])
      extension(key['extension'], 'extension')
      return keyId(key['key_id'], 'key_id')
    })
    return {
      status: status as AckStatus,
      initiator: saeId(members['initiator_sae_id'], 'initiator_sae_id'),
      targets: saeIds(members['target_sae_ids'], 'target_sae_ids'),
      keyIds: distinct(keyIds, 'key_id'),
    }
  })
}

/** @throws Refusal. */
export const readVoid = (body: Buffer): VoidRequest => {
  const members = asMembers(parse(body, NOT_UNDERSTOOD.void))
  if (members === undefined) throw new Refusal(400, NOT_UNDERSTOOD.void, { body: 'shall be an object' })
  required(members, ['key_ids', 'initiator_sae_id', 'target_sae_ids'])
  const { key_ids: ids, all_confirmation: confirmation } = members
  if (!Array.isArray(ids) || ids.length > KEYS_MAX)
    throw invalidParameter('key_ids', `shall be an array of at most ${KEYS_MAX} UUIDs`)
  if (!isAbsent(confirmation) && typeof confirmation !== 'boolean')
    throw invalidParameter('all_confirmation', 'shall be a boolean')
  extension(members['extension'], 'extension')
  const keyIds = distinct(
    ids.map((id: unknown) => keyId(id, 'key_ids')),
    'key_ids',
  )
  if (keyIds.length === 0 && confirmation !== true) {
    throw new Refusal(400, 'no-key-ids-or-confirmation', {
      no_all_confirmation: 'no key IDs mean all keys, only with all_confirmation',
    })
  }
  return {
    initiator: saeId(members['initiator_sae_id'], 'initiator_sae_id'),
    targets: saeIds(members['target_sae_ids'], 'target_sae_ids'),
    keyIds: keyIds.length === 0 ? 'all' : keyIds,
    callbackUrl: callbackUrl(members['ack_callback_url']),
  }
}

/** What a neighbour can do. @throws Error when its answer is not a version container, or names no version of ours. */
export const readVersions = (value: unknown): { readonly synchronous: boolean } => {
  const { versions, capabilities } = asMembers(value) ?? {}
  if (!Array.isArray(versions) || versions.length > VERSIONS_MAX) throw new Error('does not say which versions it speaks')
  if (!versions.includes(VERSION)) throw new Error(`does not speak ${VERSION}`)
  return { synchronous: Array.isArray(capabilities) && capabilities.includes(SYNCHRONOUS) }
}

export const VERSIONS: components['schemas']['VersionContainer'] = { versions: [VERSION], capabilities: [SYNCHRONOUS] }

/** JSON of acknowledgements, those of many keys split. */
export const writeAcks = (acks: readonly Ack[]): AckContainers =>
  acks.flatMap(({ status, initiator, targets, keyIds }) => {
    const containers: AckContainers = []
    for (let from = 0; from === 0 || from < keyIds.length; from += KEYS_MAX) {
      containers.push({
        key_id_container: keyIds.slice(from, from + KEYS_MAX).map((id) => ({ key_id: id })),
        ack_status: status,
        initiator_sae_id: initiator,
        target_sae_ids: [...targets],
      })
    }
    return containers
  })

export const writeVoid = (
  { initiator, targets, keyIds }: { initiator: string; targets: readonly string[]; keyIds: readonly KeyId[] },
  callback: string | undefined,
): VoidContainer => ({
  key_ids: [...keyIds],
  initiator_sae_id: initiator,
  target_sae_ids: [...targets],
  ...(callback !== undefined && { ack_callback_url: callback }),
})

const KEYS = Buffer.from('{"keys":[', 'latin1')
const KEY_ID = Buffer.from('{"key_id":"', 'latin1')
const VALUE = Buffer.from('","value":"', 'latin1')
const END_OF_KEY = Buffer.from('"}', 'latin1')
const COMMA = 0x2c
const KEY_ID_BYTES = 36

/** The JSON text of an ext_key_container, in a buffer that the caller zeroes. The keys stay as they are. */
export const writeExtKeys = (
  sent: { keyIds: readonly KeyId[]; sizeBits: number; initiator: SaeId; targets: readonly SaeId[] },
  keys: SecretBytes,
  callback: string | undefined,
): Buffer => {
  const parties = JSON.stringify({
    initiator_sae_id: sent.initiator,
    target_sae_ids: sent.targets,
    ...(callback !== undefined && { ack_callback_url: callback }),
  })
  // The members of the object go on behind the array.
  const rest = Buffer.from(`],${parties.slice(1)}`)
  const keyBytes = sent.sizeBits / 8
  const perKey = KEY_ID.length + KEY_ID_BYTES + VALUE.length + base64Length(keyBytes) + END_OF_KEY.length
  const body = Buffer.allocUnsafeSlow(KEYS.length + sent.keyIds.length * (perKey + 1) - 1 + rest.length)
  keys.use((source) => {
    let at = KEYS.copy(body, 0)
    sent.keyIds.forEach((id, i) => {
      if (i > 0) body[at++] = COMMA
      at += KEY_ID.copy(body, at)
      at += body.write(id, at, 'latin1')
      at += VALUE.copy(body, at)
      at = writeBase64(body, at, source, i * keyBytes, (i + 1) * keyBytes)
      at += END_OF_KEY.copy(body, at)
    })
    rest.copy(body, at)
  })
  return body
}
