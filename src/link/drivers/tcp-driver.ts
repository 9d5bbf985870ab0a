/** Link driver for a QKD device that speaks the framed protocol of docs/device-protocol.md over TCP. */
import { connect as openSocket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { LinkDriver } from '../link.ts'
import { createFramedDriver } from './framed-driver.ts'
import type { FramedDriverOptions } from './framed-driver.ts'

export interface TcpDriverOptions extends Omit<FramedDriverOptions, 'connect'> {
  readonly host: string
  readonly port: number
  /** Opens the connection; plain TCP unless given. */
  readonly connect?: (host: string, port: number, signal: AbortSignal) => Promise<Duplex>
}

/** @throws RangeError when an option is out of range. */
export const createTcpDriver = (options: TcpDriverOptions): LinkDriver => {
  const { host, port, connect = openTcp, ...framed } = options
  return createFramedDriver({ ...framed, connect: (signal) => connect(host, port, signal) })
}

const openTcp = (host: string, port: number, signal: AbortSignal): Promise<Duplex> =>
  new Promise((resolve, reject) => {
    const socket = openSocket({ host, port, signal, noDelay: true })
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
  })
