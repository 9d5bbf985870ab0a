/** Key rate over distance, as CSV and SVG: the analytic finite-key length, what a simulation measured, and published points. */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
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
  /** n_X the link was tuned for. */
  readonly blockBits: number
  readonly pulses: number
  readonly qber: number
  /** Disclosed bits over n h(qber), measured. */
  readonly efficiencyF: number
  /** The analytic length of the expected counts with this efficiency, and the standard deviation of a block around it. */
  readonly expectedBitsPerPulse: number
  readonly deviationBitsPerPulse: number
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
    COLUMNS,
    ...analytic.flatMap(({ name, points }) =>
      points.map((point) =>
        row({
          series: name,
          ...cellsOf(point),
          qber: point.block.qber,
          efficiency_f: ASSUMED_EFFICIENCY_F,
          block_bits: point.profile.blockBits,
          pulses: point.block.pulses,
          source: 'computed',
        }),
      ),
    ),
    ...asymptotic.points.map((point) =>
      row({ series: asymptotic.name, ...cellsOf(point), efficiency_f: 1.22, source: 'computed' }),
    ),
    ...simulated.map((point) =>
      row({
        series: simulatedName(profile, simulated),
        ...cellsOf(point),
        qber: point.qber,
        efficiency_f: point.efficiencyF,
        block_bits: point.blockBits,
        pulses: point.pulses,
        expected_bits_per_pulse: point.expectedBitsPerPulse,
        standard_deviation: point.deviationBitsPerPulse,
        source: 'simulated and distilled here',
      }),
    ),
    ...PUBLISHED_POINTS.map((point) => row({ series: point.label, ...cellsOf(point), source: point.source })),
  ]
  const lines = [...analytic.map((series) => ({ ...series, kind: 'line' as const })), { ...asymptotic, kind: 'dashed' as const }]
  const series: ChartSeries[] = lines.map(({ name, kind, points }) => ({ name, kind, points: points.map(place) }))
  if (simulated.length > 0) {
    series.push({ name: simulatedName(profile, simulated), kind: 'points', points: averaged(simulated, profile.blockBits) })
  }
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

/** Writes PATH.csv and PATH.svg. @returns their paths. */
export const writeKeyRateCurve = async (path: string, { csv, svg }: CurveFiles): Promise<readonly [string, string]> => {
  await mkdir(dirname(path), { recursive: true })
  const files = [`${path}.csv`, `${path}.svg`] as const
  await writeFile(files[0], csv)
  await writeFile(files[1], svg)
  return files
}

const simulatedName = ({ name, blockBits }: Bb84Profile, points: readonly SimulatedPoint[]): string => {
  const others = points.some((point) => point.blockBits !== blockBits)
  return `${name}, simulated, blocks of ${power(blockBits)} bits${others ? ' unless said' : ''}`
}

const place = ({ distanceKm, secretBitsPerPulse }: CurvePoint) => ({ x: distanceKm, y: secretBitsPerPulse })

/** One point per distance: the mean, and a bar from the least to the most. */
const averaged = (simulated: readonly SimulatedPoint[], usualBlockBits: number): ChartSeries['points'] =>
  [...Map.groupBy(simulated, ({ distanceKm }) => distanceKm)].map(([x, points]) => {
    const rates = points.map(({ secretBitsPerPulse }) => secretBitsPerPulse)
    const { blockBits } = points[0]!
    return {
      x,
      y: rates.reduce((sum, rate) => sum + rate, 0) / rates.length,
      range: [Math.min(...rates), Math.max(...rates)],
      ...(blockBits !== usualBlockBits && { label: power(blockBits) }),
    }
  })

const COLUMNS = [
  'series',
  'distance_km',
  'secret_bits_per_pulse',
  'qber',
  'efficiency_f',
  'block_bits',
  'pulses',
  'expected_bits_per_pulse',
  'standard_deviation',
  'source',
] as const

const cellsOf = ({ distanceKm, secretBitsPerPulse }: CurvePoint) => ({
  distance_km: distanceKm,
  secret_bits_per_pulse: secretBitsPerPulse,
})

/** Empty where the series has no such figure. */
const row = (cells: Readonly<Partial<Record<(typeof COLUMNS)[number], string | number>>>): readonly (string | number)[] =>
  COLUMNS.map((column) => {
    const cell = cells[column] ?? ''
    return typeof cell === 'number' ? Number(cell.toPrecision(6)) : cell
  })

const quoted = (cell: string | number): string =>
  /[",]/.test(String(cell)) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell)

/** 1000000 as 1e6. */
const power = (value: number): string => value.toExponential().replace('+', '')
