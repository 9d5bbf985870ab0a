import { describe, expect, it } from '@jest/globals'
import { createFixedRoutes } from '../../src/relay/fixed-routes.ts'
import { A, B, C, kme } from './relay-world.ts'

const [D, E] = [kme('d'), kme('e')]
const fixed = [
  { to: C, via: [B, D] },
  { to: C, via: [B] },
  { to: C, via: [E] },
]
const found = createFixedRoutes(A, fixed, { routes: () => [[A, E, D]] })
const towards = { from: A, to: C }

describe('fixed routes', () => {
  it.each([
    [
      'all of them, in the order they are written',
      {},
      [
        [A, B, D, C],
        [A, B, C],
        [A, E, C],
      ],
    ],
    [
      'those of few hops',
      { maxHops: 2 },
      [
        [A, B, C],
        [A, E, C],
      ],
    ],
    ['those around a KME', { avoid: [B] }, [[A, E, C]]],
    ['those over certain KMEs only', { only: [B] }, [[A, B, C]]],
    [
      'as many without a KME in common as are asked for',
      { disjointPaths: 2 },
      [
        [A, B, D, C],
        [A, E, C],
      ],
    ],
    ['none, rather than too few', { disjointPaths: 3 }, []],
  ])('are %s', (_what, request, expected) => {
    expect(found.routes({ ...towards, ...request })).toEqual(expected)
  })

  it('leave a KME that none is written for, and what is not from here, to the topology', () => {
    expect(found.routes({ from: A, to: D })).toEqual([[A, E, D]])
    expect(found.routes({ from: B, to: C })).toEqual([[A, E, D]])
    expect(createFixedRoutes(A, fixed).routes({ from: A, to: D })).toEqual([])
  })
})
