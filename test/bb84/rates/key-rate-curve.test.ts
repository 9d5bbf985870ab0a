import { describe, expect, it } from '@jest/globals'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { analyticCurve, keyRateCurve, writeKeyRateCurve } from '../../../bench/bb84/key-rate-curve.ts'
import { logChart } from '../../../bench/bb84/log-chart.ts'
import { checkProfile, profileNamed, quantised } from '../../../src/bb84/profile.ts'

const lab = profileNamed('lab-2014')

describe('the key-rate curve', () => {
  it('falls with distance and names a link to run for every point', () => {
    const points = analyticCurve(lab, [5, 25, 50, 75, 100])
    points.forEach(({ distanceKm, profile, secretBitsPerPulse }, index) => {
      expect(profile).toEqual(quantised(profile))
      expect(checkProfile(profile)).toEqual([])
      expect(profile.distanceKm).toBe(distanceKm)
      expect(secretBitsPerPulse).toBeGreaterThan(0)
      if (index > 0) expect(secretBitsPerPulse).toBeLessThan(points[index - 1]!.secretBitsPerPulse)
    })
    expect(points[1]!.secretBitsPerPulse * 1e8).toBeGreaterThan(130_000)
  })

  it('is written as a table and a picture with every series, simulated blocks included', async () => {
    const simulated = [1, 2, 3].map((seed) => ({
      distanceKm: 25,
      secretBitsPerPulse: 1.3e-3 + seed * 1e-6,
      blockBits: 200_000,
      pulses: 5e7,
      qber: 0.025,
      efficiencyF: 1.04,
      expectedBitsPerPulse: 1.3e-3,
      deviationBitsPerPulse: 1e-5,
    }))
    const folder = await mkdtemp(join(tmpdir(), 'key-rate-curve-'))
    try {
      const [csvFile, svgFile] = await writeKeyRateCurve(join(folder, 'curve'), keyRateCurve(lab, simulated, [0, 25, 50]))
      const csv = (await readFile(csvFile, 'utf8')).trimEnd().split('\n')
      const svg = await readFile(svgFile, 'utf8')
      expect(csv[0]).toBe(
        'series,distance_km,secret_bits_per_pulse,qber,efficiency_f,block_bits,pulses,expected_bits_per_pulse,standard_deviation,source',
      )
      expect(csv.find((line) => line.startsWith('"lab-2014, simulated'))).toContain(
        ',0.001301,0.025,1.04,200000,50000000,0.0013,0.00001,',
      )
      expect(csv.filter((line) => line.startsWith('"lab-2014, Lim 2014, blocks of 1e6 bits"'))).toHaveLength(3)
      expect(csv.filter((line) => line.startsWith('"lab-2014, simulated'))).toHaveLength(3)
      expect(csv.some((line) => line.startsWith('Zhang 2017,100,0.00000304'))).toBe(true)
      for (const name of ['blocks of 1e5 bits', 'blocks of 1e7 bits', 'simulated', '2e5', 'Ma 2005']) expect(svg).toContain(name)
      expect(svg.match(/<polyline/g)).toHaveLength(4)
      // Five published points and one for the three blocks at 25 km, and two samples in the legend.
      expect(svg.match(/<circle/g)).toHaveLength(8)
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  it('has no place for zeros on a logarithmic axis', () => {
    const chart = (points: readonly { x: number; y: number }[]) =>
      logChart({ title: 'a < b', xTitle: 'x', yTitle: 'y', series: [{ name: 'one', kind: 'line', points }] })
    expect(
      chart([
        { x: 0, y: 1 },
        { x: 1, y: 0.1 },
        { x: 2, y: 0 },
      ]),
    ).not.toMatch(/NaN|Infinity/)
    expect(chart([{ x: 0, y: 1 }])).toContain('a &lt; b')
    expect(() => chart([{ x: 0, y: 0 }])).toThrow(RangeError)
  })
})
