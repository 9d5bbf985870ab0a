/** A TCP proxy in front of a server on this machine that fails as networks do. Bytes it does not pass on are held back, as TCP would
 *  hold them, unless it says that they are lost; then the connection ends with them. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { systemClock } from '../../src/kernel/clock.ts'

export type Direction = 'to-server' | 'to-client'

export interface TcpProxy {
  readonly port: number
  /** Connections open now. */
  connections(): number
  /** Connections accepted since the start. */
  accepted(): number
  /** Bytes arrive this much later, in both directions; 0 ends it. */
  delay(durationMs: number): void
  /** Nothing gets through, on connections open now and later, until `heal`. Nobody is told. */
  blackHole(directions?: readonly Direction[]): void
  /** Ends delay, black hole and refusal; what was held back goes on its way. */
  heal(): void
  /** Ends every connection with RST. */
  cut(): void
  /** `cut`, and so with every new connection until `heal`. */
  refuse(): void
  /** Lets every connection, open or new, end with RST after this many more bytes from the server; undefined ends it. */
  cutAfter(bytes: number | undefined): void
  /** The server gets the next request that contains `text` (any request if left out) in one piece; what it answers is lost, and the
   *  connection with it. Resolves when that has happened. */
  swallowReply(text?: string): Promise<void>
  stop(): Promise<void>
}

interface Connection {
  readonly client: Socket
  readonly server: Socket
  swallows: boolean
  serverBytesLeft: number | undefined
}

/** @param serverPort where new connections go; asked for each of them if it is a function. */
export const startTcpProxy = async (serverPort: number | (() => number)): Promise<TcpProxy> => {
  const open = new Set<Connection>()
  const held = new Map<Direction, PromiseWithResolvers<void>>()
  let accepted = 0
  let delayMs = 0
  let refuses = false
  let cutAfterBytes: number | undefined
  let swallowing: { text: string; done: () => void } | undefined

  const reset = (connection: Connection): void => {
    open.delete(connection)
    connection.client.resetAndDestroy()
    connection.server.resetAndDestroy()
  }
  const swallow = (connection: Connection): void => {
    reset(connection)
    swallowing?.done()
    swallowing = undefined
  }
  /** Passes on what comes, in order, each piece not before its time. */
  const pump = (connection: Connection, direction: Direction): void => {
    const [from, to] = direction === 'to-server' ? [connection.client, connection.server] : [connection.server, connection.client]
    let last = Promise.resolve()
    const inTurn = (act: () => void): void => {
      const dueMs = systemClock.monotonicMs() + delayMs
      last = last.then(async () => {
        const waitMs = dueMs - systemClock.monotonicMs()
        if (waitMs > 0) await systemClock.sleep(waitMs)
        while (held.has(direction)) await held.get(direction)!.promise
        if (open.has(connection)) act()
      })
    }
    const pass = (chunk: Buffer): void => {
      if (direction === 'to-server') {
        if (swallowing !== undefined && chunk.includes(swallowing.text)) connection.swallows = true
        to.write(chunk)
      } else if (connection.swallows) swallow(connection)
      else if (connection.serverBytesLeft === undefined || chunk.length < connection.serverBytesLeft) {
        if (connection.serverBytesLeft !== undefined) connection.serverBytesLeft -= chunk.length
        to.write(chunk)
      } else to.write(chunk.subarray(0, connection.serverBytesLeft), () => reset(connection))
    }
    from.on('data', (chunk: Buffer) => inTurn(() => pass(chunk)))
    from.on('end', () => inTurn(() => to.end()))
    from.on('error', () => inTurn(() => reset(connection)))
    from.on('close', () => {
      if (to.destroyed) open.delete(connection)
    })
  }

  const listener = createServer({ allowHalfOpen: true }, (client) => {
    accepted += 1
    if (refuses) {
      client.resetAndDestroy()
      return
    }
    const server = connect({
      port: typeof serverPort === 'number' ? serverPort : serverPort(),
      host: '127.0.0.1',
      allowHalfOpen: true,
    })
    const connection: Connection = { client, server, swallows: false, serverBytesLeft: cutAfterBytes }
    for (const socket of [client, server]) socket.setNoDelay(true)
    open.add(connection)
    pump(connection, 'to-server')
    pump(connection, 'to-client')
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')

  const cut = (): void => [...open].forEach(reset)
  const heal = (): void => {
    delayMs = 0
    refuses = false
    const all = [...held.values()]
    held.clear()
    for (const { resolve } of all) resolve()
  }
  return {
    port: (listener.address() as AddressInfo).port,
    connections: () => open.size,
    accepted: () => accepted,
    delay: (durationMs) => void (delayMs = durationMs),
    blackHole: (directions = ['to-server', 'to-client']) => {
      for (const direction of directions) if (!held.has(direction)) held.set(direction, Promise.withResolvers<void>())
    },
    heal,
    cut,
    refuse: () => {
      refuses = true
      cut()
    },
    cutAfter: (bytes) => {
      cutAfterBytes = bytes
      for (const connection of open) connection.serverBytesLeft = bytes
    },
    swallowReply: (text = '') => {
      const { promise, resolve } = Promise.withResolvers<void>()
      swallowing = { text, done: resolve }
      return promise
    },
    stop: async () => {
      const closed = once(listener, 'close')
      listener.close()
      cut()
      heal()
      await closed
    },
  }
}
