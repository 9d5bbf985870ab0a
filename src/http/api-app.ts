/** The Express application behind each listener: routing and errors, and nothing else on the way of a request.
 *  Holds: a handler runs only for the exact path and method it was registered for; every error becomes one of ours. */
import express from 'express'
import type { Express, Request, Response } from 'express'
import { MethodNotAllowed, NotFound, BadRequest, toKmeError } from '../kernel/errors.ts'
import type { KmeError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import { callerName } from './caller.ts'
import { sendError } from './error-response.ts'
import type { ErrorStyle } from './error-response.ts'
import { announcesBody } from './request-body.ts'
import { nameRoute, routeName } from './request-log.ts'
import type { RequestLog } from './request-log.ts'

export interface ApiAppOptions {
  readonly errors: ErrorStyle
  readonly log: Logger
  /** Left out: no line per request. */
  readonly requestLog?: RequestLog
  /** For WWW-Authenticate on a 401; the certificate challenge if left out. */
  readonly challenge?: string
  /** Registers the routes. */
  readonly mount: (app: Express) => void
}

/** May be async; what it throws is answered as an error. */
export type Handler = (req: Request, res: Response) => unknown

export const createApiApp = (options: ApiAppOptions): Express => {
  const app = express()
  app.disable('x-powered-by')
  app.disable('etag')
  app.set('query parser', false)
  app.enable('strict routing')
  app.enable('case sensitive routing')

  const { requestLog } = options
  if (requestLog) {
    app.use((req, res, next) => {
      requestLog.watch(req, res)
      next()
    })
  }
  options.mount(app)
  app.use(() => {
    throw new NotFound()
  })
  // Express knows an error handler by its four parameters.
  app.use((error: unknown, req: Request, res: Response, _next: unknown) => {
    answerError(req, res, error, options)
  })
  return app
}

/** Registers exactly these methods for a path. Everything else is refused before a handler runs: Express would let a
 *  HEAD through to the GET handler, which consumes keys nobody receives. */
export const only = (
  app: Pick<Express, 'route'>,
  path: string,
  handlers: { readonly get?: Handler; readonly post?: Handler },
): void => {
  const { get, post } = handlers
  const allow = [...(get ? ['GET'] : []), ...(post ? ['POST'] : [])]
  app.route(path).all((req, res) => {
    nameRoute(req, path)
    const handler = req.method === 'GET' ? get : req.method === 'POST' ? post : undefined
    if (handler === undefined) throw new MethodNotAllowed(allow)
    return handler(req, res)
  })
}

const answerError = (req: Request, res: Response, thrown: unknown, options: ApiAppOptions): void => {
  const error = isBadPathEncoding(thrown) ? new BadRequest() : toKmeError(thrown)
  logError(req, error, options.log)
  // Half an answer is out already: only a broken connection tells the client that it is not whole.
  if (res.headersSent) return void req.socket.destroy()
  const unread = announcesBody(req) && !req.complete
  sendError(res, error, options.errors, {
    close: unread,
    ...(options.challenge !== undefined && { challenge: options.challenge }),
  })
}

// The router refuses a path parameter it cannot percent-decode with a URIError.
const isBadPathEncoding = (thrown: unknown): boolean => thrown instanceof URIError && 'status' in thrown && thrown.status === 400

const logError = (req: Request, error: KmeError, log: Logger): void => {
  const fields = { error, who: callerName(req), method: req.method, route: routeName(req) }
  if (error.code === 'internal' || error.code === 'key-data-access') log.error(fields, 'request failed')
  else if (error.cause !== undefined) log.warn(fields, 'request failed')
  else if (error.code === 'unauthorized' || error.code === 'forbidden') {
    log.info({ reason: error.message, method: req.method, route: routeName(req) }, 'request refused')
  }
}
