/** Reads request bodies. Holds: a body that is not understood is refused, never taken for an absent one, because an absent
 *  body is a valid Key request for one default key (ETSI GS QKD 014, clause 6.2). */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { BadRequest } from '../kernel/errors.ts'
import { SecretBytes } from '../kernel/secret-bytes.ts'
import { parseStrictJson } from './strict-json.ts'
import type { JsonLimits } from './strict-json.ts'

export interface BodyLimits extends JsonLimits {
  /** Bytes of the body; 64 KiB if left out. A listener's own `maxBodyBytes` cuts first when it is smaller. */
  readonly maxBytes?: number
}

const DEFAULT_MAX_BYTES = 64 * 1024

/** Whether the request announces a body: a Content-Length other than 0, or chunks. */
export const announcesBody = (req: IncomingMessage): boolean => {
  const { 'content-length': length, 'transfer-encoding': encoding } = req.headers
  return encoding !== undefined || (length !== undefined && Number(length) !== 0)
}

/** The members of the JSON object in the body. Taken under application/json, any +json, no media type at all, and
 *  application/x-www-form-urlencoded, the label libcurl puts on what it is given.
 *  @returns undefined when the request has no body.
 *  @throws BadRequest for a body on a GET, another media type or charset, a body over the limit, or anything but one JSON object. */
export const readJsonObject = async (
  req: IncomingMessage,
  limits: BodyLimits = {},
): Promise<Record<string, unknown> | undefined> => {
  if (!announcesBody(req)) return undefined
  if (req.method === 'GET' || !isJsonLabel(req.headers['content-type'])) throw new BadRequest()
  const value = parseStrictJson(await readBody(req, limits.maxBytes), limits)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BadRequest()
  return value as Record<string, unknown>
}

const heldKey = Symbol('body')

interface ReadRequest extends IncomingMessage {
  [heldKey]?: Buffer | SecretBytes | undefined
}

/** Reads the body before the handler does, to check it as a whole; the handler then gets it from `readBody` or `readSecretBody`.
 *  @returns the bytes, secret when they are labelled as plain bytes; wiped after the request unless the handler takes them.
 *  @throws BadRequest as those two do. */
export const readBodyAhead = async (
  req: IncomingMessage,
  res: ServerResponse,
  maxBytes: number,
): Promise<Buffer | SecretBytes> => {
  const isSecret = req.headers['content-type'] === 'application/octet-stream'
  const body = await (isSecret ? readSecretBody(req, maxBytes) : readBody(req, maxBytes))
  const read = req as ReadRequest
  read[heldKey] = body
  if (body instanceof SecretBytes) {
    res.once('close', () => {
      if (read[heldKey] === body) body.wipe()
    })
  }
  return body
}

/** What was read ahead, once. */
const takeHeld = (req: IncomingMessage): Buffer | SecretBytes | undefined => {
  const read = req as ReadRequest
  const held = read[heldKey]
  read[heldKey] = undefined
  return held
}

/** The bytes of the body, empty when there is none.
 *  @throws BadRequest when it is longer than `maxBytes` or breaks off. */
export const readBody = (req: IncomingMessage, maxBytes = DEFAULT_MAX_BYTES): Promise<Buffer> => {
  const held = takeHeld(req)
  if (held === undefined) return receiveBody(req, maxBytes)
  if (Buffer.isBuffer(held) && held.length <= maxBytes) return Promise.resolve(held)
  return Promise.reject(new BadRequest())
}

const receiveBody = async (req: IncomingMessage, maxBytes: number): Promise<Buffer> => {
  const chunks = await receiveChunks(req, maxBytes)
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
}

/** What is refused is wiped: it may hold key material. */
const receiveChunks = (req: IncomingMessage, maxBytes: number): Promise<Buffer[]> =>
  new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let length = 0
    const refuse = (): void => {
      // The rest is not read: the error answer closes the connection.
      req.pause()
      req.removeListener('data', take)
      wipe(chunks)
      reject(new BadRequest())
    }
    const take = (chunk: Buffer): void => {
      chunks.push(chunk)
      length += chunk.length
      if (length > maxBytes) refuse()
    }
    if (Number(req.headers['content-length'] ?? 0) > maxBytes) return refuse()
    // Whatever happens to the connection afterwards, the chunks are the caller's.
    const breakOff = (): void => {
      if (!req.readableEnded) refuse()
    }
    req.on('data', take)
    req.on('end', () => resolve(chunks))
    req.on('error', breakOff)
    req.on('close', breakOff)
  })

const wipe = (chunks: readonly Buffer[]): void => chunks.forEach((chunk) => chunk.fill(0))

/** The body as key material: it is in no buffer but the one returned.
 *  @throws BadRequest when it is not labelled as plain bytes, its length is not announced, over `maxBytes` or wrong. */
export const readSecretBody = (req: IncomingMessage, maxBytes: number): Promise<SecretBytes> => {
  const held = takeHeld(req)
  if (held === undefined) return receiveSecretBody(req, maxBytes)
  if (held instanceof SecretBytes && held.lengthBytes <= maxBytes) return Promise.resolve(held)
  if (held instanceof SecretBytes) held.wipe()
  return Promise.reject(new BadRequest())
}

const receiveSecretBody = (req: IncomingMessage, maxBytes: number): Promise<SecretBytes> =>
  new Promise((resolve, reject) => {
    const length = Number(req.headers['content-length'])
    const isPlain = req.headers['content-type'] === 'application/octet-stream' && req.headers['transfer-encoding'] === undefined
    if (!isPlain || !(length > 0) || length > maxBytes) return reject(new BadRequest())
    const bytes = Buffer.allocUnsafeSlow(length)
    let read = 0
    const refuse = (): void => {
      bytes.fill(0)
      reject(new BadRequest())
    }
    req.on('data', (chunk: Buffer) => {
      read += chunk.copy(bytes, read)
      chunk.fill(0)
    })
    // The parser lets no more through than was announced.
    req.on('end', () => (read === length ? resolve(SecretBytes.adopt(bytes)) : refuse()))
    req.on('error', refuse)
    req.on('close', () => {
      if (!req.readableEnded) refuse()
    })
  })

/** JSON that holds key material: it is in no buffer but the one returned, which the caller zeroes.
 *  @throws BadRequest when it is not labelled as JSON, longer than `maxBytes`, empty, or breaks off. */
export const readSecretJson = async (req: IncomingMessage, maxBytes: number): Promise<Buffer> => {
  if (!isJsonLabel(req.headers['content-type'])) throw new BadRequest()
  const chunks = await receiveChunks(req, maxBytes)
  const body = Buffer.allocUnsafeSlow(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
  chunks.reduce((at, chunk) => at + chunk.copy(body, at), 0)
  wipe(chunks)
  if (body.length === 0) throw new BadRequest()
  return body
}

const isJsonLabel = (contentType: string | undefined): boolean => {
  if (contentType === undefined || contentType === '') return true
  if (contentType === 'application/json') return true
  const [type = '', ...parameters] = contentType.toLowerCase().split(';')
  const essence = type.trim()
  if (!isJsonType(essence)) return false
  const charsets = parameters.map((parameter) => parameter.trim()).filter((parameter) => parameter.startsWith('charset'))
  return charsets.length === 0 || (charsets.length === 1 && /^charset="?utf-8"?$/.test(charsets[0]!))
}

const isJsonType = (essence: string): boolean =>
  essence === 'application/json' ||
  essence === 'application/x-www-form-urlencoded' ||
  /^[a-z0-9!#$&^_.+-]+\/[a-z0-9!#$&^_.+-]+\+json$/.test(essence)
