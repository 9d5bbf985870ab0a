/** Sifting of decoy-state BB84 with a biased basis: which clicks make key, which are disclosed, and the counts the key length rests on
 *  (Lim, Curty, Walenta, Xu and Zbinden, PRA 89, 022307 (2014), section II: events in basis X are key and never compared, all
 *  events in basis Z are disclosed). Bob announces slots and bases first; Alice then reveals bases, intensities and her values in Z.
 *  Holds: what Alice reveals contains no value of basis X; both ends count the same. */

import type { BlockCounts } from './key-length.ts'

export type SiftedCounts = Omit<BlockCounts, 'mX'>

/** One burst as Bob announces it. */
export interface AnnouncedClicks {
  /** Slots within the burst, ascending. */
  readonly slots: Uint32Array
  /** Bob's bases, packed; 1 is Z. */
  readonly bases: Uint8Array
}

/** A message of the other end cannot be what it should be. */
export class SiftingError extends Error {
  override readonly name = 'SiftingError'
}

export const packedBytes = (bitCount: number): number => (bitCount + 7) >> 3
export const bitAt = (bits: Uint8Array, index: number): number => ((bits[index >> 3] as number) >> (index & 7)) & 1
const setBit = (bits: Uint8Array, index: number): void => {
  bits[index >> 3] = (bits[index >> 3] as number) | (1 << (index & 7))
}

const VALUE = 1
const BASIS = 2
const INTENSITY_SHIFT = 2
const BITS_PER_INTENSITY = 2

/** @returns count (u32), the gaps between clicked slots in base 128, the packed bases. */
export const encodeClicks = ({ slots, bases }: AnnouncedClicks): Buffer => {
  const bytes = Buffer.allocUnsafe(4 + slots.length * 5 + packedBytes(slots.length))
  let at = bytes.writeUInt32BE(slots.length, 0)
  let previous = -1
  for (let click = 0; click < slots.length; click += 1) {
    const slot = slots[click] as number
    let gap = slot - previous - 1
    previous = slot
    while (gap > 127) {
      bytes[at++] = (gap & 127) | 128
      gap >>>= 7
    }
    bytes[at++] = gap
  }
  bytes.set(bases.subarray(0, packedBytes(slots.length)), at)
  return bytes.subarray(0, at + packedBytes(slots.length))
}

/** @throws SiftingError unless the slots ascend, lie within the burst and nothing is left over. */
export const decodeClicks = (bytes: Uint8Array, slotsPerBurst: number): AnnouncedClicks => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const count = bytes.length >= 4 ? view.getUint32(0) : Infinity
  if (count > slotsPerBurst || bytes.length < 4 + count + packedBytes(count)) throw new SiftingError('too many clicks announced')
  const slots = new Uint32Array(count)
  let at = 4
  let previous = -1
  for (let click = 0; click < count; click += 1) {
    let gap = 0
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++]
      if (byte === undefined || shift > 28) throw new SiftingError('a gap between clicks is malformed')
      gap += (byte & 127) * 2 ** shift
      if (byte < 128) break
    }
    previous += gap + 1
    if (previous >= slotsPerBurst) throw new SiftingError('a click lies outside its burst')
    slots[click] = previous
  }
  if (bytes.length !== at + packedBytes(count)) throw new SiftingError('announced clicks have the wrong length')
  return { slots, bases: bytes.slice(at) }
}

/** The clicks of a block at one end, in order. */
export interface ClickTally {
  readonly count: number
  /** Alice: the pulse (a nibble) at each click. Bob: the value at each click. */
  readonly states: Uint8Array
  /** Bob's basis at each click, packed; 1 is Z. */
  readonly bobBases: Uint8Array
}

/** Grows by doubling; `take` hands over what was gathered. Holds values of key bits: `wipe` when they are not taken. */
export interface ClickGatherer {
  /** @param basis 1 for Z */
  add(state: number, basis: number): void
  take(): ClickTally
  wipe(): void
}

export const gatherClicks = (expectedClicks: number): ClickGatherer => {
  let states = new Uint8Array(Math.max(1024, expectedClicks))
  let bases = new Uint8Array(packedBytes(states.length))
  let count = 0
  const grow = (): void => {
    const larger = new Uint8Array(states.length * 2)
    larger.set(states)
    states.fill(0)
    states = larger
    const largerBases = new Uint8Array(packedBytes(larger.length))
    largerBases.set(bases)
    bases = largerBases
  }
  return {
    add: (state, basis) => {
      if (count === states.length) grow()
      states[count] = state
      if (basis === 1) setBit(bases, count)
      count += 1
    },
    take: () => ({ count, states: states.subarray(0, count), bobBases: bases.subarray(0, packedBytes(count)) }),
    wipe: () => states.fill(0),
  }
}

/** The sifted key of one end: values of basis X, packed, in the order of the clicks. */
export interface SiftedKey {
  readonly bits: Uint8Array
  readonly bitCount: number
}

/** @returns Alice's sifted key, the counts without errors, and what she reveals. `tally.states` is zeroed. */
export const siftAtAlice = (
  tally: ClickTally,
  intensityCount: number,
): { readonly key: SiftedKey; readonly counts: Pick<SiftedCounts, 'nX' | 'nZ'>; readonly reveal: Buffer } => {
  const { count, states, bobBases } = tally
  const bases = new Uint8Array(packedBytes(count))
  const intensities = new Uint8Array(packedBytes(count * BITS_PER_INTENSITY))
  const zValues = new Uint8Array(packedBytes(count))
  const bits = new Uint8Array(packedBytes(count))
  const nX = new Array<number>(intensityCount).fill(0)
  const nZ = new Array<number>(intensityCount).fill(0)
  let bitCount = 0
  let matched = 0
  let zCount = 0
  for (let click = 0; click < count; click += 1) {
    const state = states[click] as number
    const basis = (state & BASIS) >> 1
    if (basis === 1) setBit(bases, click)
    if (basis !== bitAt(bobBases, click)) continue
    const intensity = state >> INTENSITY_SHIFT
    const at = matched * BITS_PER_INTENSITY
    intensities[at >> 3] = (intensities[at >> 3] as number) | (intensity << (at & 7))
    matched += 1
    if (basis === 1) {
      nZ[intensity] = (nZ[intensity] ?? 0) + 1
      if ((state & VALUE) === 1) setBit(zValues, zCount)
      zCount += 1
    } else {
      nX[intensity] = (nX[intensity] ?? 0) + 1
      if ((state & VALUE) === 1) setBit(bits, bitCount)
      bitCount += 1
    }
  }
  states.fill(0)
  const reveal = Buffer.concat([
    bases,
    intensities.subarray(0, packedBytes(matched * BITS_PER_INTENSITY)),
    zValues.subarray(0, packedBytes(zCount)),
  ])
  return { key: { bits: bits.subarray(0, packedBytes(bitCount)), bitCount }, counts: { nX, nZ }, reveal }
}

/** @returns Bob's sifted key, the counts, and the intensity each bit of the key was sent with. `tally.states` is zeroed.
 *  @throws SiftingError when `reveal` does not fit the clicks. */
export const siftAtBob = (
  tally: ClickTally,
  reveal: Uint8Array,
  intensityCount: number,
): { readonly key: SiftedKey; readonly counts: SiftedCounts; readonly keyIntensities: Uint8Array } => {
  const { count, states, bobBases } = tally
  const aliceBases = reveal.subarray(0, packedBytes(count))
  let matched = 0
  let zCount = 0
  if (aliceBases.length < packedBytes(count)) throw new SiftingError('what Alice reveals is too short')
  for (let click = 0; click < count; click += 1) {
    const basis = bitAt(bobBases, click)
    if (bitAt(aliceBases, click) !== basis) continue
    matched += 1
    zCount += basis
  }
  const intensityBytes = packedBytes(matched * BITS_PER_INTENSITY)
  if (reveal.length !== aliceBases.length + intensityBytes + packedBytes(zCount)) {
    throw new SiftingError('what Alice reveals does not fit the clicks')
  }
  const intensities = reveal.subarray(aliceBases.length, aliceBases.length + intensityBytes)
  const zValues = reveal.subarray(aliceBases.length + intensityBytes)
  const bits = new Uint8Array(packedBytes(count))
  const nX = new Array<number>(intensityCount).fill(0)
  const nZ = new Array<number>(intensityCount).fill(0)
  const mZ = new Array<number>(intensityCount).fill(0)
  const keyIntensities = new Uint8Array(matched - zCount)
  let bitCount = 0
  let event = 0
  let zEvent = 0
  for (let click = 0; click < count; click += 1) {
    const basis = bitAt(bobBases, click)
    if (bitAt(aliceBases, click) !== basis) continue
    const at = event * BITS_PER_INTENSITY
    const intensity = ((intensities[at >> 3] as number) >> (at & 7)) & 3
    event += 1
    if (intensity >= intensityCount) throw new SiftingError('Alice reveals an intensity the link does not have')
    const value = states[click] as number
    if (basis === 1) {
      nZ[intensity] = (nZ[intensity] as number) + 1
      if (value !== bitAt(zValues, zEvent)) mZ[intensity] = (mZ[intensity] as number) + 1
      zEvent += 1
    } else {
      nX[intensity] = (nX[intensity] as number) + 1
      keyIntensities[bitCount] = intensity
      if (value === 1) setBit(bits, bitCount)
      bitCount += 1
    }
  }
  states.fill(0)
  return { key: { bits: bits.subarray(0, packedBytes(bitCount)), bitCount }, counts: { nX, nZ, mZ }, keyIntensities }
}

/** Cuts the sifted key into frames of about equal length, at most `longestBits` each.
 *  @returns the packed frames, each from its own first byte on; the sifted key is zeroed. */
export const cutFrames = ({ bits, bitCount }: SiftedKey, longestBits: number): SiftedKey[] => {
  const frameCount = Math.max(1, Math.ceil(bitCount / longestBits))
  const frames: SiftedKey[] = []
  for (let frame = 0; frame < frameCount; frame += 1) {
    const from = Math.floor((frame * bitCount) / frameCount)
    const to = Math.floor(((frame + 1) * bitCount) / frameCount)
    frames.push({ bits: copyBits(bits, from, to - from), bitCount: to - from })
  }
  bits.fill(0)
  return frames
}

/** The frames one after the other again; they are zeroed. */
export const joinFrames = (frames: readonly SiftedKey[]): SiftedKey => {
  const bitCount = frames.reduce((sum, frame) => sum + frame.bitCount, 0)
  const bits = new Uint8Array(packedBytes(bitCount))
  let at = 0
  for (const frame of frames) {
    const shift = at & 7
    const first = at >> 3
    for (let byte = 0; byte < packedBytes(frame.bitCount); byte += 1) {
      const value = (frame.bits[byte] as number) << shift
      bits[first + byte] = (bits[first + byte] as number) | (value & 255)
      if (value > 255) bits[first + byte + 1] = value >> 8
    }
    at += frame.bitCount
    frame.bits.fill(0)
  }
  return { bits, bitCount }
}

const copyBits = (bits: Uint8Array, from: number, bitCount: number): Uint8Array => {
  const copy = new Uint8Array(packedBytes(bitCount))
  const shift = from & 7
  const first = from >> 3
  for (let byte = 0; byte < copy.length; byte += 1) {
    const low = (bits[first + byte] as number) >> shift
    const high = (bits[first + byte + 1] ?? 0) << (8 - shift)
    copy[byte] = (low | high) & 255
  }
  const spare = bitCount & 7
  if (spare !== 0) copy[copy.length - 1] = (copy[copy.length - 1] as number) & ((1 << spare) - 1)
  return copy
}

/** How many bits reconciliation corrected, by the intensity they were sent with.
 *  @param before and @param after packed, of equal length. */
export const correctedPerIntensity = (
  before: Uint8Array,
  after: Uint8Array,
  keyIntensities: Uint8Array,
  intensityCount: number,
): number[] => {
  const counts = new Array<number>(intensityCount).fill(0)
  for (let byte = 0; byte < before.length; byte += 1) {
    let differing = (before[byte] as number) ^ (after[byte] as number)
    while (differing !== 0) {
      const bit = byte * 8 + (31 - Math.clz32(differing & -differing))
      const intensity = keyIntensities[bit] as number
      counts[intensity] = (counts[intensity] as number) + 1
      differing &= differing - 1
    }
  }
  return counts
}
