/** What a station gathered for a block is zeroed however the block ends: made, given up, or never begun because an earlier one failed. */
import { describe, expect, it } from '@jest/globals'
import type { BlockConversation } from '../../src/link/drivers/bb84/block-conversation.ts'
import { SessionEnded } from '../../src/link/drivers/bb84/classical-session.ts'
import { NoKey } from '../../src/link/drivers/bb84/distil.ts'
import { runBlocks, type GatheredBlock } from '../../src/link/drivers/bb84/run-blocks.ts'
import type { DistilledBlock, StationSession } from '../../src/link/drivers/bb84/station.ts'

type Ending = Partial<Pick<GatheredBlock, 'authenticate' | 'distil'>>

const never = new Promise<never>(() => {})
const distilled = { key: new Uint8Array(8) } as unknown as DistilledBlock

/** Runs blocks that end in these ways, one after the other, until the session ends. @returns which were wiped, and which closed. */
const run = async (endings: readonly Ending[]): Promise<{ wiped: number[]; closed: number[]; reason: unknown }> => {
  const [wiped, closed]: [number[], number[]] = [[], []]
  const stop = new AbortController()
  const gather = (block: number, ending: Ending): GatheredBlock => ({
    conversation: {
      send: () => Promise.resolve(),
      close: () => void closed.push(block),
    } as unknown as BlockConversation,
    authenticate: () => Promise.resolve(),
    distil: () => Promise.resolve(distilled),
    wipe: () => void wiped.push(block),
    ...ending,
  })
  const reason: unknown = await runBlocks(
    {
      session: { classical: { ended: never, end: () => {} }, dropStrays: () => Promise.resolve() } as unknown as StationSession,
      photons: { ended: never, close: () => {} },
      report: () => {},
      deliver: () => {},
      next: async (block, over, before) => {
        const ending = endings[block - 1]
        if (ending !== undefined) return gather(block, ending)
        await before
        if (!over.aborted) stop.abort()
        throw new SessionEnded('stopped')
      },
    },
    stop.signal,
  ).catch((error: unknown) => error)
  return { wiped: wiped.sort(), closed: closed.sort(), reason }
}

describe('what was gathered for a block', () => {
  it('is zeroed when the block is made, and when it gives no key', async () => {
    const { wiped, closed } = await run([{}, { distil: () => Promise.reject(new NoKey('noise', 0.2)) }, {}])
    expect(wiped).toEqual([1, 2, 3])
    expect(closed).toEqual([1, 2, 3])
  })

  it('is zeroed when there is no authentication key for it', async () => {
    const { wiped, reason } = await run([{}, { authenticate: () => Promise.reject(new SessionEnded('no pads')) }])
    expect(reason).toMatchObject({ message: 'no pads' })
    expect(wiped).toEqual([1, 2])
  })

  it('is zeroed when it waits for its turn and an earlier block fails', async () => {
    const fails = Promise.withResolvers<DistilledBlock>()
    const waits: Ending = { distil: () => fails.promise }
    setImmediate(() => fails.reject(new SessionEnded('cut')))
    const { wiped, closed, reason } = await run([waits, waits, waits, {}, {}])
    expect(reason).toMatchObject({ message: 'cut' })
    expect(wiped).toEqual([1, 2, 3, 4])
    expect(closed).toEqual([1, 2, 3, 4])
  })
})
