/** Requests to the admin API of a KME (openapi/admin.yaml) with a token. */
import type { Clock } from '../kernel/clock.ts'
import { systemClock } from '../kernel/clock.ts'
import { DEFAULT_DEADLINE_MS, openAgent, parseObject, parseOrigin, settle } from './client.ts'
import { exchange } from './exchange.ts'
import { readEvents } from './read-events.ts'

export interface AdminClientOptions {
  /** Origin of the KME's admin API, such as `https://localhost:8461`. */
  readonly url: string
  /** A JWT made by `kme admin token`. */
  readonly token: string
  /** Authorities the KME's certificate may come from. */
  readonly caPem: string
  readonly deadlineMs?: number | undefined
  readonly clock?: Clock | undefined
}

/** Every method throws KmeRequestError. */
export interface AdminClient {
  /** @param path from `/api/v1/` on, such as `links`. @returns the JSON object of the answer. */
  get(path: string): Promise<Record<string, unknown>>
  post(path: string, body?: object): Promise<Record<string, unknown>>
  /** Reads server-sent events until the KME ends the stream or `signal` aborts.
   *  @param onEvent gets the JSON object of each. */
  events(path: string, onEvent: (data: Record<string, unknown>) => void, signal: AbortSignal): Promise<void>
  close(): void
}

/** @throws KmeRequestError when the URL cannot be used. */
export const createAdminClient = (options: AdminClientOptions): AdminClient => {
  const { clock = systemClock, deadlineMs = DEFAULT_DEADLINE_MS } = options
  const origin = parseOrigin(options.url)
  const agent = openAgent(options)
  const call = async (method: 'GET' | 'POST', path: string, body?: object): Promise<Record<string, unknown>> => {
    const headers = { authorization: `Bearer ${options.token}` }
    const answer = await settle(() =>
      exchange(agent, { origin, path: `/api/v1/${path}`, method, headers, body }, clock, deadlineMs),
    )
    return parseObject(answer.body)
  }
  const events: AdminClient['events'] = async (path, onEvent, signal) => {
    const sent = { origin, path: `/api/v1/${path}`, headers: { authorization: `Bearer ${options.token}` } }
    await settle(() =>
      readEvents(agent, sent, { clock, deadlineMs, signal, onData: (data) => onEvent(parseObject(Buffer.from(data))) }),
    )
  }
  return {
    events,
    get: (path) => call('GET', path),
    post: (path, body) => call('POST', path, body),
    close: () => agent.destroy(),
  }
}
