/** One end of the emulated pair: a TCP port that speaks the device's side of docs/device-protocol.md to one driver at
 *  a time. Holds: a block stays here until it is acknowledged; blocks go out in order and only against credit; after a
 *  reconnect what is left is sent again, oldest first. */
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { createFrameDecoder, encodeFrame, FrameError } from '../link/drivers/frame-codec.ts'
import type { Frame } from '../link/drivers/frame-codec.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'

export interface EmulatedBlock {
  readonly deviceBlock: string
  readonly qber: number
  readonly key: SecretBytes
}

export interface DeviceEnd {
  /** Starts to listen. @returns the port in use. */
  listen(host: string, port: number): Promise<number>
  /** Stores a block and sends it as soon as there is credit. */
  offer(block: EmulatedBlock): void
  /** Blocks stored and not acknowledged. */
  heldBlocks(): number
  connected(): boolean
  dropConnection(): void
  /** Closes the port and zeroes every block. */
  stop(): Promise<void>
}

interface StoredBlock extends EmulatedBlock {
  readonly sequence: number
}

/** The driver that is connected now. */
interface Session {
  readonly socket: Socket
  /** Not sent on this connection yet; acknowledged ones are passed over. */
  readonly toSend: StoredBlock[]
  greeted: boolean
  credit: number
}

export interface DeviceEndOptions {
  readonly runId: string
  /** Empty: any link is right. */
  readonly linkName: string
  readonly name: string
  /** Called when room became free. */
  readonly onAcknowledged: () => void
}

export const createDeviceEnd = ({ runId, linkName, name, onAcknowledged }: DeviceEndOptions): DeviceEnd => {
  const held = new Map<number, StoredBlock>()
  let newestOffered = 0
  let newestSent = 0
  let session: Session | undefined
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => accept(socket))

  const accept = (socket: Socket): void => {
    // The newest connection wins: the one before may be half open and would block the link until it times out.
    session?.socket.destroy()
    const own: Session = { socket, toSend: [...held.values()], greeted: false, credit: 0 }
    session = own
    sockets.add(socket)
    const decoder = createFrameDecoder()
    socket.on('error', () => socket.destroy())
    socket.on('close', () => {
      decoder.wipe()
      sockets.delete(socket)
      if (session === own) session = undefined
    })
    socket.on('data', (chunk) => {
      try {
        for (const frame of decoder.push(chunk)) if (session === own) take(frame, own)
      } catch (error) {
        if (!(error instanceof FrameError)) throw error
        if (socket.writable) send(own, { type: 'error', reason: error.message })
        socket.destroy()
      }
    })
    send(own, { type: 'hello', runId, linkName, name, resumeFrom: newestSent + 1 })
  }

  const send = (to: Session, frame: Frame): void => {
    const bytes = encodeFrame(frame)
    to.socket.write(bytes, () => bytes.fill(0))
  }

  const take = (frame: Frame, from: Session): void => {
    if (from.greeted === (frame.type === 'hello') && frame.type !== 'error') {
      if (frame.type === 'block') frame.key.wipe()
      throw new FrameError(from.greeted ? 'HELLO came twice' : `${frame.type.toUpperCase()} came before HELLO`)
    }
    switch (frame.type) {
      case 'hello':
        if (frame.runId !== runId) throw new FrameError('HELLO names another run')
        if (linkName !== '' && frame.linkName !== linkName) throw new FrameError(`this device is on link "${linkName}"`)
        if (frame.resumeFrom > newestSent + 1) throw new FrameError('HELLO resumes after what was sent')
        from.greeted = true
        for (const sequence of [...held.keys()]) if (sequence < frame.resumeFrom) forget(sequence)
        return
      case 'credit':
        from.credit += frame.blocks
        return sendWhatFits(from)
      case 'ack':
        if (frame.sequence > newestSent) throw new FrameError('ACK of a block that was not sent')
        return forget(frame.sequence)
      case 'keepalive':
        return send(from, { type: 'keepalive' })
      case 'error':
        from.socket.destroy()
        return
      case 'block':
        frame.key.wipe()
        throw new FrameError('BLOCK is not for a device')
    }
  }

  const forget = (sequence: number): void => {
    const block = held.get(sequence)
    if (block === undefined) return
    block.key.wipe()
    held.delete(sequence)
    onAcknowledged()
  }

  const sendWhatFits = (to: Session): void => {
    while (to.credit > 0) {
      const block = to.toSend.shift()
      if (block === undefined) return
      if (!held.has(block.sequence)) continue
      send(to, { type: 'block', ...block })
      to.credit -= 1
      newestSent = Math.max(newestSent, block.sequence)
    }
  }

  return {
    listen: (host, port) =>
      new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, host, () => {
          server.off('error', reject)
          resolve((server.address() as AddressInfo).port)
        })
      }),
    offer: (block) => {
      newestOffered += 1
      const stored = { ...block, sequence: newestOffered }
      held.set(stored.sequence, stored)
      if (session === undefined) return
      session.toSend.push(stored)
      sendWhatFits(session)
    },
    heldBlocks: () => held.size,
    connected: () => session?.greeted === true,
    dropConnection: () => void session?.socket.destroy(),
    stop: async () => {
      const closed = server.listening ? new Promise<void>((resolve) => server.close(() => resolve())) : Promise.resolve()
      for (const socket of sockets) socket.destroy()
      await closed
      for (const block of held.values()) block.key.wipe()
      held.clear()
    },
  }
}
