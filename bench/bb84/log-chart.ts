/** A chart as SVG: x even, y in decades, lines and points with error bars, a legend. As much as the key-rate curve needs. */

export interface ChartPoint {
  readonly x: number
  readonly y: number
  /** Lowest and highest value met, drawn as a bar. */
  readonly range?: readonly [number, number]
  /** Written beside the point. */
  readonly label?: string
}

export interface ChartSeries {
  readonly name: string
  readonly kind: 'line' | 'dashed' | 'points'
  readonly points: readonly ChartPoint[]
}

export interface Chart {
  readonly title: string
  readonly xTitle: string
  readonly yTitle: string
  readonly series: readonly ChartSeries[]
}

const WIDTH = 960
const HEIGHT = 600
const LEFT = 90
const RIGHT = 930
const TOP = 60
const BOTTOM = 530
const LEGEND_ROW = 20
// Told apart by people who do not see red and green apart (Okabe and Ito).
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#000000']

/** Points with y of 0 or less have no place on a logarithmic axis and are left out.
 *  @throws RangeError when no point is left. */
export const logChart = ({ title, xTitle, yTitle, series }: Chart): string => {
  const shown = series.map((one) => ({ ...one, points: one.points.filter(({ y }) => y > 0) }))
  const all = shown.flatMap(({ points }) => points)
  if (all.length === 0) throw new RangeError('no point of the chart is above zero')
  const xStep = niceStep(Math.max(...all.map(({ x }) => x)) / 8)
  const xMost = Math.max(1, Math.ceil(Math.max(...all.map(({ x }) => x)) / xStep)) * xStep
  const exponents = all.map(({ y }) => Math.log10(y))
  const yLeast = Math.floor(Math.min(...exponents))
  const yMost = Math.max(yLeast + 1, Math.ceil(Math.max(...exponents)))

  const across = (x: number) => round(LEFT + (x / xMost) * (RIGHT - LEFT))
  const up = (y: number) => {
    const share = (Math.log10(y) - yLeast) / (yMost - yLeast)
    return round(BOTTOM - Math.min(Math.max(share, 0), 1) * (BOTTOM - TOP))
  }
  const parts: string[] = []
  for (let exponent = yLeast; exponent <= yMost; exponent++) {
    const y = up(10 ** exponent)
    parts.push(line(LEFT, y, RIGHT, y, '#cccccc'), tenTo(exponent, LEFT - 10, y + 4))
    if (exponent === yMost) continue
    for (let digit = 2; digit < 10; digit++)
      parts.push(line(LEFT, up(digit * 10 ** exponent), LEFT + 5, up(digit * 10 ** exponent), '#888888'))
  }
  for (let x = 0; x <= xMost + xStep / 2; x += xStep) {
    parts.push(line(across(x), TOP, across(x), BOTTOM, '#eeeeee'), text(String(round(x)), across(x), BOTTOM + 20, 'middle'))
  }
  parts.push(`<rect x="${LEFT}" y="${TOP}" width="${RIGHT - LEFT}" height="${BOTTOM - TOP}" fill="none" stroke="#444444"/>`)
  shown.forEach((one, index) => parts.push(...drawn(one, COLOURS[index % COLOURS.length]!, across, up)))
  parts.push(...legend(shown))
  parts.push(
    text(title, (LEFT + RIGHT) / 2, 32, 'middle', 18),
    text(xTitle, (LEFT + RIGHT) / 2, BOTTOM + 48, 'middle'),
    `<g transform="translate(24 ${(TOP + BOTTOM) / 2}) rotate(-90)">${text(yTitle, 0, 0, 'middle')}</g>`,
  )
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="13">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n')
}

const drawn = (
  { kind, points }: ChartSeries,
  colour: string,
  across: (x: number) => number,
  up: (y: number) => number,
): string[] => {
  if (kind !== 'points') {
    const path = points.map(({ x, y }) => `${across(x)},${up(y)}`).join(' ')
    const dashes = kind === 'dashed' ? ' stroke-dasharray="6 4"' : ''
    return [`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dashes}/>`]
  }
  return points.flatMap(({ x, y, range, label }) => [
    ...(range === undefined ? [] : [line(across(x), up(range[0]), across(x), up(range[1]), colour)]),
    `<circle cx="${across(x)}" cy="${up(y)}" r="4" fill="${colour}"/>`,
    ...(label === undefined ? [] : [text(label, across(x) + 8, up(y) + 14, 'start', 11)]),
  ])
}

const legend = (series: readonly ChartSeries[]): string[] => {
  // At the lower left, which falling curves leave free.
  const width = 60 + 7 * Math.max(...series.map(({ name }) => name.length))
  const left = LEFT + 25
  const top = BOTTOM - 25 - series.length * LEGEND_ROW
  const frame = `<rect x="${left - 10}" y="${top}" width="${width}" height="${series.length * LEGEND_ROW + 10}" fill="#ffffff" stroke="#cccccc"/>`
  return [
    frame,
    ...series.flatMap(({ name, kind }, index) => {
      const y = top + 16 + index * LEGEND_ROW
      const colour = COLOURS[index % COLOURS.length]!
      const sample =
        kind === 'points'
          ? `<circle cx="${left + 15}" cy="${y}" r="4" fill="${colour}"/>`
          : `<line x1="${left}" y1="${y}" x2="${left + 30}" y2="${y}" stroke="${colour}" stroke-width="2"${kind === 'dashed' ? ' stroke-dasharray="6 4"' : ''}/>`
      return [sample, text(name, left + 40, y + 4, 'start')]
    }),
  ]
}

const line = (x1: number, y1: number, x2: number, y2: number, colour: string): string =>
  `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}"/>`

const text = (words: string, x: number, y: number, anchor: 'start' | 'middle', size = 13): string =>
  `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}">${escaped(words)}</text>`

const tenTo = (exponent: number, x: number, y: number): string =>
  `<text x="${x}" y="${y}" text-anchor="end">10<tspan dy="-6" font-size="10">${exponent}</tspan></text>`

const escaped = (words: string): string => words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

const round = (value: number): number => Math.round(value * 100) / 100

/** 1, 2 or 5 times a power of ten, not below `least`. */
const niceStep = (least: number): number => {
  if (!(least > 0)) return 1
  const power = 10 ** Math.floor(Math.log10(least))
  return [1, 2, 5, 10].find((factor) => factor * power >= least)! * power
}
