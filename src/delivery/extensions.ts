/** The extensions of method "Get key" (ETSI GS QKD 014, 6.2) this KME supports. Names carry the vendor prefix `openkme_`.
 *  To add one: a reader here, a member of RequestExtensions, a row in docs/sae-developers.md. */
import { BadRequest } from '../kernel/errors.ts'
import { parseAssignmentId } from '../kernel/identifiers.ts'

export interface RequestExtensions {
  /** `openkme_request_id`: the client's own UUID for this request. An equal request with the same ID, repeated within the
   *  retry window, is answered with the same keys. */
  readonly requestId: string | undefined
  /** Whether the request insists on it. */
  readonly requestIdIsMandatory: boolean
  /** `openkme_source`: the request insists on keys from QKD and takes none of the fallback source. Where it does not insist, QKD
   *  comes first anyway. */
  readonly qkdOnly: boolean
  /** `openkme_paths`, `openkme_end_to_end`: how keys are to be relayed that pass other KMEs. */
  readonly relay?: RelayExtensions
}

/** What the request insists on, and what it would like besides. */
export interface RelayExtensions {
  /** Over so many ways without a KME in common. */
  readonly paths: number
  readonly pathsWished: number
  /** Wrapped so that KMEs on the way see nothing they could use. */
  readonly endToEnd: boolean
  readonly endToEndWished: boolean
}

const NO_RELAY: RelayExtensions = { paths: 1, pathsWished: 1, endToEnd: false, endToEndWished: false }

export const NO_EXTENSIONS: RequestExtensions = { requestId: undefined, requestIdIsMandatory: false, qkdOnly: false }

/** @param before what was read so far. */
type Reader = (value: unknown, isMandatory: boolean, before: RequestExtensions) => Partial<RequestExtensions>

const PATHS_MAX = 4

const readers: Readonly<Record<string, Reader>> = {
  openkme_request_id: (value, isMandatory) => {
    const requestId = typeof value === 'string' ? parseAssignmentId(value) : undefined
    if (requestId === undefined) throw new BadRequest([{ parameter: 'openkme_request_id', reason: 'shall be a UUID' }])
    return { requestId, requestIdIsMandatory: isMandatory }
  },
  openkme_source: (value, isMandatory) => {
    if (value !== 'qkd') throw new BadRequest([{ parameter: 'openkme_source', reason: 'shall be "qkd"' }])
    return { qkdOnly: isMandatory }
  },
  openkme_paths: (value, isMandatory, { relay = NO_RELAY }) => {
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > PATHS_MAX) {
      throw new BadRequest([{ parameter: 'openkme_paths', reason: `shall be an integer between 1 and ${PATHS_MAX}` }])
    }
    return { relay: { ...relay, ...(isMandatory ? { paths: value } : { pathsWished: value }) } }
  },
  openkme_end_to_end: (value, isMandatory, { relay = NO_RELAY }) => {
    if (typeof value !== 'boolean') throw new BadRequest([{ parameter: 'openkme_end_to_end', reason: 'shall be true or false' }])
    return { relay: { ...relay, ...(isMandatory ? { endToEnd: value } : { endToEndWished: value }) } }
  },
}

const EXTENSIONS_MAX = 32
/** Message of the answer when a supported extension asks for what cannot be had (6.2). */
export const OPTIONS_NOT_MET = 'not all extension_mandatory request options could be met'

/** @throws BadRequest with the standard's message when a mandatory extension is not supported. */
export const readExtensions = (mandatory: unknown, optional: unknown): RequestExtensions => {
  const wanted = parameters(mandatory, 'extension_mandatory')
  const unsupported = wanted.filter(([name]) => !Object.hasOwn(readers, name))
  if (unsupported.length > 0) {
    // How many, not which: a caller's text is never echoed.
    throw new BadRequest(
      [{ extension_mandatory_unsupported: unsupported.length }],
      'not all extension_mandatory parameters are supported',
    )
  }
  let extensions = NO_EXTENSIONS
  for (const [name, value] of parameters(optional, 'extension_optional')) {
    const reader = Object.hasOwn(readers, name) ? readers[name] : undefined
    if (reader !== undefined) extensions = { ...extensions, ...reader(value, false, extensions) }
  }
  for (const [name, value] of wanted) {
    extensions = { ...extensions, ...readers[name]?.(value, true, extensions) }
  }
  return extensions
}

/** Name and value pairs of an array of one-member objects. */
const parameters = (value: unknown, parameter: string): [name: string, value: unknown][] => {
  if (value === undefined || value === null) return []
  const bad = (): BadRequest => new BadRequest([{ parameter, reason: 'shall be an array of objects with one member each' }])
  if (!Array.isArray(value) || value.length > EXTENSIONS_MAX) throw bad()
  return value.map((entry: unknown) => {
    if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) throw bad()
    const [pair, ...more] = Object.entries(entry)
    if (pair === undefined || more.length > 0) throw bad()
    return pair
  })
}
