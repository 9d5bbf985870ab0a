/** Keys of a BB84 link between two KMEs: they reach SAEs, each block says why it is secret, and the sums are right. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { readdirSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { keyLength } from '../../src/bb84/key-length.ts'
import { profileNamed } from '../../src/bb84/profile.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { createContract } from '../openapi/contract.ts'
import { eventually, type KmeProcess, type SaeClient } from '../network/network.ts'
import { exchange, keysBothWays, KMES, securityAccounts, startBb84Network, type Bb84Network } from './bb84-network.ts'
import { timeLimitMs } from '../setup/time-limit.ts'

let world: Bb84Network
let alice: SaeClient
let bob: SaeClient

beforeAll(async () => {
  world = await startBb84Network()
  alice = await world.network.sae('alice')
  bob = await world.network.sae('bob')
  await keysBothWays(alice, bob)
})
afterAll(() => world?.[Symbol.asyncDispose]())

/** The two accounts of a KME are equal; floating-point sums in another order may differ in the last digits. */
const expectSumsRight = async (): Promise<number[]> => {
  const blocks: number[] = []
  for (const name of KMES) {
    const { recomputed, kept } = await securityAccounts(world.network, name)
    expect(kept).toEqual({ ...recomputed, epsilonSum: expect.any(Number) })
    expect(Math.abs(kept.epsilonSum / recomputed.epsilonSum - 1)).toBeLessThan(1e-9)
    blocks.push(kept.blocks)
  }
  return blocks
}

describe('two KMEs joined by a BB84 link', () => {
  it('give both SAEs of a pair the same keys, in either direction', async () => {
    const there = await exchange(alice, bob, { names: ['alice', 'bob'], count: 20 })
    expect(there.fetched).toEqual(there.issued)
    const back = await exchange(bob, alice, { names: ['bob', 'alice'], count: 20 })
    expect(back.fetched).toEqual(back.issued)
    expect(new Set([...there.issued, ...back.issued]).size).toBe(40)
  })

  const itOnLinux = process.platform === 'linux' ? it : it.skip
  itOnLinux('have their stations yield to requests once there is key', async () => {
    /** Priorities of the threads of a KME, the main one's first. */
    const nices = (pid: number): number[] =>
      [pid, ...readdirSync(`/proc/${pid}/task`)].map((thread) => {
        const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1')
        return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])
      })
    for (const name of KMES) {
      const [ofMain, ...ofThreads] = nices(world.network.pid(name))
      expect(ofMain).toBeLessThan(constants.priority.PRIORITY_BELOW_NORMAL)
      expect(ofThreads).toContain(constants.priority.PRIORITY_BELOW_NORMAL)
    }
  })

  it('keep in the audit log, for every block, the counts its length follows from, and the same at both ends', async () => {
    const statements = await Promise.all(
      KMES.map((name) =>
        world.network.query<{ name: string; actor: string; stored: object; subject: Record<string, never> }>(
          name,
          `SELECT b.device_block AS name, a.actor, b.statement AS stored, a.subject FROM key_block b
           JOIN audit_record a ON a.event = 'block.distilled' AND a.subject ->> 'blockId' = b.block_id::text
           WHERE b.state = 'AVAILABLE' ORDER BY b.device_block`,
        ),
      ),
    )
    const [atA, atB] = statements as [(typeof statements)[number], (typeof statements)[number]]
    expect(atA.length).toBeGreaterThan(0)
    const profile = profileNamed('metro', {
      intensities: [0.6, 0.25, 0.0002],
      intensityProbabilities: [0.4, 0.35, 0.25],
      keyBasisProbability: 0.625,
      blockBits: 100_000,
    })
    for (const { actor, stored, subject } of atA) {
      expect(actor).toBe('system')
      expect(subject).toMatchObject(stored)
      const counts = subject as unknown as Parameters<typeof keyLength>[1] & Record<'leakBits' | 'lengthBits', number>
      expect(counts.lengthBits).toBe(keyLength(profile, counts, counts.leakBits).lengthBits & ~7)
      expect(counts.lengthBits).toBeGreaterThan(0)
    }
    const byName = new Map(atB.map(({ name, stored }) => [name, stored]))
    const inBoth = atA.filter(({ name }) => byName.has(name))
    expect(inBoth.length).toBeGreaterThan(0)
    for (const { name, stored } of inBoth) expect(byName.get(name)).toEqual(stored)
  })

  it('show operators what to expect, the authentication key, and how secure it all is, as the document of the API says', async () => {
    const contract = createContract('openapi/admin.yaml')
    for (const name of KMES) {
      const admin = await world.network.admin(name)
      const { distillation } = await eventually('the sums of the link', async () => {
        const { status, headers, text } = await admin.get('/api/v1/links')
        contract.checkResponse('GET', '/api/v1/links', status, headers['content-type'] as string, text)
        const shown = await world.link(name)
        return shown.distillation !== null && shown.distillation.security.blocks > 0 ? shown : undefined
      })
      const { expectedKeyRateBps, authentication, security } = distillation!
      expect(expectedKeyRateBps).toBeGreaterThan(1000)
      const { consumedBits, replenishedBits, remainingBits, discardedBits } = authentication
      expect(consumedBits + remainingBits + discardedBits).toBe(replenishedBits)
      expect(consumedBits).toBeGreaterThanOrEqual(security.blocks * 384)
      expect(security.tagBits).toBe(security.blocks * 384)
      expect(security.epsilonSum).toBeGreaterThan(security.blocks * 1e-10)
      expect(security.epsilonSum).toBeLessThan(security.blocks * 1.001e-10)
      const page = (await admin.get('/metrics')).text
      expect(page).toMatch(/^kme_link_expected_key_rate_bps\{link="a-b",peer="kme-[ab]"\} [1-9]\d{3,}/m)
      expect(page).toMatch(/^kme_link_authentication_key_bits\{link="a-b",peer="kme-[ab]"\} [1-9]\d{3,}/m)
    }
  })

  it('keep sums that are those of the records of their blocks, also after a stop in the middle of a block and a start', async () => {
    const before = await expectSumsRight()
    for (const name of KMES) {
      // In the middle of a block, as ever.
      const { child } = world.network.running.get(name) as KmeProcess
      const stoppingMs = systemClock.monotonicMs()
      await world.network.stop(name)
      expect(systemClock.monotonicMs() - stoppingMs).toBeLessThan(timeLimitMs(5000))
      // It ended by itself, so nothing was left open.
      expect([child.exitCode, child.signalCode]).toEqual([0, null])
    }
    await Promise.all(KMES.map(world.network.start))
    await world.moreBlocks(1)
    const after = await expectSumsRight()
    after.forEach((blocks, i) => expect(blocks).toBeGreaterThan(before[i]!))
    for (const name of KMES) {
      await eventually('the link shows all of them', async () => {
        const { distillation } = await world.link(name)
        return (distillation?.security.blocks ?? 0) >= (name === 'kme-a' ? after[0]! : after[1]!)
      })
    }
  })
})
