/** The network as a graph, made of statements. A link counts when both ends state it to each other; it carries what the poorer
 *  account of the two says. */
import type { KmeId } from '../kernel/identifiers.ts'
import { STATED_KEY_BITS, type KnownLink, type LinkStateStatement, type StatedLink } from './topology.ts'

/** Nodes are numbered in the order of their IDs, so that everything that goes through them in order is deterministic. */
export interface NetworkGraph {
  readonly kmeIds: readonly KmeId[]
  readonly indexOf: ReadonlyMap<KmeId, number>
  /** Neighbours of each node over links that are up, in order. */
  readonly neighbours: readonly (readonly Neighbour[])[]
  /** The grades that occur, best first. */
  readonly grades: readonly number[]
}

export interface Neighbour {
  readonly node: number
  /** How much key can be had between the two: the logarithm to the base 2 of the bits stored and those of the next minute; 0 for
   *  none. A grade and not an amount, so that what is about equal is not told apart. */
  readonly grade: number
}

/** How long a relay looks ahead. */
const HORIZON_S = 60

/** All links that are stated, ordered by their ends and IDs. */
export const knownLinks = (statements: readonly LinkStateStatement[]): readonly KnownLink[] => {
  const nameOf = (from: KmeId, { linkId, peerKmeId }: StatedLink): string => JSON.stringify([from, peerKmeId, linkId])
  const stated = new Map(statements.flatMap(({ kmeId, links }) => links.map((link) => [nameOf(kmeId, link), link])))
  const known: KnownLink[] = []
  for (const { kmeId, links } of statements) {
    for (const link of links) {
      const { linkId, peerKmeId } = link
      const back = stated.get(nameOf(peerKmeId, { ...link, peerKmeId: kmeId }))
      // Stated by both: taken once, where the smaller ID speaks.
      if (back !== undefined && peerKmeId < kmeId) continue
      known.push({
        linkId,
        one: kmeId < peerKmeId ? kmeId : peerKmeId,
        other: kmeId < peerKmeId ? peerKmeId : kmeId,
        state: back === undefined ? 'one-sided' : link.up && back.up ? 'up' : 'down',
        availableKeys: Math.min(link.availableKeys, back?.availableKeys ?? Infinity),
        keyRateBps: Math.min(link.keyRateBps, back?.keyRateBps ?? Infinity),
      })
    }
  }
  const order = ({ one, other, linkId }: KnownLink): string => [one, other, linkId].join('\0')
  return known.sort((a, b) => (order(a) < order(b) ? -1 : 1))
}

/** @param links of which those that are up make the graph. @param kmeIds nodes that are there even without a link. */
export const buildGraph = (kmeIds: readonly KmeId[], links: readonly KnownLink[]): NetworkGraph => {
  const up = links.filter(({ state }) => state === 'up')
  const nodes = [...new Set([...kmeIds, ...up.flatMap(({ one, other }) => [one, other])])].sort()
  const indexOf = new Map(nodes.map((kmeId, i) => [kmeId, i]))
  // Links side by side share one pool and add up their rates.
  const amounts = nodes.map(() => new Map<number, { keys: number; rateBps: number }>())
  for (const { one, other, availableKeys, keyRateBps } of up) {
    const ends: readonly [number, number] = [indexOf.get(one)!, indexOf.get(other)!]
    const before = amounts[ends[0]]!.get(ends[1])
    const amount = { keys: Math.max(before?.keys ?? 0, availableKeys), rateBps: (before?.rateBps ?? 0) + keyRateBps }
    amounts[ends[0]]!.set(ends[1], amount)
    amounts[ends[1]]!.set(ends[0], amount)
  }
  const neighbours = amounts.map((others) =>
    [...others]
      .map(([node, { keys, rateBps }]): Neighbour => ({ node, grade: gradeOf(keys * STATED_KEY_BITS + rateBps * HORIZON_S) }))
      .sort((a, b) => a.node - b.node),
  )
  const grades = [...new Set(neighbours.flatMap((all) => all.map(({ grade }) => grade)))].sort((a, b) => b - a)
  return { kmeIds: nodes, indexOf, neighbours, grades }
}

const gradeOf = (bits: number): number => (bits < 1 ? 0 : 1 + Math.floor(Math.log2(bits)))
