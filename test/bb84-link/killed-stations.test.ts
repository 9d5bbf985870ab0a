/** A station of a BB84 link that is killed anywhere in a block, or whose ledger fails: no name ever stands for different bytes at the two
 *  ends, no authentication key is used twice, and the link goes on when the station is back. */
import { describe, expect, it } from '@jest/globals'
import type { MessageType } from '../../src/link/drivers/bb84/classical-wire.ts'
import type { AuthenticationLedger } from '../../src/link/authentication-ledger.ts'
import type { LinkOutcome, Role } from './simulated-link.ts'
import { ROLES } from './simulated-link.ts'
import { CUT } from './message-tap.ts'
import {
  brokenPromises,
  deliveredByBoth,
  replenishingProfile,
  runTampered,
  watchedLedgers,
  type Ledgers,
  type TamperedSession,
} from './tampered-session.ts'
import { watchedLedger } from './watched-ledger.ts'

const peerOf = (role: Role): Role => (role === 'alice' ? 'bob' : 'alice')

/** After which of its messages a station is killed: spread over two blocks, and every kind at least once. */
const POINTS: Readonly<Record<Role, readonly (readonly [MessageType, number])[]>> = {
  alice: [
    ['hello', 0],
    ['block-start', 0],
    ['block-start', 1],
    ['reveal', 0],
    ['reveal', 1],
    ['frames', 0],
    ['frames', 1],
    ['parities', 0],
    ['parities', 10],
    ['parities', 25],
    ['parities', 50],
    ['parities', 75],
    ['parities', 120],
    ['parities', 160],
    ['frame-tags', 0],
    ['frame-tags', 1],
    ['verify', 0],
    ['verify', 1],
    ['amplify', 0],
    ['amplify', 1],
    ['tag', 0],
    ['tag', 1],
  ],
  bob: [
    ['hello', 0],
    ['block-accept', 0],
    ['block-accept', 1],
    ['clicks', 0],
    ['clicks', 4],
    ['clicks', 9],
    ['clicks', 18],
    ['tag', 0],
    ['tag', 1],
    ['tag', 2],
    ['tag', 3],
    ['counts', 0],
    ['counts', 1],
    ['asks', 0],
    ['asks', 10],
    ['asks', 25],
    ['asks', 50],
    ['asks', 75],
    ['asks', 120],
    ['asks', 160],
    ['frame-result', 0],
    ['frame-result', 1],
    ['verified', 0],
    ['verified', 1],
  ],
}

/** @param arrives whether the last message still reaches the other end. */
const killAfter = async (
  ledgers: Ledgers,
  role: Role,
  [type, nth]: readonly [MessageType, number],
  arrives: boolean,
): Promise<TamperedSession> => {
  const killed = new AbortController()
  return await runTampered(
    ledgers,
    {
      from: role,
      type,
      nth,
      change: ({ bytes }) => {
        if (!arrives) {
          killed.abort()
          return CUT
        }
        setImmediate(() => killed.abort())
        return [bytes]
      },
    },
    { kill: { [role]: killed.signal }, instead: (from, { bytes }) => (from === role && killed.signal.aborted ? CUT : [bytes]) },
  )
}

const expectOneMoreBlock = async (ledgers: Ledgers): Promise<LinkOutcome> => {
  const { outcome } = await runTampered(ledgers, undefined, { blocks: 1 })
  expect(outcome.failures).toEqual({ alice: undefined, bob: undefined })
  expect(deliveredByBoth(outcome)).toHaveLength(1)
  return outcome
}

describe.each(ROLES)('%s killed after any message', (role) => {
  it.each([
    ['that still arrives', true],
    ['that is lost with it', false],
  ])('%s leaves nothing that the next session cannot go on from', async (_, arrives) => {
    let killings = 0
    let oneSided = 0
    const kill = async (points: (typeof POINTS)[Role]): Promise<void> => {
      const ledgers = await watchedLedgers()
      const outcomes: LinkOutcome[] = []
      for (const point of points) {
        const session = await killAfter(ledgers, role, point, arrives)
        if (session.met !== undefined) killings += 1
        outcomes.push(session.outcome, await expectOneMoreBlock(ledgers))
        expect(brokenPromises(outcomes, ledgers)).toEqual([])
        const { alice, bob } = session.outcome.delivered
        oneSided += alice.length + bob.length - 2 * deliveredByBoth(session.outcome).length
      }
    }
    await Promise.all([0, 1, 2].map((lane) => kill(POINTS[role].filter((_point, index) => index % 3 === lane))))
    expect(killings).toBeGreaterThanOrEqual(20)
    // Bob is the first to have a key. What only one end has is discarded there: test/link/one-sided-block.test.ts.
    expect(oneSided).toBeLessThanOrEqual(6)
  })
})

describe('a station', () => {
  it.each(ROLES)('that is told to stop before it has begun stops, and the other end notices (%s)', async (role) => {
    const ledgers = await watchedLedgers()
    const { outcome } = await runTampered(ledgers, undefined, { kill: { [role]: AbortSignal.abort() } })
    expect(outcome.delivered).toEqual({ alice: [], bob: [] })
    expect(outcome.failures[peerOf(role)]?.name).toBe('SessionEnded')
    await expectOneMoreBlock(ledgers)
  })
})

describe('a ledger', () => {
  type Fault = (ledger: AuthenticationLedger) => Partial<AuthenticationLedger>
  const refuse = (): Promise<never> => Promise.reject(new Error('the database is away'))
  const FAULTS: Readonly<Record<string, Fault>> = {
    'whose reservation fails': () => ({ reserve: refuse }),
    'whose reservation is made and its answer lost': (ledger) => ({
      reserve: async (...stretch) => {
        ;(await ledger.reserve(...stretch)).wipe()
        return refuse()
      },
    }),
    'that does not give its hash key': () => ({ hashKey: refuse }),
    'that does not say what it has': () => ({ segments: refuse }),
    'that does not take the replenishment': () => ({ add: refuse }),
    'that takes the replenishment and its answer is lost': (ledger) => ({
      add: async (...segment) => {
        await ledger.add(...segment)
        return refuse()
      },
    }),
  }

  const cases = Object.keys(FAULTS).flatMap((name) => ROLES.map((role) => [name, role] as const))
  it.each(cases)('%s at the end of %s ends the session, and the next one goes on further up', async (name, role) => {
    // So little that every block replenishes it.
    const ledgers = await watchedLedgers(16 + 48 * 8)
    const faulty = watchedLedger({ ...ledgers[role], ...(FAULTS[name] as Fault)(ledgers[role]) })
    const session = await runTampered({ ...ledgers, [role]: faulty }, undefined, {
      profile: replenishingProfile(),
      blocks: 1,
    })
    expect(session.outcome.failures[role]?.message).toBe('the database is away')
    expect(session.outcome.failures[peerOf(role)]).toBeDefined()
    expect(session.outcome.delivered[role]).toHaveLength(0)

    const highest = (): number =>
      Math.max(
        ...ROLES.flatMap((each) =>
          ledgers[each].reservations.map(({ fromByte, lengthBytes, segmentId }) =>
            segmentId === 'pre-shared' ? fromByte + lengthBytes : 0,
          ),
        ),
        16,
      )
    const before = highest()
    const seen = ledgers.alice.reservations.length
    const next = await expectOneMoreBlock(ledgers)
    expect(ledgers.alice.reservations[seen]).toMatchObject({ segmentId: 'pre-shared', fromByte: before })
    expect(brokenPromises([session.outcome, next], ledgers)).toEqual([])
  })
})
