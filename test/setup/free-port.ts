/** Ports for what must be told its port before it listens. Whoever can listen at port 0 should do that instead. */
import { createServer } from 'node:net'

// Below the range the system takes ports of outgoing connections from, and another part of it for each of jest's workers:
// nobody else takes a port between this look and its use.
const FIRST_PORT = 20_000
const PORTS_PER_WORKER = 3000
const WORKERS_MAX = 4
const worker = (Number(process.env['JEST_WORKER_ID'] ?? WORKERS_MAX) - 1) % WORKERS_MAX
const firstPort = FIRST_PORT + worker * PORTS_PER_WORKER
let next = Math.floor(Math.random() * PORTS_PER_WORKER)

/** A port nobody listens at. */
export const freePort = (): Promise<number> => freePorts([0])

/** A base port such that nobody listens at base + offset, for every offset. No other call gives ports between the first and the
 *  last of them. */
export const freePorts = async (offsets: readonly number[]): Promise<number> => {
  const length = Math.max(...offsets) + 1
  for (;;) {
    if (next + length > PORTS_PER_WORKER) next = 0
    const base = firstPort + next
    next += length
    const free = await Promise.all(offsets.map((offset) => isFree(base + offset)))
    if (!free.includes(false)) return base
  }
}

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
