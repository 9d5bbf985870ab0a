/** The error object of ETSI GS QKD 020: like RFC 9457, but `details` is an object of texts, and it is sent as plain JSON. */
import { STATUS_CODES } from 'node:http'

/** The last part of a problem type's URI. */
export type InterworkingProblem =
  | 'missing-parameters'
  | 'key-routing-error'
  | 'void-request-not-understood'
  | 'no-key-ids-or-confirmation'
  | 'ack-not-understood'
  | 'key-not-present'
  | 'unauthorized'
  | 'timeout'
  | 'server-side-general-error'
  | 'insufficient-key-material'
  | 'unsupported-mandatory-extension'
  | 'invalid-parameter'

const TYPES = 'https://qkd.etsi.org/gs020-interop-kms/'

export const INTERWORKING_CONTENT_TYPE = 'application/json; charset=UTF-8'

/** @param problem undefined where the standard has no type: an unknown path or a wrong method.
 *  @returns the JSON text. Never echoes a caller's value. */
export const interworkingProblem = (
  status: number,
  problem: InterworkingProblem | undefined,
  details?: Readonly<Record<string, string>>,
): string => {
  const title = STATUS_CODES[status]
  const type = problem === undefined ? 'about:blank' : `${TYPES}${problem}`
  return JSON.stringify({ type, status, ...(title !== undefined && { title }), ...(details !== undefined && { details }) })
}
