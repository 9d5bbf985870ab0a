/** The lines an operator types at a running device emulator. */
import type { DeviceEmulator } from './device-emulator.ts'

export const CONTROL_LINES = 'pause | resume | rate <blocks/s> | loss <0..1> | corrupt <0..1> | drop | status | quit'

export interface ControlReply {
  /** What to print. */
  readonly text: string
  /** The operator asked to stop; the caller stops the emulator. */
  readonly quit: boolean
}

/** Carries out one line. A line it does not understand changes nothing and is answered with what it does understand. */
export const obeyControlLine = (emulator: DeviceEmulator, line: string): ControlReply => {
  const [command = '', argument, ...rest] = line.trim().split(/\s+/)
  const value = argument === undefined ? NaN : Number(argument)
  try {
    if (rest.length > 0) return { text: `say one of: ${CONTROL_LINES}`, quit: false }
    switch (command) {
      case 'pause':
        emulator.pause()
        break
      case 'resume':
        emulator.resume()
        break
      case 'rate':
        emulator.setRate(value)
        break
      case 'loss':
        emulator.setLoss(value)
        break
      case 'corrupt':
        emulator.setCorruption(value)
        break
      case 'drop':
        emulator.dropConnections()
        break
      case 'status':
        return { text: JSON.stringify(emulator.status()), quit: false }
      case 'quit':
        return { text: 'stopping', quit: true }
      default:
        return { text: `say one of: ${CONTROL_LINES}`, quit: false }
    }
    return { text: 'ok', quit: false }
  } catch (error) {
    if (error instanceof RangeError) return { text: error.message, quit: false }
    throw error
  }
}
