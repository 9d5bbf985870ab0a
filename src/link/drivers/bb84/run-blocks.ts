/** The order of work of a station: one block gathers clicks while those before it are distilled. Distilling waits for the other end some
 *  hundred times, so several blocks at it share the waiting.
 *  Holds: blocks take authentication key in their order and come out in their order. */
import type { BlockConversation } from './block-conversation.ts'
import { SessionEnded } from './classical-session.ts'
import { NoKey } from './distil.ts'
import type { DistilledBlock, StationParts, StationSession } from './station.ts'

/** On a short way more gain nothing; on a long one larger blocks gain as much. */
const DISTILLED_AT_ONCE_MAX = 3

export interface GatheredBlock {
  readonly conversation: BlockConversation
  /** Takes the key of the block's tags. */
  readonly authenticate: () => Promise<void>
  /** @throws NoKey when the block is over without a key and the link goes on. */
  readonly distil: () => Promise<DistilledBlock>
  /** Zeroes the values that were gathered. */
  readonly wipe: () => void
}

export interface RunBlocksParts extends Pick<StationParts, 'report' | 'deliver'> {
  readonly session: StationSession
  readonly photons: { readonly ended: Promise<string>; close(): void }
  /** Gathers the next block. @param before resolves when those before it are over. */
  readonly next: (block: number, over: AbortSignal, before: Promise<void>) => Promise<GatheredBlock>
}

/** Runs until the session ends, for whatever reason. @throws what ended it. */
export const runBlocks = async (parts: RunBlocksParts, signal: AbortSignal): Promise<void> => {
  const { classical } = parts.session
  const over = new AbortController()
  const failed = Promise.withResolvers<never>()
  const fail = (error: unknown): void => {
    over.abort()
    failed.reject(error)
  }
  failed.promise.catch(() => {})
  void classical.ended.then((reason) => fail(new SessionEnded(reason)))
  void parts.photons.ended.then((reason) => fail(new SessionEnded(`quantum channel: ${reason}`)))

  const distil = async (
    { conversation, distil: distilBlock, wipe }: GatheredBlock,
    authenticated: Promise<void>,
    before: Promise<void>,
  ): Promise<void> => {
    let block: DistilledBlock | undefined
    try {
      await authenticated
      block = await distilBlock()
      await before
      parts.deliver(block)
      block = undefined
      await parts.session.dropStrays()
    } catch (error) {
      block?.key.fill(0)
      if (!(error instanceof NoKey)) throw error
      // The other end comes to the same end by itself; if it does not, it must not wait.
      await conversation.send('abort', Buffer.from(error.message.slice(0, 200), 'latin1'))
      await before
      parts.report({ kind: 'no-key', reason: error.message, qber: error.qber })
    } finally {
      wipe()
      conversation.close()
    }
  }

  const work = async (): Promise<void> => {
    let authenticated = Promise.resolve()
    /** Oldest first; each is over after those before it. */
    const distilling: Promise<void>[] = []
    try {
      for (let block = 1; !over.signal.aborted; block += 1) {
        const before = distilling.at(-1) ?? Promise.resolve()
        const gathered = await parts.next(block, over.signal, before)
        try {
          if (distilling.length === DISTILLED_AT_ONCE_MAX) await distilling.shift()
        } catch (error) {
          gathered.wipe()
          gathered.conversation.close()
          throw error
        }
        authenticated = authenticated.then(gathered.authenticate)
        const ending = distil(gathered, authenticated, before)
        ending.catch(fail)
        distilling.push(ending)
      }
    } catch (error) {
      fail(error)
    }
    await Promise.allSettled(distilling)
  }

  const stopped = Promise.withResolvers<void>()
  const onStop = (): void => stopped.resolve()
  signal.addEventListener('abort', onStop)
  if (signal.aborted) onStop()
  parts.report({ kind: 'connected' })
  const working = work()
  try {
    await Promise.race([failed.promise, stopped.promise])
  } finally {
    // A signal with a listener is kept for good, and with it all that the session held.
    signal.removeEventListener('abort', onStop)
    over.abort()
    classical.end(signal.aborted ? 'stopped' : 'the session is over')
    parts.photons.close()
    await working
  }
}
