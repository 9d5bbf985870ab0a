/** A station's end of the wire to the emulator, as small as a test needs it. */
import { once } from 'node:events'
import { connect } from 'node:net'
import type { HelloFrame, PhotonFrame, PhotonFrameType } from '../../src/bb84/photon-wire.ts'
import { createPhotonDecoder, encodePhotonFrame } from '../../src/bb84/photon-wire.ts'
import { eventually } from '../setup/eventually.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

export type Station = Awaited<ReturnType<typeof connectStation>>

const EXPECTED: readonly PhotonFrameType[] = ['hello-ok', 'error', 'arrival', 'clicks']

export const connectStation = async (port: number) => {
  const socket = connect(port, '127.0.0.1')
  const decoder = createPhotonDecoder(EXPECTED)
  const inbox: PhotonFrame[] = []
  let closed = false
  socket.on('data', (chunk) => inbox.push(...decoder.push(chunk)))
  socket.on('error', () => undefined)
  socket.on('close', () => (closed = true))
  await once(socket, 'connect')
  return {
    socket,
    inbox,
    send: (frame: PhotonFrame) => socket.write(encodePhotonFrame(frame)),
    sendBytes: (bytes: Uint8Array) => socket.write(bytes),
    /** The next frame of the type; those of other types stay for later. */
    take: <T extends PhotonFrameType>(type: T): Promise<Extract<PhotonFrame, { type: T }>> =>
      eventually(
        `a frame ${type}`,
        () => {
          const index = inbox.findIndex((frame) => frame.type === type)
          return index < 0 ? undefined : (inbox.splice(index, 1)[0] as Extract<PhotonFrame, { type: T }>)
        },
        timeLimitMs(10_000),
      ),
    closed: () => eventually('the connection ends', () => closed, timeLimitMs(10_000)),
    end: () => socket.destroy(),
  }
}

export const helloOf = (role: 'alice' | 'bob', sessionId = 'one', change: Partial<HelloFrame> = {}): HelloFrame => ({
  type: 'hello',
  role,
  linkId: 'a-b',
  sessionId,
  slotsPerBurst: 4_096,
  intensities: role === 'alice' ? [0.6, 0.3, 0] : [],
  ...change,
})
