/** A device whose every frame a test writes by hand, and which records what the driver sends. */
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { createFrameDecoder, encodeFrame } from '../../src/link/drivers/frame-codec.ts'
import type { Frame } from '../../src/link/drivers/frame-codec.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'

export interface DeviceConnection {
  readonly socket: Socket
  /** Frames from the driver, oldest first. */
  readonly received: Frame[]
  send(frame: Frame): void
  sendRaw(bytes: Uint8Array): void
  /** Resolves with the next frame of this type that no earlier call was given. */
  expectFrame<T extends Frame['type']>(type: T): Promise<Extract<Frame, { type: T }>>
  readonly closed: Promise<void>
}

export interface ScriptedDevice {
  readonly port: number
  /** The next connection a driver opens. */
  nextConnection(): Promise<DeviceConnection>
  stop(): Promise<void>
}

export const startScriptedDevice = async (): Promise<ScriptedDevice> => {
  const waiting: DeviceConnection[] = []
  const sockets = new Set<Socket>()
  let arrived = Promise.withResolvers<void>()
  const server = createServer((socket) => {
    sockets.add(socket)
    waiting.push(recordConnection(socket))
    arrived.resolve()
    arrived = Promise.withResolvers<void>()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    nextConnection: async () => {
      for (;;) {
        const connection = waiting.shift()
        if (connection) return connection
        await arrived.promise
      }
    },
    stop: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

const recordConnection = (socket: Socket): DeviceConnection => {
  const received: Frame[] = []
  const taken = new Set<Frame>()
  const decoder = createFrameDecoder()
  let more = Promise.withResolvers<void>()
  let open = true
  const notify = (): void => {
    more.resolve()
    more = Promise.withResolvers<void>()
  }
  socket.on('data', (chunk) => {
    received.push(...decoder.push(chunk))
    notify()
  })
  socket.on('error', () => {})
  const closed = new Promise<void>((resolve) =>
    socket.on('close', () => {
      open = false
      resolve()
      notify()
    }),
  )
  return {
    socket,
    received,
    send: (frame) => void socket.write(encodeFrame(frame)),
    sendRaw: (bytes) => void socket.write(bytes),
    expectFrame: async <T extends Frame['type']>(type: T) => {
      for (;;) {
        const frame = received.find((candidate) => candidate.type === type && !taken.has(candidate))
        if (frame) {
          taken.add(frame)
          return frame as Extract<Frame, { type: T }>
        }
        if (!open) throw new Error(`the driver closed the connection before ${type}`)
        await more.promise
      }
    },
    closed,
  }
}

export const hello = (runId: string, resumeFrom = 1, linkName = ''): Frame => ({
  type: 'hello',
  runId,
  linkName,
  name: 'scripted',
  resumeFrom,
})

/** A block whose ID and key tell its sequence number. */
export const block = (sequence: number): Frame => ({
  type: 'block',
  sequence,
  deviceBlock: `block-${sequence}`,
  qber: 0.03,
  key: SecretBytes.adopt(Buffer.alloc(32, sequence)),
})
