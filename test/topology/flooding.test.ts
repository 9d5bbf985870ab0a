/** Networks of KMEs that state, flood and compare, on a simulated network and clock: nothing here waits for real time. */
import { afterEach, describe, expect, it } from '@jest/globals'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { measureConvergence } from './measure-convergence.ts'
import { createMemoryTopologyStore } from './memory-topology-store.ts'
import {
  FOREIGN,
  nodeName,
  quickIdentity,
  ringWithChords,
  seededRandom,
  simulateNetwork,
  type Simulation,
  type SimulationOptions,
} from './simulated-network.ts'

let network: Simulation | undefined
afterEach(async () => {
  await network?.end()
  network = undefined
})

const begin = async (options: Partial<SimulationOptions> & Pick<SimulationOptions, 'seed'>): Promise<Simulation> => {
  network = simulateNetwork({ nodes: 10, links: ringWithChords(10, 5, options.seed), ...options })
  await network.begin()
  return network
}

/** Whether each KME finds a way to exactly those it can reach. */
const expectTruth = ({ nodes, reachable }: Simulation): void => {
  nodes.forEach(({ view, kmeId }, from) => {
    const found = nodes.filter((other) => other.kmeId === kmeId || view.routes({ from: kmeId, to: other.kmeId }).length > 0)
    expect(found.map((other) => other.kmeId)).toEqual([...reachable(from)].sort((a, b) => a - b).map(nodeName))
  })
}

describe('ten KMEs whose links fail and come back', () => {
  it.each([1, 2, 3, 4, 5, 6])('find ways to exactly those there is a way to, seed %i', async (seed) => {
    const simulation = await begin({ seed })
    const random = seededRandom(1000 + seed)
    await simulation.clock.run(10_000)
    let separated = 0
    for (let round = 0; round < 25; round += 1) {
      // Half of all links are changed while the statements about the last change may still be under way.
      for (const link of simulation.links) {
        if (random.unit() < 0.5) link.up = random.unit() < 0.45
        await simulation.clock.run(random.below(150))
      }
      await simulation.clock.run(8000)
      expect(simulation.hasConverged()).toBe(true)
      expectTruth(simulation)
      if (simulation.reachable(0).size < 10) separated += 1
    }
    expect(separated).toBeGreaterThan(3)
    expect(simulation.audited).toEqual([])
  })

  it('agree again after the network was in two parts that both went on', async () => {
    const simulation = await begin({ seed: 7, links: ringWithChords(10, 0, 7) })
    await simulation.clock.run(5000)
    const [cut, otherCut] = [simulation.links[2]!, simulation.links[7]!]
    cut.up = otherCut.up = false
    await simulation.clock.run(120_000)
    expect(simulation.reachable(0).size).toBe(5)
    // On either side.
    simulation.links[0]!.keys = 100_000
    simulation.links[5]!.keys = 100_000
    await simulation.clock.run(60_000)
    expectTruth(simulation)
    cut.up = otherCut.up = true
    await simulation.clock.run(5000)
    expect(simulation.hasConverged()).toBe(true)
    expectTruth(simulation)
    for (const { view } of simulation.nodes)
      expect(view.links().filter(({ availableKeys }) => availableKeys === 65_536)).toHaveLength(2)
    expect(simulation.audited).toEqual([])
  })

  it('are not misled by messages that come late, twice, in another order, or again long after', async () => {
    const simulation = await begin({ seed: 8, latencyMs: [1, 2500], duplicates: { part: 0.5, lateMs: 9000 } })
    const random = seededRandom(88)
    const captured = simulation.capture()
    for (let round = 0; round < 12; round += 1) {
      for (const link of simulation.links) if (random.unit() < 0.3) link.up = !link.up
      await simulation.clock.run(4000)
    }
    for (const link of simulation.links) link.up = true
    await simulation.clock.run(90_000)
    expect(simulation.hasConverged()).toBe(true)
    // Everything ever sent, to anybody, in any order; what was sent of late is still true.
    const known = simulation.nodes.map(({ database }) => database.sequences())
    expect(captured.length).toBeGreaterThan(500)
    for (let i = 0; i < 3000; i += 1) {
      const { from, statements } = captured[random.below(captured.length)]!
      await simulation.deliver(from, random.below(10), statements)
    }
    await simulation.clock.run(1000)
    expect(simulation.nodes.map(({ database }) => database.sequences())).toEqual(known)
    expectTruth(simulation)
  })
})

describe('a KME that lies', () => {
  const stranger = 'kme-x' as KmeId
  const lie = (speaker: KmeId, sequence: number, issuedAtMs: number, peers: readonly KmeId[]) =>
    quickIdentity(speaker).sign({
      version: 1,
      kmeId: speaker,
      sequence,
      issuedAtMs,
      validForS: 900,
      links: peers.map((peerKmeId, i) => ({
        linkId: `lie-${i}` as LinkId,
        peerKmeId,
        availableKeys: 2 ** 40,
        keyRateBps: 2 ** 40,
        up: true,
      })),
    })

  it('about links to others draws no way to itself', async () => {
    const simulation = await begin({ seed: 9 })
    await simulation.clock.run(5000)
    const { clock, nodes } = simulation
    const everybody = nodes.map(({ kmeId }) => kmeId)
    await simulation.deliver(nodeName(3), 0, [lie(stranger, 1, clock.nowMs(), everybody)])
    await clock.run(5000)
    for (const { view, kmeId } of nodes) {
      expect(view.kmes()).toHaveLength(11)
      expect(view.routes({ from: kmeId, to: stranger })).toEqual([])
      expect(view.links().filter(({ state }) => state === 'one-sided')).toHaveLength(10)
    }
    expectTruth(simulation)
  })

  it('in the name of another changes nothing and is reported once', async () => {
    const simulation = await begin({ seed: 10 })
    await simulation.clock.run(5000)
    const { clock, nodes } = simulation
    const known = nodes.map(({ database }) => database.sequences())
    const forged = { ...lie(nodeName(5), 2 ** 50, clock.nowMs(), []), signature: Buffer.from('forged') }
    for (let i = 0; i < 5; i += 1) await simulation.deliver(nodeName(3), 0, [forged])
    await clock.run(5000)
    expect(nodes.map(({ database }) => database.sequences())).toEqual(known)
    expect(simulation.audited).toHaveLength(1)
    expectTruth(simulation)
  })
})

describe('statements', () => {
  const sent = ({ counted }: Simulation): number => counted.sentStatements

  it('are not sent while nothing changes but the time', async () => {
    const simulation = await begin({ seed: 11 })
    await simulation.clock.run(10_000)
    const before = sent(simulation)
    await simulation.clock.run(120_000)
    expect(sent(simulation)).toBe(before)
  })
  it('are made anew before they run out', async () => {
    const simulation = await begin({ seed: 12 })
    await simulation.clock.run(3_600_000)
    expect(simulation.hasConverged()).toBe(true)
    expectTruth(simulation)
  })
  it('run out when a KME is gone for good', async () => {
    const simulation = await begin({ seed: 13, nodes: 4, links: ringWithChords(4, 0, 13) })
    await simulation.clock.run(5000)
    simulation.nodes[2]!.running.abort()
    for (const link of simulation.links) if (link.ends.includes(2)) link.up = false
    await simulation.clock.run(1000 * 900)
    expect(simulation.nodes[0]!.view.kmes().map(({ kmeId }) => kmeId)).toEqual([0, 1, 3].map(nodeName))
  })
  it('do not follow amounts that stay within a factor of two', async () => {
    const simulation = await begin({ seed: 14 })
    await simulation.clock.run(10_000)
    const before = sent(simulation)
    const random = seededRandom(14)
    for (let i = 0; i < 60; i += 1) {
      // 512 and 8192 were stated.
      for (const link of simulation.links)
        Object.assign(link, { keys: 257 + random.below(766), rateBps: 4097 + random.below(12_000) })
      await simulation.clock.run(1000)
    }
    expect(sent(simulation)).toBe(before)
    simulation.links[0]!.keys = 256
    await simulation.clock.run(5000)
    expect(sent(simulation)).toBeGreaterThan(before)
    expect(simulation.nodes[9]!.view.links()[0]!.availableKeys).toBe(256)
  })
  it('come once a second at most, however often a link fails', async () => {
    const simulation = await begin({ seed: 15 })
    await simulation.clock.run(10_000)
    const seen = new Set<number>()
    for (let i = 0; i < 200; i += 1) {
      simulation.links[0]!.up = i % 2 === 0
      await simulation.clock.run(50 + (i % 7))
      seen.add(simulation.nodes[0]!.database.sequences().get(nodeName(0))!)
    }
    // In 10.6 seconds.
    expect(seen.size).toBeLessThanOrEqual(12)
    expect(seen.size).toBeGreaterThan(4)
  })
})

describe('a link whose devices failed', () => {
  it('counts as long as there is key left', async () => {
    const simulation = await begin({ seed: 23, links: ringWithChords(10, 0, 23) })
    const stateNow = () => simulation.nodes[5]!.view.links().find(({ linkId }) => linkId === '0-1')!.state
    const link = simulation.links[0]!
    await simulation.clock.run(5000)
    link.devicesUp = false
    link.keys = 3
    await simulation.clock.run(5000)
    expect(stateNow()).toBe('up')
    link.keys = 0
    await simulation.clock.run(5000)
    expect(stateNow()).toBe('down')
    link.devicesUp = true
    await simulation.clock.run(5000)
    expect(stateNow()).toBe('up')
  })
})

describe('comparing', () => {
  it('finds what a KME may believe behind any number of statements it must refuse', async () => {
    const simulation = await begin({ seed: 22, nodes: 2, links: [[0, 1]] })
    const { clock, nodes, links } = simulation
    links[0]!.up = false
    await clock.run(2000)
    // As if the authority of these 200 was trusted by one KME only.
    const strangers = Array.from({ length: 300 }, (_, i) => `kme-s${String(i).padStart(3, '0')}` as KmeId)
    for (const [i, kmeId] of strangers.entries()) {
      const offer = quickIdentity(kmeId).sign({
        version: 1,
        kmeId,
        sequence: 7,
        issuedAtMs: clock.nowMs(),
        validForS: 900,
        links: [],
      })
      await nodes[1]!.database.accept(i < 200 ? { ...offer, certificates: [Buffer.from(kmeId), FOREIGN] } : offer, nodeName(1))
    }
    const before = simulation.counted.comparison
    links[0]!.up = true
    await clock.run(20_000)
    const known = nodes[0]!.database.sequences()
    expect(strangers.filter((kmeId) => known.has(kmeId))).toEqual(strangers.slice(200))
    expect(simulation.counted.comparison - before).toBeLessThan(12)
    expect(simulation.audited).toHaveLength(200)
  })
})

describe('comparing again', () => {
  const comparisonsIn = async (simulation: Simulation, durationMs: number): Promise<number> => {
    const before = simulation.counted.comparison
    await simulation.clock.run(durationMs)
    return simulation.counted.comparison - before
  }

  it('with a peer that answers and takes no statements comes every few seconds', async () => {
    // What the second does not take it cannot ask for either.
    const simulation = await begin({ seed: 24, nodes: 2, links: [[0, 1]], deaf: [0, 1], oneWay: [1, 0] })
    await simulation.clock.run(5000)
    const comparisons = await comparisonsIn(simulation, 60_000)
    expect(comparisons).toBeGreaterThan(5)
    expect(comparisons).toBeLessThan(15)
  })

  it('with a peer that says the same again and again, and that there is more, comes once a minute', async () => {
    const simulation: Simulation = await begin({
      seed: 25,
      nodes: 2,
      links: [[0, 1]],
      // Both have it for long.
      answered: (truth) => ({ ...truth, newer: network!.nodes[1]!.database.signedOf([nodeName(1)]), more: true }),
    })
    await simulation.clock.run(5000)
    // Each of the two with the other.
    expect(await comparisonsIn(simulation, 180_000)).toBeLessThan(12)
    expect(simulation.hasConverged()).toBe(true)
  })
})

describe('a chain of KMEs', () => {
  const chain = (nodes: number) => Array.from({ length: nodes - 1 }, (_, i): readonly [number, number] => [i, i + 1])

  it('sends each statement once over each link', async () => {
    const simulation = await begin({ seed: 19, links: chain(10) })
    await simulation.clock.run(10_000)
    const before = simulation.counted.sentStatements
    simulation.links[0]!.keys = 100_000
    await simulation.clock.run(5000)
    // Both ends say so, over nine links.
    expect(simulation.counted.sentStatements - before).toBe(18)
    expect(simulation.hasConverged()).toBe(true)
  })
  it('knows everything at both ends also when one KME cannot call its neighbour', async () => {
    const simulation = await begin({ seed: 20, nodes: 4, links: chain(4), oneWay: [0, 1] })
    simulation.links[0]!.up = false
    await simulation.clock.run(5000)
    simulation.links[0]!.up = true
    // It is asked about once a minute.
    await simulation.clock.run(80_000)
    expect(simulation.hasConverged()).toBe(true)
    expectTruth(simulation)
  })
})

describe('a KME that starts again', () => {
  it('knows the network at once', async () => {
    const simulation = await begin({ seed: 16 })
    await simulation.clock.run(5000)
    await simulation.restart(4)
    expectTruth(simulation)
  })
  it('with an empty database is believed again', async () => {
    const simulation = await begin({ seed: 17 })
    await simulation.clock.run(5000)
    const before = simulation.nodes[4]!.database.sequences().get(nodeName(4))!
    await simulation.restart(4, createMemoryTopologyStore())
    await simulation.clock.run(5000)
    expect(simulation.nodes[0]!.database.sequences().get(nodeName(4))).toBeGreaterThan(before)
    expect(simulation.hasConverged()).toBe(true)
    expect(simulation.audited).toEqual([])
  })
  it('after its clock had been years ahead is heard again', async () => {
    const simulation = await begin({ seed: 21 })
    await simulation.clock.run(5000)
    const [node, { store }] = [nodeName(4), simulation.nodes[4]!]
    const aheadMs = simulation.clock.nowMs() + 5 * 366 * 86_400_000
    // Nobody else believed it.
    await store.putNext(node, { atLeast: Math.floor(aheadMs / 1000), atMost: Infinity }, (sequence) =>
      quickIdentity(node).sign({ version: 1, kmeId: node, sequence, issuedAtMs: aheadMs, validForS: 900, links: [] }),
    )
    await simulation.restart(4)
    await simulation.clock.run(5000)
    expect(simulation.hasConverged()).toBe(true)
    expectTruth(simulation)
    expect(simulation.nodes[0]!.database.newest(node)!.statement.issuedAtMs).toBeLessThan(aheadMs)
  })
  it('with an empty database, and numbers behind those it once used, learns of them from others', async () => {
    const simulation = await begin({ seed: 18 })
    const node = nodeName(4)
    const far = Math.floor(simulation.clock.nowMs() / 1000) + 1_000_000
    await simulation.nodes[4]!.store.putNext(node, { atLeast: far, atMost: Infinity }, (sequence) =>
      quickIdentity(node).sign({
        version: 1,
        kmeId: node,
        sequence,
        issuedAtMs: simulation.clock.nowMs(),
        validForS: 900,
        links: [],
      }),
    )
    await simulation.restart(4)
    await simulation.clock.run(5000)
    await simulation.restart(4, createMemoryTopologyStore())
    await simulation.clock.run(5000)
    simulation.links.find(({ ends }) => ends.includes(4))!.up = false
    await simulation.clock.run(5000)
    expect(simulation.nodes[0]!.database.sequences().get(node)).toBeGreaterThan(far + 1)
    expect(simulation.hasConverged()).toBe(true)
    expectTruth(simulation)
    expect(simulation.audited).toEqual([])
  })
})

describe('convergence', () => {
  it.each([
    [10, { messages: 300, afterFailure: 100 }],
    [100, { messages: 6000, afterFailure: 900 }],
  ])('of %i KMEs takes seconds and few messages', async (size, bounds) => {
    const { start, failure } = await measureConvergence(size, 2)
    expect(start.ms).toBeLessThan(3000)
    expect(start.messages).toBeLessThan(bounds.messages)
    expect(failure.ms).toBeLessThan(2000)
    expect(failure.messages).toBeLessThan(bounds.afterFailure)
  })
})
