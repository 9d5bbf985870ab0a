/** A station's end of the quantum channel: Alice puts pulses into the fibre, Bob sets his modulator and sees clicks. */
import type { Duplex } from 'node:stream'
import { createPhotonDecoder, encodePhotonFrame, PhotonFrameError, type PhotonFrame } from '../../../bb84/photon-wire.ts'
import { SessionEnded } from './classical-session.ts'

interface PhotonLinkParts {
  readonly stream: Duplex
  readonly linkId: string
  readonly sessionId: string
  readonly slotsPerBurst: number
}

export interface PulseSender {
  /** Resolves when the fibre takes more. The pulses stay the caller's. */
  send(burst: number, slots: number, pulses: Uint8Array): Promise<void>
  /** Resolves with the reason when the connection is over. */
  readonly ended: Promise<string>
  close(): void
}

export interface BurstClicks {
  /** Ascending. */
  readonly slots: Uint32Array
  /** 1: detector 0, 2: detector 1, 3: both. */
  readonly patterns: Uint8Array
  /** Bob's bases of all slots of the burst, packed; 1 is Z. */
  readonly bases: Uint8Array
}

export interface ClickReceiver {
  /** What was seen of a burst. @throws SessionEnded. */
  clicks(burst: number): Promise<BurstClicks>
  readonly ended: Promise<string>
  close(): void
}

/** @throws SessionEnded when the channel refuses the station. */
export const openPulseSender = async (
  parts: PhotonLinkParts & { readonly intensities: readonly number[] },
): Promise<PulseSender> => {
  const { stream } = parts
  const link = await greet(parts, 'alice', parts.intensities, () => {
    throw new PhotonFrameError('nothing comes back to Alice')
  })
  return {
    ...link,
    send: async (burst, slots, pulses) => {
      if (stream.destroyed) return
      if (stream.write(encodePhotonFrame({ type: 'pulses', burst, slots, pulses }))) return
      await new Promise<void>((resolve) => {
        const done = (): void => {
          stream.off('drain', done)
          stream.off('close', done)
          resolve()
        }
        stream.on('drain', done)
        stream.on('close', done)
      })
    },
  }
}

/** @throws SessionEnded when the channel refuses the station. */
export const openClickReceiver = async (
  parts: PhotonLinkParts & { readonly chooseBases: (burst: number) => Uint8Array },
): Promise<ClickReceiver> => {
  const { stream, slotsPerBurst, chooseBases } = parts
  const chosen = new Map<number, Uint8Array>()
  const seen = new Map<number, BurstClicks>()
  let wake: (() => void) | undefined
  const link = await greet(parts, 'bob', [], (frame) => {
    if (frame.type === 'arrival') {
      if (frame.slots !== slotsPerBurst) throw new PhotonFrameError('a burst has another length than agreed')
      const bases = chooseBases(frame.burst)
      chosen.set(frame.burst, bases)
      stream.write(encodePhotonFrame({ type: 'bases', burst: frame.burst, bases }))
    } else if (frame.type === 'clicks') {
      const bases = chosen.get(frame.burst)
      if (bases === undefined) throw new PhotonFrameError('clicks of a burst that did not arrive')
      chosen.delete(frame.burst)
      seen.set(frame.burst, { slots: frame.slots, patterns: frame.patterns, bases })
      wake?.()
    }
  })
  let over: string | undefined
  void link.ended.then((reason) => {
    over = reason
    wake?.()
  })
  return {
    ...link,
    clicks: async (burst) => {
      for (;;) {
        const found = seen.get(burst)
        if (found !== undefined) {
          seen.delete(burst)
          return found
        }
        if (over !== undefined) throw new SessionEnded(`quantum channel: ${over}`)
        await new Promise<void>((resolve) => (wake = resolve))
      }
    },
  }
}

const greet = async (
  { stream, linkId, sessionId, slotsPerBurst }: PhotonLinkParts,
  role: 'alice' | 'bob',
  intensities: readonly number[],
  take: (frame: PhotonFrame) => void,
): Promise<{ readonly ended: Promise<string>; close(): void }> => {
  const greeted = Promise.withResolvers<void>()
  const ended = Promise.withResolvers<string>()
  // When the greeting cannot even be said.
  greeted.promise.catch(() => {})
  const decoder = createPhotonDecoder(['hello-ok', 'error'])
  const end = (reason: string): void => {
    stream.destroy()
    greeted.reject(new SessionEnded(`quantum channel: ${reason}`))
    ended.resolve(reason)
  }
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const frame of decoder.push(chunk)) {
        if (frame.type === 'error') return end(frame.reason)
        if (frame.type === 'hello-ok') {
          decoder.expect(role === 'alice' ? ['error'] : ['arrival', 'clicks', 'error'])
          greeted.resolve()
        } else take(frame)
      }
    } catch (error) {
      if (!(error instanceof PhotonFrameError)) throw error
      end(`refused: ${error.message}`)
    }
  })
  stream.on('error', (error: Error) => end(error.message))
  stream.on('close', () => end('connection lost'))
  stream.write(encodePhotonFrame({ type: 'hello', role, linkId, sessionId, slotsPerBurst, intensities }))
  await greeted.promise
  return { ended: ended.promise, close: () => stream.destroy() }
}
