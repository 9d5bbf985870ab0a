/** What the tests of the bad-input catalogue and of conformance share: a network whose every answer is judged by the OpenAPI
 *  document, the standard's texts, and a ledger that shows whether a request cost a key at either KME. */
import { connect, type ConnectionOptions } from 'node:tls'
import { expect } from '@jest/globals'
import { createContract } from '../openapi/contract.ts'
import { eventually, keysOf, quieten, startNetwork, storedKeys } from '../network/network.ts'
import type { Answer, KmeName, Network, NetworkOptions, SaeClient, SentKey } from '../network/network.ts'

export const K = '/api/v1/keys/'

/** The standard's fixed messages and ours, as the catalogue abbreviates them. */
export const MESSAGES = {
  m1: 'size shall be a multiple of 8',
  m2: 'not all extension_mandatory parameters are supported',
  m3: 'not all extension_mandatory request options could be met',
  m4: 'not all extension_optional request options handled',
  m5: 'one or more keys specified are not found on KME',
  f: 'bad request format',
  u: 'unknown or not permitted slave SAE',
  x: 'no key material available',
  b: 'service unavailable',
  p: 'the KME of the slave SAE is not available',
  d: 'key data access error',
} as const

export type Expected = { status: 400 | 503; message: keyof typeof MESSAGES } | { status: 401 | 404 | 405 | 200 }
export const bad = (message: keyof typeof MESSAGES): Expected => ({ status: 400, message })
export const OK: Expected = { status: 200 }

const contract = createContract('openapi/etsi-gs-qkd-014.yaml')

/** The document's own view of a path cannot hold an ID that is no ID: for the judge it is replaced by one that is. */
const plainPath = (path: string): string =>
  path.replace(/^(\/api\/v1\/keys\/)[^/?]+(?=\/(?:status|enc_keys|dec_keys)(?:\?|$))/, '$1x')

/** @throws Error when the answer is not one the OpenAPI document allows. */
export const judge = (method: string, path: string, answer: Answer): void => {
  contract.checkResponse(
    method,
    plainPath(path),
    answer.status,
    answer.headers['content-type'] as string | undefined,
    answer.text,
  )
  expect(answer.headers['cache-control']).toBe('no-store')
  if (answer.text !== '') expect(answer.headers['content-type']).toBe('application/json')
}

/** The same client with every answer judged. */
export const judged = (client: SaeClient): SaeClient => {
  const seen = async (method: string, path: string, sent: Promise<Answer>): Promise<Answer> => {
    const answer = await sent
    judge(method, path, answer)
    return answer
  }
  return {
    get: (path, headers) => seen('GET', path, client.get(path, headers)),
    post: (path, body, headers) => seen('POST', path, client.post(path, body, headers)),
    send: (method, path, body, headers) => seen(method, path, client.send(method, path, body, headers)),
    close: () => client.close(),
  }
}

export interface JudgedNetwork {
  readonly network: Network
  readonly alice: SaeClient
  readonly anna: SaeClient
  readonly mallory: SaeClient
  readonly bob: SaeClient
  readonly bert: SaeClient
  /** One more judged client of an SAE, on a connection of its own. */
  sae(id: string, kme?: KmeName): Promise<SaeClient>
  /** `count` connections of one SAE under one certificate. */
  connections(id: string, kme: KmeName, count: number): Promise<SaeClient[]>
  /** Runs `act` and checks that no key changed its state at either KME. */
  costsNothing<T>(act: () => Promise<T>): Promise<T>
  [Symbol.asyncDispose](): Promise<void>
}

/** A network at rest with at least `keyCount` keys from kme-a to kme-b: no new key comes, so counts stand still. */
export const startJudgedNetwork = async (options: NetworkOptions = {}, keyCount = 500): Promise<JudgedNetwork> => {
  // No KME borrows ahead of need: what is lent counts as taken.
  const pools = { lowWatermark: 1, criticalWatermark: 0 }
  const network = await startNetwork({ rateBlocksPerS: 20, pools, ...options })
  const stop = () => network[Symbol.asyncDispose]()
  try {
    const sae = async (id: string, kme?: KmeName) => judged(await network.sae(id, kme))
    const [alice, anna, mallory, bob, bert] = (await Promise.all(
      ['alice', 'anna', 'mallory', 'bob', 'bert'].map((id) => sae(id)),
    )) as [SaeClient, SaeClient, SaeClient, SaeClient, SaeClient]
    await eventually(
      'enough keys',
      async () => (await storedKeys(alice, 'bob')) >= keyCount && (await storedKeys(bob, 'alice')) >= keyCount,
    )
    await quieten(network)
    return {
      network,
      alice,
      anna,
      mallory,
      bob,
      bert,
      sae,
      connections: async (id, kme, count) => {
        const { certificatePem, privateKeyPem } = await network.authorities.issue({ profile: 'sae', id })
        const { sae: port } = network.ports.get(kme)!
        return Array.from({ length: count }, () => judged(network.clientOf(port, { cert: certificatePem, key: privateKeyPem })))
      },
      costsNothing: async (act) => {
        const before = await ledger(network)
        const result = await act()
        expect(await ledger(network)).toEqual(before)
        return result
      },
      [Symbol.asyncDispose]: stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** How many keys were assigned, taken, reserved and fetched, at both KMEs. Fresh keys do not change it. */
const ledger = (network: Network): Promise<object[]> =>
  Promise.all(
    (['kme-a', 'kme-b'] as const).map((name) =>
      network.query<object>(
        name,
        `SELECT (SELECT count(*)::int FROM assignment) AS assignments, (SELECT count(*)::int FROM assigned_key) AS keys,
           (SELECT count(*)::int FROM reservation) AS reservations,
           (SELECT coalesce(sum(bit_count(taken)), 0)::int FROM key_block) AS taken,
           (SELECT coalesce(sum(bit_count(fetched)), 0)::int FROM assignment) AS fetched`,
      ),
    ),
  )

/** Status and exact message of an answer. */
export const verdict = (answer: Answer): unknown =>
  answer.text === '' || answer.status === 200
    ? { status: answer.status }
    : { status: answer.status, message: (JSON.parse(answer.text) as { message: string }).message }

export const expectVerdict = (answer: Answer, expected: Expected): void => {
  const message = 'message' in expected ? { message: MESSAGES[expected.message] } : {}
  const found = verdict(answer) as { message?: string }
  // The text of a 405 is ours and fixed elsewhere; its status and Allow header are what counts.
  if (expected.status === 405) expect(answer.status).toBe(405)
  else expect(found).toEqual({ status: expected.status, ...message })
}

/** Draws keys and fails unless they come. */
export const draw = async (master: SaeClient, slave: string, body: object = {}): Promise<SentKey[]> => {
  const answer = await master.post(`${K}${slave}/enc_keys`, body)
  expect(verdict(answer)).toEqual({ status: 200 })
  return keysOf(answer)
}

export const fetchKeys = (slave: SaeClient, master: string, keys: readonly { readonly key_ID: string }[]): Promise<Answer> =>
  slave.post(`${K}${master}/dec_keys`, { key_IDs: keys.map(({ key_ID }) => ({ key_ID })) })

export interface RawOutcome {
  readonly text: string
  readonly statuses: readonly number[]
  /** The server closed the connection. */
  readonly closed: boolean
  /** The handshake was finished as the client sees it. */
  readonly connected: boolean
}

/** Connects a crowd, a few at a time: so many handshakes at once would take a busy machine longer than a KME waits for one. */
export const connectAll = async (clients: readonly SaeClient[], slave: string): Promise<void> => {
  for (let at = 0; at < clients.length; at += 10) {
    await Promise.all(clients.slice(at, at + 10).map((client) => client.get(`${K}${slave}/status`)))
  }
}

/** Sends bytes over a TLS connection of its own and reads until the server closes or `answers` answers came. */
export const sendRaw = (options: ConnectionOptions, bytes: string | Buffer, answers = Infinity): Promise<RawOutcome> =>
  new Promise((resolve) => {
    let text = ''
    let connected = false
    const statuses = (): number[] =>
      [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map((match) => Number(match[1])).filter((status) => status !== 100)
    const socket = connect({ host: '127.0.0.1', servername: 'localhost', ...options }, () => {
      connected = true
      socket.write(bytes)
    })
    const finish = (closed: boolean): void => {
      clearTimeout(limit)
      socket.destroy()
      resolve({ text, statuses: statuses(), closed, connected })
    }
    // A safety net, not a wait: a row that runs into it fails on `closed`.
    const limit = setTimeout(() => finish(false), 30_000)
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1')
      if (statuses().length >= answers && text.endsWith(text.includes('Content-Length: 0') ? '\r\n\r\n' : '}')) finish(false)
    })
    socket.on('error', () => undefined)
    socket.on('close', () => finish(true))
  })
