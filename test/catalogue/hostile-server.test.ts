/** Rows P of the bad-input catalogue, second half: in the place of kme-b stands a server with kme-b's certificate that greets
 *  well and then answers wrongly. kme-a answers its SAEs 503 in bounded time, hands out no key, and serves again when the
 *  true kme-b is back, with every unit where it was. */
import { randomBytes, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { TLSSocket } from 'node:tls'
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { certificateFactsOf } from '../../src/http/client-identity.ts'
import { sendJson } from '../../src/http/json-response.ts'
import { readBody } from '../../src/http/request-body.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { createLogger } from '../../src/kernel/log.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createSessionServer } from '../../src/peer/session-server.ts'
import { PEER_BODY_BYTES_MAX, PEER_PROTOCOL, peerPaths } from '../../src/peer/wire.ts'
import { eventually, keysOf, storedKeys } from '../network/network.ts'
import { noMixing } from '../peer/peer-pair.ts'
import { draw, expectVerdict, fetchKeys, K, startJudgedNetwork, type JudgedNetwork } from './judged-network.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

/** The harness gives a call to a peer three seconds. */
const BOUND_MS = 3000 + 2000
type Answering = (request: IncomingMessage, response: ServerResponse, callCount: number) => void

let test: JudgedNetwork
let server: Server
let storedBefore: number
let answerAssignment: Answering
let hello: object
let assignmentCalls = 0
let hellos = 0
let topologyCalls = 0
/** What went wrong in the server itself. */
const faults: unknown[] = []
const GOOD_HELLO = { protocol: PEER_PROTOCOL, kmeId: 'kme-b', unitSizeBits: 256 }

/** It opens sessions and seals its answers as kme-b would, but for those a test writes past `sendJson`. */
const sessions = createSessionServer({
  kmeId: 'kme-b' as KmeId,
  ledger: { reserve: () => Promise.resolve(true), end: () => Promise.resolve() },
  rekey: { afterMs: Infinity, afterMessages: Infinity, generation: () => 0 },
  mixing: noMixing,
  demandsSession: () => true,
  audit: { append: () => Promise.resolve(), page: () => Promise.resolve({ records: [], nextBefore: undefined }) },
  onRefused: (peerKmeId, reason) => {
    throw new Error(`${peerKmeId} was refused: ${reason}`)
  },
  clock: systemClock,
  random: systemRandom,
  log: createLogger('silent'),
})

const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
  const caller = { kmeId: 'kme-a' as KmeId, facts: certificateFactsOf(request.socket as TLSSocket)! }
  if (request.url === peerPaths.sessions) return sendJson(response, await sessions.open(request, response, caller))
  await sessions.admit(request, response, caller)
  const bytes = await readBody(request, PEER_BODY_BYTES_MAX)
  const body = bytes.length === 0 ? {} : (JSON.parse(bytes.toString('utf8')) as { calls?: unknown[] })
  const count = body.calls?.length ?? 0
  if (request.url === peerPaths.hello) {
    hellos += 1
    sendJson(response, hello)
  }
  // It never held anything, so voiding is the truth.
  else if (request.url === peerPaths.aborts) sendJson(response, { answers: Array(count).fill({ outcome: 'voided' }) })
  else if (request.url === peerPaths.assignments) {
    assignmentCalls += 1
    answerAssignment(request, response, count)
  } else {
    if (request.url?.startsWith('/kme/v1/topology/') === true) topologyCalls += 1
    sendJson(response, {}, 503)
  }
}

/** Stands where kme-b stood. @param identity of the certificate it shows. */
const startServer = async (identity = { cert: file('kme-b.pem'), key: file('kme-b.key') }): Promise<void> => {
  server = createServer(
    { ...identity, ca: test.network.authorities.certificatePem.kme, requestCert: true },
    (request, response) =>
      void answer(request, response).catch((error: unknown) => {
        faults.push(error)
        request.socket.destroy()
      }),
  )
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(test.network.ports.get('kme-b')!.peer, '127.0.0.1', resolve))
}
const stopServer = async (): Promise<void> => {
  const closed = new Promise((resolve) => server.close(resolve))
  server.closeAllConnections()
  await closed
}
const file = (name: string): string => readFileSync(`${test.network.directory}/${name}`, 'utf8')
const isAvailable = async (): Promise<boolean> => (await storedKeys(test.alice, 'bob')) > 0
const takenAtA = async (): Promise<unknown> =>
  test.network.query(
    'kme-a',
    `SELECT coalesce(sum(bit_count(taken)), 0)::int AS taken, (SELECT count(*)::int FROM reservation) AS reserved,
       (SELECT count(*)::int FROM assignment) AS assignments FROM key_block`,
  )

beforeAll(async () => {
  test = await startJudgedNetwork()
  storedBefore = await storedKeys(test.alice, 'bob')
  await test.network.stop('kme-b')
  hello = GOOD_HELLO
  await startServer()
})
afterAll(async () => {
  if (server.listening) await stopServer()
  await test?.[Symbol.asyncDispose]()
  expect(faults).toEqual([])
})

/** Silence and a broken connection are nobody's lie. */
const alarmsOf = (row: string): string[] => {
  if (/^P21 a proof/.test(row)) return ['peer.request-refused']
  return /^P2[123]/.test(row) ? ['peer.message-refused'] : []
}

describe('a peer that answers an assignment with', () => {
  const confirmation = () => randomBytes(32).toString('base64')
  it.each([
    [
      'P21 a proof of other bytes',
      (_q, r, n) =>
        sendJson(r, { answers: Array.from({ length: n }, () => ({ outcome: 'held', confirmation: confirmation() })) }),
    ],
    [
      'P21 a proof for another aid',
      (_q, r, n) =>
        sendJson(r, {
          aid: randomUUID(),
          answers: Array.from({ length: n }, () => ({ outcome: 'held', aid: randomUUID(), confirmation: confirmation() })),
        }),
    ],
    [
      'P21 one answer too many',
      (_q, r, n) =>
        sendJson(r, { answers: Array.from({ length: n + 1 }, () => ({ outcome: 'held', confirmation: confirmation() })) }),
    ],
    ['P21 no answer in the list', (_q, r) => sendJson(r, { answers: [] })],
    [
      'P21 a short proof',
      (_q, r, n) => sendJson(r, { answers: Array.from({ length: n }, () => ({ outcome: 'held', confirmation: 'AAAA' })) }),
    ],
    ['P21 an unknown outcome', (_q, r, n) => sendJson(r, { answers: Array.from({ length: n }, () => ({ outcome: 'maybe' })) })],
    [
      'P21 an unknown reason',
      (_q, r, n) => sendJson(r, { answers: Array.from({ length: n }, () => ({ outcome: 'refused', reason: 'toString' })) }),
    ],
    ['P22 HTML', (_q, r) => r.writeHead(200, { 'content-type': 'text/html' }).end('<html><body>welcome</body></html>')],
    [
      'P22 a redirect',
      (_q, r) => r.writeHead(302, { location: `https://127.0.0.1:${test.network.ports.get('kme-b')!.peer}/elsewhere` }).end(),
    ],
    ['500 and a stack trace', (_q, r) => r.writeHead(500).end('Error\n  at x')],
    ['nothing but a closed connection', (q) => q.socket.destroy()],
    ['half a header', (q) => q.socket.end('HTTP/1.1 200 O')],
    [
      'P23 50 MB',
      (_q, r) => {
        r.on('error', () => undefined)
        r.writeHead(200, { 'content-type': 'application/json' })
        r.end(Buffer.alloc(50_000_000, 0x20))
      },
    ],
    [
      'P24 one byte per second',
      (_q, r) => {
        r.writeHead(200, { 'content-type': 'application/json' })
        const drip = setInterval(() => r.write(' '), 1000)
        r.on('close', () => clearInterval(drip))
      },
    ],
  ] as [string, Answering][])('%s gets 503 to the SAE in bounded time, no key, and every unit back', async (row, answering) => {
    await test.network.query('kme-a', `DELETE FROM alarm WHERE name LIKE 'peer.%-refused:kme-b'`)
    answerAssignment = answering
    await eventually('kme-a trusts its peer', isAvailable)
    const before = await takenAtA()
    const callsBefore = assignmentCalls
    const startMs = systemClock.monotonicMs()
    const answer = await test.alice.post(`${K}bob/enc_keys`, { number: 3 })
    expect(systemClock.monotonicMs() - startMs).toBeLessThan(timeLimitMs(BOUND_MS))
    expectVerdict(answer, { status: 503, message: 'p' })
    expect(answer.text).not.toContain('"key"')
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
    expect(assignmentCalls).toBe(callsBefore + 1)
    await eventually('the units are free again', async () => JSON.stringify(await takenAtA()) === JSON.stringify(before))
    for (const alarm of alarmsOf(row)) {
      await eventually(alarm, async () => {
        const rows = await test.network.query('kme-a', 'SELECT 1 FROM alarm WHERE name = $1', [`${alarm}:kme-b`])
        return rows.length === 1
      })
    }
  })
})

describe('a peer that knows nothing of topology', () => {
  it('is available all the same', async () => {
    await eventually('kme-a trusts its peer', isAvailable)
    const before = topologyCalls
    const seen = new Set<boolean>()
    await eventually('kme-a asked twice', async () => {
      seen.add(await isAvailable())
      return topologyCalls >= before + 2
    })
    expect([...seen]).toEqual([true])
  })
})

describe('a peer that greets wrongly', () => {
  const calls = async (): Promise<number> => {
    const before = assignmentCalls
    expectVerdict(await test.alice.post(`${K}bob/enc_keys`, {}), { status: 503, message: 'p' })
    return assignmentCalls - before
  }

  it.each([
    ['P26 with protocol 0', { ...GOOD_HELLO, protocol: 0 }],
    ['P26 with a later protocol', { ...GOOD_HELLO, protocol: PEER_PROTOCOL + 1 }],
    ['P27 under another name than its certificate', { ...GOOD_HELLO, kmeId: 'kme-c' }],
    ['with another unit size', { ...GOOD_HELLO, unitSizeBits: 512 }],
    ['with a list', []],
  ])('%s is offered nothing', async (_row, greeting) => {
    // A lost call makes kme-a greet again before it trusts its peer.
    answerAssignment = (request) => request.socket.destroy()
    const heard = hellos
    await eventually('kme-a trusts its peer and just greeted it', async () => hellos > heard && (await isAvailable()))
    hello = greeting
    expect(await calls()).toBe(1)
    const greeted = hellos
    await eventually('kme-a has weighed a greeting', () => hellos > greeted + 1)
    expect(await isAvailable()).toBe(false)
    expect(await calls()).toBe(0)
    hello = GOOD_HELLO
    await eventually('kme-a trusts its peer again', isAvailable)
  })

  it('P27 with a good certificate of another KME is offered nothing', async () => {
    await stopServer()
    const other = await test.network.authorities.issue({ profile: 'kme', id: 'kme-c', hosts: ['localhost', '127.0.0.1'] })
    await startServer({ cert: other.certificatePem, key: other.privateKeyPem })
    await eventually('kme-a noticed', async () => !(await isAvailable()))
    expect(await calls()).toBe(0)
  })
})

describe('the true peer, back again', () => {
  it('serves as before: all keys are there and both ends have the same bytes', async () => {
    await stopServer()
    await test.network.start('kme-b')
    await eventually('all keys again', async () => (await storedKeys(test.alice, 'bob')) === storedBefore)
    const keys = await draw(test.alice, 'bob', { number: 128 })
    expect(keysOf(await fetchKeys(test.bob, 'alice', keys))).toEqual(keys)
  })
})
