/** The closed set of errors a caller may see. Domain code throws these and knows no HTTP status;
 *  http/error-response.ts turns each code into an answer and does not compile when one is missing. */

export type KmeErrorCode =
  | 'bad-request'
  | 'unknown-slave'
  | 'key-not-found'
  | 'unauthorized'
  | 'forbidden'
  | 'not-found'
  | 'method-not-allowed'
  | 'conflict'
  | 'keys-exhausted'
  | 'peer-unavailable'
  | 'key-data-access'
  | 'unavailable'
  | 'internal'

/** Name and value pairs of the Error object (ETSI GS QKD 014, table 13). Never echoes a caller's value. */
export type ErrorDetails = readonly Readonly<Record<string, string | number>>[]

export abstract class KmeError extends Error {
  abstract readonly code: KmeErrorCode
  readonly details: ErrorDetails | undefined
  /** After how many seconds a retry makes sense, for errors that pass. */
  readonly retryAfterS: number | undefined

  /** @param message shown to the caller as it is. */
  constructor(message: string, details?: ErrorDetails, retryAfterS?: number, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.details = details
    this.retryAfterS = retryAfterS
  }
}

/** The request is not of the form the standard gives it; nothing was touched. */
export class BadRequest extends KmeError {
  override readonly code = 'bad-request'
  /** @param message one of the fixed messages of the standard, or left out for the general one. */
  constructor(details?: ErrorDetails, message = 'bad request format') {
    super(message, details)
  }
}

/** The slave SAE is unknown here or may not share keys with the caller: one answer for both, so nobody can enumerate. */
export class UnknownSlave extends KmeError {
  override readonly code = 'unknown-slave'
  constructor() {
    super('unknown or not permitted slave SAE')
  }
}

/** Clause 6.4: at least one requested key cannot be returned; none was consumed. */
export class KeyNotFound extends KmeError {
  override readonly code = 'key-not-found'
  constructor() {
    super('one or more keys specified are not found on KME')
  }
}

/** The caller is nobody, or not one of the SAEs the key was meant for (clause 5.4). */
export class Unauthorized extends KmeError {
  override readonly code = 'unauthorized'
  /** @param reason for the log; a caller of the SAE API never sees it. */
  constructor(reason: string) {
    super(reason)
  }
}

/** The caller is known but its token lacks the scope. Admin API only. */
export class Forbidden extends KmeError {
  override readonly code = 'forbidden'
}

/** No such route or resource. Never used for keys. */
export class NotFound extends KmeError {
  override readonly code = 'not-found'
  constructor(message = 'not found') {
    super(message)
  }
}

export class MethodNotAllowed extends KmeError {
  override readonly code = 'method-not-allowed'
  readonly allow: readonly string[]
  constructor(allow: readonly string[]) {
    super('method not allowed')
    this.allow = allow
  }
}

/** The request contradicts the present state. Admin and peer API only. */
export class Conflict extends KmeError {
  override readonly code = 'conflict'
}

/** Fewer keys in the pool than asked for; none was consumed. */
export class KeysExhausted extends KmeError {
  override readonly code = 'keys-exhausted'
  constructor(retryAfterS: number, message = 'no key material available') {
    super(message, undefined, retryAfterS)
  }
}

/** The KME at the other end cannot be reached or did not agree in time. */
export class PeerUnavailable extends KmeError {
  override readonly code = 'peer-unavailable'
  constructor(retryAfterS: number, options?: ErrorOptions) {
    super('the KME of the slave SAE is not available', undefined, retryAfterS, options)
  }
}

/** Stored key material could not be opened: altered, moved or sealed under another root key. */
export class KeyDataAccess extends KmeError {
  override readonly code = 'key-data-access'
  constructor(options?: ErrorOptions) {
    super('key data access error', undefined, undefined, options)
  }
}

/** Starting, stopping, or a store is away. */
export class Unavailable extends KmeError {
  override readonly code = 'unavailable'
  constructor(retryAfterS = 1, options?: ErrorOptions) {
    super('service unavailable', undefined, retryAfterS, options)
  }
}

/** Anything not ours. Its text is logged and never shown. */
export class Internal extends KmeError {
  override readonly code = 'internal'
  constructor(options?: ErrorOptions) {
    super('service unavailable', undefined, 1, options)
  }
}

/** @returns the error itself if it is one of ours, else an `Internal` that carries it as its cause. */
export const toKmeError = (error: unknown): KmeError => (error instanceof KmeError ? error : new Internal({ cause: error }))
