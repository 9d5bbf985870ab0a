/** Somebody in the middle of the classical channel who understands it: sees each message once and says what arrives in its place. */
import { createMessageDecoder, type ClassicalMessage } from '../../src/link/drivers/bb84/classical-wire.ts'
import type { Role } from './simulated-link.ts'

export const CUT = 'cut'

/** @returns what arrives instead of the message: these bytes, none, or nothing any more. */
export type MessageHandler = (from: Role, message: ClassicalMessage) => readonly Buffer[] | typeof CUT

/** For the `tap` of one session. */
export const messageTap = (handle: MessageHandler): ((from: Role, chunk: Buffer) => Buffer | undefined) => {
  const decoders = { alice: createMessageDecoder(), bob: createMessageDecoder() }
  let isCut = false
  return (from, chunk) => {
    const arriving: Buffer[] = []
    for (const message of decoders[from].push(chunk)) {
      const instead = isCut ? CUT : handle(from, message)
      if (instead === CUT) {
        isCut = true
        return undefined
      }
      arriving.push(...instead)
    }
    return Buffer.concat(arriving)
  }
}
