/** What every authentication ledger must do. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { AuthenticationKeyRefused, type AuthenticationLedger } from '../../src/link/authentication-ledger.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'

export interface LedgerWorld {
  /** A ledger of the link with nothing in it. */
  readonly ledger: AuthenticationLedger
  /** The same ledger as another process of the KME, or this one after a restart, opens it. */
  another(): Promise<AuthenticationLedger>
  close(): Promise<void>
}

/** Bytes that tell their place: no two stretches of 2 bytes or more are the same. */
export const segmentBytes = (salt: number, sizeBytes: number): Buffer =>
  Buffer.from(Array.from({ length: sizeBytes }, (_, i) => ((i & 1) === 0 ? (i >> 1) & 0xff : ((i >> 9) * 16 + salt) & 0xff)))

export const segment = (salt: number, sizeBytes: number): SecretBytes => SecretBytes.take(segmentBytes(salt, sizeBytes))

/** The bytes, which are wiped where they came from. */
export const read = async (secret: Promise<SecretBytes>): Promise<Buffer> => {
  using own = await secret
  return own.use((bytes) => Buffer.from(bytes))
}

export const refusal = async (secret: Promise<SecretBytes>): Promise<string> => {
  try {
    ;(await secret).wipe()
    return 'not refused'
  } catch (error) {
    if (error instanceof AuthenticationKeyRefused) return error.reason
    throw error
  }
}

export const describeAuthenticationLedger = (name: string, open: () => Promise<LedgerWorld>): void => {
  describe(`${name}, an authentication ledger`, () => {
    let world: LedgerWorld
    let ledger: AuthenticationLedger

    beforeEach(async () => {
      world = await open()
      ledger = world.ledger
    })
    afterEach(() => world?.close())

    it('begins empty', async () => {
      expect(await ledger.segments()).toEqual([])
      expect(await ledger.figures()).toEqual({ consumedBits: 0, replenishedBits: 0, remainingBits: 0, discardedBits: 0 })
      expect(await refusal(ledger.reserve('none', 16, 16))).toBe('unknown')
      expect(await refusal(ledger.hashKey('none'))).toBe('unknown')
    })

    it('hands out the hash key of a segment again and again, and its pads once', async () => {
      const bytes = segmentBytes(1, 80)
      const given = segment(1, 80)
      expect(await ledger.add('one', given)).toBe('added')
      expect(() => given.use(() => undefined)).toThrow('wiped')
      expect(await ledger.segments()).toEqual([{ segmentId: 'one', sizeBytes: 80, usedBytes: 16 }])
      for (let time = 0; time < 2; time += 1) expect(await read(ledger.hashKey('one'))).toEqual(bytes.subarray(0, 16))
      expect(await read(ledger.reserve('one', 16, 16))).toEqual(bytes.subarray(16, 32))
      expect(await read(ledger.reserve('one', 32, 32))).toEqual(bytes.subarray(32, 64))
      expect(await refusal(ledger.reserve('one', 16, 16))).toBe('used')
      expect(await refusal(ledger.reserve('one', 63, 16))).toBe('used')
      expect(await ledger.segments()).toEqual([{ segmentId: 'one', sizeBytes: 80, usedBytes: 64 }])
    })

    it('never hands out the hash key as a pad', async () => {
      await ledger.add('one', segment(1, 80))
      for (const fromByte of [0, 15, -16, 16.5]) await expect(ledger.reserve('one', fromByte, 16)).rejects.toThrow(RangeError)
      for (const lengthBytes of [0, -1, 1.5]) await expect(ledger.reserve('one', 16, lengthBytes)).rejects.toThrow(RangeError)
      expect((await ledger.figures()).consumedBits).toBe(0)
    })

    it('counts what the other end has used as used', async () => {
      const bytes = segmentBytes(1, 80)
      await ledger.add('one', segment(1, 80))
      expect(await read(ledger.reserve('one', 40, 16))).toEqual(bytes.subarray(40, 56))
      expect(await refusal(ledger.reserve('one', 16, 16))).toBe('used')
      expect(await ledger.figures()).toEqual({
        consumedBits: 8 * 16,
        replenishedBits: 8 * 80,
        remainingBits: 8 * 24,
        discardedBits: 8 * (16 + 24),
      })
    })

    it('says when a segment is used up, and marks nothing then', async () => {
      await ledger.add('one', segment(1, 40))
      for (const [fromByte, lengthBytes] of [
        [16, 25],
        [33, 8],
        [40, 1],
        [2 ** 33, 1],
        [16, 2 ** 33],
      ] as const) {
        expect(await refusal(ledger.reserve('one', fromByte, lengthBytes))).toBe('exhausted')
      }
      expect(await ledger.segments()).toEqual([{ segmentId: 'one', sizeBytes: 40, usedBytes: 16 }])
      await read(ledger.reserve('one', 16, 24))
      expect(await ledger.segments()).toEqual([])
      expect(await refusal(ledger.reserve('one', 40, 1))).toBe('exhausted')
      expect((await ledger.figures()).remainingBits).toBe(0)
    })

    it('lists segments oldest first, and keeps them apart', async () => {
      for (const [i, segmentId] of ['c', 'a', 'b'].entries()) await ledger.add(segmentId, segment(i, 48))
      expect((await ledger.segments()).map(({ segmentId }) => segmentId)).toEqual(['c', 'a', 'b'])
      expect(await read(ledger.reserve('a', 16, 8))).toEqual(segmentBytes(1, 48).subarray(16, 24))
      expect(await read(ledger.hashKey('b'))).toEqual(segmentBytes(2, 48).subarray(0, 16))
    })

    it('takes a segment of one name once, also after it was used up', async () => {
      await ledger.add('one', segment(1, 32))
      const again = segment(2, 32)
      expect(await ledger.add('one', again)).toBe('known')
      expect(() => again.use(() => undefined)).toThrow('wiped')
      expect(await read(ledger.reserve('one', 16, 16))).toEqual(segmentBytes(1, 32).subarray(16))
      expect(await ledger.add('one', segment(1, 32))).toBe('known')
      expect(await ledger.segments()).toEqual([])
    })

    it('takes no segment without pads', async () => {
      await expect(ledger.add('one', segment(1, 16))).rejects.toThrow(RangeError)
    })

    it('hands out a stretch to one of several processes that want it at the same moment', async () => {
      await ledger.add('one', segment(1, 1024))
      const ledgers = [ledger, await world.another(), await world.another()]
      const wanted = Array.from({ length: 24 }, (_, i) => refusal(ledgers[i % 3]!.reserve('one', 16, 16)))
      const outcomes = await Promise.all(wanted)
      expect(outcomes.filter((outcome) => outcome === 'not refused')).toHaveLength(1)
      expect(outcomes.filter((outcome) => outcome === 'used')).toHaveLength(23)
      expect((await ledger.figures()).consumedBits).toBe(8 * 16)
    })

    it('hands out each byte once to processes that take what they find until there is nothing left', async () => {
      const sizeBytes = 16 + 40 * 16
      await ledger.add('one', segment(1, sizeBytes))
      const stretches: string[] = []
      const takeAll = async (own: AuthenticationLedger): Promise<void> => {
        for (;;) {
          const [next] = await own.segments()
          if (next === undefined) return
          try {
            stretches.push((await read(own.reserve('one', next.usedBytes, 16))).toString('hex'))
          } catch (error) {
            if (!(error instanceof AuthenticationKeyRefused)) throw error
          }
        }
      }
      await Promise.all([ledger, await world.another(), await world.another()].map(takeAll))
      const bytes = segmentBytes(1, sizeBytes)
      const all = Array.from({ length: 40 }, (_, i) => bytes.toString('hex', 16 + 16 * i, 32 + 16 * i))
      expect(stretches.sort()).toEqual(all.sort())
      expect(await ledger.figures()).toEqual({
        consumedBits: 8 * 40 * 16,
        replenishedBits: 8 * sizeBytes,
        remainingBits: 0,
        discardedBits: 8 * 16,
      })
    })

    it('does not hand out again what it handed out before it crashed', async () => {
      await ledger.add('one', segment(1, 64))
      // The pads are lost on the way to their use.
      await read(ledger.reserve('one', 16, 16))
      const restarted = await world.another()
      expect(await restarted.segments()).toEqual([{ segmentId: 'one', sizeBytes: 64, usedBytes: 32 }])
      expect(await refusal(restarted.reserve('one', 16, 16))).toBe('used')
      expect(await read(restarted.reserve('one', 32, 16))).toEqual(segmentBytes(1, 64).subarray(32, 48))
    })

    it('gives up what the other end does not have, and no pad of it is to be had any more', async () => {
      await ledger.add('one', segment(1, 80))
      await ledger.add('two', segment(2, 64))
      await read(ledger.reserve('one', 16, 16))
      await ledger.discard(['one', 'never known'])
      expect(await ledger.segments()).toEqual([{ segmentId: 'two', sizeBytes: 64, usedBytes: 16 }])
      expect(await refusal(ledger.reserve('one', 32, 16))).not.toBe('not refused')
      expect(await ledger.add('one', segment(1, 80))).toBe('known')
      expect(await ledger.figures()).toEqual({
        consumedBits: 16 * 8,
        replenishedBits: 144 * 8,
        remainingBits: 48 * 8,
        discardedBits: 80 * 8,
      })
    })

    it('adds up, whatever is done in whatever order', async () => {
      const name = fc.constantFrom('a', 'b', 'c')
      const action = fc.oneof(
        fc.record({ kind: fc.constant('add' as const), name, bytes: fc.integer({ min: 17, max: 90 }) }),
        fc.record({
          kind: fc.constant('reserve' as const),
          name,
          from: fc.integer({ min: 16, max: 90 }),
          bytes: fc.integer({ min: 1, max: 30 }),
        }),
      )
      // All runs go on with one ledger: the names differ, and the totals grow.
      let run = 0
      const total = { consumed: 0, replenished: 0, discarded: 0 }
      await fc.assert(
        fc.asyncProperty(fc.array(action, { minLength: 3, maxLength: 20 }), async (actions) => {
          run += 1
          const left = new Map<string, { size: number; used: number }>()
          const known = new Set<string>()
          for (const each of actions) {
            const segmentId = `${each.name}${run}`
            const own = left.get(segmentId)
            if (each.kind === 'add') {
              expect(await ledger.add(segmentId, segment(1, each.bytes))).toBe(known.has(segmentId) ? 'known' : 'added')
              if (known.has(segmentId)) continue
              known.add(segmentId)
              left.set(segmentId, { size: each.bytes, used: 16 })
              total.replenished += each.bytes
              total.discarded += 16
            } else {
              const fits = own !== undefined && own.used <= each.from && each.from + each.bytes <= own.size
              const outcome = await refusal(ledger.reserve(segmentId, each.from, each.bytes))
              expect(outcome === 'not refused').toBe(fits)
              if (!fits) continue
              total.discarded += each.from - own.used
              total.consumed += each.bytes
              own.used = each.from + each.bytes
            }
          }
          const remaining = [...left.values()].reduce((sum, { size, used }) => sum + size - used, 0)
          const figures = await ledger.figures()
          expect(figures).toEqual({
            consumedBits: 8 * total.consumed,
            replenishedBits: 8 * total.replenished,
            discardedBits: 8 * total.discarded,
            remainingBits: 8 * remaining,
          })
          const listed = (await ledger.segments()).reduce((sum, { sizeBytes, usedBytes }) => sum + sizeBytes - usedBytes, 0)
          expect(8 * listed).toBe(figures.remainingBits)
          for (const [segmentId, { size, used }] of left)
            if (used < size) await read(ledger.reserve(segmentId, used, size - used))
          total.consumed += remaining
        }),
        { numRuns: 25, endOnFailure: true },
      )
    })
  })
}
