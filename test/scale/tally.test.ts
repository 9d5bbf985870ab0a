import { describe, expect, it } from '@jest/globals'
import { randomBytes, randomUUID } from 'node:crypto'
import { countDoubles, createColumn, joinSorted, printOfKey, printOfKeyId, quantile } from './tally.ts'

describe('what the scale run remembers of its keys', () => {
  it('finds a key that came twice, in one process or in two, among a hundred thousand', () => {
    const [one, two] = [createColumn(), createColumn()]
    const first = randomBytes(32).toString('base64')
    one.add(printOfKey(first))
    for (let i = 0; i < 100_000; i += 1) (i % 2 === 0 ? one : two).add(printOfKeyId(randomUUID()))
    expect(countDoubles([one.values(), two.values()])).toBe(0)
    two.add(printOfKey(first))
    expect(countDoubles([one.values(), two.values()])).toBe(1)
    one.add(printOfKey(first))
    expect(countDoubles([one.values(), two.values()])).toBe(2)
    expect(one.values().length + two.values().length).toBe(100_003)
  })

  it('tells keys apart by one bit', () => {
    const key = randomBytes(32)
    const print = printOfKey(key.toString('base64'))
    key[31]! ^= 1
    expect(printOfKey(key.toString('base64'))).not.toBe(print)
  })

  it('knows its quantiles', () => {
    const sorted = joinSorted([Float32Array.of(5, 1, 4), Float32Array.of(3, 2)])
    expect([quantile(sorted, 0.5), quantile(sorted, 0.99), quantile(new Float32Array(), 0.5)]).toEqual([3, 5, 0])
  })
})
