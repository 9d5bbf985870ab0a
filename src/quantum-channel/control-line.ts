/** The lines an operator types at a running quantum-channel emulator, on its standard input or its control port. */
import type { Socket } from 'node:net'
import type { ChannelServer, Eve } from './quantum-channel.ts'

export const CONTROL_LINES = 'eve intercept <0..1> | eve split | eve off | status | quit'

export interface ControlReply {
  /** What to print. */
  readonly text: string
  /** The operator asked to stop; the caller stops the emulator. */
  readonly quit: boolean
}

/** Carries out one line. A line it does not understand changes nothing and is answered with what it does understand. */
export const obeyControlLine = (server: Pick<ChannelServer, 'setEve' | 'status'>, line: string): ControlReply => {
  const [command = '', ...rest] = line.trim().split(/\s+/)
  if (command === 'quit' && rest.length === 0) return { text: 'stopping', quit: true }
  if (command === 'status' && rest.length === 0) return { text: JSON.stringify(server.status()), quit: false }
  const eve = command === 'eve' ? readEve(rest) : undefined
  if (eve === undefined) return { text: `say one of: ${CONTROL_LINES}`, quit: false }
  try {
    server.setEve(eve)
    return { text: 'ok', quit: false }
  } catch (error) {
    if (error instanceof RangeError) return { text: error.message, quit: false }
    throw error
  }
}

const readEve = ([attack, fraction, ...rest]: readonly string[]): Eve | undefined => {
  if (rest.length > 0) return undefined
  if (attack === 'intercept' && fraction !== undefined) return { attack, fraction: Number(fraction) }
  if ((attack === 'split' || attack === 'off') && fraction === undefined) return { attack }
  return undefined
}

const MAX_LINE_LENGTH = 1_024

/** Answers every line that comes on a connection with one line, until the other end closes it or asks to stop. */
export const serveControlLines = (socket: Socket, server: Pick<ChannelServer, 'setEve' | 'status'>, onQuit: () => void): void => {
  let rest = ''
  socket.setEncoding('latin1')
  socket.on('error', () => socket.destroy())
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (line.trim() === '') continue
      const reply = obeyControlLine(server, line)
      socket.write(`${reply.text}\n`)
      if (reply.quit) onQuit()
    }
    if (rest.length > MAX_LINE_LENGTH) socket.destroy()
  })
}
