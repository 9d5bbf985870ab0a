/** The lines an operator types at a running quantum-channel emulator, on its standard input or its control port. */
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
