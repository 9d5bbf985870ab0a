/** Tells webhooks of alarms: one POST per notice, signed as the Standard Webhooks specification has it, so that receivers can check
 *  it with ready-made libraries. A notice is sent until it is accepted, so it may arrive twice under the same ID.
 *  Holds: the receiver's certificate is always verified, no redirect is followed, and of several processes one sends. */
import { createHmac } from 'node:crypto'
import { Pool } from 'undici'
import { waitAfter } from '../kernel/back-off.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import type { Random } from '../kernel/random.ts'
import type { SecretBytes } from '../kernel/secret-bytes.ts'
import type { AlarmNotice, AlarmStore } from './prisma-alarms.ts'

export interface Webhook {
  /** https, no query. */
  readonly url: string
  /** Key of the signature; wiped when sending ends. */
  readonly secret: SecretBytes
  /** Authorities the receiver's certificate may come from; those of Node.js where left out. */
  readonly caPem?: string
}

export interface NoticeSenderParts {
  readonly store: Pick<AlarmStore, 'takeDue' | 'accepted' | 'failed'>
  readonly webhooks: readonly Webhook[]
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
}

export interface NoticeSender extends AsyncDisposable {
  /** Sends what is due until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}

const DEADLINE_MS = 5000
/** Longer than a send can take, and time for a slow commit. */
const LEASE_MS = 20_000
const FIRST_PAUSE_MS = 1000
const LONGEST_PAUSE_MS = 600_000
const POLL_INTERVAL_MS = 1000
const ANSWER_BYTES_MAX = 65_536

export const createNoticeSender = (parts: NoticeSenderParts): NoticeSender => {
  const { clock, random, log, store } = parts
  const receivers = parts.webhooks.map((webhook) => ({ webhook, pool: connect(webhook) }))

  const send = async (pool: Pool, { url, secret }: Webhook, { id, body }: AlarmNotice, signal: AbortSignal): Promise<void> => {
    const timestamp = String(Math.floor(clock.nowMs() / 1000))
    const late = new AbortController()
    const finished = new AbortController()
    void clock.sleep(DEADLINE_MS, finished.signal).then(() => late.abort(new Error(`no answer within ${DEADLINE_MS} ms`)))
    const stop = AbortSignal.any([signal, late.signal])
    try {
      const response = await pool.request({
        path: new URL(url).pathname,
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'webhook-id': id,
          'webhook-timestamp': timestamp,
          'webhook-signature': `v1,${sign(secret, `${id}.${timestamp}.${body}`)}`,
        },
        body,
        signal: stop,
      })
      await response.body.dump({ limit: ANSWER_BYTES_MAX, signal: stop })
      if (response.statusCode < 200 || response.statusCode > 299) throw new Error(`answered ${response.statusCode}`)
    } finally {
      finished.abort()
    }
  }

  const deliver = async (pool: Pool, webhook: Webhook, notice: AlarmNotice, signal: AbortSignal): Promise<void> => {
    try {
      await send(pool, webhook, notice, signal)
    } catch (error) {
      const pauseMs = waitAfter(notice.attempts, { firstMs: FIRST_PAUSE_MS, longestMs: LONGEST_PAUSE_MS, random })
      const reason = (error as { code?: string }).code ?? (error as Error).message
      log.warn({ webhook: webhook.url, notice: notice.id, attempts: notice.attempts, pauseMs, reason }, 'a webhook failed')
      return store.failed(notice, pauseMs)
    }
    await store.accepted(notice)
  }

  const serve = async ({ webhook, pool }: (typeof receivers)[number], signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      try {
        const notices = await store.takeDue(webhook.url, LEASE_MS)
        await Promise.all(notices.map((notice) => deliver(pool, webhook, notice, signal)))
        // There may be more, now that these are out of the way.
        if (notices.length > 0) continue
      } catch (error) {
        log.debug({ webhook: webhook.url, error }, 'notices could not be read or marked; trying again')
      }
      await clock.sleep(POLL_INTERVAL_MS, signal)
    }
  }

  return {
    run: async (signal) => {
      await Promise.all(receivers.map((receiver) => serve(receiver, signal)))
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(receivers.map(({ pool }) => pool.destroy()))
      for (const { webhook } of receivers) webhook.secret.wipe()
    },
  }
}

const connect = ({ url, caPem }: Webhook): Pool =>
  new Pool(new URL(url).origin, {
    connections: 4,
    pipelining: 1,
    headersTimeout: DEADLINE_MS,
    bodyTimeout: DEADLINE_MS,
    connect: {
      timeout: DEADLINE_MS,
      minVersion: 'TLSv1.2',
      // Also against NODE_TLS_REJECT_UNAUTHORIZED=0.
      rejectUnauthorized: true,
      ...(caPem !== undefined && { ca: caPem }),
    },
  })

const sign = (secret: SecretBytes, text: string): string =>
  secret.use((key) => createHmac('sha256', key).update(text).digest('base64'))
