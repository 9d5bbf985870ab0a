/** How long a network of so many KMEs takes until all know the same, in simulated time, and how many messages that costs. */
import { ringWithChords, simulateNetwork } from './simulated-network.ts'

export interface Convergence {
  /** Until the last KME took in the last statement. */
  readonly ms: number
  /** Requests between KMEs with statements in them. */
  readonly messages: number
  /** Statements in these. */
  readonly statements: number
  /** Requests that compare what two KMEs know. */
  readonly comparisons: number
}

export interface Measured {
  readonly nodes: number
  readonly links: number
  /** All KMEs start at once and know nothing. */
  readonly start: Convergence
  /** One link fails. */
  readonly failure: Convergence
}

/** @throws Error when the network does not get there. */
export const measureConvergence = async (nodes: number, seed: number): Promise<Measured> => {
  const network = simulateNetwork({ nodes, links: ringWithChords(nodes, nodes, seed), seed, isTrusting: true })
  const { clock, counted, links } = network
  const measure = async (event: () => Promise<void> | void, waitMs: number): Promise<Convergence> => {
    const before = { ...counted, atMs: clock.nowMs() }
    await event()
    await clock.run(waitMs)
    if (!network.hasConverged()) throw new Error(`${nodes} KMEs do not agree after ${waitMs} ms`)
    return {
      ms: network.lastAcceptedMs() - before.atMs,
      messages: counted.statements - before.statements,
      statements: counted.sentStatements - before.sentStatements,
      comparisons: counted.comparison - before.comparison,
    }
  }
  try {
    const start = await measure(network.begin, 30_000)
    const failure = await measure(() => void (links[0]!.up = false), 10_000)
    return { nodes, links: links.length, start, failure }
  } finally {
    await network.end()
  }
}
