/** A link of three processes for so many seconds: what it delivers and what it costs. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expectedBlock } from '../../src/bb84/expected-rate.ts'
import { profileNamed } from '../../src/bb84/profile.ts'
import { ASSUMED_EFFICIENCY_F } from './key-rate-curve.ts'
import { LINK_ROLES, startProcessLink, type LinkFigures, type LinkRole, type ProcessLink } from './link-of-processes.ts'

export interface LinkPlan {
  readonly profile: string
  readonly distanceKm: number
  readonly pulseRateHz: number
}

/** The links that are measured: what the hardware of the papers would send. */
export const LINK_PLANS: readonly LinkPlan[] = [
  { profile: 'lab-2014', distanceKm: 25, pulseRateHz: 1e8 },
  { profile: 'metro', distanceKm: 5, pulseRateHz: 1e8 },
]

export interface LinkMeasurement extends LinkPlan {
  readonly seconds: number
  readonly blocks: number
  readonly secretBitsPerSecond: number
  readonly siftedBitsPerSecond: number
  readonly pulsesPerSecond: number
  /** Of what the analysis expects of as many pulses. */
  readonly shareOfExpected: number
  readonly f: number
  /** CPU seconds per second. */
  readonly cores: Readonly<Record<LinkRole, number>>
  readonly rssBytes: Readonly<Record<LinkRole, readonly [number, number]>>
  /** Blocks without key, lost bursts, connections that broke. */
  readonly mishaps: number
}

const SLOTS_PER_BURST = 262_144

/** @param cleanUp receives what must be stopped. */
export const startLink = (plan: LinkPlan, cleanUp: AsyncDisposableStack): Promise<ProcessLink> =>
  startProcessLink({ ...plan, slotsPerBurst: SLOTS_PER_BURST, cleanUp })

export const measurementOf = (plan: LinkPlan, first: LinkFigures, last: LinkFigures): LinkMeasurement => {
  const seconds = (last.atMs - first.atMs) / 1000
  // Key comes in blocks: from the end of one to the end of another.
  const keySeconds = (last.alice.newestMs - first.alice.newestMs) / 1000
  const gained = (of: 'blocks' | 'secretBits' | 'replenishBits' | 'siftedBits' | 'leakBits' | 'shannonBits'): number =>
    last.alice[of] - first.alice[of]
  const perSecond = (bits: number): number => (keySeconds > 0 ? bits / keySeconds : 0)
  const pulsesPerSecond = (last.pulses - first.pulses) / seconds
  const secretBitsPerSecond = perSecond(gained('secretBits') + gained('replenishBits'))
  const profile = profileNamed(plan.profile, { distanceKm: plan.distanceKm })
  const perPulse = expectedBlock(profile, ASSUMED_EFFICIENCY_F).secretBitsPerPulse
  const byRole = <T>(of: (role: LinkRole) => T): Record<LinkRole, T> => ({
    alice: of('alice'),
    channel: of('channel'),
    bob: of('bob'),
  })
  return {
    ...plan,
    seconds,
    blocks: gained('blocks'),
    secretBitsPerSecond,
    siftedBitsPerSecond: perSecond(gained('siftedBits')),
    pulsesPerSecond,
    shareOfExpected: secretBitsPerSecond / (pulsesPerSecond * perPulse),
    f: gained('leakBits') / gained('shannonBits'),
    cores: byRole((role) => (last.cpuMs[role] - first.cpuMs[role]) / 1000 / seconds),
    rssBytes: byRole((role) => [first.rssBytes[role], last.rssBytes[role]] as const),
    mishaps: last.alice.noKey + last.alice.disconnections + last.bob.disconnections + last.lostBursts,
  }
}

export const measureLink = async (plan: LinkPlan, seconds: number): Promise<LinkMeasurement> => {
  await using cleanUp = new AsyncDisposableStack()
  const link = await startLink(plan, cleanUp)
  const first = await link.figures()
  await sleep(seconds * 1000)
  return measurementOf(plan, first, await link.figures())
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0)

/** Two lines for people. */
export const describeLink = (measured: LinkMeasurement): string => {
  const { profile, distanceKm, seconds, blocks, cores, rssBytes } = measured
  const roles = LINK_ROLES.map(
    (role) => `${role} ${cores[role].toFixed(2)} cores, ${rssBytes[role].map(megabytes).join(' to ')} MB`,
  )
  return [
    `${profile}, ${distanceKm} km, ${seconds.toFixed(0)} s: ${(measured.secretBitsPerSecond / 1000).toFixed(1)} kbit/s secret from ` +
      `${(measured.siftedBitsPerSecond / 1e6).toFixed(2)} Mbit/s sifted at ${(measured.pulsesPerSecond / 1e6).toFixed(1)} Mpulse/s, ` +
      `${blocks} blocks, ${(100 * measured.shareOfExpected).toFixed(1)} % of the analysis, f ${measured.f.toFixed(4)}, ` +
      `${measured.mishaps} mishaps`,
    `  ${roles.join('; ')}`,
  ].join('\n')
}
