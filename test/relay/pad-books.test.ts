/** The check of I33 finds what it is there for: in books that are wrong, and at KMEs whose database was restored from a backup. */
import { describe, expect, it } from '@jest/globals'
import type { BlockId, KmeId } from '../../src/kernel/identifiers.ts'
import { A, B, C, padsUsedTwice, padViolationsIn, startLine } from './relay-world.ts'
import { padViolations, type Books, type Message } from './pad-books.ts'

const L = 'l' as BlockId
const run = (...units: number[]) => [{ blockId: L, units }]
const message = (relayId: string, units: number[], secretPart = `${relayId} ${units.join()}`): Message => ({
  from: A,
  to: B,
  relayId,
  pad: run(...units),
  secretPart,
})
/** Of a block of four units: what was used of it, and is overwritten. */
const books = (
  kmeId: KmeId,
  more: Partial<Books> = {},
  [taken, erased]: readonly [string, string | null] = ['1111', '1111'],
): Books => ({
  kmeId,
  pads: [],
  keys: [],
  blocks: [{ blockId: L, taken, erased }],
  ...more,
})
const out = (relayId: string, ...units: number[]) => ({ pads: [{ relayId, side: 'out' as const, units: run(...units) }] })

it('finds nothing wrong in good books', () => {
  const good = [
    books(A, out('r', 0, 1)),
    books(B, { pads: [{ relayId: 'r', side: 'in', units: run(0, 1) }], keys: [{ aid: 'k', units: run(2) }] }),
  ]
  expect(padViolations([message('r', [0, 1]), message('r', [0, 1]), message('s', [3])], good)).toEqual([])
  expect(padViolations([message('r', [0])], [books(A, {}, ['1000', null])])).toEqual([])
})

it.each<[string, Message[], Books[], RegExp]>([
  [
    'two messages under one unit',
    [message('r', [0, 1]), message('s', [1, 2])],
    [],
    /unit l 1 was used by message r and by message s/,
  ],
  [
    'a message that was replaced',
    [message('r', [0], 'x'), message('r', [0], 'y')],
    [],
    /the message of r .* was used by x and by y/,
  ],
  ['one that was encrypted again, with another pad', [message('r', [0]), message('r', [1])], [], /the message of r /],
  [
    'a pad of one hop used for the next',
    [message('r', [0]), { ...message('r', [0], 'other'), from: B, to: C }],
    [],
    /l 0 on the way was used by r 0 and by other/,
  ],
  [
    'a unit of a message and of a key',
    [message('r', [0])],
    [books(B, { keys: [{ aid: 'k', units: run(0) }] })],
    /by message r and by key k/,
  ],
  [
    'a unit of two keys',
    [],
    [
      books(A, {
        keys: [
          { aid: 'k', units: run(0) },
          { aid: 'n', units: run(0) },
        ],
      }),
    ],
    /by key k and by key n/,
  ],
  ['a unit twice in one pad', [], [books(A, out('r', 0, 0))], /twice in the pad of r/],
  ['a pad that other units say they are', [], [books(A, out('r', 0)), books(B, out('s', 0))], /by message r and by message s/],
  [
    'a message of a unit that is free at its sender',
    [message('r', [0])],
    [books(A, {}, ['0111', '1111'])],
    /l 0 of r is free at kme-a/,
  ],
  [
    'a pad that can still be read',
    [message('r', [0])],
    [books(A, out('r', 0), ['1111', '0111'])],
    /l 0 of r was not erased at kme-a/,
  ],
  ['the same at the receiver', [], [books(B, out('r', 3), ['1111', '1110'])], /l 3 of r was not erased at kme-b/],
])('finds %s', (_what, messages, read, fault) => {
  expect(padViolations(messages, read)).toContainEqual(expect.stringMatching(fault))
})

describe('a database that was restored from a backup', () => {
  it('spends pads again, which is found; the other end refuses them, and says so', async () => {
    const world = await startLine()
    try {
      const { database } = world.node(A)
      await database.query('CREATE TABLE backup AS SELECT * FROM key_block')
      await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(true)
      expect(await padViolationsIn(world, [A, B, C])).toEqual([])
      await database.query('TRUNCATE key_block CASCADE')
      await database.query('INSERT INTO key_block SELECT * FROM backup')
      await world.restart(A)
      await expect(world.node(A).relay.fetch(C, 8)).resolves.toBe(false)
      expect(padsUsedTwice(world.caught).length).toBeGreaterThan(0)
      expect(world.node(B).alarms.get('relay.pad:kme-a')).toContain('used before')
      expect(await world.count(C, `key_block WHERE link_id LIKE 'relay:%'`)).toBe(1)
    } finally {
      await world[Symbol.asyncDispose]()
    }
  })
})
