/** Answers that do not arrive whole: what is said, and what is left of them in memory. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Agent, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { settle } from '../../src/client/client.ts'
import { ANSWER_BYTES_MAX, createAgent, exchange } from '../../src/client/exchange.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { makeAuthority, makeServerLeaf, type Identity } from '../http/test-certificates.ts'

const SECRET = Buffer.from('c2VjcmV0IGtleSBtYXRlcmlhbA==')

let authority: Identity
let server: Server
let answer: (response: ServerResponse) => void
let agent: Agent
/** Every part of an answer, the very buffers the client has. */
let received: Buffer[]

const watchAnswer = (message: unknown): void => {
  const { response } = message as { response: IncomingMessage }
  response.on('data', (chunk: Buffer) => received.push(chunk))
}

beforeAll(async () => {
  authority = await makeAuthority()
  const leaf = await makeServerLeaf(authority)
  server = createServer({ cert: leaf.certificatePem, key: leaf.privateKeyPem }, (_request, response) => answer(response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  agent = createAgent({ caPem: authority.certificatePem })
  subscribe('http.client.response.finish', watchAnswer)
})
afterAll(async () => {
  unsubscribe('http.client.response.finish', watchAnswer)
  agent.destroy()
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
})

const ask = (deadlineMs = 10_000) => {
  received = []
  const origin = `https://localhost:${(server.address() as AddressInfo).port}`
  return settle(() => exchange(agent, { origin, path: '/', method: 'GET' }, systemClock, deadlineMs))
}
const failure = async (deadlineMs?: number): Promise<string> => {
  const error: unknown = await ask(deadlineMs).catch((thrown: unknown) => thrown)
  return error instanceof Error ? error.message : 'did not fail'
}
/** Whether key material is still in what was received; the answer is torn down in the turns after its failure. */
const leftovers = async (): Promise<boolean> => {
  for (let turns = 0; turns < 20; turns += 1) await new Promise((resolve) => setImmediate(resolve))
  return received.some((chunk) => chunk.includes(SECRET))
}
/** Sends a head and a first part, and goes on when that is out. */
const begin = (response: ServerResponse, then: () => void): void => {
  response.writeHead(200, { 'content-length': 10_000 })
  response.write(SECRET, then)
}

describe('an answer', () => {
  it('that comes whole is handed over, and nothing else keeps it', async () => {
    answer = (response) => response.end(SECRET)
    expect((await ask()).body).toEqual(SECRET)
    expect(received.length).toBeGreaterThan(0)
    expect(await leftovers()).toBe(false)
  })

  it('that is cut is zeroed, and the client certificate is not blamed', async () => {
    answer = (response) => begin(response, () => setImmediate(() => response.socket?.destroy()))
    expect(await failure()).toMatch(/cut before the answer was whole/)
    expect(received.length).toBeGreaterThan(0)
    expect(await leftovers()).toBe(false)
  })

  it('that is too long is zeroed', async () => {
    const part = Buffer.alloc(1024 * 1024)
    SECRET.copy(part)
    answer = (response) => {
      for (let sent = 0; sent <= ANSWER_BYTES_MAX; sent += part.length) response.write(part)
    }
    expect(await failure()).toMatch(/too long/)
    expect(received.length).toBeGreaterThan(0)
    expect(await leftovers()).toBe(false)
  })

  it('that comes too slowly is zeroed', async () => {
    answer = (response) => begin(response, () => undefined)
    expect(await failure(3000)).toMatch(/no answer within 3000 ms/)
    expect(received.length).toBeGreaterThan(0)
    expect(await leftovers()).toBe(false)
  })

  it('that a connection used before ends without does not blame the client certificate', async () => {
    answer = (response) => response.end('fine')
    await ask()
    answer = (response) => response.socket?.destroy()
    expect(await failure()).toMatch(/cut before the answer was whole/)
  })

  it('that a new connection ends without may mean that the client certificate is refused', async () => {
    agent.destroy()
    answer = (response) => response.socket?.destroy()
    expect(await failure()).toMatch(/may not accept the client certificate/)
  })
})
