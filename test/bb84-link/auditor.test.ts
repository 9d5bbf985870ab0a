/** Who reads the whole classical channel of a BB84 link learns about the key what the security statement says, and nothing else. */
import { describe, expect, it } from '@jest/globals'
import { cascadePlan } from '../../src/bb84/cascade/cascade-plan.ts'
import { createCorrector } from '../../src/bb84/cascade/corrector.ts'
import { createResponder } from '../../src/bb84/cascade/responder.ts'
import { basisAt, createBasisChoice } from '../../src/bb84/pulse-source.ts'
import type { Bb84Profile, ProfileOverrides } from '../../src/bb84/profile.ts'
import { frameTag, verificationTag } from '../../src/bb84/universal-hash.ts'
import { encodeMessage, type ClassicalMessage, type MessageType } from '../../src/link/drivers/bb84/classical-wire.ts'
import { seededRandom } from '../bb84/seeded-random.ts'
import { framesOf, parityOf, runAudited, SLOTS_PER_BURST, statesOf, streamsOf, type AuditedRun } from './audited-run.ts'
import { createAuditor, type AuditedBlock } from './auditor.ts'
import { messageTap } from './message-tap.ts'
import { createParitySpan, maskOfIndices } from './parity-rank.ts'
import { ROLES, runSimulatedLink, type Role } from './simulated-link.ts'
import { smallProfile } from './small-profile.ts'

/** One frame a block, short enough for the linear algebra. */
const auditedProfile = (overrides: ProfileOverrides = {}): Bb84Profile =>
  smallProfile({ blockBits: 20_000, epsilonSecrecy: 1e-3, ...overrides })

const CASES: readonly (readonly [string, ProfileOverrides])[] = [
  ['few errors', {}],
  ['many errors', { misalignment: 0.025, blockBits: 24_000 }],
  ['one decoy', { intensities: [0.6, 0.2], intensityProbabilities: [0.6, 0.4] }],
]

describe.each(CASES)('an auditor of the classical channel of a block with %s', (_, overrides) => {
  let audited: Promise<AuditedRun> | undefined
  const once = (): Promise<AuditedRun> => (audited ??= runAudited(auditedProfile(overrides)))

  it('finds at most as many independent parities of the key as the leak counter says, which is the same at both ends', async () => {
    const { block, outcome } = await once()
    expect(outcome.failures).toEqual({ alice: undefined, bob: undefined })
    const [alice, bob] = ROLES.map((role) => outcome.delivered[role][0]?.statement)
    expect(alice?.leakBits).toBe(block.parities.length + block.tagBits)
    expect(bob?.leakBits).toBe(alice?.leakBits)
    const rank = block.rank()
    expect(rank).toBeGreaterThan(500)
    expect(rank).toBeLessThanOrEqual((alice?.leakBits ?? 0) - block.tagBits)
  })

  it('reads parities and tags that are those of the bits Alice sent', async () => {
    const audit = await once()
    const { block } = audit
    const frames = framesOf(audit)
    const wrong = block.parities.filter(({ frame, mask, value }) => parityOf(mask, frames[frame] as Uint8Array) !== value)
    expect(wrong).toHaveLength(0)
    for (const { hashKey, frames: open, tags } of block.frameTags) {
      const own = open.map((frame) => frameTag(hashKey, frame, frames[frame] as Uint8Array))
      expect(open.map((_frame, index) => tags.readUInt32BE(4 * index))).toEqual(own)
    }
    expect(frames).toHaveLength(1)
    const { hashKey, tag } = block.verification
    expect(Buffer.compare(verificationTag(hashKey, frames[0] as Uint8Array), tag)).toBe(0)
  })

  it('hears of what Alice sent her bases, intensities where the bases agree and values of basis Z, and no value of basis X', async () => {
    const audit = await once()
    const { clicks, revealed } = audit.block
    const states = statesOf(audit)
    const matched = states.filter((state, click) => ((state >> 1) & 1) === clicks[click]?.bobBasis)
    expect(revealed.bases).toEqual(states.map((state) => (state >> 1) & 1))
    expect(revealed.intensities).toEqual(matched.map((state) => state >> 2))
    expect(revealed.zValues).toEqual(matched.filter((state) => (state & 2) === 2).map((state) => state & 1))
  })

  it('hears from Alice random numbers that come from her generator as they are', async () => {
    const { block } = await once()
    const { fill } = streamsOf('alice')('distil:1')
    const drawn = [
      block.cascadeSeed,
      ...block.frameTags.map(({ hashKey }) => hashKey),
      block.verification.hashKey,
      block.amplificationSeed,
    ]
    for (const bytes of drawn) expect(fill(Buffer.alloc(bytes.length)).equals(bytes)).toBe(true)
  })

  it('hears from Bob, before Alice speaks, which slots clicked and the bases he had chosen', async () => {
    const { profile, block } = await once()
    const choice = createBasisChoice(profile)
    const bases = new Map<number, Uint8Array>()
    for (const { burst, slot, bobBasis } of block.clicks) {
      if (!bases.has(burst)) {
        bases.set(burst, choice.burst(SLOTS_PER_BURST, streamsOf('bob')(`bases:${burst}`)))
      }
      if (basisAt(bases.get(burst) as Uint8Array, slot) !== bobBasis) throw new Error('a basis Bob did not choose')
    }
    expect(bases.size).toBeGreaterThan(3)
  })
})

describe('the auditor', () => {
  it('tells parities that say something new from those that follow', () => {
    const span = createParitySpan(100)
    const add = (...indices: number[]): boolean => span.add(maskOfIndices(indices, 100))
    expect([add(1, 2, 70), add(2, 3), add(99), add(1, 3, 70), add(), add(1, 99), add(70, 2, 99)]).toEqual([
      false,
      false,
      false,
      true,
      true,
      false,
      true,
    ])
    expect(span.rank).toBe(4)
  })

  it('does not accept a wire that says more than it knows the meaning of', async () => {
    const profile = auditedProfile()
    const wire: [Role, ClassicalMessage][] = []
    const tap = messageTap((from, message) => {
      wire.push([from, message])
      return [message.bytes]
    })
    await runSimulatedLink({ profile, blocks: 1, slotsPerBurst: SLOTS_PER_BURST, tap })
    const auditWith = (changed: MessageType | undefined): AuditedBlock => {
      const auditor = createAuditor(profile, SLOTS_PER_BURST)
      for (const [from, { type, block, payload, bytes }] of wire) {
        auditor.tap(from, type === changed ? encodeMessage(type, block, Buffer.concat([payload, Buffer.of(1)])) : bytes)
      }
      return auditor.audit(1)
    }
    expect(auditWith(undefined).parities.length).toBeGreaterThan(500)
    const types = ['block-accept', 'clicks', 'reveal', 'counts', 'frames', 'asks', 'parities', 'frame-tags', 'verify'] as const
    for (const type of types) expect(() => auditWith(type)).toThrow()
  })
})

describe('what Bob asks for', () => {
  it('depends on where his bits are wrong and not on what they are', () => {
    const bitCount = 4096
    const plan = cascadePlan(bitCount, 0.03)
    const seed = seededRandom('shuffles').fill(new Uint8Array(16))
    const errors = seededRandom('errors').fill(new Uint8Array(bitCount / 8))
    // Each of its bits is set with probability 1/32.
    for (const name of ['a', 'b', 'c', 'd'])
      seededRandom(name)
        .fill(new Uint8Array(bitCount / 8))
        .forEach((byte, at) => (errors[at]! &= byte))
    const asksFor = (key: Uint8Array): string => {
      const responder = createResponder({ bits: key, bitCount, plan, seed })
      const corrector = createCorrector({ bits: key.map((byte, at) => byte ^ (errors[at] as number)), bitCount, plan, seed })
      const asked: number[] = []
      corrector.take(responder.firstParities())
      for (let asks = corrector.asks(); asks.length > 0; asks = corrector.asks()) {
        asked.push(...asks)
        corrector.take(responder.answer(asks))
      }
      expect(Buffer.compare(corrector.corrected(), key)).toBe(0)
      return asked.join()
    }
    const some = asksFor(seededRandom('some key').fill(new Uint8Array(bitCount / 8)))
    const other = asksFor(seededRandom('another key').fill(new Uint8Array(bitCount / 8)))
    expect(some.length).toBeGreaterThan(1000)
    expect(other).toBe(some)
  })
})
