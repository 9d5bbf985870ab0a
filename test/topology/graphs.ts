/** Networks for tests of ways, and the slow but plain truth about them. */
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { buildGraph, knownLinks, type NetworkGraph } from '../../src/topology/network-graph.ts'
import type { LinkStateStatement, StatedLink } from '../../src/topology/topology.ts'

export interface TestLink {
  readonly ends: readonly [string, string]
  readonly keys?: number
  readonly rateBps?: number
}

/** `a` with number 7 becomes `k07`: names in the order of the numbers. */
export const nameOf = (node: number): KmeId => `k${String(node).padStart(2, '0')}` as KmeId

/** What the ends of these links would state. */
export const statementsOf = (links: readonly TestLink[], kmeIds: readonly string[] = []): readonly LinkStateStatement[] => {
  const stated = new Map<string, StatedLink[]>(kmeIds.map((kmeId) => [kmeId, []]))
  for (const { ends, keys = 0, rateBps = 0 } of links) {
    const [one, other] = ends
    const linkId = `${one}-${other}` as LinkId
    const say = (from: string, to: string): void => {
      const link = { linkId, peerKmeId: to as KmeId, availableKeys: keys, keyRateBps: rateBps, up: true }
      stated.set(from, [...(stated.get(from) ?? []), link])
    }
    say(one, other)
    say(other, one)
  }
  return [...stated].map(([kmeId, own]) => ({
    version: 1,
    kmeId: kmeId as KmeId,
    sequence: 1,
    issuedAtMs: 0,
    validForS: 900,
    links: own,
  }))
}

export const graphOf = (links: readonly TestLink[]): NetworkGraph => {
  const statements = statementsOf(links)
  return buildGraph(
    statements.map(({ kmeId }) => kmeId),
    knownLinks(statements),
  )
}

/** Every way without a repeated node, by trying all. */
export const allWays = (links: readonly TestLink[], from: string, to: string): readonly (readonly string[])[] => {
  const neighbours = (node: string): string[] =>
    links.flatMap(({ ends: [one, other] }) => (one === node ? [other] : other === node ? [one] : []))
  const walk = (way: readonly string[]): (readonly string[])[] => {
    const last = way.at(-1)!
    if (last === to) return [way]
    return neighbours(last).flatMap((next) => (way.includes(next) ? [] : walk([...way, next])))
  }
  return walk([from])
}

/** Those that share no node in between with `way`; several direct ways are one. */
const besideOf = (way: readonly string[], others: readonly (readonly string[])[]): readonly (readonly string[])[] => {
  const between = new Set(way.slice(1, -1))
  return others.filter((other) => other.slice(1, -1).every((node) => !between.has(node)) && other.length + way.length > 4)
}

/** Most ways without a common node in between, by trying all. */
export const mostDisjoint = (ways: readonly (readonly string[])[]): number => {
  const [first, ...rest] = ways
  return first === undefined ? 0 : Math.max(1 + mostDisjoint(besideOf(first, rest)), mostDisjoint(rest))
}

/** Fewest hops that so many of them have in all; Infinity when there are not so many. */
export const fewestHops = (ways: readonly (readonly string[])[], count: number): number => {
  const [first, ...rest] = ways
  if (count === 0) return 0
  if (first === undefined) return Infinity
  return Math.min(first.length - 1 + fewestHops(besideOf(first, rest), count - 1), fewestHops(rest, count))
}
