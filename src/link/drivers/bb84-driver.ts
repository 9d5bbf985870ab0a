/** Link driver for a BB84 link whose devices are simulated and whose post-processing is real (docs/bb84.md): this KME runs one of the two
 *  stations, in a worker thread. */
import { Worker } from 'node:worker_threads'
import { SecretBytes } from '../../kernel/secret-bytes.ts'
import { expectedBlock } from '../../bb84/expected-rate.ts'
import type { AuthenticationLedger } from '../authentication-ledger.ts'
import type { DriverEvent, KeyBlock, LinkDriver } from '../link.ts'
import type { ConnectionTls } from './bb84/classical-connection.ts'
import type { DistilledBlock } from './bb84/station.ts'
import type { FromStation, StationCall, StationSettings, ToStation } from './bb84/station-worker.ts'

export interface Bb84DriverOptions {
  readonly settings: StationSettings
  readonly ledger: AuthenticationLedger
  /** What this KME shows the other station, and whom it believes; read at every connection. */
  readonly tls: () => ConnectionTls
  /** The program of the worker thread, if not the station's. */
  readonly stationFile?: URL
}

const STATION_FILE = new URL('bb84/station-worker.ts', import.meta.url)

/** How efficient reconciliation is taken to be for the expected rate; the bench shows 1.03 to 1.06. */
const EXPECTED_EFFICIENCY = 1.05
const STOP_DEADLINE_MS = 1000
/** What a station allocates in passing is mostly outside this heap, so a larger one only makes the process grow for an hour. */
const YOUNG_GENERATION_MAX_MB = 12

export const createBb84Driver = ({ settings, ledger, tls, stationFile = STATION_FILE }: Bb84DriverOptions): LinkDriver => {
  /** Delivered and not acknowledged, by name. */
  const held = new Map<string, { readonly block: DistilledBlock; readonly key: SecretBytes }>()
  let broken: string | undefined
  let beingRead = false
  let running: Worker | undefined

  const toKeyBlock = (name: string): KeyBlock => {
    const { block, key } = held.get(name) as { block: DistilledBlock; key: SecretBytes }
    return {
      deviceBlock: name,
      qber: block.qber,
      statement: block.statement,
      key: key.use((bytes) => SecretBytes.take(Buffer.from(bytes))),
      acknowledge: () => {
        held.get(name)?.key.wipe()
        held.delete(name)
      },
    }
  }

  const obey = async (call: StationCall): Promise<{ answer: unknown; transfer: ArrayBuffer[] }> => {
    const lend = (secret: SecretBytes): { answer: Uint8Array; transfer: ArrayBuffer[] } => {
      const bytes = secret.use((own) => Uint8Array.from(own))
      secret.wipe()
      return { answer: bytes, transfer: [bytes.buffer] }
    }
    switch (call.ask) {
      case 'segments':
        return { answer: await ledger.segments(), transfer: [] }
      case 'reserve':
        return lend(await ledger.reserve(call.segmentId, call.fromByte, call.lengthBytes))
      case 'hashKey':
        return lend(await ledger.hashKey(call.segmentId))
      case 'add':
        return { answer: await ledger.add(call.segmentId, SecretBytes.take(call.bytes)), transfer: [] }
      case 'discard':
        return { answer: await ledger.discard(call.segmentIds), transfer: [] }
      case 'tls':
        return { answer: tls(), transfer: [] }
    }
  }

  async function* blocks(signal: AbortSignal, report: (event: DriverEvent) => void): AsyncGenerator<KeyBlock, void, undefined> {
    if (broken !== undefined) throw new Error(`${broken}; the link stays down until the KME is started again`)
    if (beingRead) throw new Error('the blocks of this link are already being read')
    beingRead = true
    const worker = new Worker(stationFile, {
      workerData: settings,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MAX_MB },
    })
    running = worker
    const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
    const waiting = [...held.keys()]
    let wake: (() => void) | undefined
    let failure: Error | undefined
    const tell = (message: ToStation, transfer: ArrayBuffer[] = []): void => worker.postMessage(message, transfer)
    const fail = (error: Error): void => {
      failure ??= error
      wake?.()
    }
    const answer = async (number: number, call: StationCall): Promise<void> => {
      try {
        const { answer: value, transfer } = await obey(call)
        tell({ kind: 'answer', number, answer: value }, transfer)
      } catch (error) {
        tell({ kind: 'refusal', number, reason: (error as Error).message })
      }
    }
    worker.on('error', (error) => fail(error as Error))
    worker.on('exit', () => fail(new Error('the station ended')))
    worker.on('message', (message: FromStation) => {
      switch (message.kind) {
        case 'call':
          return void answer(message.number, message.call)
        case 'event':
          return report(message.event)
        case 'block': {
          const { block } = message
          held.set(block.deviceBlock, { block, key: SecretBytes.adopt(Buffer.from(block.key.buffer)) })
          waiting.push(block.deviceBlock)
          return wake?.()
        }
        case 'broken':
          broken = message.reason
          return fail(new Error(message.reason))
      }
    })
    const stop = (): void => {
      tell({ kind: 'stop' })
      wake?.()
    }
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    const redelivered = new Set(waiting)
    try {
      while (!signal.aborted) {
        const name = waiting.shift()
        if (name !== undefined) {
          // Blocks of an earlier station were counted there.
          if (!redelivered.has(name)) tell({ kind: 'pulled' })
          yield toKeyBlock(name)
          continue
        }
        if (failure) throw failure
        await new Promise<void>((resolve) => (wake = resolve))
      }
    } finally {
      signal.removeEventListener('abort', stop)
      tell({ kind: 'stop' })
      const late = AbortSignal.timeout(STOP_DEADLINE_MS)
      late.addEventListener('abort', () => void worker.terminate())
      await exited
      running = undefined
      beingRead = false
    }
  }

  return {
    blocks,
    reconnect: () => running?.postMessage({ kind: 'reconnect' } satisfies ToStation),
    facts: async () => ({
      expectedKeyRateBps: expectedBlock(settings.profile, EXPECTED_EFFICIENCY).secretBitsPerSecond,
      authentication: await ledger.figures(),
    }),
  }
}
