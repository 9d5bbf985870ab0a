/** Speed of privacy amplification: reconciled bits put in per second of CPU time, one thread, at a compression to a quarter. */
import { createFourierToeplitz } from '../../src/bb84/fourier-toeplitz.ts'
import { createAmplify, seedBytes } from '../../src/bb84/privacy-amplification.ts'
import { createWasmToeplitz } from '../../src/bb84/wasm-toeplitz.ts'
import { systemRandom } from '../../src/kernel/random.ts'

export interface PrivacyFigure {
  readonly method: 'TypeScript' | 'WebAssembly'
  readonly bitCount: number
  readonly outputBits: number
  readonly megabitPerSecond: number
  /** Largest distance of a sum from a whole number in any of the runs. */
  readonly roundingError: number
}

/** Measures both methods at 2^14, 2^17 and 2^20 bits. @param megabits put in per figure, after a warm-up. */
export const measurePrivacyAmplification = (megabits = 16): readonly PrivacyFigure[] => {
  const methods = { TypeScript: createFourierToeplitz(), WebAssembly: createWasmToeplitz() } as const
  const figures: PrivacyFigure[] = []
  for (const [method, product] of Object.entries(methods)) {
    if (product === undefined) continue
    for (const bitCount of [2 ** 14, 2 ** 17, 2 ** 20]) {
      let roundingError = 0
      const amplify = createAmplify({
        addTo: (output, task) => {
          const distance = product.addTo(output, task)
          roundingError = Math.max(roundingError, distance)
          return distance
        },
      })
      const outputBits = bitCount / 4
      const bits = systemRandom.fill(new Uint8Array(bitCount / 8))
      const seed = systemRandom.fill(new Uint8Array(seedBytes(bitCount)))
      const runs = Math.ceil((megabits * 1e6) / bitCount)
      for (let run = 0; run < runs / 4 + 2; run += 1) amplify({ bits, bitCount, outputBits, seed })
      const before = process.cpuUsage()
      for (let run = 0; run < runs; run += 1) amplify({ bits, bitCount, outputBits, seed })
      const { user, system } = process.cpuUsage(before)
      const megabitPerSecond = (runs * bitCount) / (user + system)
      figures.push({ method: method as PrivacyFigure['method'], bitCount, outputBits, megabitPerSecond, roundingError })
    }
  }
  return figures
}
