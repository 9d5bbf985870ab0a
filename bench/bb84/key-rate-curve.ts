/** Key rate over distance, as CSV and SVG: the analytic finite-key length, what a simulation measured, and published points. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { infiniteDecoyRate } from '../../src/bb84/asymptotic-rate.ts'
import { transmittance } from '../../src/bb84/detection-model.ts'
import { expectedBlock, optimise } from '../../src/bb84/expected-rate.ts'
import type { ExpectedBlock } from '../../src/bb84/expected-rate.ts'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { profileNamed, quantised } from '../../src/bb84/profile.ts'
import type { ChartSeries } from './log-chart.ts'
import { logChart } from './log-chart.ts'

export interface CurvePoint {
  readonly distanceKm: number
  readonly secretBitsPerPulse: number
}

export interface AnalyticPoint extends CurvePoint {
  /** The link the point is for: run this one to measure it. */
  readonly profile: Bb84Profile
  readonly block: ExpectedBlock
}

/** A block that was distilled. */
export interface SimulatedPoint extends CurvePoint {
  readonly qber: number
  /** Disclosed bits over n h(qber), measured. */
  readonly efficiencyF: number
}

export interface PublishedPoint extends CurvePoint {
  readonly source: string
  readonly label: string
}

/** What Cascade needs at the error rates of these links, about. */
export const ASSUMED_EFFICIENCY_F = 1.05

/** Measured or computed by others, each for its own device: where the curves should lie, not what they must meet. */
export const PUBLISHED_POINTS: readonly PublishedPoint[] = [
  {
    distanceKm: 0,
    secretBitsPerPulse: 2.555e-3,
    label: 'Ma 2005',
    source: 'Ma et al., PRA 72, 012326 (2005): receiver of Gobby, Yuan, Shields; infinitely many pulses and decoys',
  },
  {
    distanceKm: 100,
    secretBitsPerPulse: 3.04e-6,
    label: 'Zhang 2017',
    source: 'Zhang et al., PRA 95, 012333 (2017), table 3: the same receiver, 1e10 pulses, Chernoff bound',
  },
  {
    distanceKm: 10,
    secretBitsPerPulse: 13.72e6 / 1e9,
    label: 'Yuan 2018',
    source: 'Yuan et al., JLT 36, 3427 (2018): 13.72 Mb/s over 2 dB at 1 GHz, self-differencing photodiodes',
  },
  {
    distanceKm: 10,
    secretBitsPerPulse: 64e6 / 2.5e9,
    label: 'Grünenfelder 2023',
    source: 'Grünenfelder et al., Nat. Photon. 17, 422 (2023): 64 Mb/s at 2.5 GHz, superconducting detectors',
  },
  {
    distanceKm: 102.4,
    secretBitsPerPulse: 3e6 / 2.5e9,
    label: 'Grünenfelder 2023',
    source: 'Grünenfelder et al., Nat. Photon. 17, 422 (2023): 3.0 Mb/s at 2.5 GHz, superconducting detectors, low-loss fibre',
  },
]

/** The expected block of a profile's devices at each distance, its source tuned to the distance and quantised. */
export const analyticCurve = (
  profile: Bb84Profile,
  distancesKm: readonly number[],
  efficiencyF = ASSUMED_EFFICIENCY_F,
): readonly AnalyticPoint[] =>
  distancesKm.map((distanceKm) => {
    const tuned = quantised(optimise({ ...profile, distanceKm }, efficiencyF))
    const block = expectedBlock(tuned, efficiencyF)
    return { distanceKm, profile: tuned, block, secretBitsPerPulse: block.secretBitsPerPulse }
  })

/** The limit the receiver of Ma et al. 2005 reaches with infinitely many pulses and decoy intensities. */
const asymptoticCurve = (distancesKm: readonly number[]): readonly CurvePoint[] => {
  const gys = profileNamed('gys')
  const backgroundYield = 1 - (1 - gys.receiver.darkCountProbability) ** 2
  return distancesKm.map((distanceKm) => ({
    distanceKm,
    secretBitsPerPulse: infiniteDecoyRate(
      { transmittance: transmittance({ ...gys, distanceKm }), backgroundYield, misalignment: gys.misalignment },
      0.48,
      1.22,
    ),
  }))
}

export interface CurveFiles {
  readonly csv: string
  readonly svg: string
}

/** @param simulated blocks of the links `analyticCurve` names, some per distance. */
export const keyRateCurve = (
  profile: Bb84Profile,
  simulated: readonly SimulatedPoint[] = [],
  distancesKm: readonly number[] = Array.from({ length: 31 }, (_, step) => 5 * step),
): CurveFiles => {
  const blockSizes = [profile.blockBits / 10, profile.blockBits, profile.blockBits * 10]
  const analytic = blockSizes.map((blockBits) => ({
    name: `${profile.name}, Lim 2014, blocks of ${power(blockBits)} bits`,
    points: analyticCurve({ ...profile, blockBits }, distancesKm),
  }))
  const asymptotic = { name: 'gys, Ma 2005, infinite size and decoys', points: asymptoticCurve(distancesKm) }

  const rows: (readonly (string | number)[])[] = [
    ['series', 'distance_km', 'secret_bits_per_pulse', 'qber', 'efficiency_f', 'source'],
    ...analytic.flatMap(({ name, points }) =>
      points.map((point) => row(name, point, point.block.qber, ASSUMED_EFFICIENCY_F, 'computed')),
    ),
    ...asymptotic.points.map((point) => row(asymptotic.name, point, '', 1.22, 'computed')),
    ...simulated.map((point) => row(`${profile.name}, simulated`, point, point.qber, point.efficiencyF, 'measured here')),
    ...PUBLISHED_POINTS.map((point) => row(point.label, point, '', '', point.source)),
  ]
  const lines = [...analytic.map((series) => ({ ...series, kind: 'line' as const })), { ...asymptotic, kind: 'dashed' as const }]
  const series: ChartSeries[] = lines.map(({ name, kind, points }) => ({ name, kind, points: points.map(place) }))
  if (simulated.length > 0) series.push({ name: `${profile.name}, simulated`, kind: 'points', points: averaged(simulated) })
  series.push({
    name: 'published, other devices',
    kind: 'points',
    points: PUBLISHED_POINTS.map((point) => ({ ...place(point), label: point.label })),
  })
  return {
    csv: `${rows.map((cells) => cells.map(quoted).join(',')).join('\n')}\n`,
    svg: logChart({
      title: `Secret key over distance: ${profile.name}`,
      xTitle: 'distance, km',
      yTitle: 'secret bits per pulse',
      series,
    }),
  }
}

/** Writes key-rate-curve.csv and key-rate-curve.svg. @returns their paths. */
export const writeKeyRateCurve = async (folder: string, { csv, svg }: CurveFiles): Promise<readonly string[]> => {
  await mkdir(folder, { recursive: true })
  const files = [join(folder, 'key-rate-curve.csv'), join(folder, 'key-rate-curve.svg')] as const
  await writeFile(files[0], csv)
  await writeFile(files[1], svg)
  return files
}

const place = ({ distanceKm, secretBitsPerPulse }: CurvePoint) => ({ x: distanceKm, y: secretBitsPerPulse })

/** One point per distance: the mean, and a bar from the least to the most. */
const averaged = (simulated: readonly SimulatedPoint[]): ChartSeries['points'] =>
  [...Map.groupBy(simulated, ({ distanceKm }) => distanceKm)].map(([x, points]) => {
    const rates = points.map(({ secretBitsPerPulse }) => secretBitsPerPulse)
    return {
      x,
      y: rates.reduce((sum, rate) => sum + rate, 0) / rates.length,
      range: [Math.min(...rates), Math.max(...rates)],
    }
  })

const row = (series: string, point: CurvePoint, qber: number | '', efficiencyF: number | '', source: string) => [
  series,
  point.distanceKm,
  Number(point.secretBitsPerPulse.toPrecision(6)),
  qber === '' ? '' : Number(qber.toPrecision(4)),
  efficiencyF,
  source,
]

const quoted = (cell: string | number): string =>
  /[",]/.test(String(cell)) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell)

/** 1000000 as 1e6. */
const power = (value: number): string => value.toExponential().replace('+', '')
