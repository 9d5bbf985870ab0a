/** The public choices of Cascade are the same everywhere: test/vectors/cascade.json was computed by another program. */
import { describe, expect, it } from '@jest/globals'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { shufflesOf } from '../../../src/bb84/cascade/cascade-shuffles.ts'
import { xoshiro128pp } from '../../../src/bb84/cascade/xoshiro.ts'

interface Vectors {
  readonly xoshiro128pp: { readonly state: [number, number, number, number]; readonly outputs: number[] }
  readonly shuffles: readonly {
    readonly seed: string
    readonly frameBits: number
    readonly pass: number
    readonly kind: 'permutation' | 'half'
    readonly first: number[]
    readonly sha256: string
  }[]
}

const vectors = JSON.parse(readFileSync(new URL('../../vectors/cascade.json', import.meta.url), 'utf8')) as Vectors

const sha256 = (words: Uint32Array): string => {
  const bytes = Buffer.alloc(4 * words.length)
  words.forEach((word, index) => bytes.writeUInt32LE(word, 4 * index))
  return createHash('sha256').update(bytes).digest('hex')
}

it('the generator gives the published numbers', () => {
  const next = xoshiro128pp(vectors.xoshiro128pp.state)
  expect(vectors.xoshiro128pp.outputs.map(() => next() >>> 0)).toEqual(vectors.xoshiro128pp.outputs)
})

describe('the shuffles of a seed', () => {
  it.each(vectors.shuffles)('$seed, $frameBits bits, pass $pass: the $kind of the vector', (vector) => {
    const shuffles = shufflesOf(Buffer.from(vector.seed, 'hex'), vector.frameBits)
    const words = vector.kind === 'half' ? shuffles.half(vector.pass) : shuffles.permutation(vector.pass).bitAt
    expect([...words.slice(0, vector.first.length)]).toEqual(vector.first)
    expect(sha256(words)).toBe(vector.sha256)
  })

  it('know the position of every bit', () => {
    const { bitAt, positionOf } = shufflesOf(new Uint8Array(16).fill(7), 1_001).permutation(2)
    expect([...positionOf].map((position) => bitAt[position])).toEqual(Array.from({ length: 1_001 }, (_, bit) => bit))
  })

  it('are others under another seed, also when the caller reuses the buffer', () => {
    const seed = new Uint8Array(16)
    const first = shufflesOf(seed, 500)
    seed[15] = 1
    const second = shufflesOf(seed, 500)
    seed[15] = 2
    expect(first.permutation(1).bitAt).not.toEqual(second.permutation(1).bitAt)
    expect(first.permutation(1).bitAt).toEqual(shufflesOf(new Uint8Array(16), 500).permutation(1).bitAt)
    expect(first.half(3)).not.toEqual(second.half(3))
  })

  it('need a seed of 16 bytes', () => {
    expect(() => shufflesOf(new Uint8Array(15), 500)).toThrow(RangeError)
    expect(() => shufflesOf(new Uint8Array(17), 500)).toThrow(RangeError)
  })
})
