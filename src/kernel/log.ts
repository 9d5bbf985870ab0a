/** Structured log: one JSON line per event on standard output. Secrets cannot be logged: SecretBytes prints itself as
 *  a placeholder, raw bytes are replaced here, and no caller passes a request or response body. */
import { pino } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'

export interface Logger {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  /** A logger that adds `slice` to every line. */
  slice(slice: string): Logger
}

const hideBytes = (fields: object): object => {
  const shown: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Uint8Array) shown[name] = `[${value.length} bytes]`
    else if (value instanceof Error) shown[name] = describeError(value)
    else shown[name] = value
  }
  return shown
}

// Own fields of driver errors (a query's parameters, a request's headers) are left out on purpose.
const describeError = (error: Error): object => ({
  name: error.name,
  message: error.message,
  stack: error.stack,
  ...(error.cause instanceof Error && { cause: describeError(error.cause) }),
})

export const createLogger = (level: LogLevel, bindings: Record<string, string> = {}): Logger => {
  const sink = pino({ level, base: bindings, timestamp: pino.stdTimeFunctions.isoTime })
  return wrap(sink)
}

const wrap = (sink: pino.Logger): Logger => ({
  debug: (fields, message) => sink.debug(hideBytes(fields), message),
  info: (fields, message) => sink.info(hideBytes(fields), message),
  warn: (fields, message) => sink.warn(hideBytes(fields), message),
  error: (fields, message) => sink.error(hideBytes(fields), message),
  slice: (slice) => wrap(sink.child({ slice })),
})
