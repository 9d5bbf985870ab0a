import { describe, expect, it } from '@jest/globals'
import fc from 'fast-check'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { buildGraph, knownLinks } from '../../src/topology/network-graph.ts'
import { bestWaysFrom, createRouteFinder } from '../../src/topology/routes.ts'
import type { LinkStateStatement } from '../../src/topology/topology.ts'
import { allWays, fewestHops, graphOf, mostDisjoint, nameOf, statementsOf, type TestLink } from './graphs.ts'

const id = (text: string) => text as KmeId
const finderOf = (links: readonly TestLink[]) => createRouteFinder(() => graphOf(links))
const routes = (links: readonly TestLink[], more: Partial<Parameters<ReturnType<typeof finderOf>['routes']>[0]> = {}) =>
  finderOf(links).routes({ from: id('a'), to: id('d'), ...more })

describe('the best way', () => {
  it('is the one whose weakest link has most key, also when it is longer', () => {
    const links: TestLink[] = [
      { ends: ['a', 'd'], keys: 1 },
      { ends: ['a', 'b'], keys: 1000 },
      { ends: ['b', 'c'], keys: 500 },
      { ends: ['c', 'd'], keys: 1000 },
    ]
    expect(routes(links)).toEqual([
      ['a', 'b', 'c', 'd'],
      ['a', 'd'],
    ])
  })
  it('has the fewest hops of several with about as much key, and then the first names', () => {
    const links: TestLink[] = [
      { ends: ['a', 'c'], keys: 600 },
      { ends: ['c', 'd'], keys: 700 },
      { ends: ['a', 'b'], keys: 1000 },
      { ends: ['b', 'd'], keys: 513 },
      { ends: ['b', 'e'], keys: 1000 },
      { ends: ['e', 'd'], keys: 1000 },
    ]
    expect(routes(links)[0]).toEqual(['a', 'b', 'd'])
  })
  it('counts what a link will give within a minute as well as what is stored', () => {
    const links: TestLink[] = [
      { ends: ['a', 'b'], rateBps: 100_000 },
      { ends: ['b', 'd'], rateBps: 100_000 },
      { ends: ['a', 'c'], keys: 100 },
      { ends: ['c', 'd'], keys: 100 },
    ]
    expect(routes(links)[0]).toEqual(['a', 'b', 'd'])
  })
  it('goes over an empty link when there is no other', () => {
    expect(routes([{ ends: ['a', 'd'] }])).toEqual([['a', 'd']])
  })
  it('is followed by one around each of its links', () => {
    const links: TestLink[] = [
      { ends: ['a', 'b'], keys: 4 },
      { ends: ['b', 'd'], keys: 4 },
      { ends: ['b', 'c'], keys: 2 },
      { ends: ['c', 'd'], keys: 2 },
      { ends: ['a', 'c'], keys: 1 },
    ]
    expect(routes(links)).toEqual([
      ['a', 'b', 'd'],
      ['a', 'b', 'c', 'd'],
      ['a', 'c', 'd'],
    ])
  })
  it('passes only nodes that may be passed', () => {
    const links: TestLink[] = [
      { ends: ['a', 'b'], keys: 9 },
      { ends: ['b', 'd'], keys: 9 },
      { ends: ['a', 'c'], keys: 1 },
      { ends: ['c', 'd'], keys: 1 },
    ]
    expect(routes(links, { avoid: [id('b')] })).toEqual([['a', 'c', 'd']])
    expect(routes(links, { only: [id('c')] })).toEqual([['a', 'c', 'd']])
    expect(routes(links, { only: [] })).toEqual([])
    expect(routes(links, { avoid: [id('b'), id('c')] })).toEqual([])
    expect(routes(links, { avoid: [id('c')], disjointPaths: 2 })).toEqual([])
  })
  it('has at most as many hops as asked for, and never more than 16', () => {
    const chain = (length: number): TestLink[] =>
      Array.from({ length }, (_, i) => ({ ends: [nameOf(i), nameOf(i + 1)] as const, keys: 8 }))
    const finder = finderOf([...chain(17), { ends: [nameOf(0), nameOf(2)], keys: 1 }])
    const to = (node: number, maxHops?: number) =>
      finder.routes({ from: nameOf(0), to: nameOf(node), ...(maxHops !== undefined && { maxHops }) })
    expect(to(16)[0]).toHaveLength(17)
    expect(to(17)).toHaveLength(1)
    expect(to(17)[0]).toHaveLength(17)
    expect(to(3, 2)).toEqual([[nameOf(0), nameOf(2), nameOf(3)]])
    expect(to(4, 2)).toEqual([])
    expect(finderOf(chain(17)).routes({ from: nameOf(0), to: nameOf(17) })).toEqual([])
    expect([...bestWaysFrom(graphOf(chain(17)), nameOf(0)).keys()]).toEqual(Array.from({ length: 16 }, (_, i) => nameOf(i + 1)))
  })
  it('does not exist to nowhere, to a stranger and to oneself', () => {
    const links: TestLink[] = [{ ends: ['a', 'b'] }, { ends: ['c', 'd'] }]
    expect(routes(links)).toEqual([])
    expect(routes(links, { to: id('x') })).toEqual([])
    expect(routes(links, { to: id('a') })).toEqual([])
  })
})

describe('ways without a common node', () => {
  it('give up links of the shortest way when that saves hops in all', () => {
    // The shortest is a-x-y-d; together with it there is only one of six hops.
    const pairs = ['ax', 'xy', 'yd', 'ac', 'ce', 'ey', 'xb', 'bf', 'fd', 'ag', 'gh', 'hi', 'ij', 'jk', 'kd']
    const links = pairs.map(([one, other]): TestLink => ({ ends: [one!, other!] }))
    expect(routes(links)[0]).toEqual(['a', 'x', 'y', 'd'])
    expect(routes(links, { disjointPaths: 2 })).toEqual([
      ['a', 'c', 'e', 'y', 'd'],
      ['a', 'x', 'b', 'f', 'd'],
    ])
    expect(routes(links, { disjointPaths: 3 })).toHaveLength(3)
    expect(routes(links, { disjointPaths: 3, maxHops: 5 })).toEqual([])
    expect(routes(links, { disjointPaths: 4 })).toEqual([])
  })
  it('use good links where there are enough of them', () => {
    const links: TestLink[] = [
      { ends: ['a', 'd'], keys: 1 },
      ...['ab', 'bd', 'ac', 'cd'].map(([one, other]): TestLink => ({ ends: [one!, other!], keys: 64 })),
    ]
    expect(routes(links, { disjointPaths: 2 })).toEqual([
      ['a', 'b', 'd'],
      ['a', 'c', 'd'],
    ])
    expect(routes(links, { disjointPaths: 3 })[0]).toEqual(['a', 'd'])
  })
})

describe('a link', () => {
  const [a, b] = statementsOf([{ ends: ['a', 'b'], keys: 8, rateBps: 64 }]) as [LinkStateStatement, LinkStateStatement]
  const linksOf = (...statements: LinkStateStatement[]) => knownLinks(statements)
  const routesOf = (...statements: LinkStateStatement[]) =>
    createRouteFinder(() => buildGraph([], knownLinks(statements))).routes({ from: id('a'), to: id('b') })

  it('counts when both ends state it, with what the poorer account says', () => {
    const poorer = { ...b, links: [{ ...b.links[0]!, availableKeys: 4 }] }
    expect(linksOf(a, poorer)).toEqual([{ linkId: 'a-b', one: 'a', other: 'b', state: 'up', availableKeys: 4, keyRateBps: 64 }])
    expect(routesOf(a, b)).toEqual([['a', 'b']])
  })
  it('does not count when one end says that it is down', () => {
    const down = { ...b, links: [{ ...b.links[0]!, up: false }] }
    expect(linksOf(a, down)[0]!.state).toBe('down')
    expect(routesOf(a, down)).toEqual([])
  })
  it.each([
    ['nobody else states', { ...b, links: [] }],
    ['the other end has under another name', { ...b, links: [{ ...b.links[0]!, linkId: 'other' as LinkId }] }],
    ['the other end has with somebody else', { ...b, links: [{ ...b.links[0]!, peerKmeId: id('c') }] }],
  ])('that %s is one-sided and does not count', (_, statement) => {
    expect(linksOf(a, statement).every(({ state }) => state === 'one-sided')).toBe(true)
    expect(routesOf(a, statement)).toEqual([])
  })
})

const NODES = 7
const network = fc
  .uniqueArray(
    fc.tuple(fc.nat(NODES - 1), fc.nat(NODES - 1)).filter(([one, other]) => one < other),
    {
      maxLength: 14,
      selector: ([one, other]) => one * NODES + other,
    },
  )
  .chain((pairs) =>
    fc.tuple(...pairs.map((pair) => fc.record({ ends: fc.constant(pair), keys: fc.constantFrom(0, 1, 3, 100, 5000) }))),
  )
  .map((links) => links.map(({ ends: [one, other], keys }): TestLink => ({ ends: [nameOf(one), nameOf(other)], keys })))

describe('on any small network', () => {
  const [from, to] = [nameOf(0), nameOf(1)]
  const weakest = (links: readonly TestLink[], way: readonly string[]): number =>
    Math.min(
      ...way.slice(1).map((node, i) => {
        const { keys = 0 } = links.find(({ ends }) => ends.includes(node) && ends.includes(way[i]!))!
        return keys === 0 ? 0 : Math.floor(Math.log2(keys)) + 1
      }),
    )

  it('the best way is the best of all ways', () => {
    fc.assert(
      fc.property(network, (links) => {
        const expected = [...allWays(links, from, to)].sort(
          (one, other) =>
            weakest(links, other) - weakest(links, one) ||
            one.length - other.length ||
            (one.join('\0') < other.join('\0') ? -1 : 1),
        )[0]
        const found = finderOf(links).routes({ from, to })
        expect(found[0]).toEqual(expected)
        expect(new Set(found.map(String)).size).toBe(found.length)
        for (const way of found) expect(allWays(links, from, to)).toContainEqual(way)
      }),
      { numRuns: 500 },
    )
  })
  it('the best ways to all nodes, found in one go, are those found one by one', () => {
    fc.assert(
      fc.property(network, (links) => {
        const ways = bestWaysFrom(graphOf(links), from)
        for (let node = 0; node < NODES; node += 1)
          expect(ways.get(nameOf(node))).toEqual(finderOf(links).routes({ from, to: nameOf(node) })[0])
      }),
      { numRuns: 500 },
    )
  })
  it('there are k ways without a common node exactly when the network has them', () => {
    fc.assert(
      fc.property(network, fc.integer({ min: 1, max: 4 }), (links, count) => {
        const ways = allWays(links, from, to)
        const found = finderOf(links).routes({ from, to, disjointPaths: count })
        expect(found).toHaveLength(mostDisjoint(ways) >= count ? count : 0)
        const between = found.flatMap((way) => way.slice(1, -1))
        expect(new Set(between).size).toBe(between.length)
        expect(new Set(found.map(String)).size).toBe(found.length)
        for (const way of found) expect(ways).toContainEqual(way)
      }),
      { numRuns: 500 },
    )
  })
  it('k ways without a common node have the fewest hops in all, where all links are alike', () => {
    fc.assert(
      fc.property(network, fc.integer({ min: 1, max: 3 }), (links, count) => {
        const alike = links.map(({ ends }) => ({ ends, keys: 1 }))
        const hops = finderOf(alike)
          .routes({ from, to, disjointPaths: count })
          .reduce((sum, way) => sum + way.length - 1, 0)
        expect(hops === 0 ? Infinity : hops).toBe(fewestHops(allWays(links, from, to), count))
      }),
      { numRuns: 500 },
    )
  })
})
