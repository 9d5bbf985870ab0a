/** Two KMEs on a PostgreSQL server of their own, with traffic in both directions, and what must hold after every fault: no key
 *  twice, none lost that was answered 200, equal bytes at both ends, books that balance, and traffic again within 10 s without a
 *  restart of a KME. */
import { expect } from '@jest/globals'
import { systemClock } from '../../src/kernel/clock.ts'
import { expectBalanced } from '../network/ledger.ts'
import { eventually, quieten, startNetwork, type Answer, type SaeClient } from '../network/network.ts'
import { startOwnPostgres, type OwnPostgresOptions } from '../setup/own-postgres.ts'
import { createAccount } from '../soak/account.ts'
import { createPlan } from '../soak/plan.ts'
import { startTraffic } from '../soak/traffic.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

/** For so long a KME asks whether a delivery was committed whose reply it lost; after that the keys may count as fetched. */
const DOUBT_MS = 5000

/** How long after the end of a fault keys must flow again in both directions. */
export const RECOVERY_MS = 10_000

/** How long the server answers nobody, until it is stopped. */
const watchSilence = ({ query }: { query: (database: string, sql: string) => Promise<unknown> }) => {
  const stopping = new AbortController()
  const watching = (async () => {
    let [longestMs, answeredMs] = [0, systemClock.monotonicMs()]
    while (!stopping.signal.aborted) {
      const isThere = await query('postgres', 'SELECT 1').then(
        () => true,
        () => false,
      )
      if (isThere) {
        const nowMs = systemClock.monotonicMs()
        longestMs = Math.max(longestMs, nowMs - answeredMs)
        answeredMs = nowMs
      }
      await systemClock.sleep(200, stopping.signal)
    }
    return longestMs
  })()
  return {
    /** @returns the longest silence. */
    stop: (): Promise<number> => {
      stopping.abort()
      return watching
    },
  }
}

export type World = Awaited<ReturnType<typeof startWorld>>

export const startWorld = async (options: OwnPostgresOptions & { connections?: number } = {}) => {
  const server = await startOwnPostgres(options)
  const network = await startNetwork({
    rateBlocksPerS: 20,
    keys: { localStored: 500 },
    createDatabase: server.createDatabase,
    ...(options.connections !== undefined && { databaseConnections: options.connections }),
  }).catch(async (error: unknown) => {
    await server.remove()
    throw error
  })
  const startMs = systemClock.monotonicMs()
  const account = createAccount(() => `${((systemClock.monotonicMs() - startMs) / 1000).toFixed(3)} s`)
  const alice = await network.sae('alice')
  const bob = await network.sae('bob')
  let seed = 1

  const draws = (client: SaeClient, slave: string): Promise<boolean> =>
    client.get(`/api/v1/keys/${slave}/enc_keys`).then(
      (answer) => answer.status === 200,
      () => false,
    )

  /** Keys flow in both directions, soon. @returns after how many milliseconds. */
  const expectRecovery = async (): Promise<number> => {
    const sinceMs = systemClock.monotonicMs()
    await eventually('keys flow in both directions again', async () => (await draws(alice, 'bob')) && draws(bob, 'alice'))
    const tookMs = systemClock.monotonicMs() - sinceMs
    expect(tookMs).toBeLessThan(timeLimitMs(RECOVERY_MS))
    return tookMs
  }

  /** Traffic in both directions while `fault` happens and ends, and until it has been got over; then all promises are checked. */
  const underTraffic = async (fault: () => Promise<void>): Promise<void> => {
    const { figures } = account
    const before = { ...figures }
    network.devices.resume()
    const silence = watchSilence(server)
    const traffic = startTraffic(network, account, () => createPlan((seed += 1)))
    const flows = async (): Promise<void> => {
      const from = figures.keysFetched
      await eventually('keys are fetched', () => figures.keysFetched > from + 100)
    }
    try {
      await flows()
      await fault()
      await expectRecovery()
      await flows()
    } finally {
      await traffic.stop()
    }
    const longestSilenceMs = await silence.stop()
    await eventually('everything answered 200 is fetched', async () => (await traffic.fetchRest(100)) === 0)
    expect(account.violations).toEqual([])
    // A fetch whose answer never came, because its KME died, may be lost. No KME dies here.
    expect(figures.lostWithoutAnswer).toBe(before.lostWithoutAnswer)
    if (longestSilenceMs < 0.8 * DOUBT_MS) expect(figures.lostAfter503).toBe(before.lostAfter503)
    await quieten(network)
    await expectBalanced(network)
    expect(account.violations).toEqual([])
  }

  return {
    server,
    network,
    account,
    alice,
    bob,
    expectRecovery,
    underTraffic,
    /** How long an answer takes, with the answer. */
    timed: async (send: () => Promise<Answer>): Promise<{ status: number; answer: Answer; tookMs: number }> => {
      const sinceMs = systemClock.monotonicMs()
      const answer = await send()
      return { status: answer.status, answer, tookMs: systemClock.monotonicMs() - sinceMs }
    },
    [Symbol.asyncDispose]: async (): Promise<void> => {
      await network[Symbol.asyncDispose]()
      await server.remove()
    },
  }
}
