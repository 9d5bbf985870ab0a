/** Keys for two KMEs without a link, over a trusted node: equal at both ends, and link key is used once, whatever happens on the way. */
import { afterEach, describe, expect, it } from '@jest/globals'
import { CallFailed } from '../../src/kernel/call-failed.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import type { KmeId } from '../../src/kernel/identifiers.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { A, alongLine, B, C, issueAcross, kme, padsUsedTwice, startLine, startWorld, type RelayWorld } from './relay-world.ts'

let world: RelayWorld
afterEach(async () => {
  expect(padsUsedTwice(world.caught)).toEqual([])
  await world[Symbol.asyncDispose]()
})

const keysFor = async (kmeId: KmeId, peer: KmeId): Promise<number> => (await world.node(kmeId).pool.level(peer)).mine
/** Pads of 8 keys and a tag key take 10 units: 288 + 48 bytes. */
const UNITS_PER_PARCEL = 11

/** What both ends noted of the way of the only relayed block. */
const waysOf = async (): Promise<unknown[]> =>
  Promise.all(
    [A, C].map(async (node) => {
      const rows = await world.node(node).database.query(`SELECT relayed FROM key_block WHERE link_id LIKE 'relay:%'`)
      return rows.map((row) => row['relayed'])
    }),
  )

describe('a relayed block', () => {
  it('gives keys that are equal at both ends, all issued by the origin', async () => {
    world = await startLine()
    await expect(world.node(A).relay.fetch(C, 5)).resolves.toBe(true)
    expect(await keysFor(A, C)).toBe(8)
    expect(await keysFor(C, A)).toBe(0)
    const { issued, fetched } = await issueAcross(world, A, C, 8)
    expect(fetched).toBe(issued)
    expect(new Set(issued.match(/.{64}/g)).size).toBe(8)
    expect(await waysOf()).toEqual(Array(2).fill([{ ways: [[B]], endToEnd: false }]))
  })

  it('goes both ways at the same time', async () => {
    world = await startLine()
    await Promise.all([world.node(A).relay.fetch(C, 8), world.node(C).relay.fetch(A, 8)])
    for (const [from, to] of [
      [A, C],
      [C, A],
    ] as const) {
      const { issued, fetched } = await issueAcross(world, from, to, 8)
      expect(fetched).toBe(issued)
    }
  })

  it('passes fifteen trusted nodes, and not sixteen', async () => {
    const line = Array.from({ length: 18 }, (_, i) => kme(String(i).padStart(2, '0')))
    world = await startWorld({
      links: line.slice(1).map((node, i) => [line[i]!, node] as const),
      routes: alongLine(line),
      settings: { blockKeys: 1, deadlineMs: 15_000 },
    })
    for (let i = 1; i < line.length; i += 1) await world.addLinkKey(line[i - 1]!, line[i]!, 12)
    await expect(world.node(line[0]!).relay.fetch(line[16]!, 1)).resolves.toBe(true)
    const { issued, fetched } = await issueAcross(world, line[0]!, line[16]!, 1)
    expect(fetched).toBe(issued)
    await expect(world.node(line[0]!).relay.fetch(line[17]!, 1)).resolves.toBe(false)
  })

  it('uses up the same units at both ends of each link, and their stored bytes are overwritten', async () => {
    world = await startLine()
    await world.node(A).relay.fetch(C, 8)
    for (const [kmeId, peer] of [
      [A, B],
      [B, A],
      [B, C],
      [C, B],
    ] as const) {
      const [row] = await world.node(kmeId).database.query<{ taken: number; done: number; zeroed: number }>(
        `SELECT bit_count(taken)::int AS taken, bit_count(done)::int AS done,
           (SELECT count(*)::int FROM generate_series(0, unit_count - 1) unit
            WHERE substring(sealed FROM unit * 48 + 1 FOR 48) = decode(repeat('00', 48), 'hex')) AS zeroed
         FROM key_block WHERE peer_kme_id = $1`,
        [peer],
      )
      expect(row).toEqual({ taken: UNITS_PER_PARCEL, done: UNITS_PER_PARCEL, zeroed: UNITS_PER_PARCEL })
    }
    expect((await world.node(B).pool.level(A)).theirs).toBe(100 - UNITS_PER_PARCEL)
  })

  it('leaves nothing at the trusted node: no block, no ciphertext', async () => {
    world = await startLine()
    await world.node(A).relay.fetch(C, 8)
    expect(await world.count(B, `key_block WHERE link_id NOT IN ('kme-a-kme-b', 'kme-b-kme-c')`)).toBe(0)
    expect(await world.count(B, `relay_pad WHERE message IS NOT NULL OR state <> 'CLOSED'`)).toBe(0)
    expect(await world.count(B, 'relay_pad')).toBe(2)
  })

  it('is one for all who wait at the same moment', async () => {
    world = await startLine()
    await Promise.all([1, 2, 3].map(() => world.node(A).relay.fetch(C, 1)))
    expect(await keysFor(A, C)).toBe(8)
  })

  it('is relayed for a pool that runs low until it is well above its mark', async () => {
    world = await startLine()
    const [source] = world.node(A).relay.sources
    const level = await world.node(A).pool.level(C)
    await expect(source!.replenish({ level, borrowable: 0, ceilingKeys: 1000 })).resolves.toEqual({ outcome: 'filled', keys: 16 })
    const again = await source!.replenish({ level, borrowable: 0, ceilingKeys: 1000 })
    expect(again.outcome).toBe('nothing')
  })
})

describe('a link with too few keys', () => {
  it('costs nothing anywhere when it is the one behind the trusted node', async () => {
    world = await startLine({ settings: { floorKeys: 85 } })
    await world.node(B).pool.take(C, '', 5)
    await expect(world.node(A).relay.sources[0]!.replenish(undefined as never)).rejects.toThrow('kme-b says: insufficient')
    expect(world.caught).toEqual([])
    for (const node of [A, B, C]) {
      expect(await world.count(node, `key_block WHERE bit_count(taken) > 0 OR link_id LIKE 'relay:%'`)).toBe(0)
      expect(await world.count(node, 'relay_pad')).toBe(0)
    }
  })

  it('is not used below its floor', async () => {
    world = await startLine({ settings: { floorKeys: 75 } })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    expect(await keysFor(A, B)).toBe(100 - 2 * UNITS_PER_PARCEL)
  })

  it('is not made critical', async () => {
    world = await startLine({ criticalWatermark: 200 - UNITS_PER_PARCEL })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    expect(await world.node(A).pool.level(B)).toMatchObject({ mine: 100 - UNITS_PER_PARCEL, theirs: 100 })
  })

  it('found out only after the parcel was sent gives no key, and its pad is accounted for', async () => {
    world = await startLine()
    world.carry(async ({ to }, forward) => {
      if (to === B) await world.node(B).pool.take(C, '', 95)
      return forward()
    })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    expect(await world.count(A, `key_block WHERE link_id LIKE 'relay:%' AND state = 'DESTROYED'`)).toBe(1)
    // Nothing happened at kme-b, so kme-a has to tell it that the units are gone.
    expect(await world.count(B, 'relay_pad')).toBe(0)
    expect(await world.count(A, `reservation WHERE state = 'BURNT'`)).toBe(1)
    expect(await world.count(A, `audit_record WHERE event = 'key.burnt'`)).toBe(1)
  })
})

describe('messages that are lost or come again', () => {
  it('are repeated as they are, and answered as before', async () => {
    world = await startLine()
    let lost = 0
    world.carry(async (_caught, forward) => {
      const answer = await forward()
      if ((lost += 1) % 3 !== 0) throw new CallFailed('the answer was lost', true)
      return answer
    })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
    expect(world.caught.length).toBeGreaterThan(2)
    expect(await world.count(C, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(1)
    const { issued, fetched } = await issueAcross(world, A, C, 8)
    expect(fetched).toBe(issued)
  })

  it('that come again later change nothing', async () => {
    world = await startLine()
    await world.node(A).relay.fetch(C, 8)
    const before = await Promise.all([B, C].map((node) => world.count(node, 'audit_record')))
    for (const { from, to, parcel } of [...world.caught, ...world.caught].reverse()) {
      const again = await world.node(to).relay.acceptor.accept(from, parcel)
      expect(again.outcome).toBe('delivered')
    }
    expect(await Promise.all([B, C].map((node) => world.count(node, 'audit_record')))).toEqual(before)
    expect(world.caught).toHaveLength(2)
  })

  it('that come again when nobody remembers them are refused for their pad', async () => {
    world = await startLine()
    await world.node(A).relay.fetch(C, 8)
    for (const { from, to, parcel } of world.caught) {
      await world.node(to).database.query('DELETE FROM relay_pad')
      await expect(world.node(to).relay.acceptor.accept(from, parcel)).resolves.toMatchObject({ reason: 'pad-used', at: to })
    }
    expect(await world.count(C, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(1)
  })

  it('that come after their sender gave them up are refused, and nobody is alarmed', async () => {
    world = await startLine({ settings: { deadlineMs: 3000 } })
    world.carry(() => Promise.reject(new CallFailed('it takes its time', true)))
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    const [burnt] = await world.node(A).store.unsettled('own')
    await world.node(B).store.voidAssignment(A, burnt!.aid)
    await world.node(B).store.retire(A, burnt!.units)
    const { parcel } = world.caught[0]!
    await expect(world.node(B).relay.acceptor.accept(A, parcel)).resolves.toMatchObject({ reason: 'given-up', at: B })
    expect(world.node(B).alarms.size).toBe(0)
    expect(await world.count(B, 'relay_pad')).toBe(0)
  })

  it('without any answer in time leave a block that both ends agree on or destroy, and no key meanwhile', async () => {
    world = await startLine({ settings: { deadlineMs: 3000 } })
    world.carry(async ({ to }, forward) => {
      const answer = await forward()
      if (to === B) throw new CallFailed('the answer was lost', true)
      return answer
    })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    expect(await keysFor(A, C)).toBe(0)
    // It did arrive.
    const [block] = await world.node(A).store.pendingBlocks('relay:kme-a:kme-c' as never)
    await world
      .node(A)
      .relay.agreement('relay:kme-a:kme-c' as never, C)!
      .propose(block!.blockId)
    const { issued, fetched } = await issueAcross(world, A, C, 8)
    expect(fetched).toBe(issued)
  })
})

describe('a trusted node that dies', () => {
  it('after the pad was used up and before it sent anything on, gives no key and never uses the pad again (FP15)', async () => {
    world = await startLine({ settings: { deadlineMs: 3000 } })
    world.carry(async ({ to }, forward) => {
      if (to !== C) return forward()
      // kme-b is gone at this moment: what it would do from now on, another process does.
      if (world.caught.filter((one) => one.to === C).length === 1) await world.restart(B)
      throw new CallFailed('died', true)
    })
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    expect(await world.count(C, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(0)
    world.carry((_caught, forward) => forward())
    await expect(world.node(A).relay.sources[0]!.replenish(undefined as never)).resolves.toMatchObject({ outcome: 'filled' })
    const { issued, fetched } = await issueAcross(world, A, C, 8)
    expect(fetched).toBe(issued)
  })

  it('after it sent the block on sends the same ciphertext again when it is asked again (FP16)', async () => {
    world = await startLine({ settings: { deadlineMs: 3000 } })
    const sentOn = Promise.withResolvers<undefined>()
    world.carry(async ({ to }, forward) => {
      const tries = world.caught.filter((one) => one.to === to).length
      if (tries > 1) return forward()
      if (to === C) {
        await forward()
        sentOn.resolve(undefined)
        return new Promise(() => undefined)
      }
      // What the first process would do with the answer of kme-c it does not live to do.
      void forward().catch(() => undefined)
      await sentOn.promise
      await world.restart(B)
      throw new CallFailed('died', true)
    })
    await world.node(A).relay.fetch(C, 8)
    const sent = world.caught.filter(({ to }) => to === C)
    expect(sent.length).toBeGreaterThan(1)
    expect(new Set(sent.map(({ parcel }) => parcel.ciphertext.toString('hex'))).size).toBe(1)
    expect(await world.count(C, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(1)
  })

  it('leaves no relay open for ever: what nobody closed is given up', async () => {
    world = await startLine({ settings: { deadlineMs: 3000 } })
    const { store } = world.node(B)
    store.closePad = () => Promise.reject(new Error('died'))
    world.carry(({ to }, forward) => (to === C ? new Promise(() => undefined) : forward()))
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    await world.restart(B)
    expect(await world.node(B).store.tidyPads()).toBe(0)
    await world.node(B).database.query(`UPDATE relay_pad SET at = at - interval '2 minutes'`)
    expect(await world.node(B).store.tidyPads()).toBe(1)
    expect(await world.count(B, `relay_pad WHERE message IS NOT NULL`)).toBe(0)
    await expect(world.node(B).store.unsettled('own')).resolves.toMatchObject([{ state: 'BURNT', peerKmeId: C }])
  })
})

describe('the destination', () => {
  it('takes no more blocks than it could ever use', async () => {
    world = await startLine({ highWatermark: 16, units: 400 })
    for (let i = 0; i < 4; i += 1) await world.node(A).relay.fetch(C, 8)
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
    await issueAcross(world, A, C, 8)
    await world.restart(A)
    await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
  })

  it("destroys a block that differs from the origin's, and so does the origin", async () => {
    world = await startLine()
    // A trusted node that is not to be trusted.
    const { store } = world.node(C)
    const { deposit } = store
    store.deposit = async (block) => {
      using real = block.key
      return await deposit({ ...block, key: SecretBytes.adopt(systemRandom.fill(Buffer.alloc(real.lengthBytes))) })
    }
    await world.node(A).relay.fetch(C, 8)
    for (const node of [A, C]) {
      expect(await world.count(node, `key_block WHERE link_id LIKE 'relay:%' AND state = 'DESTROYED'`)).toBe(1)
      expect([...world.node(node).alarms.keys()]).toEqual(['link.blocks-differ:relay:kme-a:kme-c'])
    }
    expect(await keysFor(A, C)).toBe(0)
  })
})
