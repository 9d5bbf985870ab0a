/** kill -9 of either KME and of the quantum channel at moments that nobody chose (G15 between processes): a block gives the same key at both
 *  ends or none at either, no pad is handed out twice, and the books balance. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { randomInt } from 'node:crypto'
import { systemClock } from '../../src/kernel/clock.ts'
import { eventually, type KmeName, type SaeClient } from '../network/network.ts'
import { expectBalanced } from '../network/ledger.ts'
import { exchange, keysBothWays, KMES, securityAccounts, startBb84Network, type Bb84Network } from './bb84-network.ts'

const PAD_BYTES_PER_BLOCK = 48
/** A block of this link is gathered and distilled in less. */
const BLOCK_MS = 600

let world: Bb84Network
let alice: SaeClient
let bob: SaeClient

beforeAll(async () => {
  world = await startBb84Network()
  for (const name of KMES) await recordPads(name)
  alice = await world.network.sae('alice')
  bob = await world.network.sae('bob')
  await keysBothWays(alice, bob)
})
afterAll(() => world?.[Symbol.asyncDispose]())

/** Has the database itself write down every stretch of authentication key that is handed out, whatever the KME thinks of it later. */
const recordPads = async (name: (typeof KMES)[number]): Promise<void> => {
  await world.network.query(
    name,
    `CREATE TABLE handed_out (seq bigserial, segment text, from_byte int, to_byte int);
     CREATE FUNCTION record_pads() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
       INSERT INTO handed_out (segment, from_byte, to_byte)
       VALUES (NEW.name, NEW.used_bytes - (NEW.consumed_bytes - OLD.consumed_bytes), NEW.used_bytes);
       RETURN NEW;
     END $$;
     CREATE TRIGGER record_pads AFTER UPDATE ON link_auth_segment FOR EACH ROW
       WHEN (NEW.consumed_bytes <> OLD.consumed_bytes) EXECUTE FUNCTION record_pads()`,
  )
}
const stretchesOf = (name: (typeof KMES)[number]) =>
  world.network.query<{ segment: string; from_byte: number; to_byte: number }>(
    name,
    'SELECT segment, from_byte, to_byte FROM handed_out ORDER BY segment, from_byte, seq',
  )

const someTime = async (): Promise<number> => {
  const waitMs = randomInt(BLOCK_MS)
  await systemClock.sleep(waitMs)
  return waitMs
}

describe('a BB84 link whose processes are killed', () => {
  it.each(['kme-a', 'kme-b', 'the quantum channel', 'kme-b', 'kme-a', 'the quantum channel'] as const)(
    'goes on after kill -9 of %s in the middle of a block (%#)',
    async (victim) => {
      const waitedMs = await someTime()
      if (victim === 'the quantum channel') {
        await world.killEmulator()
        await world.startEmulator()
      } else await world.killAndRestart(victim)
      await world.moreBlocks(2).catch((error: unknown) => {
        throw new Error(`killed after ${waitedMs} ms`, { cause: error })
      })
    },
  )

  it('has handed out the same keys at both ends since', async () => {
    await keysBothWays(alice, bob, 200)
    for (const [master, slave, names] of [
      [alice, bob, ['alice', 'bob']],
      [bob, alice, ['bob', 'alice']],
    ] as const) {
      const { issued, fetched } = await exchange(master, slave, { names, count: 100 })
      expect(fetched).toEqual(issued)
    }
  })

  it('balances its books: what is in a pool is in both, and the sums of security are those of the records', async () => {
    await world.killEmulator()
    await eventually('no block is on its way', async () => {
      const links = await world.bothLinks()
      return KMES.every((name) => links[name].state === 'down')
    })
    await expectBalanced(world.network)
    const usableAt = async (name: KmeName): Promise<string> => {
      const sql = `SELECT device_block FROM key_block WHERE state = 'AVAILABLE' ORDER BY device_block`
      const blocks = await world.network.query<{ device_block: string }>(name, sql)
      expect(blocks.length).toBeGreaterThan(8)
      return JSON.stringify(blocks)
    }
    await eventually('both have the same blocks', async () => (await usableAt('kme-a')) === (await usableAt('kme-b')))
    for (const name of KMES) {
      const { recomputed, kept } = await securityAccounts(world.network, name)
      expect([kept.blocks, kept.keyBits, kept.tagBits]).toEqual([recomputed.blocks, recomputed.keyBits, recomputed.tagBits])
      expect(Math.abs(kept.epsilonSum / recomputed.epsilonSum - 1)).toBeLessThan(1e-9)
    }
  })

  it('has used no byte of authentication key twice, and lost little', async () => {
    for (const name of KMES) {
      const stretches = await stretchesOf(name)
      stretches.forEach(({ segment, from_byte, to_byte }, i) => {
        expect(to_byte - from_byte).toBe(PAD_BYTES_PER_BLOCK)
        const before = stretches[i - 1]
        if (before?.segment === segment) expect(from_byte).toBeGreaterThanOrEqual(before.to_byte)
        else expect(from_byte).toBeGreaterThanOrEqual(16)
      })
      // The first blocks came before anybody wrote down.
      const recordedBits = stretches.length * PAD_BYTES_PER_BLOCK * 8
      const { consumedBits, replenishedBits, remainingBits, discardedBits } = await eventually(
        'the ledger as it is',
        async () => {
          const { authentication } = (await world.link(name)).distillation!
          return authentication.consumedBits >= recordedBits ? authentication : undefined
        },
      )
      expect(consumedBits + remainingBits + discardedBits).toBe(replenishedBits)
      const { kept } = await securityAccounts(world.network, name)
      expect(consumedBits).toBeGreaterThanOrEqual(kept.tagBits)
      // A crash wastes the pads of the blocks that were being distilled, at one end or both.
      expect(consumedBits).toBeLessThanOrEqual(kept.tagBits + 8 * 3 * PAD_BYTES_PER_BLOCK * 8)
    }
  })
})
