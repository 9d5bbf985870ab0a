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
import { basisAt, pulseAt, toPulse, valueOf, basisOf } from '../bb84/pulse-source.ts'
import { createRandomStream } from '../bb84/random-stream.ts'
import type { Random } from '../kernel/random.ts'
import { patternLaw } from './click-law.ts'
import { checkedEve, EVE_OFF } from './eve.ts'
import type { ChannelProfile, Eve, QuantumChannel } from './quantum-channel.ts'

/** Pulses have two bits for the index of the intensity; an index without an intensity is a pulse without light. */
const INTENSITY_INDICES = 4
/** Per intensity and agreement of bases: cumulated probabilities of right, wrong, both. */
const LAW_SIZE = 3
const WORD_RANGE = 2 ** 32

interface Laws {
  /** The largest click probability of any pulse. */
  readonly candidate: number
  readonly cumulated: Float64Array
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
  let foundSlots = new Uint32Array(0)
  let foundPatterns = new Uint8Array(0)

  const transmit: QuantumChannel['transmit'] = (pulses, bases, slots, random) => {
    if (foundSlots.length < slots) {
      foundSlots = new Uint32Array(slots)
      foundPatterns = new Uint8Array(slots)
    }
    const { candidate, cumulated } = laws
    const interceptFraction = eve.attack === 'intercept' ? eve.fraction : 0
    const nextWord = wordsOf(random)
    const perLogarithm = 1 / Math.log1p(-candidate)

    /** @param draw even between 0 and 1: below the probability of a pattern it is that pattern. @returns 0 for no click. */
    const patternAt = (slot: number, draw: number): number => {
      let pulse = pulseAt(pulses, slot)
      if (interceptFraction > 0 && nextWord() < interceptFraction * WORD_RANGE) pulse = measuredByEve(pulse, nextWord())
      const agree = basisOf(pulse) === basisAt(bases, slot) ? 1 : 0
      const law = (((pulse >> 2) << 1) | agree) * LAW_SIZE
      if (draw >= cumulated[law + 2]!) return 0
      if (draw >= cumulated[law + 1]!) return 3
      const wrong = draw >= cumulated[law]! ? 1 : 0
      return 1 << (valueOf(pulse) ^ wrong)
    }

    let found = 0
    let slot = liveSlot
    let due = afterpulseDue
    for (;;) {
      let pattern: number
      if (due) {
        if (slot >= slots) break
        pattern = (1 + (nextWord() & 1)) | patternAt(slot, nextWord() / WORD_RANGE)
      } else {
        // No gap leads beyond the burst before the comparison, so the slot stays a small whole number.
        const gap = Math.floor(Math.log((nextWord() + 0.5) / WORD_RANGE) * perLogarithm)
        if (gap >= slots - slot) break
        slot += gap
        pattern = patternAt(slot, (nextWord() / WORD_RANGE) * candidate)
        if (pattern === 0) {
          slot += 1
          continue
        }
      }
      foundSlots[found] = slot
      foundPatterns[found] = pattern
      found += 1
      slot += 1 + blindSlots
      due = afterpulseProbability > 0 && nextWord() < afterpulseProbability * WORD_RANGE
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
  return { candidate, cumulated }
}

/** Her basis is even, her detectors perfect: in the pulse's basis she sends the same pulse on, in the other one a random value. */
const measuredByEve = (pulse: number, word: number): number => {
  const basis = word & 1
  const value = basis === basisOf(pulse) ? valueOf(pulse) : (word >> 1) & 1
  return toPulse(value, basis, pulse >> 2)
}

const CHUNK_BYTES = 16_384

/** @returns a function that gives the next 32 random bits. */
const wordsOf = (random: Random): (() => number) => {
  const stream = createRandomStream(random)
  let words = new Uint32Array(0)
  let used = 0
  return () => {
    if (used === words.length) {
      const bytes = stream.next(CHUNK_BYTES)
      words = new Uint32Array(bytes.buffer, bytes.byteOffset, CHUNK_BYTES >> 2)
      used = 0
    }
    return words[used++]!
  }
}
