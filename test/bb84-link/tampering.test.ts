/** Whoever sits in the middle of a BB84 link's classical channel can end a session and make blocks give no key. He cannot make the two
 *  ends hold different keys, have a block he changed delivered at both, have a pad used twice, or keep a session waiting for ever. */
import { duplexPair } from 'node:stream'
import { describe, expect, it } from '@jest/globals'
import { PROFILE_NAMES, profileNamed, type Bb84Profile } from '../../src/bb84/profile.ts'
import { expectedBlock } from '../../src/bb84/expected-rate.ts'
import { keyLength } from '../../src/bb84/key-length.ts'
import { bitAt, decodeClicks, packedBytes } from '../../src/bb84/sifting.ts'
import { encodeMessage, type ClassicalMessage, type MessageType } from '../../src/link/drivers/bb84/classical-wire.ts'
import { decodeAsks, encodeAsks, encodeCounts } from '../../src/link/drivers/bb84/distil.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { flipBits, SAID } from './flipped-bits.ts'
import { CUT, messageTap, type MessageHandler } from './message-tap.ts'
import { ROLES, runSimulatedLink, type Role } from './simulated-link.ts'
import { smallProfile } from './small-profile.ts'
import {
  FAST,
  brokenPromises,
  deliveredByBoth,
  replenishingProfile,
  runTampered,
  watchedLedgers,
  withPayload,
  type Ledgers,
  type Tampering,
  type TamperedSession,
} from './tampered-session.ts'

const TAGS_PER_BLOCK_BITS = 384
const peerOf = (role: Role): Role => (role === 'alice' ? 'bob' : 'alice')

/** What cannot be had any more of the authentication key, in bits. */
const spentBits = async (ledgers: Ledgers, role: Role): Promise<number> => {
  const { consumedBits, discardedBits } = await ledgers[role].figures()
  return consumedBits + discardedBits
}

/** A session as it ought to be, on the same ledgers. */
const expectLinkGoesOn = async (ledgers: Ledgers): Promise<TamperedSession> => {
  const session = await runTampered(ledgers, undefined, { blocks: 1 })
  expect(session.outcome.failures).toEqual({ alice: undefined, bob: undefined })
  expect(deliveredByBoth(session.outcome)).toHaveLength(1)
  return session
}

describe('one flipped bit', () => {
  it('in any of 300 messages of all kinds never leaves different keys, nor a changed block at both ends', async () => {
    const tally = await flipBits('short', 300)
    expect(tally.faults).toEqual([])
    expect(tally.flips).toBeGreaterThanOrEqual(300)
    expect(Object.keys(tally.flipsByMessage)).toHaveLength(SAID.length)
    // Not everything ended with the first message.
    expect(tally.unharmedBlocks).toBeGreaterThan(30)
  })
})

describe('a message', () => {
  interface Change {
    readonly of: (earlier: TamperedSession, message: ClassicalMessage, later: (bytes: Buffer) => void) => readonly Buffer[]
    /** Whether the block may be delivered by both ends all the same: nothing of it changed. */
    readonly isHarmlessAtTheEnd: boolean
  }
  const CHANGES: Readonly<Record<string, Change>> = {
    dropped: { of: () => [], isHarmlessAtTheEnd: false },
    duplicated: { of: (_, { bytes }) => [bytes, bytes], isHarmlessAtTheEnd: true },
    'that changes places with the next one': {
      of: (_, { bytes }, later) => {
        later(bytes)
        return []
      },
      isHarmlessAtTheEnd: false,
    },
    'replaced by that of an earlier session': {
      of: ({ sent }, { type, block }) => {
        const earlier = sent.find(({ message }) => message.type === type && message.block === block)
        return [earlier?.message.bytes ?? Buffer.alloc(0)]
      },
      isHarmlessAtTheEnd: false,
    },
  }
  /** Which say the same in every session. */
  const ALWAYS_THE_SAME: readonly MessageType[] = ['block-accept', 'frame-result', 'abort']

  it.each(Object.keys(CHANGES))('%s ends the session or is without effect', async (name) => {
    const { of, isHarmlessAtTheEnd } = CHANGES[name] as Change
    let met = 0
    const trySaid = async (said: typeof SAID): Promise<void> => {
      const ledgers = await watchedLedgers()
      const earlier = await expectLinkGoesOn(ledgers)
      for (const [from, type, count] of said) {
        const session = await runTampered(
          ledgers,
          { from, type, nth: Math.floor(count / 4), change: (message, later) => of(earlier, message, later) },
          { clockFactor: FAST, ...(type === 'abort' && { eve: { attack: 'intercept', fraction: 0.25 } }) },
        )
        expect(brokenPromises([session.outcome], ledgers)).toEqual([])
        if (session.met === undefined) continue
        met += 1
        const both = deliveredByBoth(session.outcome)
        const at = session.sent.findIndex(({ message }) => message === session.met)
        const next = session.sent.slice(at + 1).find((each) => each.from === from)
        const isWithoutEffect =
          type === 'keepalive' ||
          // Each block has a conversation of its own.
          (name.startsWith('that changes places') && next?.message.block !== session.met.block) ||
          (isHarmlessAtTheEnd && type === 'tag') ||
          (name.startsWith('replaced') && ALWAYS_THE_SAME.includes(type))
        const blockName = session.names.get(session.met.block)
        const harmed = type === 'hello' ? both : both.filter((block) => block === blockName)
        if (harmed.length > 0 && !isWithoutEffect) throw new Error(`${from} ${type} ${name}: both ends delivered the block`)
      }
      await expectLinkGoesOn(ledgers)
    }
    await Promise.all([0, 1, 2].map((lane) => trySaid(SAID.filter((_, index) => index % 3 === lane))))
    expect(met).toBeGreaterThan(12)
  })

  it('of Bob that was recorded in an earlier session is no proof in a later one, be it all he said', async () => {
    const ledgers = await watchedLedgers()
    const { sent } = await expectLinkGoesOn(ledgers)
    const recorded = sent.filter(({ from }) => from === 'bob').map(({ message }) => message.bytes)
    let at = 0
    const outcome = await runTampered(ledgers, undefined, {
      blocks: 1,
      instead: (from, message) => (from === 'alice' ? [message.bytes] : [recorded[at++] ?? Buffer.alloc(0)]),
    })
    expect(outcome.outcome.delivered.alice).toHaveLength(0)
    expect(outcome.outcome.failures.alice).toBeDefined()
    await expectLinkGoesOn(ledgers)
  })
})

describe('what only Bob can count', () => {
  /** Has Alice tell more than Bob asked for and count other errors, so that both compute the same length: hers allows for what she told, his
   *  for nothing of it. */
  const listenIn = (profile: Bb84Profile, slotsPerBurst: number) => {
    const [nX, nZ] = [
      [0, 0, 0],
      [0, 0, 0],
    ]
    const bobsBases: number[] = []
    let [room, added] = [0, 0]
    const instead: MessageHandler = (from, message) => {
      const { type, payload, block, bytes } = message
      if (block !== 1) return [bytes]
      if (from === 'bob' && type === 'clicks') {
        const { slots, bases } = decodeClicks(payload, slotsPerBurst)
        bobsBases.push(...[...slots.keys()].map((click) => bitAt(bases, click)))
      } else if (type === 'reveal') {
        const intensities = payload.subarray(packedBytes(bobsBases.length))
        let matched = 0
        for (const [click, basis] of bobsBases.entries()) {
          if (bitAt(payload, click) !== basis) continue
          const intensity = bitAt(intensities, 2 * matched) + 2 * bitAt(intensities, 2 * matched + 1)
          const counts = basis === 1 ? nZ : nX
          counts[intensity]! += 1
          matched += 1
        }
      } else if (type === 'counts') {
        const mZ = [0, 1, 2].map((intensity) => payload.readUInt32BE(4 * intensity))
        const fewer = Math.floor(mZ[1]! * 0.6)
        const told = [mZ[0]! + mZ[1]! - fewer, fewer, mZ[2]!]
        const lengthOf = (errors: number[]): number => Math.floor(keyLength(profile, { nX, nZ, mZ: errors }, 0).unclippedBits)
        room = lengthOf(told) - lengthOf(mZ)
        return [encodeMessage(type, block, encodeCounts(told))]
      } else if (type === 'asks') {
        // Answers come in whole bytes; what Bob did not ask for falls into the spare bits of the last one.
        const asks = decodeAsks(payload, 1).map((own) => {
          const more = own.length === 0 ? 0 : Math.min(room - added, (8 - (own.length % 8)) % 8)
          added += more
          return Int32Array.from([...own, ...Array.from({ length: more }, (_, index) => 1 + ((added + index) % 20_000))])
        })
        return [encodeMessage(type, block, encodeAsks(asks))]
      } else if (type === 'verified') {
        payload.writeUInt32BE(payload.readUInt32BE(0) + added, 0)
      }
      return [bytes]
    }
    return { instead, added: () => added }
  }

  it('cannot be changed on the way to Alice, however well it all fits: Bob makes no key either', async () => {
    const profile = smallProfile({ blockBits: 60_000, misalignment: 0.02, epsilonSecrecy: 1e-6 })
    const slotsPerBurst = 16_384
    const { instead, added } = listenIn(profile, slotsPerBurst)
    const outcome = await runSimulatedLink({ profile, blocks: 1, slotsPerBurst, tap: messageTap(instead) })
    expect(added()).toBeGreaterThan(100)
    expect(outcome.failures.bob?.message).toBe('AMPLIFY does not fit the block')
    expect(outcome.delivered).toEqual({ alice: [], bob: [] })
    for (const role of ROLES) expect(await outcome.ledgers[role].segments()).toHaveLength(1)
  })
})

describe('a forged tag', () => {
  const FORGERIES: Readonly<Record<string, (message: ClassicalMessage, session: TamperedSession) => Buffer>> = {
    random: (message) => withPayload(message, systemRandom.fill(Buffer.alloc(16))),
    'of zeros': (message) => withPayload(message, Buffer.alloc(16)),
    empty: (message) => withPayload(message, Buffer.alloc(0)),
    'too long': (message) => withPayload(message, Buffer.concat([message.payload, Buffer.alloc(1)])),
    'cut short': (message) => withPayload(message, message.payload.subarray(0, 15)),
    'of another block': (message, { sent }) =>
      withPayload(message, sent.find((each) => each.message.type === 'tag')?.message.payload ?? Buffer.alloc(0)),
  }

  it.each(Object.keys(FORGERIES))(
    '%s is refused by Bob and Alice, who say that they could not authenticate each other',
    async (name) => {
      const ledgers = await watchedLedgers()
      const earlier = await expectLinkGoesOn(ledgers)
      const places: readonly (readonly [Role, number])[] = [
        ['bob', 0],
        ['alice', 0],
        ['bob', 1],
      ]
      for (const [from, nth] of places) {
        const change: Tampering['change'] = (message) => [(FORGERIES[name] as (typeof FORGERIES)[string])(message, earlier)]
        const { outcome, met } = await runTampered(ledgers, { from, type: 'tag', nth, change }, { blocks: 1 })
        expect(met).toBeDefined()
        expect(outcome.failures[peerOf(from)]?.name).toBe('AuthenticationFailed')
        expect(outcome.delivered[peerOf(from)]).toHaveLength(0)
        expect(brokenPromises([outcome], ledgers)).toEqual([])
      }
      await expectLinkGoesOn(ledgers)
    },
  )
})

describe('a hostile HELLO', () => {
  type Json = Record<string, unknown> & { settings: Record<string, unknown>; segments: Record<string, unknown>[] }
  const text = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
  const HELLOS: Readonly<Record<string, (hello: Json) => Buffer>> = {
    'that is no JSON': () => Buffer.from('{'),
    'that is nothing': () => Buffer.alloc(0),
    'that is null': () => text(null),
    'that is a list': () => text([]),
    'without settings': (hello) => text({ ...hello, settings: null }),
    'without segments': (hello) => text({ ...hello, segments: undefined }),
    'with a segment that is null': (hello) => text({ ...hello, segments: [null] }),
    'of another version': (hello) => text({ ...hello, version: 1 }),
    'of another link': (hello) => text({ ...hello, linkId: 'b-c' }),
    'of the same role': (hello) => text({ ...hello, role: hello['role'] === 'alice' ? 'bob' : 'alice' }),
    'of a session that has no name': (hello) => text({ ...hello, sessionId: '' }),
    'of a session with a name that is no text': (hello) => text({ ...hello, sessionId: '\u{1f47e}\n' }),
    'with other intensities': (hello) => text({ ...hello, settings: { ...hello.settings, intensities: [0.9, 0.1] } }),
    'with a larger epsilon': (hello) => text({ ...hello, settings: { ...hello.settings, epsilonSecrecy: 0.5 } }),
    'with unknown segments': (hello) => text({ ...hello, segments: [{ id: 'mine', usedBytes: 16, sizeBytes: 4096 }] }),
    'with no segments': (hello) => text({ ...hello, segments: [] }),
    'with a segment of another size': (hello) =>
      text({ ...hello, segments: hello.segments.map((segment) => ({ ...segment, sizeBytes: 2 ** 40 })) }),
    'that has used a huge part': (hello) =>
      text({ ...hello, segments: hello.segments.map((segment) => ({ ...segment, usedBytes: 60_000 })) }),
    'that has used more than there is': (hello) =>
      text({ ...hello, segments: hello.segments.map((segment) => ({ ...segment, usedBytes: Number.MAX_SAFE_INTEGER })) }),
    'that has used less than nothing': (hello) =>
      text({ ...hello, segments: hello.segments.map((segment) => ({ ...segment, usedBytes: -1 })) }),
  }

  it.each(Object.keys(HELLOS))('%s costs neither end a bit of authentication key', async (name) => {
    const ledgers = await watchedLedgers()
    const make = HELLOS[name] as (typeof HELLOS)[string]
    for (const from of ROLES) {
      const before = { alice: await spentBits(ledgers, 'alice'), bob: await spentBits(ledgers, 'bob') }
      const change: Tampering['change'] = (message) => [
        withPayload(message, make(JSON.parse(message.payload.toString()) as Json)),
      ]
      const { outcome } = await runTampered(ledgers, { from, type: 'hello', nth: 0, change }, { blocks: 1 })
      expect(['SessionEnded', 'AuthenticationKeyUsedUp']).toContain(outcome.failures[peerOf(from)]?.name)
      expect(outcome.delivered[peerOf(from)]).toHaveLength(0)
      for (const role of ROLES) expect((await spentBits(ledgers, role)) - before[role]).toBe(0)
    }
    await expectLinkGoesOn(ledgers)
  })

  it('that claims to be ahead costs at most 16 blocks more than the one that is gathered, and nothing when it claims more', async () => {
    const ledgers = await watchedLedgers()
    /** Alice believes that Bob is ahead, and Bob hears of no such thing. */
    const runAhead = async (blocks: number): Promise<number> => {
      const before = await spentBits(ledgers, 'alice')
      const bytes = 48 * blocks
      const instead: MessageHandler = (from, message) => {
        if (from === 'bob' && message.type === 'hello') {
          const hello = JSON.parse(message.payload.toString()) as Json
          const segments = hello.segments.map((each) => ({ ...each, usedBytes: Number(each['usedBytes']) + bytes }))
          return [withPayload(message, text({ ...hello, segments }))]
        }
        if (message.type !== 'block-start') return [message.bytes]
        const start = JSON.parse(message.payload.toString()) as { fromByte: number }
        return [withPayload(message, text({ ...start, fromByte: start.fromByte - bytes }))]
      }
      const { outcome } = await runTampered(ledgers, undefined, { blocks: 1, instead })
      expect(outcome.delivered).toEqual({ alice: [], bob: [] })
      return (await spentBits(ledgers, 'alice')) - before
    }
    expect(await runAhead(16)).toBe(17 * TAGS_PER_BLOCK_BITS)
    // Bob has used one block meanwhile, and Alice is 16 ahead of him.
    expect(await runAhead(33)).toBe(0)
    await expectLinkGoesOn(ledgers)
    expect(brokenPromises([], ledgers)).toEqual([])
  })
})

describe('a hostile BLOCK-START', () => {
  const STARTS: Readonly<Record<string, (start: Record<string, number | string>) => unknown>> = {
    'that names authentication key further ahead': (start) => ({ ...start, fromByte: Number(start['fromByte']) + 48 }),
    'that names a byte more': (start) => ({ ...start, fromByte: Number(start['fromByte']) + 1 }),
    'that names authentication key used before': (start) => ({ ...start, fromByte: 16 }),
    'that names the hash key': (start) => ({ ...start, fromByte: 0 }),
    'that names authentication key beyond the end': (start) => ({ ...start, fromByte: 65_530 }),
    'that names an unknown segment': (start) => ({ ...start, segmentId: 'mine' }),
    'of other bursts': (start) => ({ ...start, firstBurst: 7 }),
    'of no burst': (start) => ({ ...start, bursts: 0 }),
    'of fewer bursts': (start) => ({ ...start, bursts: 1 }),
    'of more bursts': (start) => ({ ...start, bursts: 1_000_000 }),
    'of another name': (start) => ({ ...start, deviceBlock: 'another' }),
    'of a hostile name': (start) => ({ ...start, deviceBlock: '../../\n' }),
    'that is null': () => null,
  }

  it.each(Object.keys(STARTS))('%s costs Bob at most the pads of one block and gives no key', async (name) => {
    const ledgers = await watchedLedgers()
    await expectLinkGoesOn(ledgers)
    const before = await spentBits(ledgers, 'bob')
    const make = STARTS[name] as (typeof STARTS)[string]
    const change: Tampering['change'] = (message) => [
      withPayload(message, Buffer.from(JSON.stringify(make(JSON.parse(message.payload.toString()) as Record<string, number>)))),
    ]
    const { outcome, met } = await runTampered(
      ledgers,
      { from: 'alice', type: 'block-start', nth: 0, change },
      { clockFactor: FAST },
    )
    expect(met).toBeDefined()
    expect(outcome.delivered).toEqual({ alice: [], bob: [] })
    expect((await spentBits(ledgers, 'bob')) - before).toBeLessThanOrEqual(TAGS_PER_BLOCK_BITS)
    expect(brokenPromises([outcome], ledgers)).toEqual([])
    await expectLinkGoesOn(ledgers)
  })
})

describe('authentication key', () => {
  it('of at most 768 bits is spent on a block, at most 0.4 % of the key of a million sifted bits', async () => {
    const { delivered } = await runSimulatedLink({ profile: smallProfile({ blockBits: 1_000_000 }), blocks: 1 })
    const [statement] = delivered.alice.map((block) => block.statement)
    expect(statement?.tagBits).toBe(TAGS_PER_BLOCK_BITS)
    expect(TAGS_PER_BLOCK_BITS).toBeLessThanOrEqual(768)
    expect((statement?.tagBits ?? Infinity) / (statement?.lengthBits ?? 0)).toBeLessThan(0.004)
    for (const name of PROFILE_NAMES) {
      const profile = profileNamed(name)
      expect(profile.blockBits).toBe(1_000_000)
      expect(TAGS_PER_BLOCK_BITS / expectedBlock(profile, 1.05).keyLength.lengthBits).toBeLessThan(0.004)
    }
  })

  it('is not spent while one end cannot reach the quantum channel, however often they try', async () => {
    const ledgers = await watchedLedgers(1024)
    for (let attempt = 0; attempt < 24; attempt += 1) {
      const cannot = ROLES[attempt % 2] as Role
      const { outcome } = await runTampered(ledgers, undefined, {
        blocks: 1,
        connectPhotons: (role, open) => (role === cannot ? Promise.reject(new Error('no fibre')) : open()),
      })
      expect(outcome.failures[cannot]?.message).toBe('no fibre')
      expect(outcome.failures[peerOf(cannot)]).toBeDefined()
    }
    for (const role of ROLES) expect((await ledgers[role].figures()).consumedBits).toBe(0)
    await expectLinkGoesOn(ledgers)
  })

  it('that one end alone kept of a block is given up there when the next block has shown that the other lacks it', async () => {
    const ledgers = await watchedLedgers(16 + 48 * 3)
    const profile = replenishingProfile()
    await runTampered(ledgers, { from: 'bob', type: 'tag', nth: 1, change: () => CUT }, { profile, blocks: 1 })
    const left = async (): Promise<number[]> =>
      Promise.all(ROLES.map(async (role) => (await ledgers[role].figures()).remainingBits))
    const [atAlice, atBob] = await left()
    expect(atBob).toBeGreaterThan(atAlice!)
    const { outcome } = await runTampered(ledgers, undefined, { profile, blocks: 1 })
    expect(outcome.failures).toEqual({ alice: undefined, bob: undefined })
    const [after, afterAtBob] = await left()
    expect(after).toBeGreaterThan(0)
    expect(afterAtBob).toBe(after)
    expect(brokenPromises([outcome], ledgers)).toEqual([])
  })

  it('of which the last pads are left is replenished by the block that uses them', async () => {
    const ledgers = await watchedLedgers(16 + 48)
    const { outcome } = await runTampered(ledgers, undefined, { profile: replenishingProfile(), blocks: 3 })
    expect(outcome.failures).toEqual({ alice: undefined, bob: undefined })
    expect(deliveredByBoth(outcome)).toHaveLength(3)
    expect(brokenPromises([outcome], ledgers)).toEqual([])
  })
})

describe('a quantum channel', () => {
  it.each(ROLES)('that accepts the connection of %s and says nothing ends the session at both ends', async (role) => {
    const ledgers = await watchedLedgers()
    const { outcome } = await runTampered(ledgers, undefined, {
      blocks: 1,
      clockFactor: FAST,
      connectPhotons: (each, open) => (each === role ? Promise.resolve(duplexPair()[0]) : open()),
    })
    expect(outcome.failures[role]).toBeDefined()
    expect(outcome.failures[peerOf(role)]).toBeDefined()
    await expectLinkGoesOn(ledgers)
  })

  it.each(ROLES)('that closes the connection of %s before it greets ends the session at both ends', async (role) => {
    const ledgers = await watchedLedgers()
    const { outcome } = await runTampered(ledgers, undefined, {
      blocks: 1,
      clockFactor: FAST,
      connectPhotons: (each, open) => {
        if (each !== role) return open()
        const [near, far] = duplexPair()
        far.once('data', () => far.destroy())
        far.on('close', () => near.destroy())
        return Promise.resolve(near)
      },
    })
    expect(outcome.failures[role]?.message).toContain('quantum channel')
    expect(outcome.failures[peerOf(role)]).toBeDefined()
    await expectLinkGoesOn(ledgers)
  })

  it('that loses a burst ends the session at both ends', async () => {
    const ledgers = await watchedLedgers()
    let stopped = false
    const { outcome } = await runTampered(ledgers, undefined, {
      blocks: 1,
      clockFactor: FAST,
      connectPhotons: async (role, open) => {
        const stream = await open()
        if (role === 'bob') {
          const [near, far] = duplexPair()
          far.on('data', (chunk: Buffer) => void stream.write(chunk))
          let heardBytes = 0
          stream.on('data', (chunk: Buffer) => {
            heardBytes += chunk.length
            stopped = heardBytes > 20_000
            if (!stopped) far.write(chunk)
          })
          near.on('close', () => stream.destroy())
          return near
        }
        return stream
      },
    })
    expect(stopped).toBe(true)
    expect(outcome.failures.alice).toBeDefined()
    expect(outcome.failures.bob).toBeDefined()
    expect(outcome.delivered).toEqual({ alice: [], bob: [] })
  })
})

describe('the connection', () => {
  it('cut at the first message of either end ends the session at both', async () => {
    const ledgers = await watchedLedgers()
    for (const from of ROLES) {
      const { outcome } = await runTampered(ledgers, { from, type: 'hello', nth: 0, change: () => CUT }, { blocks: 1 })
      expect(outcome.failures.alice?.name).toBe('SessionEnded')
      expect(outcome.failures.bob?.name).toBe('SessionEnded')
    }
    await expectLinkGoesOn(ledgers)
  })
})
