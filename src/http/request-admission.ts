/** What a request must look like before any application code sees it: the cases the HTTP parser lets through although two
 *  readers could frame or route them differently (RFC 9112), and bodies announced beyond the limit. */
import type { IncomingMessage } from 'node:http'

// Visible ASCII. '#' would make Express fall back to a lenient URL parser that drops what follows it.
const TARGET = /^\/[!"$-~]*$/

const ONCE_ONLY = new Set(['host', 'content-type', 'content-length', 'content-encoding', 'transfer-encoding', 'authorization'])

export interface AdmissionLimits {
  readonly maxBodyBytes: number
  readonly maxHeaders: number
}

/** @returns whether the request may go on; if not, the answer is 400 and the connection closes unread. */
export const isAdmissible = (req: IncomingMessage, limits: AdmissionLimits): boolean => {
  const { headers } = req
  if (req.httpVersion !== '1.1' || !TARGET.test(req.url ?? '') || !headers.host) return false
  if (!hasPlainHeaders(req.rawHeaders, limits.maxHeaders)) return false
  if (headers['transfer-encoding'] !== undefined && headers['transfer-encoding'].toLowerCase() !== 'chunked') return false
  if (headers['content-encoding'] !== undefined && headers['content-encoding'].toLowerCase() !== 'identity') return false
  return headers['content-length'] === undefined || Number(headers['content-length']) <= limits.maxBodyBytes
}

/** Names and values in turn: not too many, and none twice that may stand only once. */
const hasPlainHeaders = (rawHeaders: readonly string[], maxHeaders: number): boolean => {
  if (rawHeaders.length > 2 * maxHeaders) return false
  const seen = new Set<string>()
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!.toLowerCase()
    if (!ONCE_ONLY.has(name)) continue
    if (seen.has(name)) return false
    seen.add(name)
  }
  return true
}
