/** One connection between the two stations of a link: both say HELLO, then each block has a conversation of its own, and
 *  several run at a time.
 *  Holds: messages of a block arrive in the order they were sent; a connection on which no whole message is heard for long, on which
 *  an answer is not given, on which too much waits unread, on which messages were lost or added, or on which something comes that has
 *  no place there, ends, and with it every conversation. */
import type { Duplex } from 'node:stream'
import type { Clock } from '../../../kernel/clock.ts'
import { createMessageDecoder, encodeMessage, WireError, type ClassicalMessage, type MessageType } from './classical-wire.ts'

/** The connection is over; the link starts a new one. */
export class SessionEnded extends Error {
  override readonly name = 'SessionEnded'
}

/** The two queues of a block; block-conversation.ts authenticates what goes through. */
export interface BlockChannel {
  readonly block: number
  /** @returns the message as sent. @throws SessionEnded. */
  send(type: MessageType, payload: Uint8Array): Promise<Buffer>
  /** @throws SessionEnded, also when it is not of that type. */
  receive(type: MessageType): Promise<ClassicalMessage>
  /** The block is over at this end: its messages are of no interest any more. */
  close(): void
}

export interface ClassicalSession {
  readonly ownHello: Buffer
  readonly peerHello: Buffer
  /** Alice: opens the conversation about a block. */
  open(block: number): BlockChannel
  /** Bob: the conversation Alice opens next. @throws SessionEnded. */
  opened(): Promise<BlockChannel>
  /** Resolves with the reason when the connection is over. */
  readonly ended: Promise<string>
  end(reason: string): void
}

export interface ClassicalSessionOptions {
  readonly stream: Duplex
  readonly hello: Buffer
  readonly clock: Clock
  /** The connection ends when no message is heard for so long; three times as often something is said. */
  readonly idleTimeoutMs: number
  /** The connection ends when the other end owes a message of a block for so long: it lives, but the message was lost. */
  readonly answerTimeoutMs: number
  readonly signal: AbortSignal
}

/** Nobody reads so much later than it came. */
const UNREAD_BYTES_MAX = 256 * 1024 * 1024
const UNSENT_BYTES_MAX = 4 * 1024 * 1024

interface Waiting {
  readonly messages: ClassicalMessage[]
  wake: (() => void) | undefined
  /** Since when the other end owes a message. */
  owedSinceMs: number | undefined
}

const newWaiting = (): Waiting => ({ messages: [], wake: undefined, owedSinceMs: undefined })

/** @throws SessionEnded when the other end does not say HELLO. */
export const openClassicalSession = async (options: ClassicalSessionOptions): Promise<ClassicalSession> => {
  const { stream, hello, clock, idleTimeoutMs, answerTimeoutMs, signal } = options
  const over = new AbortController()
  const ended = Promise.withResolvers<string>()
  const greeted = Promise.withResolvers<Buffer>()
  const channels = new Map<number, Waiting>()
  const newBlocks: number[] = []
  let newestBlock = 0
  let wakeAcceptor: (() => void) | undefined
  let endReason = ''
  let heardMs = clock.monotonicMs()
  let heardHello = false
  let unreadBytes = 0
  /** Messages said and heard, KEEPALIVE aside. */
  let said = 0
  let heard = 0
  // When the connection is over before anybody waits for it.
  greeted.promise.catch(() => {})

  const end = (reason: string): void => {
    if (over.signal.aborted) return
    endReason = reason
    over.abort()
    signal.removeEventListener('abort', onStop)
    stream.destroy()
    for (const { wake } of channels.values()) wake?.()
    wakeAcceptor?.()
    greeted.reject(new SessionEnded(reason))
    ended.resolve(reason)
  }
  const onStop = (): void => end('stopped')

  const take = (message: ClassicalMessage): void => {
    const { type, block } = message
    heardMs = clock.monotonicMs()
    if (type === 'keepalive' && block === 0 && heardHello) {
      if (message.payload.length !== 4) throw new WireError('KEEPALIVE is malformed')
      if (message.payload.readUInt32BE(0) !== heard) throw new WireError('messages were lost or added')
      return
    }
    heard = (heard + 1) >>> 0
    if (!heardHello) {
      if (type !== 'hello' || block !== 0) throw new WireError('the other station did not say HELLO first')
      heardHello = true
      greeted.resolve(message.payload)
      return
    }
    if (type === 'hello' || type === 'keepalive' || block === 0) throw new WireError(`${type.toUpperCase()} has no place here`)
    let waiting = channels.get(block)
    if (waiting === undefined) {
      // Both ends may give a block up at the same time, and then say so to an end for which it is over.
      if (block <= newestBlock && type === 'abort') return
      // Blocks are opened in order.
      if (type !== 'block-start' || block !== newestBlock + 1)
        throw new WireError(`${type.toUpperCase()} is of no block under way`)
      newestBlock = block
      waiting = newWaiting()
      channels.set(block, waiting)
      newBlocks.push(block)
      wakeAcceptor?.()
    }
    unreadBytes += message.bytes.length
    if (unreadBytes > UNREAD_BYTES_MAX) throw new WireError('too much came unasked')
    waiting.messages.push(message)
    waiting.wake?.()
  }

  const decoder = createMessageDecoder()
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const message of decoder.push(chunk)) if (!over.signal.aborted) take(message)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      end(`refused: ${error.message}`)
    }
  })
  stream.on('end', () => end('the other station closed the connection'))
  stream.on('error', (error: Error) => end(`connection lost: ${error.message}`))
  stream.on('close', () => end('connection lost'))
  signal.addEventListener('abort', onStop)
  if (signal.aborted) onStop()

  const write = async (bytes: Buffer): Promise<void> => {
    if (over.signal.aborted) throw new SessionEnded(endReason)
    said = (said + 1) >>> 0
    stream.write(bytes)
    while (stream.writableLength > UNSENT_BYTES_MAX && !over.signal.aborted) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          stream.off('drain', done)
          over.signal.removeEventListener('abort', done)
          resolve()
        }
        stream.on('drain', done)
        over.signal.addEventListener('abort', done)
      })
    }
  }

  const keepAlive = async (): Promise<void> => {
    while (!over.signal.aborted) {
      await clock.sleep(idleTimeoutMs / 3, over.signal)
      if (over.signal.aborted) return
      const nowMs = clock.monotonicMs()
      if (nowMs - heardMs >= idleTimeoutMs) return end(`the other station said nothing for ${idleTimeoutMs} ms`)
      for (const [block, { owedSinceMs }] of channels) {
        if (nowMs - (owedSinceMs ?? nowMs) < answerTimeoutMs) continue
        return end(`the other station owes a message of block ${block} for ${answerTimeoutMs} ms`)
      }
      const count = Buffer.alloc(4)
      count.writeUInt32BE(said)
      if (heardHello) stream.write(encodeMessage('keepalive', 0, count))
    }
  }

  const channelOf = (block: number, waiting: Waiting): BlockChannel => ({
    block,
    send: async (type, payload) => {
      const bytes = encodeMessage(type, block, payload)
      await write(bytes)
      return bytes
    },
    receive: async (type) => {
      let message = waiting.messages.shift()
      // Bob accepts a block when he has room for it, which may be never.
      if (type !== 'block-accept') waiting.owedSinceMs = clock.monotonicMs()
      while (message === undefined) {
        if (over.signal.aborted) throw new SessionEnded(endReason)
        await new Promise<void>((resolve) => (waiting.wake = resolve))
        waiting.wake = undefined
        message = waiting.messages.shift()
      }
      waiting.owedSinceMs = undefined
      unreadBytes -= message.bytes.length
      if (message.type === type) return message
      const reason =
        message.type === 'abort'
          ? `the other station gave the block up: ${printable(message.payload)}`
          : `${message.type.toUpperCase()} came where ${type.toUpperCase()} was due`
      end(reason)
      throw new SessionEnded(reason)
    },
    close: () => {
      for (const message of waiting.messages) unreadBytes -= message.bytes.length
      channels.delete(block)
    },
  })

  await write(encodeMessage('hello', 0, hello))
  void keepAlive()
  const peerHello = await greeted.promise

  return {
    ownHello: hello,
    peerHello,
    open: (block) => {
      newestBlock = block
      const waiting = newWaiting()
      channels.set(block, waiting)
      return channelOf(block, waiting)
    },
    opened: async () => {
      for (;;) {
        if (over.signal.aborted) throw new SessionEnded(endReason)
        const block = newBlocks.shift()
        if (block !== undefined) return channelOf(block, channels.get(block) as Waiting)
        await new Promise<void>((resolve) => (wakeAcceptor = resolve))
        wakeAcceptor = undefined
      }
    },
    ended: ended.promise,
    end,
  }
}

/** A text of the other end, for a log: short and without control characters. */
const printable = (bytes: Buffer): string =>
  bytes
    .subarray(0, 200)
    .toString('latin1')
    .replace(/[^\x20-\x7e]/g, '?')
