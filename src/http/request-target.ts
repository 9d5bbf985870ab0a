/** The request target read once and strictly: path segments and query parameters are percent-decoded exactly one time, and
 *  what two readers could take differently (doubled names, brackets, overlong UTF-8) is refused. */
import type { IncomingMessage } from 'node:http'
import { BadRequest } from '../kernel/errors.ts'

const MAX_SEGMENT_CHARACTERS = 64
const MAX_PARAMETERS = 16
const PARAMETER_NAME = /^[A-Za-z0-9_.-]{1,64}$/
const CONTROL_CHARACTER = /\p{Cc}/u

const noParameters: ReadonlyMap<string, string> = new Map()

/** The path as it came, before Express cut anything off. */
const targetOf = (req: IncomingMessage & { originalUrl?: string }): string => req.originalUrl ?? req.url ?? ''

/** The segments of the path, still percent-encoded: `/api/v1/keys/alice/status` gives five. */
export const pathSegments = (req: IncomingMessage): readonly string[] => {
  const target = targetOf(req)
  const end = target.indexOf('?')
  return (end === -1 ? target : target.slice(0, end)).split('/').slice(1)
}

/** Percent-decodes one path segment, once.
 *  @throws BadRequest for bad encoding, invalid UTF-8, control characters, an empty one or one of more than 64 characters. */
export const decodeSegment = (raw: string): string => {
  const segment = decodeOnce(raw)
  if (segment === '' || segment.length > MAX_SEGMENT_CHARACTERS || CONTROL_CHARACTER.test(segment)) throw new BadRequest()
  return segment
}

/** The decoded segment number `index` (from 0) of the path.
 *  @throws BadRequest as `decodeSegment` does, or when there is no such segment. */
export const pathSegment = (req: IncomingMessage, index: number): string => decodeSegment(pathSegments(req)[index] ?? '')

/** The query parameters, each name once. A `+` is a plus sign (RFC 3986), not a space.
 *  @throws BadRequest for a repeated or odd name (`number[]`), more than 16 parameters, or bad percent-encoding. */
export const parseQuery = (req: IncomingMessage): ReadonlyMap<string, string> => {
  const target = targetOf(req)
  const start = target.indexOf('?')
  if (start === -1 || start === target.length - 1) return noParameters
  // One more than allowed is enough to know that there are too many.
  const pairs = target.slice(start + 1).split('&', MAX_PARAMETERS + 1)
  if (pairs.length > MAX_PARAMETERS) throw new BadRequest()
  const parameters = new Map<string, string>()
  for (const pair of pairs) {
    const equals = pair.indexOf('=')
    const name = decodeOnce(equals === -1 ? pair : pair.slice(0, equals))
    if (!PARAMETER_NAME.test(name) || parameters.has(name)) throw new BadRequest()
    parameters.set(name, equals === -1 ? '' : decodeOnce(pair.slice(equals + 1)))
  }
  return parameters
}

const decodeOnce = (raw: string): string => {
  if (!raw.includes('%')) return raw
  try {
    return decodeURIComponent(raw)
  } catch {
    throw new BadRequest()
  }
}
