/** The quantum channel as a process sees it: a port for Alice's end of the fibre, one for Bob's, and one where an operator
 *  speaks to Eve. Alice and Bob are on the same light when they name the same session.
 *  Holds: one connection per end, the newest; pulses that no Bob of the session is there to measure are lost, as light would be;
 *  bursts are measured in the order in which they were sent; a slow Bob makes Alice wait instead of filling memory. */
import { createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { createPhotonDecoder, encodePhotonFrame, PhotonFrameError } from '../bb84/photon-wire.ts'
import type { BasesFrame, HelloFrame, PhotonFrame, PulsesFrame, Role } from '../bb84/photon-wire.ts'
import type { Bb84Profile } from '../bb84/profile.ts'
import { basesBytes } from '../bb84/pulse-source.ts'
import type { Random } from '../kernel/random.ts'
import { createQuantumChannel } from './channel.ts'
import { serveControlLines } from './control-port.ts'
import { checkedEve, EVE_OFF } from './eve.ts'
import type { ChannelServer, Eve, QuantumChannel } from './quantum-channel.ts'

/** Bursts in the fibre: sent, and Bob has not told his bases yet. */
const MAX_BURSTS_UNDER_WAY = 8

export interface ChannelServerOptions {
  readonly host: string
  /** 0 takes any free port. */
  readonly portA: number
  readonly portB: number
  /** On 127.0.0.1 whatever the host. Left out: there is none. */
  readonly controlPort?: number
  /** Stations of other links are refused; empty takes any. */
  readonly linkId: string
  /** The light's strength is what Alice's station says it is; everything else is the profile's. */
  readonly profile: Bb84Profile
  /** `channel:<burst>` gives what chance decides in a burst. */
  readonly streams: (name: string) => Random
  readonly eve?: Eve
}

interface Station {
  readonly socket: Socket
  readonly hello: HelloFrame
}

interface Alice extends Station {
  /** Has the dead time of her session's receiver. */
  readonly channel: QuantumChannel
}

/** @throws RangeError when Eve's fraction is not between 0 and 1. */
export const createChannelServer = (options: ChannelServerOptions): ChannelServer => {
  const { host, portA, portB, controlPort, linkId, profile, streams } = options
  let eve = checkedEve(options.eve ?? EVE_OFF)
  let alice: Alice | undefined
  let bob: Station | undefined
  /** What the fibre to Bob's present connection holds. */
  let underWay: { readonly frame: PulsesFrame; readonly channel: QuantumChannel }[] = []
  let bursts = 0
  let pulses = 0
  let clicks = 0
  let lostBursts = 0
  const sockets = new Set<Socket>()
  const quitAsked = Promise.withResolvers<void>()

  const send = (socket: Socket, frame: PhotonFrame): void => {
    if (socket.writable) socket.write(encodePhotonFrame(frame))
  }

  const refuse = (socket: Socket, reason: string): void => {
    send(socket, { type: 'error', reason })
    socket.destroySoon()
  }

  const loseUnderWay = (): void => {
    lostBursts += underWay.length
    underWay = []
    alice?.socket.resume()
  }

  const greet = (socket: Socket, role: Role, hello: HelloFrame): void => {
    if (hello.role !== role) throw new PhotonFrameError(`this is the end of ${role}`)
    if (linkId !== '' && hello.linkId !== linkId) throw new PhotonFrameError(`this fibre is link "${linkId}"`)
    const before = role === 'alice' ? alice : bob
    if (before !== undefined) refuse(before.socket, 'replaced by a newer connection')
    if (role === 'alice') {
      const channel = createQuantumChannel({ profile: { ...profile, intensities: hello.intensities }, eve })
      alice = { socket, hello, channel }
    } else {
      loseUnderWay()
      bob = { socket, hello }
    }
    send(socket, { type: 'hello-ok' })
  }

  const carry = (from: Alice, frame: PulsesFrame): void => {
    if (frame.slots > from.hello.slotsPerBurst) throw new PhotonFrameError('the burst is longer than HELLO said')
    if (bob?.hello.sessionId !== from.hello.sessionId) {
      lostBursts += 1
      return
    }
    underWay.push({ frame, channel: from.channel })
    send(bob.socket, { type: 'arrival', burst: frame.burst, slots: frame.slots })
    if (underWay.length >= MAX_BURSTS_UNDER_WAY) from.socket.pause()
  }

  const measure = (at: Station, { burst, bases }: BasesFrame): void => {
    const next = underWay.shift()
    if (next?.frame.burst !== burst) throw new PhotonFrameError('BASES is not for the burst that arrived')
    const { frame, channel } = next
    if (bases.length !== basesBytes(frame.slots)) throw new PhotonFrameError('BASES does not fit the burst')
    alice?.socket.resume()
    const found = channel.transmit(frame.pulses, bases, frame.slots, streams(`channel:${burst}`))
    bursts += 1
    pulses += frame.slots
    clicks += found.slots.length
    send(at.socket, { type: 'clicks', burst, ...found })
  }

  const take = (socket: Socket, role: Role, frame: PhotonFrame): void => {
    if (frame.type === 'hello') greet(socket, role, frame)
    else if (frame.type === 'pulses' && alice?.socket === socket) carry(alice, frame)
    else if (frame.type === 'bases' && bob?.socket === socket) measure(bob, frame)
  }

  const accept = (role: Role, socket: Socket): void => {
    sockets.add(socket)
    const decoder = createPhotonDecoder(['hello'])
    socket.on('error', () => socket.destroy())
    socket.on('close', () => {
      sockets.delete(socket)
      if (alice?.socket === socket) alice = undefined
      if (bob?.socket !== socket) return
      bob = undefined
      loseUnderWay()
    })
    socket.on('data', (chunk: Buffer) => {
      // Refused, and what it sent before it knew is still coming in.
      if (!socket.writable) return
      try {
        for (const frame of decoder.push(chunk)) {
          take(socket, role, frame)
          decoder.expect([role === 'alice' ? 'pulses' : 'bases'])
        }
      } catch (error) {
        if (!(error instanceof PhotonFrameError)) throw error
        refuse(socket, error.message)
      }
    })
  }

  const setEve = (next: Eve): void => {
    eve = checkedEve(next)
    alice?.channel.setEve(eve)
    for (const { channel } of underWay) channel.setEve(eve)
  }

  const ports = { alice: 0, bob: 0, control: 0 }
  const newServer = (onConnection: (socket: Socket) => void) => createServer({ noDelay: true }, onConnection)
  const ends = {
    alice: newServer((socket) => accept('alice', socket)),
    bob: newServer((socket) => accept('bob', socket)),
    control: newServer((socket) => {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
      serveControlLines(socket, server, () => quitAsked.resolve())
    }),
  }

  const server: ChannelServer = {
    ports,
    start: async () => {
      try {
        ports.alice = await listen(ends.alice, host, portA)
        ports.bob = await listen(ends.bob, host, portB)
        if (controlPort !== undefined) ports.control = await listen(ends.control, '127.0.0.1', controlPort)
      } catch (error) {
        await server.stop()
        throw error
      }
    },
    setEve,
    status: () => ({
      linkId,
      profile: profile.name,
      distanceKm: profile.distanceKm,
      eve,
      bursts,
      pulses,
      clicks,
      lostBursts,
      connected: { alice: alice !== undefined, bob: bob !== undefined },
    }),
    quitAsked: quitAsked.promise,
    stop: async () => {
      const closed = Object.values(ends).map(close)
      for (const socket of sockets) socket.destroy()
      await Promise.all(closed)
    },
  }
  return server
}

const listen = (server: Server, host: string, port: number): Promise<number> =>
  new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve((server.address() as AddressInfo).port)
    })
  })

const close = (server: Server): Promise<void> =>
  server.listening ? new Promise((resolve) => server.close(() => resolve())) : Promise.resolve()
