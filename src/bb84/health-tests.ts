/** Continuous health tests of a stream of bits that should be fair and independent: NIST SP 800-90B, 4.4.1 (repetition count) and
 *  4.4.2 (adaptive proportion), and a serial test for patterns neither of them sees. They find a broken source, detector or
 *  program; they say nothing about secrecy.
 *
 *  At alpha = 2^-40 good bits fail once in some 10^12 bits. The proportion test counts both values of a window, not only that of its
 *  first bit: twice the false alarms, and a bias cannot hide behind a rare first bit. The serial test compares every bit
 *  with the one `lag` before it, for lags 1 to 8: of fair bits the number of differences in a window is distributed as that of ones.
 *  Holds: the result does not depend on how the stream is cut; an alarm stays. */

/** Bits of a window of the proportion and serial tests. */
export const WINDOW_BITS = 1024
const ALPHA_EXPONENT = 40
const LAGS = 8
const WORD_BITS = 32

// By their own names: to look Math up for every word costs more than the test where globals are intercepted (vm contexts).
const { clz32, imul } = Math

/** C = 1 + ceil(-log2(alpha) / H), 4.4.1: so many equal samples in a row are an alarm.
 *  @param entropyBits H, min-entropy per sample. @param alphaExponent a of alpha = 2^-a, the chance of a false alarm. */
export const repetitionCutoff = (entropyBits: number, alphaExponent: number): number => 1 + Math.ceil(alphaExponent / entropyBits)

/** C = 1 + critbinom(W, 2^-H, 1 - alpha), 4.4.2: so many equal samples in a window are an alarm.
 *  @param windowSamples W, 1024 for bits and 512 for others. */
export const proportionCutoff = (windowSamples: number, entropyBits: number, alphaExponent: number): number => {
  const logP = -entropyBits * Math.LN2
  const logQ = Math.log1p(-Math.exp(logP))
  const alpha = 2 ** -alphaExponent
  // From the top: the tail P(X > c) for falling c, until alpha is exceeded.
  let logBinomial = 0
  let tail = 0
  let count = windowSamples
  for (;;) {
    tail += Math.exp(logBinomial + count * logP + (windowSamples - count) * logQ)
    if (tail > alpha) return 1 + count
    logBinomial += Math.log(count / (windowSamples - count + 1))
    count -= 1
  }
}

const REPETITION_CUTOFF = repetitionCutoff(1, ALPHA_EXPONENT)
const PROPORTION_CUTOFF = proportionCutoff(WINDOW_BITS, 1, ALPHA_EXPONENT)

export interface HealthAlarm {
  readonly failed: 'repetition' | 'proportion' | 'serial'
  /** Bits of the stream up to the one that decided, that one included. */
  readonly atBit: number
  /** Equal bits in a row, equal bits of a window, or bits of a window that equal (or differ from) the one `lag` before. */
  readonly observed: number
  readonly cutoff: number
  /** Of the serial test. */
  readonly lag?: number
}

export interface HealthTest {
  /** Examines the first `bitCount` bits of `bits` (bit i is bits[i >> 3] >> (i & 7) & 1).
   *  @returns the alarm, the same for ever once there is one. */
  examine(bits: Uint8Array, bitCount: number): HealthAlarm | undefined
  readonly alarm: HealthAlarm | undefined
}

/** A test of one stream, from its first bit on. */
export const createHealthTest = (): HealthTest => {
  let alarm: HealthAlarm | undefined
  /** Bits examined. */
  let position = 0
  let run = 0
  let runBit = 0
  /** The last 32 bits, the latest on top. Before the stream began they were zeros, as good as any fixed bits to compare with. */
  let recent = 0
  let ones = 0
  const differences = new Int32Array(LAGS + 1)

  const raise = (failed: HealthAlarm['failed'], atBit: number, observed: number, cutoff: number, lag?: number) => {
    alarm ??= { failed, atBit, observed, cutoff, ...(lag !== undefined && { lag }) }
  }

  const lengthenRun = (by: number) => {
    if (run + by >= REPETITION_CUTOFF) {
      raise('repetition', position + REPETITION_CUTOFF - run, REPETITION_CUTOFF, REPETITION_CUTOFF)
    }
    run += by
  }

  const endWindow = () => {
    const most = Math.max(ones, WINDOW_BITS - ones)
    if (most >= PROPORTION_CUTOFF) raise('proportion', position, most, PROPORTION_CUTOFF)
    ones = 0
    for (let lag = 1; lag <= LAGS; lag++) {
      const different = differences[lag]!
      const alike = Math.max(different, WINDOW_BITS - different)
      if (alike >= PROPORTION_CUTOFF) raise('serial', position, alike, PROPORTION_CUTOFF, lag)
    }
    differences.fill(0)
  }

  const examineBit = (bit: number) => {
    if (bit === runBit) lengthenRun(1)
    else {
      run = 1
      runBit = bit
    }
    ones += bit
    for (let lag = 1; lag <= LAGS; lag++) differences[lag]! += ((recent >>> (WORD_BITS - lag)) & 1) ^ bit
    recent = (recent >>> 1) | (bit << 31)
    position += 1
  }

  const examineWord = (word: number) => {
    const lead = clz32(lowestOnly(word ^ -runBit))
    const unbroken = lead === WORD_BITS ? WORD_BITS : 31 - lead
    lengthenRun(unbroken)
    if (unbroken < WORD_BITS) {
      // No run inside a word reaches the cutoff, which is above 32; the one at its end may go on.
      runBit = word >>> 31
      run = clz32(word ^ -runBit)
    }
    ones += ofOnes(word)
    for (let lag = 1; lag <= LAGS; lag++) {
      differences[lag]! += ofOnes(word ^ ((word << lag) | (recent >>> (WORD_BITS - lag))))
    }
    recent = word
    position += WORD_BITS
  }

  return {
    examine: (bits, bitCount) => {
      let next = 0
      while (next < bitCount && alarm === undefined) {
        if (position % WORD_BITS === 0 && bitCount - next >= WORD_BITS) {
          examineWord(wordAt(bits, next))
          next += WORD_BITS
        } else {
          examineBit((bits[next >> 3]! >> (next & 7)) & 1)
          next += 1
        }
        if (position % WINDOW_BITS === 0) endWindow()
      }
      return alarm
    },
    get alarm() {
      return alarm
    },
  }
}

/** The lowest one of a word alone. */
const lowestOnly = (word: number): number => word & -word

/** Number of ones of a 32-bit word. */
const ofOnes = (word: number): number => {
  const pairs = word - ((word >>> 1) & 0x55555555)
  const fours = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333)
  return imul((fours + (fours >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** 32 bits from any bit on. */
const wordAt = (bits: Uint8Array, from: number): number => {
  const at = from >> 3
  const shift = from & 7
  const low = bits[at]! | (bits[at + 1]! << 8) | (bits[at + 2]! << 16) | (bits[at + 3]! << 24)
  return shift === 0 ? low : (low >>> shift) | (bits[at + 4]! << (WORD_BITS - shift))
}
