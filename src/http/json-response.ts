/** The one way to answer with JSON: media type exactly application/json, never stored by a cache. Not for key material,
 *  which must not become a string: delivery writes its bytes itself, with `jsonHeaders`. */
import type { ServerResponse } from 'node:http'
import { sealHeaders } from './answer-seal.ts'

/** Header names and values in turn, as `writeHead` takes them. */
export const jsonHeaders = (lengthBytes: number): string[] => [
  'Content-Type',
  'application/json',
  'Cache-Control',
  'no-store',
  'Content-Length',
  String(lengthBytes),
]

export const sendJson = (res: ServerResponse, value: unknown, status = 200): void => {
  const body = JSON.stringify(value)
  res.writeHead(status, [...jsonHeaders(Buffer.byteLength(body)), ...sealHeaders(res, status, body)])
  res.end(body)
}
