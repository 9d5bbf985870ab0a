/** The product T x of a Toeplitz matrix and a bit vector over GF(2), by a Fourier transform in doubles.
 *
 *  y_i = sum_j t[i - j + k - 1] x_j is a stretch of the product of two polynomials, t(u) and x(u). They are multiplied modulo u^N + 1 with
 *  N = 2M at least as large as t is long: what wraps around (with the other sign) stays below the stretch. Real polynomials modulo
 *  u^(2M) + 1 are complex ones modulo u^M - i, coefficient j + M becoming the imaginary part of coefficient j (Nussbaumer, Fast Fourier
 *  Transform and Convolution Algorithms, 1982, ch. 6), so one complex transform of half the length does, and nothing has to be untangled.
 *  That ring is split in four, u^(4h) - w^4 = (u^h - w)(u^h + w)(u^h - iw)(u^h + iw), until four coefficients are left, which are
 *  multiplied; both factors go down and the product comes up in one recursion, so that the work stays in the nearest cache.
 *
 *  Every sum is a whole number no larger than x is long; how far a computed sum is from the nearest one tells how exact the transform was.
 *  Holds: no branch and no address depends on the bits. The work space is zeroed after use. */
import type { ToeplitzProduct } from './toeplitz-product.ts'

interface Plan {
  /** M: complex coefficients of a polynomial. */
  readonly points: number
  /** For each depth of the recursion the root w of each of its rings, real and imaginary part. */
  readonly roots: readonly Float64Array[]
  readonly x: Float64Array
  readonly t: Float64Array
}

const MIN_POINTS = 4

/** Angles by which the four parts of a ring are apart, in turns: w, -w, iw, -iw. */
const PART_TURNS = [0, 1 / 2, 1 / 4, 3 / 4] as const

/** Of a power of two. */
export const isPowerOfFour = (points: number): boolean => (Math.clz32(points) & 1) === 1

/** For each depth the angles of the roots w, in turns, of rings u^(4h) - w^4 that are split in four until four coefficients are left.
 *  @param turns angles of the w^4 at the top. Powers of two under the line keep all of them exact.
 *  @param coefficients of each ring at the top; a power of four. */
export const rootTurns = (turns: readonly number[], coefficients: number): readonly (readonly number[])[] => {
  const roots = turns.map((turn) => turn / 4)
  if (coefficients === 4) return [roots]
  const parts = roots.flatMap((root) => PART_TURNS.map((part) => root + part))
  return [roots, ...rootTurns(parts, coefficients / 4)]
}

const planOf = (points: number): Plan => {
  // u^M - i itself, or its two halves when M is no power of four.
  const levels = isPowerOfFour(points) ? rootTurns([1 / 4], points) : rootTurns([1 / 8, 5 / 8], points / 2)
  const roots = levels.map((turns) => {
    const level = new Float64Array(2 * turns.length)
    for (const [ring, turn] of turns.entries()) {
      level[2 * ring] = Math.cos(2 * Math.PI * turn)
      level[2 * ring + 1] = Math.sin(2 * Math.PI * turn)
    }
    return level
  })
  return { points, roots, x: new Float64Array(2 * points), t: new Float64Array(2 * points) }
}

const unpack = (bits: Uint8Array, bitCount: number, z: Float64Array, points: number): void => {
  const low = Math.min(bitCount, points)
  for (let i = 0; i < low; i += 1) z[2 * i] = (bits[i >> 3]! >> (i & 7)) & 1
  for (let i = points; i < bitCount; i += 1) z[2 * (i - points) + 1] = (bits[i >> 3]! >> (i & 7)) & 1
}

/** u^(2h) - i, the whole ring, into its two halves. */
const splitInTwo = (z: Float64Array, half: number): void => {
  const w = Math.SQRT1_2
  for (let i = 0; i < half; i += 2) {
    const j = i + half
    const ar = z[i]!
    const ai = z[i + 1]!
    const br = w * (z[j]! - z[j + 1]!)
    const bi = w * (z[j]! + z[j + 1]!)
    z[i] = ar + br
    z[i + 1] = ai + bi
    z[j] = ar - br
    z[j + 1] = ai - bi
  }
}

const joinTwo = (z: Float64Array, half: number): void => {
  const w = Math.SQRT1_2
  for (let i = 0; i < half; i += 2) {
    const j = i + half
    const br = z[i]! - z[j]!
    const bi = z[i + 1]! - z[j + 1]!
    z[i] = z[i]! + z[j]!
    z[i + 1] = z[i + 1]! + z[j + 1]!
    z[j] = w * (br + bi)
    z[j + 1] = w * (bi - br)
  }
}

/** One ring of 4h coefficients into four of h. `from` and `h` count doubles. */
const splitInFour = (z: Float64Array, from: number, h: number, w1r: number, w1i: number): void => {
  const w2r = w1r * w1r - w1i * w1i
  const w2i = 2 * w1r * w1i
  const w3r = w1r * w2r - w1i * w2i
  const w3i = w1r * w2i + w1i * w2r
  for (let i0 = from; i0 < from + h; i0 += 2) {
    const i1 = i0 + h
    const i2 = i1 + h
    const i3 = i2 + h
    const a1r = w1r * z[i1]! - w1i * z[i1 + 1]!
    const a1i = w1r * z[i1 + 1]! + w1i * z[i1]!
    const a2r = w2r * z[i2]! - w2i * z[i2 + 1]!
    const a2i = w2r * z[i2 + 1]! + w2i * z[i2]!
    const a3r = w3r * z[i3]! - w3i * z[i3 + 1]!
    const a3i = w3r * z[i3 + 1]! + w3i * z[i3]!
    const b0r = z[i0]! + a2r
    const b0i = z[i0 + 1]! + a2i
    const b2r = z[i0]! - a2r
    const b2i = z[i0 + 1]! - a2i
    const b1r = a1r + a3r
    const b1i = a1i + a3i
    const b3r = a1r - a3r
    const b3i = a1i - a3i
    z[i0] = b0r + b1r
    z[i0 + 1] = b0i + b1i
    z[i1] = b0r - b1r
    z[i1 + 1] = b0i - b1i
    z[i2] = b2r - b3i
    z[i2 + 1] = b2i + b3r
    z[i3] = b2r + b3i
    z[i3 + 1] = b2i - b3r
  }
}

/** Undoes `splitInFour`, but for a factor of 4. */
const joinFour = (z: Float64Array, from: number, h: number, w1r: number, w1i: number): void => {
  const w2r = w1r * w1r - w1i * w1i
  const w2i = 2 * w1r * w1i
  const w3r = w1r * w2r - w1i * w2i
  const w3i = w1r * w2i + w1i * w2r
  for (let i0 = from; i0 < from + h; i0 += 2) {
    const i1 = i0 + h
    const i2 = i1 + h
    const i3 = i2 + h
    const b0r = z[i0]! + z[i1]!
    const b0i = z[i0 + 1]! + z[i1 + 1]!
    const b1r = z[i0]! - z[i1]!
    const b1i = z[i0 + 1]! - z[i1 + 1]!
    const b2r = z[i2]! + z[i3]!
    const b2i = z[i2 + 1]! + z[i3 + 1]!
    // -i (z2 - z3)
    const b3r = z[i2 + 1]! - z[i3 + 1]!
    const b3i = z[i3]! - z[i2]!
    const c1r = b1r + b3r
    const c1i = b1i + b3i
    const c2r = b0r - b2r
    const c2i = b0i - b2i
    const c3r = b1r - b3r
    const c3i = b1i - b3i
    z[i0] = b0r + b2r
    z[i0 + 1] = b0i + b2i
    z[i1] = w1r * c1r + w1i * c1i
    z[i1 + 1] = w1r * c1i - w1i * c1r
    z[i2] = w2r * c2r + w2i * c2i
    z[i2 + 1] = w2r * c2i - w2i * c2r
    z[i3] = w3r * c3r + w3i * c3i
    z[i3 + 1] = w3r * c3i - w3i * c3r
  }
}

/** Four values of x by four of t. */
const multiplyFour = (x: Float64Array, t: Float64Array, from: number): void => {
  for (let i = from; i < from + 8; i += 2) {
    const xr = x[i]!
    const xi = x[i + 1]!
    x[i] = xr * t[i]! - xi * t[i + 1]!
    x[i + 1] = xr * t[i + 1]! + xi * t[i]!
  }
}

/** x becomes x times t, times `length / 2`, in one ring of `length` doubles. */
const multiply = (plan: Plan, depth: number, ring: number, from: number, length: number): void => {
  const { x, t } = plan
  const wr = plan.roots[depth]![2 * ring]!
  const wi = plan.roots[depth]![2 * ring + 1]!
  const h = length / 4
  splitInFour(x, from, h, wr, wi)
  splitInFour(t, from, h, wr, wi)
  if (h === 2) multiplyFour(x, t, from)
  else for (let part = 0; part < 4; part += 1) multiply(plan, depth + 1, 4 * ring + part, from + part * h, h)
  joinFour(x, from, h, wr, wi)
}

/** Rounds `outputBits` sums from coefficient `first` on, and adds their parities to the output.
 *  @returns the largest distance of a sum from a whole number. */
const readParities = ({ x, points }: Plan, first: number, outputBits: number, output: Uint8Array): number => {
  const scale = 1 / points
  let largest = 0
  for (let i = 0; i < outputBits; i += 1) {
    const at = first + i
    const sum = scale * (at < points ? x[2 * at]! : x[2 * (at - points) + 1]!)
    const whole = Math.floor(sum + 0.5)
    largest = Math.max(largest, Math.abs(sum - whole))
    output[i >> 3]! ^= (whole & 1) << (i & 7)
  }
  return largest
}

/** In plain TypeScript. Keeps the work space of the last size it was used for: 32 bytes per input bit. */
export const createFourierToeplitz = (): ToeplitzProduct => {
  let plan = planOf(MIN_POINTS)
  return {
    addTo: (output, { diagonals, vector, vectorBits, outputBits }) => {
      const matrixBits = vectorBits + outputBits - 1
      const points = Math.max(MIN_POINTS, 1 << (32 - Math.clz32((matrixBits - 1) >> 1)))
      if (plan.points !== points) plan = planOf(points)
      const { x, t } = plan
      try {
        unpack(vector, vectorBits, x, points)
        unpack(diagonals, matrixBits, t, points)
        if (isPowerOfFour(points)) {
          multiply(plan, 0, 0, 0, 2 * points)
        } else {
          splitInTwo(x, points)
          splitInTwo(t, points)
          multiply(plan, 0, 0, 0, points)
          multiply(plan, 0, 1, points, points)
          joinTwo(x, points)
        }
        return readParities(plan, vectorBits - 1, outputBits, output)
      } finally {
        x.fill(0)
        t.fill(0)
      }
    },
  }
}
