/** What the two ends choose before a burst of pulses leaves: Alice's value, basis and intensity of every pulse, Bob's basis of
 *  every slot (BB84 with decoy states and biased bases: Lim et al., PRA 89, 022307 (2014), section II).
 *
 *  A pulse is a nibble, two to a byte, the even slot in the low one: bit 0 is the value, bit 1 the basis (0: X, which gives key;
 *  1: Z, which gives the test), bits 2 and 3 the index of the intensity (0: the strongest). Bob's bases are packed bits, 1: Z.
 *  Holds: a probability is exactly the a/128 or b/256 of the profile; bits beyond the last slot are zero; random bytes are zeroed
 *  once they are used. */
import type { Random } from '../kernel/random.ts'
import { BASIS_STEPS, INTENSITY_STEPS } from './profile.ts'
import type { Bb84Profile } from './profile.ts'

/** The basis of the key. */
export const BASIS_X = 0
/** The basis of the test. */
export const BASIS_Z = 1

/** A pulse of its own: what `pulseAt` reads. */
export const valueOf = (pulse: number): number => pulse & 1
export const basisOf = (pulse: number): number => (pulse >> 1) & 1
export const intensityOf = (pulse: number): number => pulse >> 2
/** @returns the nibble. */
export const toPulse = (value: number, basis: number, intensity: number): number => value | (basis << 1) | (intensity << 2)

/** @returns the nibble of a slot; 0 beyond the last. */
export const pulseAt = (pulses: Uint8Array, slot: number): number => ((pulses[slot >> 1] ?? 0) >> ((slot & 1) << 2)) & 15
/** @returns Bob's basis of a slot; 0 beyond the last. */
export const basisAt = (bases: Uint8Array, slot: number): number => ((bases[slot >> 3] ?? 0) >> (slot & 7)) & 1

export const pulsesBytes = (slots: number): number => (slots + 1) >> 1
export const basesBytes = (slots: number): number => (slots + 7) >> 3

export interface PulseSource {
  /** @returns new pulses, packed nibbles. They are Alice's secret: she zeroes them when the block is done. */
  burst(slots: number, random: Random): Uint8Array<ArrayBuffer>
}

export interface BasisChoice {
  /** @returns new bases, packed bits. */
  burst(slots: number, random: Random): Uint8Array<ArrayBuffer>
}

/** Random bytes drawn at once. */
const CHUNK_BYTES = 65_536

/** Alice's source: 16 random bits a pulse (1 for the value, 7 for the basis, 8 for the intensity), looked up in a table.
 *  @throws RangeError when a probability is not a whole number of steps (`quantised` makes it one). */
export const createPulseSource = (profile: Pick<Bb84Profile, 'intensityProbabilities' | 'keyBasisProbability'>): PulseSource => {
  const table = pulseTable(profile)
  const chunk = new Uint32Array(CHUNK_BYTES >> 2)
  return {
    burst: (slots, random) => {
      const pulses = new Uint8Array(pulsesBytes(slots))
      for (let filled = 0; filled < pulses.length;) {
        const words = chunk.subarray(0, pulses.length - filled)
        random.fill(bytesOf(words))
        // By index: a loop over the values of a typed array takes five times as long.
        for (let index = 0; index < words.length; index += 1) {
          const word = words[index]!
          pulses[filled++] = table[word & 0xffff]! | (table[word >>> 16]! << 4)
        }
        words.fill(0)
      }
      if ((slots & 1) === 1) pulses[pulses.length - 1]! &= 15
      return pulses
    },
  }
}

const bytesOf = (words: Uint32Array): Uint8Array => new Uint8Array(words.buffer, words.byteOffset, words.byteLength)

const pulseTable = (profile: Pick<Bb84Profile, 'intensityProbabilities' | 'keyBasisProbability'>): Uint8Array => {
  const keySteps = wholeSteps('keyBasisProbability', profile.keyBasisProbability, BASIS_STEPS)
  const intensities = profile.intensityProbabilities.flatMap((probability, index) =>
    new Array<number>(wholeSteps('an intensity probability', probability, INTENSITY_STEPS)).fill(index),
  )
  if (intensities.length !== INTENSITY_STEPS) throw new RangeError('the intensity probabilities do not add up to 1')
  return Uint8Array.from({ length: 2 * BASIS_STEPS * INTENSITY_STEPS }, (_, word) => {
    const basis = ((word >> 1) & (BASIS_STEPS - 1)) < keySteps ? BASIS_X : BASIS_Z
    return toPulse(word & 1, basis, intensities[word >> 8]!)
  })
}

const BASIS_BITS = Math.log2(BASIS_STEPS)

/** Bob's choice of bases. It works on 32 slots at once: with the test probability written as 0.b1 b2 ... b7 in binary, going from
 *  b7 to b1, a 1 joins and a 0 intersects the bits so far with fresh even ones; each step halves what is there and adds b/2.
 *  @throws RangeError when the probability is not a whole number of steps. */
export const createBasisChoice = (profile: Pick<Bb84Profile, 'keyBasisProbability'>): BasisChoice => {
  const testSteps = BASIS_STEPS - wholeSteps('keyBasisProbability', profile.keyBasisProbability, BASIS_STEPS)
  // Bits below the lowest 1 would only intersect nothing with something.
  const digits: boolean[] = []
  for (let bit = 0; bit < BASIS_BITS; bit += 1) {
    const joins = ((testSteps >> bit) & 1) === 1
    if (joins || digits.length > 0) digits.push(joins)
  }
  const fresh = new Uint32Array(CHUNK_BYTES >> 3)
  return {
    burst: (slots, random) => {
      const groups = new Uint32Array((slots + 31) >> 5)
      for (let from = 0; from < groups.length; from += fresh.length) {
        const chunk = groups.subarray(from, from + fresh.length)
        const words = fresh.subarray(0, chunk.length)
        for (const joins of digits) {
          random.fill(bytesOf(words))
          if (joins) for (let index = 0; index < chunk.length; index += 1) chunk[index]! |= words[index]!
          else for (let index = 0; index < chunk.length; index += 1) chunk[index]! &= words[index]!
        }
        words.fill(0)
      }
      const bases = new Uint8Array(groups.buffer, 0, basesBytes(slots))
      if ((slots & 7) !== 0) bases[bases.length - 1]! &= (1 << (slots & 7)) - 1
      return bases
    },
  }
}

const wholeSteps = (what: string, probability: number, steps: number): number => {
  const value = probability * steps
  if (!Number.isInteger(value) || value < 0 || value > steps) throw new RangeError(`${what} is not a multiple of 1/${steps}`)
  return value
}
