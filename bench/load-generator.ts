/** The load generator: keep-alive mutual-TLS connections with one request in flight each. It writes bytes built before
 *  the clock starts and reads of an answer the status, the length, and key IDs where asked: whatever it did more would
 *  be taken from the servers it shares the cores with. */
import { connect, type TLSSocket } from 'node:tls'
import type { FromGenerator, Job, Requests, Result, Target, ToGenerator } from './load.ts'

const KEY_ID_MARK = Buffer.from('"key_ID":"', 'latin1')
const KEY_ID_BYTES = 36
const END_OF_HEAD = Buffer.from('\r\n\r\n', 'latin1')
const LENGTH = /content-length: (\d+)/i

/** Collected by enc_keys, used by dec_keys. */
const keyIds: string[] = []

interface Answer {
  readonly status: number
  readonly bodyBytes: number
  /** Kept only when somebody asked for it, or when the answer is a refusal. */
  readonly body: Buffer | undefined
}

interface Connection {
  /** Sends one request; the answer comes by the callback. */
  send(request: Buffer, onAnswer: (answer: Answer) => void): void
  close(): void
}

const openConnection = (target: Target, keepBodies: boolean, onBroken: (reason: string) => void): Promise<Connection> =>
  new Promise((resolve) => {
    const socket: TLSSocket = connect({
      host: '127.0.0.1',
      port: target.port,
      servername: 'localhost',
      cert: target.certificatePem,
      key: target.privateKeyPem,
      ca: target.caPem,
      minVersion: 'TLSv1.3',
      ecdhCurve: 'X25519MLKEM768:X25519',
    })
    socket.setNoDelay(true)
    let closing = false
    let answered: ((answer: Answer) => void) | undefined
    let unread: Buffer | undefined
    let status = 0
    let bodyBytes = 0
    let missingBytes = -1
    let body: Buffer[] | undefined

    const finish = (): void => {
      const take = answered!
      const kept = body && Buffer.concat(body)
      answered = undefined
      missingBytes = -1
      body = undefined
      take({ status, bodyBytes, body: kept })
    }
    const readBody = (chunk: Buffer): void => {
      body?.push(chunk)
      missingBytes -= chunk.length
      if (missingBytes === 0) finish()
      else if (missingBytes < 0) onBroken('an answer is longer than it said')
    }
    socket.on('data', (received: Buffer) => {
      if (missingBytes >= 0) return readBody(received)
      const chunk = unread === undefined ? received : Buffer.concat([unread, received])
      const headBytes = chunk.indexOf(END_OF_HEAD)
      if (headBytes < 0) {
        unread = chunk
        return
      }
      unread = undefined
      // "HTTP/1.1 200"
      status = (chunk[9]! - 48) * 100 + (chunk[10]! - 48) * 10 + (chunk[11]! - 48)
      const length = LENGTH.exec(chunk.toString('latin1', 0, headBytes))
      if (length === null) return onBroken('an answer has no Content-Length')
      bodyBytes = Number(length[1])
      missingBytes = bodyBytes
      body = keepBodies || status !== 200 ? [] : undefined
      readBody(chunk.subarray(headBytes + 4))
    })
    socket.on('error', (error: Error) => !closing && onBroken(error.message))
    socket.on('close', () => !closing && onBroken('the server closed a connection'))
    socket.once('secureConnect', () =>
      resolve({
        send: (request, onAnswer) => {
          answered = onAnswer
          socket.write(request)
        },
        close: () => {
          closing = true
          socket.destroy()
        },
      }),
    )
  })

const get = (path: string): Buffer => Buffer.from(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`, 'latin1')

const post = (path: string, body: string): Buffer =>
  Buffer.from(
    `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    'latin1',
  )

/** All requests of a job, one per call, made ahead. */
const supplyOf = (requests: Requests, maxRequests: number): (() => Buffer | undefined) => {
  if (requests.kind === 'same') {
    const request = get(requests.path)
    let left = maxRequests
    return () => (left-- > 0 ? request : undefined)
  }
  const { path, number } = requests
  const count = Math.min(maxRequests, Math.floor(keyIds.length / number))
  const made: { request: Buffer; ids: string[] }[] = []
  for (let i = 0; i < count; i += 1) {
    const ids = keyIds.splice(-number)
    const request =
      number === 1
        ? get(`${path}?key_ID=${ids[0]!}`)
        : post(path, `{"key_IDs":[${ids.map((id) => `{"key_ID":"${id}"}`).join(',')}]}`)
    made.push({ request, ids })
  }
  unused = () => made.forEach(({ ids }) => keyIds.push(...ids))
  return () => made.pop()?.request
}
let unused: (() => void) | undefined

const collectKeyIds = (body: Buffer): void => {
  for (let at = body.indexOf(KEY_ID_MARK); at >= 0; at = body.indexOf(KEY_ID_MARK, at)) {
    at += KEY_ID_MARK.length
    keyIds.push(body.toString('latin1', at, at + KEY_ID_BYTES))
    at += KEY_ID_BYTES
  }
}

const send = (message: FromGenerator): void => void process.send!(message)

const runJob = async (job: Job, go: Promise<void>): Promise<void> => {
  const { target, requests, durationMs, warmUpMs } = job
  const collects = requests.kind === 'same' && requests.collectKeyIds
  const broken = Promise.withResolvers<never>()
  broken.promise.catch(() => undefined)
  const connections = await Promise.race([
    broken.promise,
    Promise.all(
      Array.from({ length: job.connections }, () =>
        openConnection(target, collects, (reason) => broken.reject(new Error(`port ${target.port}: ${reason}`))),
      ),
    ),
  ])
  const next = supplyOf(requests, job.maxRequests)
  let errors = 0
  let firstError: string | undefined

  /** @returns the latency of each answer in milliseconds. */
  const drive = async (forMs: number): Promise<number[]> => {
    const latencies: number[] = []
    const startMs = performance.now()
    const driveOne = (connection: Connection): Promise<void> =>
      new Promise((resolve) => {
        let sentMs = 0
        const sendNext = (): void => {
          sentMs = performance.now()
          const request = sentMs - startMs < forMs ? next() : undefined
          if (request === undefined) resolve()
          else connection.send(request, onAnswer)
        }
        const onAnswer = ({ status, bodyBytes, body }: Answer): void => {
          latencies.push(performance.now() - sentMs)
          if (status !== 200 || (job.bodyBytes !== undefined && bodyBytes !== job.bodyBytes)) {
            errors += 1
            // What came with status 200 may hold keys.
            firstError ??=
              status === 200
                ? `${bodyBytes} bytes instead of ${job.bodyBytes!}`
                : `${status} ${body?.toString('utf8', 0, 300) ?? ''}`
          } else if (collects && body !== undefined) collectKeyIds(body)
          sendNext()
        }
        sendNext()
      })
    await Promise.race([broken.promise, Promise.all(connections.map(driveOne))])
    return latencies
  }

  try {
    const warmUp = warmUpMs > 0 ? await drive(warmUpMs) : []
    send({ said: 'ready' })
    await go
    const cpu = process.cpuUsage()
    const startMs = performance.now()
    const latencies = (await drive(durationMs)).sort((a, b) => a - b)
    const elapsedMs = performance.now() - startMs
    const used = process.cpuUsage(cpu)
    unused?.()
    unused = undefined
    const at = (share: number): number => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? 0
    const result: Result = {
      requests: latencies.length,
      requestsWithWarmUp: latencies.length + warmUp.length,
      errors,
      firstError,
      durationMs: elapsedMs,
      p50Ms: at(0.5),
      p99Ms: at(0.99),
      maxMs: at(1),
      keyIdsHeld: keyIds.length,
      cpuMs: (used.user + used.system) / 1000,
    }
    send({ said: 'done', result })
  } finally {
    connections.forEach((connection) => connection.close())
  }
}

let go = Promise.withResolvers<void>()
process.on('message', (message) => {
  const heard = message as Partial<ToGenerator>
  if (heard.order === 'go') go.resolve()
  else if (heard.order === 'prepare' && 'job' in heard) {
    go = Promise.withResolvers<void>()
    runJob(heard.job, go.promise).catch((error: unknown) => send({ said: 'failed', reason: (error as Error).message }))
  }
})
process.channel?.ref()
console.log('ready')
