/** Each error has one answer per API, and a failure nobody foresaw tells the client nothing and the log everything. */
import { describe, expect, it } from '@jest/globals'
import { createApiApp, only } from '../../src/http/api-app.ts'
import { nameCaller } from '../../src/http/caller.ts'
import { bearerChallenge } from '../../src/http/error-response.ts'
import type { ErrorStyle } from '../../src/http/error-response.ts'
import { createRequestLog } from '../../src/http/request-log.ts'
import { sendJson } from '../../src/http/json-response.ts'
import * as errors from '../../src/kernel/errors.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { recordingLogger, request, startTestListener } from './test-listener.ts'
import type { Answer, LogLine } from './test-listener.ts'

/** A handler may fail with anything, not only with an Error. */
const reject = (thrown: unknown): Promise<never> =>
  new Promise((_resolve, refuse) => {
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
    refuse(thrown)
  })

/** Asks an app whose only route throws what it is given. */
const answerTo = async (thrown: unknown, style: ErrorStyle): Promise<{ answer: Answer; lines: LogLine[] }> => {
  const lines: LogLine[] = []
  const app = createApiApp({
    errors: style,
    log: recordingLogger(lines),
    ...(style === 'problem' && { challenge: bearerChallenge }),
    mount: (api) => only(api, '/fail', { get: () => reject(thrown) }),
  })
  const test = await startTestListener({ listener: { app } })
  const answer = await request(test, '/fail?secret=1')
  await test.listener.stop(0)
  return { answer, lines }
}

const details = [{ extension_mandatory_unsupported: 'abc' }]
const cases: [errors.KmeError, number, string, number][] = [
  [new errors.BadRequest(), 400, '{"message":"bad request format"}', 400],
  [new errors.BadRequest(details, 'm'), 400, `{"message":"m","details":${JSON.stringify(details)}}`, 400],
  [new errors.BadRequest([], 'size shall be a multiple of 8'), 400, '{"message":"size shall be a multiple of 8"}', 400],
  [new errors.UnknownSlave(), 400, '{"message":"unknown or not permitted slave SAE"}', 400],
  [new errors.KeyNotFound(), 400, '{"message":"one or more keys specified are not found on KME"}', 400],
  [new errors.Unauthorized('who'), 401, '', 401],
  [new errors.Forbidden('no scope'), 401, '', 403],
  [new errors.NotFound(), 404, '', 404],
  [new errors.MethodNotAllowed(['GET']), 405, '{"message":"method not allowed"}', 405],
  [new errors.Conflict('exists'), 400, '{"message":"exists"}', 409],
  [new errors.KeysExhausted(2.5), 503, '{"message":"no key material available"}', 503],
  [new errors.PeerUnavailable(1), 503, '{"message":"the KME of the slave SAE is not available"}', 503],
  [new errors.KeyDataAccess(), 503, '{"message":"key data access error"}', 503],
  [new errors.Unavailable(), 503, '{"message":"service unavailable"}', 503],
  [new errors.Internal(), 503, '{"message":"service unavailable"}', 503],
]

describe('an error', () => {
  it.each(cases)('%s is answered on the SAE API with %i %s', async (error, status, body) => {
    const { answer } = await answerTo(error, 'etsi')
    expect(answer).toMatchObject({ status, body, headers: { 'cache-control': 'no-store' } })
    expect(answer.headers['content-type']).toBe(body === '' ? undefined : 'application/json')
    expect(answer.headers['retry-after']).toBe(error.retryAfterS === undefined ? undefined : String(Math.ceil(error.retryAfterS)))
  })

  it.each(cases)('%s is a problem on the other APIs', async (error, _etsiStatus, _body, status) => {
    const { answer } = await answerTo(error, 'problem')
    expect(answer).toMatchObject({ status, headers: { 'content-type': 'application/problem+json', 'cache-control': 'no-store' } })
    expect(JSON.parse(answer.body)).toMatchObject({ type: 'about:blank', status, title: expect.any(String) })
    expect(JSON.parse(answer.body).detail).toBe(status === 401 ? undefined : error.message)
    expect(answer.headers['www-authenticate']).toBe(status === 401 ? 'Bearer realm="kme"' : undefined)
  })

  it.each(['etsi', 'problem'] as const)('of another kind is 503 without its text (%s), and logged with it', async (style) => {
    const { answer, lines } = await answerTo(new Error('password is hunter2'), style)
    expect(answer.status).toBe(503)
    expect(answer.body).toContain('service unavailable')
    expect(answer.body).not.toContain('hunter2')
    const line = lines.find(({ level }) => level === 'error')
    expect(line?.fields).toMatchObject({ method: 'GET', route: '/fail', error: { cause: { message: 'password is hunter2' } } })
  })

  it('after half an answer breaks the connection', async () => {
    const app = createApiApp({
      errors: 'etsi',
      log: recordingLogger([]),
      mount: (api) =>
        only(api, '/half', {
          get: (_req, res) => {
            res.writeHead(200, { 'Content-Length': '100' })
            res.write('half')
            throw new Error('late')
          },
        }),
    })
    const test = await startTestListener({ listener: { app } })
    await expect(request(test, '/half')).rejects.toMatchObject({ code: 'ECONNRESET' })
    await test.listener.stop(0)
  })
})

describe('the request log', () => {
  it('has one line per request, with the route and without the query', async () => {
    const lines: LogLine[] = []
    const log = recordingLogger(lines)
    const logged = Promise.withResolvers<void>()
    const requestLog = createRequestLog({ listener: 'sae', log, clock: systemClock })
    const app = createApiApp({
      errors: 'etsi',
      log,
      requestLog: {
        watch: (req, res) => {
          requestLog.watch(req, res)
          res.on('close', logged.resolve)
        },
      },
      mount: (api) =>
        only(api, '/keys/:id', {
          get: (req, res) => {
            nameCaller(req, 'operator')
            sendJson(res, {})
          },
        }),
    })
    const test = await startTestListener({ listener: { app } })
    await request(test, '/keys/secret-id?token=secret')
    await logged.promise
    const written = lines.filter(({ message }) => message === 'request')
    expect(written).toHaveLength(1)
    expect(written[0]).toMatchObject({
      level: 'info',
      fields: { listener: 'sae', who: 'operator', method: 'GET', route: '/keys/:id', status: 200, answered: true },
    })
    expect(written[0]?.fields.durationMs).toBeGreaterThanOrEqual(0)
    expect(JSON.stringify(lines)).not.toContain('secret')
    await test.listener.stop(0)
  })

  it('leaves out what quiet routes answer with success, and nothing else', async () => {
    const lines: LogLine[] = []
    const log = recordingLogger(lines)
    const requestLog = createRequestLog({ listener: 'admin', quietRoutes: ['/health/ready'], log, clock: systemClock })
    let closed = Promise.withResolvers<void>()
    let status = 200
    const app = createApiApp({
      errors: 'problem',
      log,
      requestLog: {
        watch: (req, res) => {
          requestLog.watch(req, res)
          res.on('close', closed.resolve)
        },
      },
      mount: (api) => {
        only(api, '/health/ready', { get: (_req, res) => sendJson(res, {}, status) })
        only(api, '/other', { get: (_req, res) => sendJson(res, {}) })
      },
    })
    const test = await startTestListener({ listener: { app } })
    const ask = async (path: string): Promise<void> => {
      closed = Promise.withResolvers()
      await request(test, path)
      await closed.promise
    }
    await ask('/health/ready')
    await ask('/other')
    status = 503
    await ask('/health/ready')
    const written = lines.filter(({ message }) => message === 'request')
    expect(written.map(({ fields }) => [fields.route, fields.status])).toEqual([
      ['/other', 200],
      ['/health/ready', 503],
    ])
    await test.listener.stop(0)
  })
})
