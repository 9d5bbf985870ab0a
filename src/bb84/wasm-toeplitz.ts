/** The product of fourier-toeplitz.ts in WebAssembly with vectors of two doubles: the same sums, sooner. Compiled from fourier-toeplitz.as.
 *  Holds: whatever was unpacked or computed from the bits is zeroed after use. */
import { FOURIER_TOEPLITZ_WASM } from '../generated/fourier-toeplitz-wasm.ts'
import { isPowerOfFour, rootTurns } from './fourier-toeplitz.ts'
import type { ToeplitzProduct } from './toeplitz-product.ts'

/** What is used here of the standard's WebAssembly object, which TypeScript declares for browsers only. */
interface Engine {
  readonly Module: new (binary: Uint8Array) => object
  readonly Instance: new (module: object) => { readonly exports: unknown }
}

/** What fourier-toeplitz.as exports; addresses and lengths are bytes unless named otherwise. */
interface Exports {
  readonly memory: { readonly buffer: ArrayBuffer; grow(pages: number): number }
  unpack(bits: number, z: number, quarterBytes: number): void
  splitInTwo(z: number, half: number, root: number): void
  joinTwo(z: number, half: number, root: number): void
  multiply(x: number, t: number, length: number, ring: number, levels: number): void
  readParities(x: number, quarter: number, first: number, count: number, output: number): number
}

interface Plan {
  readonly code: Exports
  /** M: complex coefficients of a polynomial. */
  readonly points: number
  /** Roots of the second splitting in two; left out when there is none. */
  readonly secondRoot: number | undefined
  readonly levels: number
  readonly bits: number
  readonly x: number
  readonly t: number
  readonly end: number
}

const MIN_POINTS = 16
/** Two lanes of a complex number. */
const ELEMENT_BYTES = 32
const PAGE_BYTES = 65_536
const MAX_DEPTH = 16

const planOf = (instantiate: () => Exports, points: number): Plan => {
  const code = instantiate()
  const rest = points / 2
  // After the splitting in two that makes the lanes, and another when it takes one to come to a power of four.
  const halves = isPowerOfFour(rest)
  const top = halves ? [1 / 8, 5 / 8] : [1 / 16, 9 / 16, 5 / 16, 13 / 16]
  const depths = rootTurns(top, halves ? rest : rest / 2)
  const elements = depths.reduce((sum, turns) => sum + turns.length / 2, 0)

  const levels = PAGE_BYTES // the compiler's own data is below
  const roots = levels + 4 * MAX_DEPTH
  const bits = roots + ELEMENT_BYTES * (elements + 1)
  const x = Math.ceil((bits + points / 4) / ELEMENT_BYTES) * ELEMENT_BYTES
  const t = x + rest * ELEMENT_BYTES
  const end = t + rest * ELEMENT_BYTES
  code.memory.grow(Math.ceil(end / PAGE_BYTES) - code.memory.buffer.byteLength / PAGE_BYTES)

  const view = new DataView(code.memory.buffer)
  let at = roots
  const writeRoots = (turns: readonly number[]): void => {
    const perLane = turns.length / 2
    for (let ring = 0; ring < perLane; ring += 1, at += ELEMENT_BYTES) {
      for (const lane of [0, 1]) {
        const angle = 2 * Math.PI * turns[ring + lane * perLane]!
        view.setFloat64(at + 8 * lane, Math.cos(angle), true)
        view.setFloat64(at + 16 + 8 * lane, Math.sin(angle), true)
      }
    }
  }
  for (const [depth, turns] of depths.entries()) {
    view.setUint32(levels + 4 * depth, at, true)
    writeRoots(turns)
  }
  const secondRoot = halves ? undefined : at
  if (secondRoot !== undefined) writeRoots([1 / 16, 5 / 16])
  return { code, points, secondRoot, levels, bits, x, t, end }
}

/** In WebAssembly. Keeps the memory of the last size it was used for: some 20 bytes per input bit.
 *  @returns undefined where the runtime has no WebAssembly. */
export const createWasmToeplitz = (): ToeplitzProduct | undefined => {
  const engine = (globalThis as { WebAssembly?: Engine }).WebAssembly
  if (engine === undefined) return undefined
  const module = new engine.Module(Buffer.from(FOURIER_TOEPLITZ_WASM, 'base64'))
  // A fresh instance for every size: the memory of one never shrinks.
  const instantiate = (): Exports => new engine.Instance(module).exports as Exports
  let plan = planOf(instantiate, MIN_POINTS)

  const load = (source: Uint8Array, bitCount: number, z: number): void => {
    const { code, bits, points } = plan
    const target = new Uint8Array(code.memory.buffer, bits, points / 4)
    const bytes = (bitCount + 7) >> 3
    target.set(source.subarray(0, bytes))
    if ((bitCount & 7) !== 0) target[bytes - 1]! &= (1 << (bitCount & 7)) - 1
    code.unpack(bits, z, points / 16)
    target.fill(0)
  }

  const multiply = ({ code, points, secondRoot, levels, x, t }: Plan): void => {
    const length = (points / 2) * ELEMENT_BYTES
    if (secondRoot === undefined) {
      code.multiply(x, t, length, 0, levels)
      return
    }
    const half = length / 2
    code.splitInTwo(x, half, secondRoot)
    code.splitInTwo(t, half, secondRoot)
    code.multiply(x, t, half, 0, levels)
    code.multiply(x + half, t + half, half, 1, levels)
    code.joinTwo(x, half, secondRoot)
  }

  return {
    addTo: (output, { diagonals, vector, vectorBits, outputBits }) => {
      const diagonalBits = vectorBits + outputBits - 1
      const points = Math.max(MIN_POINTS, 1 << (32 - Math.clz32((diagonalBits - 1) >> 1)))
      if (plan.points !== points) plan = planOf(instantiate, points)
      const { code, bits, x, t, end } = plan
      try {
        load(vector, vectorBits, x)
        load(diagonals, diagonalBits, t)
        multiply(plan)
        // The factor t is done with; its place takes the parities.
        const distance = code.readParities(x, points / 2, vectorBits - 1, outputBits, t)
        const parities = new Uint8Array(code.memory.buffer, t, (outputBits + 7) >> 3)
        for (let i = 0; i < parities.length; i += 1) output[i]! ^= parities[i]!
        return distance
      } finally {
        new Uint8Array(code.memory.buffer, bits, end - bits).fill(0)
      }
    },
  }
}
