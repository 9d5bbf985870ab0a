/** Calls to other KMEs that bring no usable answer. */

export class CallFailed extends Error {
  /** False only when it is certain that not one byte of the call reached the other KME. */
  readonly maybeReceived: boolean
  constructor(message: string, maybeReceived: boolean, options?: ErrorOptions) {
    super(message, options)
    this.name = 'CallFailed'
    this.maybeReceived = maybeReceived
  }
}

/** As Node.js calls a certificate of another name. */
const REFUSED_CERTIFICATE = 'ERR_TLS_CERT_ALTNAME_INVALID'

/** Codes that undici and the socket report before a request's first byte is written. */
const NEVER_SENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
  'CERT_HAS_EXPIRED',
  'CERT_REVOKED',
  'CRL_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  REFUSED_CERTIFICATE,
])

/** What a failure of an HTTPS call means. */
export const callFailure = (error: unknown): CallFailed => {
  if (error instanceof CallFailed) return error
  const { code, message } = error as NodeJS.ErrnoException
  const neverSent = code !== undefined && NEVER_SENT.has(code)
  return new CallFailed(code === REFUSED_CERTIFICATE ? message : (code ?? message), !neverSent, { cause: error })
}

/** For `checkServerIdentity`: the certificate at this address is not the other KME's. */
export const refusedCertificate = (message: string): Error => Object.assign(new Error(message), { code: REFUSED_CERTIFICATE })
