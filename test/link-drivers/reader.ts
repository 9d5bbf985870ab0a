/** Reads a link driver the way a supervisor does and keeps what tests compare. */
import type { DriverEvent, KeyBlock, LinkDriver } from '../../src/link/link.ts'

export interface Reader {
  readonly events: DriverEvent[]
  /** The next block; rejects when the driver ends instead. */
  next(): Promise<KeyBlock>
  /** Aborts, and resolves when the driver has ended. */
  stop(): Promise<void>
}

export const read = (driver: LinkDriver): Reader => {
  const abort = new AbortController()
  const events: DriverEvent[] = []
  const iterator = driver.blocks(abort.signal, (event) => events.push(event))[Symbol.asyncIterator]()
  return {
    events,
    next: async () => {
      const result = await iterator.next()
      if (result.done) throw new Error('the driver ended')
      return result.value
    },
    stop: async () => {
      abort.abort()
      await iterator.return?.()
    },
  }
}

/** What a block says, comparable; the key is read, then wiped. */
export const describeBlock = (block: KeyBlock): { id: string; qber: number | undefined; key: string } => {
  const key = block.key.use((bytes) => bytes.toString('hex'))
  block.key.wipe()
  return { id: block.deviceBlock, qber: block.qber, key }
}

/** Pulls and acknowledges. */
export const takeBlocks = async (reader: Reader, count: number): Promise<ReturnType<typeof describeBlock>[]> => {
  const taken = []
  while (taken.length < count) {
    const block = await reader.next()
    taken.push(describeBlock(block))
    block.acknowledge()
  }
  return taken
}
