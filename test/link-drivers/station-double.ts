/** Stands in the place of a station's worker thread, for what a real station does only when something is broken. The name of the link says
 *  what happens. */
import { parentPort, workerData } from 'node:worker_threads'
import type { FromStation, StationSettings, ToStation } from '../../src/link/drivers/bb84/station-worker.ts'

const port = parentPort!
const { linkId } = workerData as StationSettings
const tell = (message: FromStation): void => port.postMessage(message)
/** Keeps the thread alive, as sockets would. */
const alive = setInterval(() => undefined, 1000)
const end = (): void => {
  clearInterval(alive)
  port.close()
}
let pulled = 0

const deliver = (deviceBlock: string): void => {
  const key = new Uint8Array(64).fill(7)
  tell({ kind: 'block', block: { deviceBlock, qber: 0.01, key, statement: {} as never } })
}

port.on('message', (message: ToStation) => {
  if (message.kind === 'pulled') {
    pulled += 1
    if (linkId === 'throws-when-pulled') throw new Error(`a fault in the program, after ${pulled} block`)
  }
  if (message.kind === 'stop' && linkId !== 'never-stops') end()
})

switch (linkId as string) {
  case 'throws-at-once':
    throw new Error('a fault in the program')
  case 'throws-when-pulled':
    deliver('one')
    deliver('two')
    break
  case 'unhealthy':
    tell({ kind: 'event', event: { kind: 'connected' } })
    tell({ kind: 'broken', reason: 'the repetition test of the sifted key failed' })
    break
  case 'ends':
    end()
    break
  case 'asks-for-pads':
    tell({ kind: 'call', number: 1, call: { ask: 'reserve', segmentId: 'none', fromByte: 16, lengthBytes: 48 } })
    port.on('message', (message: ToStation) => {
      if (message.kind === 'refusal') tell({ kind: 'event', event: { kind: 'disconnected', reason: message.reason } })
    })
    break
  default:
    tell({ kind: 'event', event: { kind: 'connected' } })
}
