import { describe, expect, it } from '@jest/globals'
import { isLimsRate, isRuscasRate, lim, rusca } from '../bb84/rates/published-devices.ts'

describe('the published rates over distance', () => {
  it.each(lim.publishedDevice.rows)('of Lim 2014 for blocks of $blockBits bits', ({ blockBits, rates }) => {
    const off = lim.publishedDevice.distancesKm.filter((km, column) => !isLimsRate(blockBits, km, rates[column]!))
    expect(off).toEqual([])
  })

  it.each(rusca.rows)('of Rusca 2018 for blocks of $blockBits bits', ({ blockBits, secretBitsPerSecond }) => {
    const off = rusca.lossesDb.filter((lossDb, column) => !isRuscasRate(blockBits, lossDb, secretBitsPerSecond[column]!))
    expect(off).toEqual([])
  })
})
