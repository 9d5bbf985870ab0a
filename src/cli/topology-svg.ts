/** A drawing of the network as SVG: KMEs on a circle in the order of their IDs, so that the same network always looks the same. */
import type { components } from '../generated/admin.ts'

type Schemas = components['schemas']
type Topology = Schemas['Topology']

interface Point {
  readonly x: number
  readonly y: number
}

const NODE_RADIUS = 9
const MARGIN = 150
/** How far links between the same two KMEs keep from each other. */
const SPREAD = 44

/** @returns a whole SVG document. */
export const drawTopology = ({ kmeId, kmes, links }: Topology): string => {
  const reachable = new Map(kmes.map((kme) => [kme.kmeId, kme.route !== null]))
  // One that only others speak of is drawn too.
  const names = [...new Set([...reachable.keys(), ...links.flatMap(({ one, other }) => [one, other])])].sort()
  const radius = Math.max(140, names.length * 18)
  const size = 2 * (radius + MARGIN)
  const places = new Map(
    names.map((name, i): [string, Point] => {
      const angle = (2 * Math.PI * i) / names.length - Math.PI / 2
      const distance = names.length === 1 ? 0 : radius
      return [name, { x: size / 2 + distance * Math.cos(angle), y: size / 2 + distance * Math.sin(angle) }]
    }),
  )
  const drawnLinks = links.map((link) => {
    const beside = links.filter(({ one, other }) => one === link.one && other === link.other)
    const lane = beside.indexOf(link) - (beside.length - 1) / 2
    return drawLink(link, places.get(link.one)!, places.get(link.other)!, lane * SPREAD)
  })
  // What is written goes over all lines.
  const drawnKmes = names.map((name) =>
    drawKme(name, places.get(name)!, size / 2, name === kmeId ? 'own' : reachable.get(name) === true ? '' : 'away'),
  )
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size} ${size}" width="${size}" height="${size}" role="img">`,
    `<title>The network as ${escaped(kmeId)} knows it: ${names.length} KMEs, ${links.length} links</title>`,
    `<style>${STYLE}</style>`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    ...drawnLinks.map(({ line }) => line),
    ...drawnLinks.map(({ label }) => label),
    ...drawnKmes,
    '</svg>',
    '',
  ].join('\n')
}

const STYLE = [
  'text { font: 12px sans-serif; fill: #1a1a1a; paint-order: stroke; stroke: #ffffff; stroke-width: 4px }',
  '.name { font-weight: bold }',
  '.link { fill: none; stroke: #1b6e4b; stroke-width: 2 }',
  '.down, .one-sided { stroke: #a83232; stroke-dasharray: 7 5 }',
  '.one-sided { stroke: #777777; stroke-dasharray: 2 5 }',
  '.kme { fill: #1b4f8f; stroke: #ffffff; stroke-width: 2 }',
  '.own { fill: #0b2a4d; stroke: #f0a500; stroke-width: 3 }',
  '.away { fill: #ffffff; stroke: #777777; stroke-dasharray: 3 2 }',
].join(' ')

/** @param bend how far its middle is from the straight line. */
const drawLink = (
  link: Schemas['KnownLink'],
  from: Point,
  to: Point,
  bend: number,
): { readonly line: string; readonly label: string } => {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1
  const middle = {
    x: (from.x + to.x) / 2 - (bend * (to.y - from.y)) / length,
    y: (from.y + to.y) / 2 + (bend * (to.x - from.x)) / length,
  }
  // A quadratic curve passes half-way between its control point and the line.
  const control = { x: 2 * middle.x - (from.x + to.x) / 2, y: 2 * middle.y - (from.y + to.y) / 2 }
  const amounts = link.state === 'up' ? `${count(link.availableKeys)} keys, ${count(link.keyRateBps)} bit/s` : link.state
  const text = (y: number, words: string): string =>
    `<text x="${middle.x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="middle">${words}</text>`
  return {
    line: `<path class="link ${link.state}" d="M ${at(from)} Q ${at(control)} ${at(to)}"/>`,
    label: `${text(middle.y - 3, escaped(link.linkId))}\n${text(middle.y + 11, amounts)}`,
  }
}

const drawKme = (name: string, { x, y }: Point, centre: number, kind: string): string => {
  const anchor = Math.abs(x - centre) < 1 ? 'middle' : x < centre ? 'end' : 'start'
  const aside = anchor === 'middle' ? 0 : anchor === 'end' ? -(NODE_RADIUS + 5) : NODE_RADIUS + 5
  const below = anchor === 'middle' ? (y < centre ? -(NODE_RADIUS + 7) : NODE_RADIUS + 17) : 4
  return [
    `<circle class="kme ${kind}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${NODE_RADIUS}"/>`,
    `<text class="name" x="${(x + aside).toFixed(1)}" y="${(y + below).toFixed(1)}" text-anchor="${anchor}">${escaped(name)}</text>`,
  ].join('\n')
}

const at = ({ x, y }: Point): string => `${x.toFixed(1)} ${y.toFixed(1)}`

/** Short: the amounts are powers of two and mean an order of magnitude. */
const count = (amount: number): string => {
  if (amount < 10_000) return String(amount)
  const units = ['k', 'M', 'G', 'T', 'P']
  const step = Math.min(units.length, Math.floor(Math.log10(amount) / 3))
  return `${Math.round(amount / 1000 ** step)} ${units[step - 1]}`
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&apos;' }
const escaped = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character]!)
