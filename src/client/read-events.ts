/** One HTTPS request whose answer is a stream of server-sent events (WHATWG HTML, 9.2), bounded in the size of an event and in
 *  how long the stream may be silent. */
import { request, type Agent } from 'node:https'
import type { Clock } from '../kernel/clock.ts'
import { ANSWER_BYTES_MAX, ANSWER_CUT, type Answer, type ExchangeRequest } from './exchange.ts'

export interface ReadEventsOptions {
  readonly clock: Clock
  /** For connecting and the first bytes of the answer. */
  readonly deadlineMs: number
  /** Gets the data of each event. */
  readonly onData: (data: string) => void
  /** Ends the reading without an error. */
  readonly signal: AbortSignal
}

/** A KME writes something every 15 s at least. */
const SILENCE_MAX_MS = 45_000

/** @returns when the stream ended; at once, with its body, for an answer that is none.
 *  @throws Error of the socket or of TLS, one with code `ETIMEDOUT` after too long a silence, or one with code `ANSWER_CUT`. */
export const readEvents = (
  agent: Agent,
  sent: Pick<ExchangeRequest, 'origin' | 'path' | 'headers'>,
  options: ReadEventsOptions,
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { clock, signal } = options
    let heardAtMs = clock.monotonicMs()
    let silenceMs = options.deadlineMs
    const over = new AbortController()
    const outgoing = request(sent.origin, {
      agent,
      path: sent.path,
      headers: { ...sent.headers, accept: 'text/event-stream' },
    })
    const finish = (settle: () => void): void => {
      over.abort()
      signal.removeEventListener('abort', stop)
      settle()
      outgoing.destroy()
    }
    const fail = (error: Error): void => finish(() => reject(error))
    const stop = (): void => finish(() => resolve({ status: 200, headers: {}, body: Buffer.alloc(0) }))
    const watchSilence = async (): Promise<void> => {
      while (!over.signal.aborted) {
        const leftMs = heardAtMs + silenceMs - clock.monotonicMs()
        if (leftMs <= 0) fail(Object.assign(new Error(`nothing heard for ${silenceMs} ms`), { code: 'ETIMEDOUT' }))
        else await clock.sleep(leftMs, over.signal)
      }
    }
    signal.addEventListener('abort', stop)
    if (signal.aborted) return stop()
    void watchSilence()

    outgoing.on('error', fail)
    outgoing.on('response', (response) => {
      const isStream = response.statusCode === 200
      silenceMs = isStream ? SILENCE_MAX_MS : options.deadlineMs
      const take = isStream ? createEventReader(options.onData) : undefined
      let text = ''
      let length = 0
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => {
        heardAtMs = clock.monotonicMs()
        if (take === undefined) text += chunk
        length = take === undefined ? length + chunk.length : take(chunk)
        if (length > ANSWER_BYTES_MAX) fail(new Error('the answer is too long'))
      })
      response.on('error', (cause) => fail(Object.assign(new Error('the stream was cut', { cause }), { code: ANSWER_CUT })))
      response.on('end', () =>
        finish(() => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.from(text) })),
      )
    })
    outgoing.end()
  })

/** @returns a reader of pieces of the stream that says how many characters it keeps for an event not yet whole. */
const createEventReader = (onData: (data: string) => void): ((text: string) => number) => {
  let rest = ''
  return (text) => {
    const events = (rest + text).split(/\r?\n\r?\n/)
    rest = events.pop() ?? ''
    for (const event of events) {
      const data = event
        .split(/\r?\n/)
        .filter((line) => line.startsWith('data:'))
        .map((line) => line.slice(line.startsWith('data: ') ? 6 : 5))
      if (data.length > 0) onData(data.join('\n'))
    }
    return rest.length
  }
}
