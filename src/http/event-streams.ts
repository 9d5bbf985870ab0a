/** Server-sent events (WHATWG HTML, 9.2) for those who watch something change. Each stream holds a connection for as long
 *  as it likes, so all of them are bounded: how many there are, how long one lives, and how much one may leave unread. */
import type { ServerResponse } from 'node:http'
import type { Clock } from '../kernel/clock.ts'
import { Unavailable } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'

/** Says the present state at once and then each change; returns what ends that. */
export type Subscribe = (send: (event: string, json: string) => void) => () => void

export interface EventStreams {
  /** Answers with a stream until the reader goes, is too slow, `endsAtMs` (since 1970) comes, or `end` is called.
   *  @throws Unavailable when there are too many, or `end` was called. */
  open(res: ServerResponse, subscribe: Subscribe, endsAtMs: number): void
  /** Ends all streams; no more are opened. */
  end(): void
}

export interface EventStreamsOptions {
  readonly clock: Clock
  readonly log: Logger
  /** 64 if left out. */
  readonly streamsMax?: number
}

const STREAMS_MAX = 64
/** Something must flow, or proxies and readers take the connection for dead. */
const HEARTBEAT_MS = 15_000
/** A reader that has left this much unread will not catch up. */
const UNREAD_BYTES_MAX = 256 * 1024
const RECONNECT_MS = 2000
const RETRY_TOO_MANY_S = 10

export const createEventStreams = (options: EventStreamsOptions): EventStreams => {
  const { clock, log, streamsMax = STREAMS_MAX } = options
  const open = new Set<() => void>()
  let ended = false

  return {
    open: (res, subscribe, endsAtMs) => {
      // Whoever left before this says nothing any more, and would never free its place.
      if (res.closed || res.destroyed) return
      if (ended || open.size >= streamsMax) throw new Unavailable(RETRY_TOO_MANY_S)
      const over = new AbortController()
      const finish = (): void => {
        open.delete(finish)
        over.abort()
        unsubscribe()
        res.end()
      }
      const write = (text: string): void => {
        if (over.signal.aborted) return
        res.write(text)
        if (res.writableLength <= UNREAD_BYTES_MAX) return
        log.info({ unreadBytes: res.writableLength }, 'a reader of events is too slow; its stream ends')
        finish()
        // What it did not read so far would keep the connection open.
        res.destroy()
      }
      open.add(finish)
      res.on('close', finish)
      res.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
      let unsubscribe = (): void => undefined
      write(`retry: ${RECONNECT_MS}\n\n`)
      unsubscribe = subscribe((event, json) => write(`event: ${event}\ndata: ${json}\n\n`))
      if (over.signal.aborted) unsubscribe()

      const beat = async (): Promise<void> => {
        while (!over.signal.aborted) {
          const leftMs = endsAtMs - clock.nowMs()
          if (leftMs <= 0) return finish()
          await clock.sleep(Math.min(HEARTBEAT_MS, leftMs), over.signal)
          write(': still here\n\n')
        }
      }
      void beat()
    },
    end: () => {
      ended = true
      for (const finish of [...open]) finish()
    },
  }
}
