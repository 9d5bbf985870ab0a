/** A station in a worker thread of its own, so that distilling never holds up the SAE API. The main thread keeps what is durable or secret
 *  for long: this thread asks it for authentication key and certificates, and gives it finished blocks. */
import { connect as openSocket } from 'node:net'
import { constants, setPriority } from 'node:os'
import type { Duplex } from 'node:stream'
import { parentPort, workerData, type MessagePort } from 'node:worker_threads'
import { createBackOff } from '../../../kernel/back-off.ts'
import { systemClock as clock } from '../../../kernel/clock.ts'
import type { KmeId, LinkId } from '../../../kernel/identifiers.ts'
import { systemRandom } from '../../../kernel/random.ts'
import { SecretBytes } from '../../../kernel/secret-bytes.ts'
import type { Bb84Profile } from '../../../bb84/profile.ts'
import type { AuthenticationLedger } from '../../authentication-ledger.ts'
import { runAlice } from './alice-station.ts'
import { AuthenticationFailed } from './block-conversation.ts'
import { acceptBob, connectToAlice, type ConnectionTls } from './classical-connection.ts'
import { SessionEnded } from './classical-session.ts'
import { runBob } from './bob-station.ts'
import { AuthenticationKeyUsedUp, HealthTestFailed, type DistilledBlock, type StationEvent } from './station.ts'

export interface StationSettings {
  readonly role: 'alice' | 'bob'
  readonly linkId: LinkId
  readonly peerKmeId: KmeId
  readonly profile: Bb84Profile
  readonly slotsPerBurst: number
  readonly photons: { readonly host: string; readonly port: number }
  /** Alice listens there, Bob connects to it. */
  readonly classical: { readonly host: string; readonly port: number }
}

/** What the station asks of the main thread. Bytes are transferred, so that no copy stays behind. */
export type StationCall =
  | { readonly ask: 'segments' }
  | { readonly ask: 'reserve'; readonly segmentId: string; readonly fromByte: number; readonly lengthBytes: number }
  | { readonly ask: 'hashKey'; readonly segmentId: string }
  | { readonly ask: 'add'; readonly segmentId: string; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly ask: 'discard'; readonly segmentIds: readonly string[] }
  | { readonly ask: 'tls' }

export type FromStation =
  | { readonly kind: 'call'; readonly number: number; readonly call: StationCall }
  | { readonly kind: 'block'; readonly block: DistilledBlock }
  | { readonly kind: 'event'; readonly event: StationEvent | { readonly kind: 'disconnected'; readonly reason: string } }
  /** The link must not go on by itself. */
  | { readonly kind: 'broken'; readonly reason: string }

export type ToStation =
  | { readonly kind: 'answer'; readonly number: number; readonly answer: unknown }
  | { readonly kind: 'refusal'; readonly number: number; readonly reason: string }
  /** The KME took over a block. */
  | { readonly kind: 'pulled' }
  /** Certificates or revocation lists have changed. */
  | { readonly kind: 'reconnect' }
  | { readonly kind: 'stop' }

/** Blocks that wait for the KME; gathering pauses then. */
const UNPULLED_BLOCKS_MAX = 2
const RECONNECT_FIRST_MS = 200
const RECONNECT_LONGEST_MS = 10_000
const CERTIFICATES_CHANGED = 'certificates or revocation lists have changed: connecting anew'
/** After so many blocks without key in a row the link rests before the next: each uses authentication key and brings none. */
const BARREN_BLOCKS_MAX = 3
const REST_FIRST_MS = 1000
const REST_LONGEST_MS = 30_000

const serve = async (port: MessagePort, settings: StationSettings): Promise<void> => {
  const stopping = new AbortController()
  const { signal } = stopping
  const waiting = new Map<number, PromiseWithResolvers<unknown>>()
  let session = new AbortController()
  let calls = 0
  let unpulled = 0
  let wakeWanted: (() => void) | undefined

  const tell = (message: FromStation, transfer: ArrayBuffer[] = []): void => port.postMessage(message, transfer)
  const ask = (call: StationCall, transfer: ArrayBuffer[] = []): Promise<unknown> => {
    calls += 1
    const answer = Promise.withResolvers<unknown>()
    waiting.set(calls, answer)
    tell({ kind: 'call', number: calls, call }, transfer)
    return answer.promise
  }
  port.on('message', (message: ToStation) => {
    if (message.kind === 'stop') {
      stopping.abort()
      session.abort()
      wakeWanted?.()
      for (const { reject } of waiting.values()) reject(new SessionEnded('stopped'))
    } else if (message.kind === 'reconnect') {
      session.abort()
    } else if (message.kind === 'pulled') {
      unpulled -= 1
      wakeWanted?.()
    } else {
      const answer = waiting.get(message.number)
      waiting.delete(message.number)
      if (message.kind === 'answer') answer?.resolve(message.answer)
      else answer?.reject(new Error(message.reason))
    }
  })

  const askSecret = async (call: StationCall): Promise<SecretBytes> => SecretBytes.take((await ask(call)) as Uint8Array)
  const ledger: Pick<AuthenticationLedger, 'segments' | 'reserve' | 'hashKey' | 'add' | 'discard'> = {
    segments: () => ask({ ask: 'segments' }) as ReturnType<AuthenticationLedger['segments']>,
    reserve: (segmentId, fromByte, lengthBytes) => askSecret({ ask: 'reserve', segmentId, fromByte, lengthBytes }),
    hashKey: (segmentId) => askSecret({ ask: 'hashKey', segmentId }),
    add: (segmentId, secret) => {
      const bytes = secret.use((own) => Uint8Array.from(own))
      secret.wipe()
      return ask({ ask: 'add', segmentId, bytes }, [bytes.buffer]) as ReturnType<AuthenticationLedger['add']>
    },
    discard: (segmentIds) => ask({ ask: 'discard', segmentIds }) as Promise<void>,
  }
  const connectClassical = async (over: AbortSignal): Promise<Duplex> => {
    const address = { ...settings.classical, peerKmeId: settings.peerKmeId, tls: (await ask({ ask: 'tls' })) as ConnectionTls }
    return settings.role === 'alice' ? acceptBob(address, over) : connectToAlice(address, over, clock)
  }
  const backOff = createBackOff({ firstMs: RECONNECT_FIRST_MS, longestMs: RECONNECT_LONGEST_MS, random: systemRandom })
  const rest = createBackOff({ firstMs: REST_FIRST_MS, longestMs: REST_LONGEST_MS, random: systemRandom })
  let barrenBlocks = 0
  let restUntilMs = -Infinity
  const run = settings.role === 'alice' ? runAlice : runBob

  while (!signal.aborted) {
    session = new AbortController()
    try {
      await run(
        {
          ...settings,
          connectPhotons: (over) => connectPhotons(settings.photons, over),
          connectClassical,
          ledger,
          streams: () => systemRandom,
          wanted: async (over) => {
            const onOver = (): void => wakeWanted?.()
            over.addEventListener('abort', onOver)
            while (unpulled >= UNPULLED_BLOCKS_MAX && !over.aborted) {
              await new Promise<void>((resolve) => (wakeWanted = resolve))
            }
            over.removeEventListener('abort', onOver)
            const restMs = restUntilMs - clock.monotonicMs()
            if (restMs > 0) await clock.sleep(restMs, over)
          },
          deliver: (block) => {
            backOff.succeeded()
            rest.succeeded()
            barrenBlocks = 0
            unpulled += 1
            tell({ kind: 'block', block }, [block.key.buffer])
            yieldToRequests()
          },
          report: (event) => {
            if (event.kind === 'no-key' && (barrenBlocks += 1) >= BARREN_BLOCKS_MAX) {
              restUntilMs = clock.monotonicMs() + rest.failed()
            }
            tell({ kind: 'event', event })
          },
          clock,
        },
        session.signal,
      )
      if (signal.aborted) break
      tell({ kind: 'event', event: { kind: 'disconnected', reason: CERTIFICATES_CHANGED } })
    } catch (error) {
      if (signal.aborted) break
      const reason = error instanceof Error ? error.message : 'unknown error'
      if (error instanceof HealthTestFailed) {
        tell({ kind: 'broken', reason })
        break
      }
      if (error instanceof AuthenticationFailed || error instanceof AuthenticationKeyUsedUp) {
        tell({ kind: 'event', event: { kind: 'not-authenticated', reason } })
      }
      tell({ kind: 'event', event: { kind: 'disconnected', reason } })
    }
    await clock.sleep(backOff.failed(), signal)
  }
  port.close()
}

const connectPhotons = (address: { readonly host: string; readonly port: number }, signal: AbortSignal): Promise<Duplex> =>
  new Promise((resolve, reject) => {
    const socket = openSocket({ ...address, signal, noDelay: true })
    const refuse = (error: Error): void => reject(new SessionEnded(`the quantum channel cannot be reached: ${error.message}`))
    socket.once('error', refuse)
    socket.once('connect', () => {
      socket.off('error', refuse)
      resolve(socket)
    })
  })

/** A block keeps a core busy for a while, and requests of SAEs must not wait for it. Not at the lowest priority: that serves requests no
 *  better (docs/benchmarks.md), and where other programs use all cores a link would starve.
 *  The first block comes before that: until there is key there is nothing to request.
 *  Only Linux knows a priority per thread; elsewhere this would slow down the whole KME. */
const yieldToRequests = (): void => {
  if (process.platform === 'linux') setPriority(constants.priority.PRIORITY_BELOW_NORMAL)
}

if (parentPort !== null) {
  await serve(parentPort, workerData as StationSettings)
}
