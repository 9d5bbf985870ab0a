/** Streams of events whose reader, or whose KME, is gone before they begin. */
import { once } from 'node:events'
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, it } from '@jest/globals'
import { createEventStreams, type EventStreams } from '../../src/http/event-streams.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { Unavailable } from '../../src/kernel/errors.ts'
import { createLogger } from '../../src/kernel/log.ts'

let streams: EventStreams
let subscribed: number
let server: ReturnType<typeof createServer>
let asked: PromiseWithResolvers<ServerResponse>

beforeEach(async () => {
  streams = createEventStreams({ clock: systemClock, log: createLogger('silent'), streamsMax: 1 })
  subscribed = 0
  asked = Promise.withResolvers()
  server = createServer((_request, response) => asked.resolve(response))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})
afterEach(async () => {
  streams.end()
  server.close()
  server.closeAllConnections()
  await once(server, 'close')
})

const ask = () => {
  const request = get({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' })
  request.on('error', () => undefined)
  return request
}
const openTo = (response: ServerResponse): void =>
  streams.open(
    response,
    () => {
      subscribed += 1
      return () => void (subscribed -= 1)
    },
    systemClock.nowMs() + 60_000,
  )

it('a stream to a reader that left meanwhile ends at once: it hears nothing and takes no place', async () => {
  const request = ask()
  const gone = await asked.promise
  const closed = once(gone, 'close')
  request.destroy()
  await closed
  openTo(gone)
  expect(subscribed).toBe(0)
  expect(gone.headersSent).toBe(false)

  // The only place is free.
  asked = Promise.withResolvers()
  const answered = once(ask(), 'response') as Promise<[IncomingMessage]>
  openTo(await asked.promise)
  const [response] = await answered
  expect(response.statusCode).toBe(200)
  expect(subscribed).toBe(1)
  response.destroy()
})

it('after the end no stream is opened', async () => {
  ask()
  streams.end()
  const response = await asked.promise
  expect(() => openTo(response)).toThrow(Unavailable)
  expect(subscribed).toBe(0)
})
