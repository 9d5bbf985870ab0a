/** The quantum channel between two stations: fibre, receiver and, if asked for, an eavesdropper. Stations reach it over
 *  TCP only (src/bb84/photon-wire.ts), as they reach a fibre by its ends; this slice runs in a process of its own.
 *  This file holds the types of the slice. */
import type { Random } from '../kernel/random.ts'
import type { Bb84Profile } from '../bb84/profile.ts'

/** What the eavesdropper does. Only the emulator knows. */
export type Eve =
  | { readonly attack: 'off' }
  /** She measures a fraction of the pulses in a basis of her own choice and sends on what she saw. */
  | { readonly attack: 'intercept'; readonly fraction: number }
  /** She keeps a photon of every pulse that has several and blocks as many of the others as she can without changing the gain. */
  | { readonly attack: 'split' }

/** The part of a profile that light and detectors obey. */
export type ChannelProfile = Pick<
  Bb84Profile,
  'distanceKm' | 'attenuationDbPerKm' | 'receiver' | 'misalignment' | 'intensities' | 'pulseRateHz'
>

/** A click's pattern, bits: detector 0 is 1, detector 1 is 2, both are 3. */
export interface Clicks {
  /** Ascending. */
  readonly slots: Uint32Array<ArrayBuffer>
  readonly patterns: Uint8Array<ArrayBuffer>
}

export interface QuantumChannel {
  /** Sends a burst through. Bursts follow each other without a gap in time.
   *  @param pulses packed nibbles. @param bases packed bits. @param random for this burst alone. */
  transmit(pulses: Uint8Array, bases: Uint8Array, slots: number, random: Random): Clicks
  /** Holds from the next burst on. @throws RangeError when the fraction is not between 0 and 1. */
  setEve(eve: Eve): void
}

export interface ChannelStatus {
  readonly linkId: string
  readonly profile: string
  readonly distanceKm: number
  readonly eve: Eve
  /** Bursts measured, their pulses and the clicks they made. */
  readonly bursts: number
  readonly pulses: number
  readonly clicks: number
  /** Bursts that met no receiver. */
  readonly lostBursts: number
  readonly connected: { readonly alice: boolean; readonly bob: boolean }
}

export interface ChannelServer {
  /** The ports in use; 0 before `start` has resolved, and `control` also when there is none. */
  readonly ports: { readonly alice: number; readonly bob: number; readonly control: number }
  /** Opens the ports. @throws when one cannot be opened. */
  start(): Promise<void>
  /** Holds from the next burst on. @throws RangeError when the fraction is not between 0 and 1. */
  setEve(eve: Eve): void
  status(): ChannelStatus
  /** Resolves when somebody asked on the control port to stop. */
  readonly quitAsked: Promise<void>
  stop(): Promise<void>
}
