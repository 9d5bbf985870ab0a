/** Driver for any device that speaks the framed protocol of docs/device-protocol.md over a stream of bytes.
 *  tcp-driver.ts gives it a TCP stream; another kind of stream only needs another `connect`.
 *  Holds: blocks come in the device's order; within one call of `blocks` none comes twice; a new call gets every block
 *  again that was not acknowledged; at most `creditBlocks` blocks are delivered or waiting and not acknowledged. */
import type { Duplex } from 'node:stream'
import type { Clock } from '../../kernel/clock.ts'
import type { LinkId } from '../../kernel/identifiers.ts'
import { drawUniform, type Random } from '../../kernel/random.ts'
import type { DriverEvent, KeyBlock, LinkDriver } from '../link.ts'
import { createFrameDecoder, encodeFrame, FrameError } from './frame-codec.ts'
import type { BlockFrame, Frame, HelloFrame } from './frame-codec.ts'

export interface FramedDriverOptions {
  /** Opens the stream of bytes to the device; gives up when `signal` aborts. */
  readonly connect: (signal: AbortSignal) => Promise<Duplex>
  /** Sent to the device and compared with the link the device believes to be on. */
  readonly linkId: LinkId
  /** The most blocks that may be unacknowledged at a time, 1 to 65 535. */
  readonly creditBlocks: number
  readonly connectTimeoutMs: number
  /** The connection is dropped when the device says nothing for so long; three times as often it is asked to. */
  readonly idleTimeoutMs: number
  readonly clock: Clock
  readonly random: Random
}

const RECONNECT_FIRST_MS = 100
const RECONNECT_MAX_MS = 10_000

/** What is known of one run of the device, across connections. A sequence number up to `newest` that is not in `open`
 *  has been acknowledged. */
interface Run {
  readonly id: string
  newest: number
  /** Received and not acknowledged. */
  readonly open: Set<number>
}

/** What one call of `blocks` holds. */
interface Reading {
  readonly report: (event: DriverEvent) => void
  /** Received and not yet pulled. */
  readonly waiting: KeyBlock[]
  /** Given to this reading and not acknowledged: run and sequence number. */
  readonly held: Set<string>
  wake(): void
}

/** One connection after the device's HELLO. */
interface Channel {
  readonly run: Run
  /** The device's first sequence number that is not a replay. */
  readonly firstNew: number
  lastSequence: number
  /** Blocks the device may still send. */
  credit: number
  readonly send: (frame: Frame) => void
  readonly reading: Reading
}

interface Ending {
  readonly reason: string
  /** A block came that was not known before, so the device works and the back-off starts anew. */
  readonly fresh: boolean
}

/** @throws RangeError when `creditBlocks` is out of range. */
export const createFramedDriver = (options: FramedDriverOptions): LinkDriver => {
  const { connect, linkId, creditBlocks, connectTimeoutMs, idleTimeoutMs, clock, random } = options
  if (!Number.isInteger(creditBlocks) || creditBlocks < 1 || creditBlocks > 65_535) {
    throw new RangeError('creditBlocks must be a whole number from 1 to 65535')
  }
  let run: Run = { id: '', newest: 0, open: new Set() }
  let channel: Channel | undefined
  let beingRead = false

  async function* blocks(signal: AbortSignal, report: (event: DriverEvent) => void): AsyncGenerator<KeyBlock, void, undefined> {
    if (beingRead) throw new Error('the blocks of this link are already being read')
    beingRead = true
    let wakeUp = Promise.withResolvers<void>()
    const reading: Reading = { report, waiting: [], held: new Set(), wake: () => wakeUp.resolve() }
    const stop = new AbortController()
    const onAbort = (): void => {
      stop.abort()
      reading.wake()
    }
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    let failure: { readonly error: unknown } | undefined
    const connecting = keepConnected(reading, stop.signal).catch((error: unknown) => {
      failure = { error }
      reading.wake()
    })
    try {
      while (!signal.aborted) {
        if (failure) throw failure.error
        const block = reading.waiting.shift()
        if (block) {
          yield block
          continue
        }
        await wakeUp.promise
        wakeUp = Promise.withResolvers<void>()
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      stop.abort()
      await connecting
      for (const block of reading.waiting) block.key.wipe()
      beingRead = false
    }
  }

  const keepConnected = async (reading: Reading, signal: AbortSignal): Promise<void> => {
    let failures = 0
    while (!signal.aborted) {
      const ending = await connectOnce(reading, signal)
      if (signal.aborted) return
      reading.report({ kind: 'disconnected', reason: ending.reason })
      failures = ending.fresh ? 0 : failures + 1
      await clock.sleep(reconnectDelayMs(failures, random), signal)
    }
  }

  const connectOnce = async (reading: Reading, signal: AbortSignal): Promise<Ending> => {
    const attempt = new AbortController()
    const opening = connect(attempt.signal).then(
      (stream) => ({ stream }),
      (error: unknown) => ({ reason: `cannot connect: ${error instanceof Error ? error.message : 'unknown error'}` }),
    )
    const timer = new AbortController()
    const timeout = clock
      .sleep(connectTimeoutMs, AbortSignal.any([signal, timer.signal]))
      .then(() => ({ reason: `cannot connect: no answer within ${connectTimeoutMs} ms` }))
    const first = await Promise.race([opening, timeout])
    timer.abort()
    if ('stream' in first && !signal.aborted) return serve(first.stream, reading, signal)
    attempt.abort()
    // A connection that opens after all must not stay open.
    void opening.then((late) => 'stream' in late && late.stream.on('error', () => {}).destroy())
    return { reason: 'reason' in first ? first.reason : 'stopped', fresh: false }
  }

  /** Speaks with the device until the connection ends, for whatever reason. Rejects only when `report` throws. */
  const serve = (stream: Duplex, reading: Reading, signal: AbortSignal): Promise<Ending> => {
    const ended = Promise.withResolvers<Ending>()
    const over = new AbortController()
    const decoder = createFrameDecoder()
    let own: Channel | undefined
    let fresh = false
    let heardMs = clock.monotonicMs()

    const send = (frame: Frame): void => void stream.write(encodeFrame(frame))
    const end = (reason: string): void => {
      if (over.signal.aborted) return
      over.abort()
      signal.removeEventListener('abort', onStop)
      channel = undefined
      stream.destroy()
      decoder.wipe()
      ended.resolve({ reason, fresh })
    }
    const onStop = (): void => end('stopped')
    const refuse = (error: unknown): void => {
      if (!(error instanceof FrameError)) {
        ended.reject(error)
        return end('failed')
      }
      try {
        reading.report({ kind: 'rejected', reason: error.message })
      } catch (thrown) {
        ended.reject(thrown)
      }
      // The device may have gone already; the text is for its own log.
      if (stream.writable) send({ type: 'error', reason: error.message })
      end(`refused: ${error.message}`)
    }
    const take = (frame: Frame): void => {
      if (own === undefined) {
        own = greet(frame, send, reading)
        channel = own
        reading.report({ kind: 'connected' })
      } else if (frame.type === 'block') {
        fresh = takeBlock(frame, own) || fresh
      } else if (frame.type === 'error') {
        end(`the device reports: ${frame.reason}`)
      } else if (frame.type !== 'keepalive') {
        throw new FrameError(`${frame.type.toUpperCase()} is not for the driver, or came twice`)
      }
    }
    const onData = (chunk: Buffer): void => {
      heardMs = clock.monotonicMs()
      try {
        for (const frame of decoder.push(chunk)) {
          if (!over.signal.aborted) take(frame)
          else if (frame.type === 'block') frame.key.wipe()
        }
      } catch (error) {
        refuse(error)
      }
    }
    const watch = async (): Promise<void> => {
      for (;;) {
        await clock.sleep(idleTimeoutMs / 3, over.signal)
        if (over.signal.aborted) return
        if (clock.monotonicMs() - heardMs >= idleTimeoutMs) return end(`the device said nothing for ${idleTimeoutMs} ms`)
        if (own) send({ type: 'keepalive' })
      }
    }

    stream.on('data', onData)
    stream.on('end', () => end('the device closed the connection'))
    stream.on('error', (error) => end(`connection lost: ${error.message}`))
    stream.on('close', () => end('connection lost'))
    signal.addEventListener('abort', onStop)
    void watch()
    return ended.promise
  }

  /** Answers the device's HELLO and opens the first credit. */
  const greet = (frame: Frame, send: (frame: Frame) => void, reading: Reading): Channel => {
    if (frame.type !== 'hello') {
      if (frame.type === 'block') frame.key.wipe()
      throw new FrameError(`${frame.type.toUpperCase()} came before HELLO`)
    }
    requireSameLink(frame, linkId)
    if (frame.runId !== run.id) run = { id: frame.runId, newest: 0, open: new Set() }
    const resumeFrom = Math.min(run.newest + 1, ...run.open)
    send({ type: 'hello', runId: run.id, linkName: linkId, name: 'OpenKME', resumeFrom })
    const opened: Channel = { run, firstNew: frame.resumeFrom, lastSequence: 0, credit: 0, send, reading }
    giveCredit(opened)
    return opened
  }

  const giveCredit = (to: Channel): void => {
    const blocks = creditBlocks - to.reading.held.size - to.credit
    if (blocks <= 0) return
    to.credit += blocks
    to.send({ type: 'credit', blocks })
  }

  /** @returns whether the block was not known before. */
  const takeBlock = (frame: BlockFrame, from: Channel): boolean => {
    const { sequence } = frame
    const of = from.run
    // A replay may skip what an earlier process acknowledged; what was never sent before has no gaps.
    const highest = Math.max(of.newest + 1, from.firstNew)
    if (from.credit === 0 || sequence <= from.lastSequence || sequence > highest) {
      frame.key.wipe()
      throw new FrameError(from.credit === 0 ? 'more blocks than credit' : `block out of sequence: ${sequence}`)
    }
    from.credit -= 1
    from.lastSequence = sequence
    const fresh = sequence > of.newest
    const acknowledged = !fresh && !of.open.has(sequence)
    const name = `${of.id} ${sequence}`
    if (acknowledged || from.reading.held.has(name)) {
      frame.key.wipe()
      if (acknowledged) from.send({ type: 'ack', sequence })
      giveCredit(from)
      return false
    }
    if (fresh) of.newest = sequence
    of.open.add(sequence)
    from.reading.held.add(name)
    from.reading.waiting.push({
      deviceBlock: frame.deviceBlock,
      qber: frame.qber,
      key: frame.key,
      acknowledge: () => {
        from.reading.held.delete(name)
        const firstTime = of.open.delete(sequence)
        if (channel === undefined) return
        if (firstTime && channel.run === of) channel.send({ type: 'ack', sequence })
        giveCredit(channel)
      },
    })
    from.reading.wake()
    return fresh
  }

  return { blocks }
}

const requireSameLink = (hello: HelloFrame, linkId: LinkId): void => {
  if (hello.linkName !== '' && hello.linkName !== linkId) {
    throw new FrameError(`the device is on link "${hello.linkName}", not on "${linkId}"`)
  }
}

/** Doubles from 100 ms to 10 s; half of it is drawn, so that many links do not come back in step. */
const reconnectDelayMs = (failures: number, random: Random): number => {
  const wholeMs = Math.min(RECONNECT_MAX_MS, RECONNECT_FIRST_MS * 2 ** Math.min(failures, 16))
  return (wholeMs / 2) * (1 + drawUniform(random))
}
