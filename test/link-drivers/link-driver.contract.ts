/** What every link driver must do, whatever device is behind it. A driver's test file calls `describeLinkDriver`. */
import { afterEach, describe, expect, it } from '@jest/globals'
import type { KeyBlock, LinkDriver } from '../../src/link/link.ts'
import { eventually } from '../setup/eventually.ts'
import { describeBlock, read, takeBlocks } from './reader.ts'
import type { Reader } from './reader.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

/** A link with a driver at each end and a device that keeps producing blocks without loss or corruption. */
export interface LinkRig {
  readonly a: LinkDriver
  readonly b: LinkDriver
  /** Blocks the devices have produced so far. */
  produced(): number
  /** Cuts both drivers off from their devices; the devices live on. */
  dropConnections(): void
  stop(): Promise<void>
}

export interface RigOptions {
  /** The most blocks a driver may hold unacknowledged. */
  readonly windowBlocks: number
}

export const describeLinkDriver = (name: string, setup: (options: RigOptions) => Promise<LinkRig>): void => {
  describe(`link driver: ${name}`, () => {
    const cleanUps: (() => Promise<void>)[] = []
    const rigWith = async (windowBlocks: number): Promise<LinkRig> => {
      const rig = await setup({ windowBlocks })
      cleanUps.unshift(() => rig.stop())
      return rig
    }
    const reading = (driver: LinkDriver): Reader => {
      const reader = read(driver)
      cleanUps.unshift(() => reader.stop())
      return reader
    }
    afterEach(async () => {
      for (const cleanUp of cleanUps.splice(0)) await cleanUp()
    })

    it('delivers the same blocks in the same order at both ends', async () => {
      const rig = await rigWith(4)
      const [a, b] = await Promise.all([takeBlocks(reading(rig.a), 25), takeBlocks(reading(rig.b), 25)])
      expect(a).toEqual(b)
      expect(new Set(a.map((block) => block.id)).size).toBe(25)
      expect(new Set(a.map((block) => block.key)).size).toBe(25)
    })

    it('names blocks in printable ASCII and gives a QBER between 0 and 1 or none', async () => {
      const rig = await rigWith(4)
      for (const block of await takeBlocks(reading(rig.a), 5)) {
        expect(block.id).toMatch(/^[\x20-\x7e]{1,64}$/)
        expect(block.qber ?? 0).toBeGreaterThanOrEqual(0)
        expect(block.qber ?? 0).toBeLessThanOrEqual(1)
      }
    })

    it('reports that it is connected before the first block', async () => {
      const rig = await rigWith(2)
      const reader = reading(rig.a)
      await reader.next()
      expect(reader.events).toEqual([{ kind: 'connected' }])
    })

    it('delivers no more than its window until a block is acknowledged', async () => {
      const rig = await rigWith(3)
      const reader = reading(rig.a)
      const first = await reader.next()
      await reader.next()
      await reader.next()
      let arrived = false
      const fourth = reader.next().then((block) => {
        arrived = true
        return block
      })
      await eventually('the device is ahead', () => rig.produced() >= 12)
      expect(arrived).toBe(false)
      first.acknowledge()
      await fourth
    })

    it('goes on after a cut without a double or a gap, acknowledged or not', async () => {
      const rig = await rigWith(4)
      const a = reading(rig.a)
      const b = reading(rig.b)
      const seen = await takeBlocks(a, 3)
      const pending: KeyBlock[] = [await a.next(), await a.next()]
      rig.dropConnections()
      await eventually('the cut is noticed', () => a.events.some((event) => event.kind === 'disconnected'))
      // One is acknowledged while the device is away, one after it is back.
      const [whileAway, whenBack] = pending as [KeyBlock, KeyBlock]
      whileAway.acknowledge()
      seen.push(describeBlock(whileAway), describeBlock(whenBack))
      seen.push(...(await takeBlocks(a, 2)))
      whenBack.acknowledge()
      seen.push(...(await takeBlocks(a, 20)))
      expect(seen).toEqual(await takeBlocks(b, seen.length))
      expect(a.events.map((event) => event.kind)).toEqual(['connected', 'disconnected', 'connected'])
    })

    it('survives cuts at any moment', async () => {
      const rig = await rigWith(5)
      const a = reading(rig.a)
      const b = reading(rig.b)
      const fromA = []
      for (let cut = 0; cut < 4; cut += 1) {
        const taken = takeBlocks(a, 7)
        rig.dropConnections()
        fromA.push(...(await taken))
      }
      expect(fromA).toEqual(await takeBlocks(b, fromA.length))
    })

    it('gives a new reading every block that was not acknowledged, and no other', async () => {
      const rig = await rigWith(6)
      const before = read(rig.a)
      const blocks: KeyBlock[] = []
      for (let count = 0; count < 4; count += 1) blocks.push(await before.next())
      blocks[1]?.acknowledge()
      await before.stop()
      blocks[3]?.acknowledge()
      const again = reading(rig.a)
      const ids = (await takeBlocks(again, 4)).map((block) => block.id)
      const all = (await takeBlocks(reading(rig.b), 6)).map((block) => block.id)
      expect(ids).toEqual([all[0], all[2], all[4], all[5]])
    })

    it('ends promptly when it is told to, also while nothing arrives', async () => {
      const rig = await rigWith(1)
      const reader = read(rig.a)
      await reader.next()
      const waiting = reader.next()
      const ended = expect(waiting).rejects.toThrow('the driver ended')
      const startMs = performance.now()
      await reader.stop()
      await ended
      expect(performance.now() - startMs).toBeLessThan(timeLimitMs(500))
    })

    it('ends at once when it is told to before it starts', async () => {
      const rig = await rigWith(1)
      const blocks = []
      for await (const block of rig.a.blocks(AbortSignal.abort(), () => {})) blocks.push(block)
      expect(blocks).toEqual([])
    })
  })
}
