/** A BB84 link distils the same key at both ends, says why it is secret, and gives none when it is not. */
import { createHash } from 'node:crypto'
import { describe, expect, it } from '@jest/globals'
import { binaryEntropy } from '../../src/bb84/binary-entropy.ts'
import { keyLength } from '../../src/bb84/key-length.ts'
import { profileNamed } from '../../src/bb84/profile.ts'
import { createMemoryAuthenticationLedger } from '../link/memory-authentication-ledger.ts'
import { pairedLedgers, ROLES, runSimulatedLink, type LinkOutcome, type Role } from './simulated-link.ts'
import { smallProfile } from './small-profile.ts'
import { seededStreams } from '../bb84/seeded-random.ts'

/** Blocks by name and digest, so that no key stands in a report of a failed test. */
const namesAndKeys = ({ delivered }: LinkOutcome, role: Role): [string, string][] =>
  delivered[role].map(({ deviceBlock, key }) => [deviceBlock, createHash('sha256').update(key).digest('hex')])

const countsOf = ({ delivered }: LinkOutcome): Record<Role, number> => ({
  alice: delivered.alice.length,
  bob: delivered.bob.length,
})

describe('a BB84 link', () => {
  it('delivers the same blocks, in the same order, with the same bytes at both ends', async () => {
    const outcome = await runSimulatedLink({ profile: smallProfile(), blocks: 4 })
    expect(outcome.failures).toEqual({ alice: undefined, bob: undefined })
    expect(outcome.delivered.alice).toHaveLength(4)
    expect(namesAndKeys(outcome, 'bob')).toEqual(namesAndKeys(outcome, 'alice'))
    expect(new Set(namesAndKeys(outcome, 'alice').flat()).size).toBe(8)
  })

  it('states for every block the counts from which anybody can compute its length again', async () => {
    const profile = smallProfile()
    const { delivered } = await runSimulatedLink({ profile, blocks: 2 })
    for (const role of ROLES) {
      for (const { key, qber, statement } of delivered[role]) {
        const again = keyLength(profile, statement, statement.leakBits)
        expect(statement.lengthBits).toBe(again.lengthBits & ~7)
        expect(key.length * 8).toBe(statement.lengthBits - statement.replenishBits)
        expect(statement.singlePhotonEvents).toBe(again.sX1)
        const bits = statement.nX.reduce((sum, count) => sum + count, 0)
        const f = statement.leakBits / (bits * binaryEntropy(qber))
        expect(f).toBeGreaterThan(1)
        expect(f).toBeLessThan(1.15)
        expect(statement.epsilonAuthentication).toBeLessThan(2 ** -70)
      }
    }
    expect(delivered.bob.map(({ statement }) => statement)).toEqual(delivered.alice.map(({ statement }) => statement))
  })

  it('gives byte-identical keys when its randomness is replayed, whatever the timing', async () => {
    const run = () =>
      runSimulatedLink({ profile: smallProfile(), blocks: 3, streams: (owner) => seededStreams(`replay ${owner}`) })
    const [one, other] = [await run(), await run()]
    expect(one.delivered.alice).toHaveLength(3)
    expect(namesAndKeys(other, 'alice')).toEqual(namesAndKeys(one, 'alice'))
    expect(namesAndKeys(other, 'bob')).toEqual(namesAndKeys(one, 'bob'))
  })

  it('works with one decoy too', async () => {
    const profile = smallProfile({ intensities: [0.6, 0.2], intensityProbabilities: [0.6, 0.4], blockBits: 200_000 })
    const outcome = await runSimulatedLink({ profile, blocks: 1 })
    expect(outcome.failures.bob).toBeUndefined()
    expect(outcome.delivered.alice).toHaveLength(1)
    expect(namesAndKeys(outcome, 'bob')).toEqual(namesAndKeys(outcome, 'alice'))
  })

  it('takes a lossy channel with afterpulses, dark counts and dead time', async () => {
    const profile = smallProfile({
      receiver: { efficiency: 0.3, darkCountProbability: 1e-5, afterpulseProbability: 0.01, deadTimeNs: 5 },
      blockBits: 200_000,
    })
    const outcome = await runSimulatedLink({ profile, blocks: 1 })
    expect(namesAndKeys(outcome, 'bob')).toEqual(namesAndKeys(outcome, 'alice'))
    expect(outcome.delivered.alice).toHaveLength(1)
  })
})

describe('an eavesdropper', () => {
  it('who intercepts a quarter of the pulses leaves no key, and both ends say why', async () => {
    const outcome = await runSimulatedLink({ profile: smallProfile(), blocks: 3, eve: { attack: 'intercept', fraction: 0.25 } })
    expect(outcome.failures).toEqual({ alice: undefined, bob: undefined })
    expect(countsOf(outcome)).toEqual({ alice: 0, bob: 0 })
    for (const role of ROLES) {
      const reports = outcome.events.filter((event) => event.role === role && event.kind === 'no-key')
      expect(reports).toHaveLength(3)
      for (const event of reports) if (event.kind === 'no-key') expect(event.qber).toBeGreaterThan(0.055)
    }
  })

  it('who splits photon numbers leaves no key although the error rate stays', async () => {
    const outcome = await runSimulatedLink({
      profile: profileNamed('gys', { blockBits: 100_000 }),
      blocks: 1,
      eve: { attack: 'split' },
    })
    expect(countsOf(outcome)).toEqual({ alice: 0, bob: 0 })
    const [report] = outcome.events.filter(({ kind }) => kind === 'no-key')
    expect(report?.kind === 'no-key' && report.qber).toBeLessThan(0.05)
  })
})

describe('authentication key', () => {
  it('is used at 384 bits per block at both ends, and replenished from the key before it runs out', async () => {
    const ledgers = await pairedLedgers(16 + 48 * 8)
    const { delivered } = await runSimulatedLink({ profile: smallProfile(), blocks: 6, ledgers })
    expect(delivered.alice).toHaveLength(6)
    const replenished = delivered.alice.reduce((sum, { statement }) => sum + statement.replenishBits, 0)
    expect(replenished).toBeGreaterThan(0)
    for (const role of ROLES) {
      const figures = await ledgers[role].figures()
      expect(figures.consumedBits).toBe(6 * 384)
      expect(figures.replenishedBits).toBe((16 + 48 * 8) * 8 + replenished)
    }
  })

  it('that is used up, or not held in common, brings the link down and never lets it go on without', async () => {
    const short = await pairedLedgers(16 + 40)
    const usedUp = await runSimulatedLink({ profile: smallProfile(), blocks: 1, ledgers: short })
    expect(usedUp.failures.alice?.name).toBe('AuthenticationKeyUsedUp')
    expect(countsOf(usedUp)).toEqual({ alice: 0, bob: 0 })

    const strangers = { alice: (await pairedLedgers()).alice, bob: (await pairedLedgers()).bob }
    const different = await runSimulatedLink({ profile: smallProfile(), blocks: 1, ledgers: strangers })
    expect(different.failures.alice?.name).toBe('AuthenticationFailed')
    expect(countsOf(different)).toEqual({ alice: 0, bob: 0 })

    const none = await runSimulatedLink({
      profile: smallProfile(),
      blocks: 1,
      ledgers: { alice: (await pairedLedgers()).alice, bob: createMemoryAuthenticationLedger() },
    })
    expect(none.failures.alice?.message).toContain('new-secret')
  })
})
