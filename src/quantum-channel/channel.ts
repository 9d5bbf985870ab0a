/** The sampler of the quantum channel: which slots of a burst click, and how.
 *
 *  It does not look at every slot. The gap to the next candidate is drawn from the geometric law of the largest click probability
 *  of any pulse, then the candidate is accepted with the share its own pulse has of that; both together are exact.
 *  - Whether a pulse clicks depends on its intensity alone, so what Eve does to its state is drawn for candidates only.
 *  - A click makes the whole receiver, both detectors, blind for the dead time (not paralysable). In the first slot after it an
 *    afterpulse fires with the configured probability, besides whatever the light of that slot does. It counts as a click, so it can
 *    be followed by another. Its detector is even: Bob's modulator chooses anew in every slot which detector stands for which value.
 *  - Both detectors at once are reported as such: dropping them would let Eve steer what is counted.
 *  Holds: dead time and a due afterpulse go on in the next burst; the same bursts with the same random streams give the same clicks. */
import { deadTimeSlots } from '../bb84/detection-model.ts'
import { basisAt, basisOf, pulseAt, toPulse, valueOf } from '../bb84/pulse-source.ts'
import { patternLaw } from './click-law.ts'
import { checkedEve, EVE_OFF } from './eve.ts'
import type { ChannelProfile, Eve, QuantumChannel } from './quantum-channel.ts'

/** Pulses have two bits for the index of the intensity; an index without an intensity is a pulse without light. */
const INTENSITY_INDICES = 4
/** Per intensity and agreement of bases: cumulated probabilities of right, wrong, both. */
const LAW_SIZE = 3
const WORD_RANGE = 2 ** 32
/** Gap, draw, whether Eve is at it, her choices, whether an afterpulse follows. */
const WORDS_PER_CANDIDATE = 5
const CHUNK_BYTES = 16_384
const GAP_SHIFT = 20
const LONGEST_SURE_GAP = 2 ** 31 - 1

interface Laws {
  /** The largest click probability of any pulse. */
  readonly candidate: number
  readonly cumulated: Float64Array
  readonly gaps: Gaps
}

/** Slots to pass over before the next candidate: geometric, by inversion of a random word. */
interface Gaps {
  /** 1 / log(1 - probability of a candidate) */
  readonly perLogarithm: number
  /** By the highest bits of the word: the gap when the rest of the word does not matter, else -1. It saves most logarithms. */
  readonly sure: Int32Array
}

export interface QuantumChannelOptions {
  readonly profile: ChannelProfile
  readonly eve?: Eve
}

/** @throws RangeError when Eve's fraction is not between 0 and 1. */
export const createQuantumChannel = ({ profile, eve: firstEve = EVE_OFF }: QuantumChannelOptions): QuantumChannel => {
  const { afterpulseProbability } = profile.receiver
  const blindSlots = deadTimeSlots(profile.receiver.deadTimeNs, profile.pulseRateHz)
  let eve = checkedEve(firstEve)
  let laws = lawsOf(profile, eve)
  /** The first slot of the next burst in which the receiver sees again. */
  let liveSlot = 0
  /** An afterpulse fires in it. */
  let afterpulseDue = false
  const words = new Uint32Array(CHUNK_BYTES >> 2)
  const wordBytes = new Uint8Array(words.buffer)
  let foundSlots = new Uint32Array(0)
  let foundPatterns = new Uint8Array(0)

  const transmit: QuantumChannel['transmit'] = (pulses, bases, slots, random) => {
    if (foundSlots.length < slots) {
      foundSlots = new Uint32Array(slots)
      foundPatterns = new Uint8Array(slots)
    }
    const { candidate, cumulated, gaps } = laws
    const interceptBelow = eve.attack === 'intercept' ? eve.fraction * WORD_RANGE : 0
    const afterpulseBelow = afterpulseProbability * WORD_RANGE
    let used = words.length
    let found = 0
    let slot = liveSlot
    let due = afterpulseDue
    for (;;) {
      if (used > words.length - WORDS_PER_CANDIDATE) {
        random.fill(wordBytes)
        used = 0
      }
      let pattern = 0
      /** Even below 1; below the cumulated probability of a pattern it is that pattern. */
      let draw: number
      if (due) {
        if (slot >= slots) break
        pattern = 1 + (words[used++]! & 1)
        draw = words[used++]! / WORD_RANGE
      } else {
        const word = words[used++]!
        const known = gaps.sure[word >>> GAP_SHIFT]!
        const gap = known >= 0 ? known : gapOf(word, gaps.perLogarithm)
        // A gap may lead far beyond the burst: compare before adding, so that the slot stays a small whole number.
        if (gap >= slots - slot) break
        slot += gap
        draw = (words[used++]! / WORD_RANGE) * candidate
      }
      let pulse = pulseAt(pulses, slot)
      if (interceptBelow > 0 && words[used++]! < interceptBelow) pulse = measuredByEve(pulse, words[used++]!)
      const agree = basisOf(pulse) ^ basisAt(bases, slot) ^ 1
      const law = (((pulse >> 2) << 1) | agree) * LAW_SIZE
      if (draw < cumulated[law + 2]!) {
        if (draw >= cumulated[law + 1]!) pattern = 3
        else pattern |= 1 << (valueOf(pulse) ^ (draw >= cumulated[law]! ? 1 : 0))
      } else if (!due) {
        slot += 1
        continue
      }
      foundSlots[found] = slot
      foundPatterns[found] = pattern
      found += 1
      slot += 1 + blindSlots
      due = afterpulseBelow > 0 && words[used++]! < afterpulseBelow
    }
    liveSlot = Math.max(0, slot - slots)
    afterpulseDue = due
    return { slots: foundSlots.slice(0, found), patterns: foundPatterns.slice(0, found) }
  }

  return {
    transmit,
    setEve: (next) => {
      eve = checkedEve(next)
      laws = lawsOf(profile, eve)
    },
  }
}

const lawsOf = (profile: ChannelProfile, eve: Eve): Laws => {
  const cumulated = new Float64Array(INTENSITY_INDICES * 2 * LAW_SIZE)
  let candidate = 0
  for (let index = 0; index < INTENSITY_INDICES; index += 1) {
    for (const agree of [0, 1]) {
      const { right, wrong, both } = patternLaw(profile, eve, profile.intensities[index] ?? 0, agree === 1)
      cumulated.set([right, right + wrong, right + wrong + both], (index * 2 + agree) * LAW_SIZE)
      candidate = Math.max(candidate, right + wrong + both)
    }
  }
  return { candidate, cumulated, gaps: gapsOf(candidate) }
}

const gapsOf = (probability: number): Gaps => {
  const perLogarithm = 1 / Math.log1p(-probability)
  const span = 2 ** GAP_SHIFT
  const sure = Int32Array.from({ length: WORD_RANGE / span }, (_, high) => {
    const longest = gapOf(high * span, perLogarithm)
    return longest === gapOf(high * span + span - 1, perLogarithm) && longest <= LONGEST_SURE_GAP ? longest : -1
  })
  return { perLogarithm, sure }
}

/** Falls as the word grows; infinite when nothing ever clicks. */
const gapOf = (word: number, perLogarithm: number): number => Math.floor(Math.log((word + 0.5) / WORD_RANGE) * perLogarithm)

/** Her basis is even, her detectors perfect: in the pulse's basis she sends the same pulse on, in the other one a random value. */
const measuredByEve = (pulse: number, word: number): number => {
  const basis = word & 1
  const value = basis === basisOf(pulse) ? valueOf(pulse) : (word >> 1) & 1
  return toPulse(value, basis, pulse >> 2)
}
