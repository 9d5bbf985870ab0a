/** One structured line per request: who asked what and how it ended. Holds: no query string, no body, no path with
 *  identifiers in it is logged, only the route's template. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import { callerName } from './caller.ts'

export interface RequestLog {
  /** Called once per request before it is handled; writes its line when the answer is out or the client is gone. */
  watch(req: IncomingMessage, res: ServerResponse): void
}

/** @param options.listener the name shown in each line.
 *  @param options.quietRoutes templates of routes that are asked every second: only what they do not answer with success is logged. */
export const createRequestLog = (options: {
  readonly listener: string
  readonly quietRoutes?: readonly string[]
  readonly log: Logger
  readonly clock: Clock
}): RequestLog => ({
  watch: (req, res) => {
    const startedMs = options.clock.monotonicMs()
    res.on('close', () => {
      const route = routeName(req)
      const isSuccess = res.writableFinished && res.statusCode < 300
      if (isSuccess && route !== undefined && options.quietRoutes?.includes(route) === true) return
      options.log.info(
        {
          listener: options.listener,
          who: callerName(req),
          method: req.method,
          route,
          status: res.headersSent ? res.statusCode : undefined,
          answered: res.writableFinished,
          durationMs: Math.round((options.clock.monotonicMs() - startedMs) * 1000) / 1000,
        },
        'request',
      )
    })
  },
})

/** Two watchers of requests as one. */
export const bothOf = (one: RequestLog, other: RequestLog): RequestLog => ({
  watch: (req, res) => {
    one.watch(req, res)
    other.watch(req, res)
  },
})

const routeKey = Symbol('route')

interface RoutedRequest extends IncomingMessage {
  [routeKey]?: string
}

/** Remembers the template of the route that took the request. */
export const nameRoute = (req: IncomingMessage, template: string): void => {
  const routed = req as RoutedRequest
  routed[routeKey] = template
}

/** @returns the template of the route that took the request, undefined while none did. */
export const routeName = (req: IncomingMessage): string | undefined => (req as RoutedRequest)[routeKey]
