/** Downhill simplex search (Nelder and Mead, Computer Journal 7, 308 (1965)), turned uphill. Without randomness: the same function and
 *  start give the same point. It finds a local maximum; callers give it several starts. */

const SPREAD = 0.4

interface Vertex {
  readonly point: readonly number[]
  readonly value: number
}

/** @param evaluations how often `value` may be asked, about.
 *  @returns the best point it met; coordinates are not bounded. */
export const climb = (value: (point: readonly number[]) => number, start: readonly number[], evaluations: number): Vertex => {
  let asked = 0
  const at = (point: readonly number[]): Vertex => {
    asked += 1
    return { point, value: value(point) }
  }
  let simplex = [at(start), ...start.map((_, axis) => at(start.map((x, i) => (i === axis ? x + SPREAD : x))))]
  const sort = () => simplex.sort((a, b) => b.value - a.value)

  sort()
  while (asked < evaluations) {
    const best = simplex[0]!
    const worst = simplex.at(-1)!
    const others = simplex.slice(0, -1)
    const centre = start.map((_, i) => others.reduce((sum, { point }) => sum + point[i]!, 0) / others.length)
    const along = (factor: number) => at(centre.map((x, i) => x + factor * (worst.point[i]! - x)))

    const reflected = along(-1)
    if (reflected.value > best.value) {
      const expanded = along(-2)
      simplex = [...others, expanded.value > reflected.value ? expanded : reflected]
    } else if (reflected.value > others.at(-1)!.value) {
      simplex = [...others, reflected]
    } else {
      const contracted = along(reflected.value > worst.value ? -0.5 : 0.5)
      simplex =
        contracted.value > Math.max(reflected.value, worst.value)
          ? [...others, contracted]
          : [best, ...simplex.slice(1).map(({ point }) => at(point.map((x, i) => (x + best.point[i]!) / 2)))]
    }
    sort()
  }
  return simplex[0]!
}
