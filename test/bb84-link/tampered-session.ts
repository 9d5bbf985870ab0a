/** Sessions of a BB84 link in which somebody in the middle of the classical channel does one thing, and what must never come of it. */
import { createHash } from 'node:crypto'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { encodeMessage, type ClassicalMessage, type MessageType } from '../../src/link/drivers/bb84/classical-wire.ts'
import type { DistilledBlock } from '../../src/link/drivers/bb84/station.ts'
import { fastClock } from './fast-clock.ts'
import { CUT, messageTap, type MessageHandler } from './message-tap.ts'
import {
  pairedLedgers,
  ROLES,
  runSimulatedLink,
  type LinkOutcome,
  type Role,
  type SimulatedLinkOptions,
} from './simulated-link.ts'
import { smallProfile } from './small-profile.ts'
import { reservedTwice, watchedLedger, type WatchedLedger } from './watched-ledger.ts'

export type Ledgers = Readonly<Record<Role, WatchedLedger>>

export const watchedLedgers = async (sizeBytes = 65_536): Promise<Ledgers> => {
  const { alice, bob } = await pairedLedgers(sizeBytes)
  return { alice: watchedLedger(alice), bob: watchedLedger(bob) }
}

/** Key from few bits, so that a session is short. */
export const tinyProfile = (): Bb84Profile =>
  smallProfile({ name: 'tiny', blockBits: 20_000, epsilonSecrecy: 1e-3, misalignment: 0.005 })
/** Whose blocks are long enough to replenish the authentication key. */
export const replenishingProfile = (): Bb84Profile =>
  smallProfile({ name: 'replenishing', blockBits: 40_000, epsilonSecrecy: 1e-3 })
export const SLOTS_PER_BURST = 16_384

export interface Tampering {
  readonly from: Role
  readonly type: MessageType
  /** Which of the messages of this type in the session, from 0. */
  readonly nth: number
  /** @param later gives bytes that arrive after the next message of the same end.
   *  @returns what arrives instead. */
  readonly change: (message: ClassicalMessage, later: (bytes: Buffer) => void) => readonly Buffer[] | typeof CUT
}

export interface TamperedSession {
  readonly outcome: LinkOutcome
  /** What was tampered with; undefined when the session did not get so far. */
  readonly met: ClassicalMessage | undefined
  /** Names of the blocks, as Alice gave them. */
  readonly names: ReadonlyMap<number, string>
  /** All messages as they were sent. */
  readonly sent: readonly { readonly from: Role; readonly message: ClassicalMessage }[]
}

/** A session that does not end in so long by itself never does, if its clock is fast. */
const HANGS_AFTER_MS = 60_000
/** Makes a minute three seconds. Whoever uses it must not mind that a busy machine may look like a silent one. */
export const FAST = 20

export interface SessionOptions extends Pick<SimulatedLinkOptions, 'eve' | 'kill' | 'connectPhotons'> {
  /** `tinyProfile` unless given. */
  readonly profile?: Bb84Profile
  readonly blocks?: number
  /** Needed where a session ends by a time-out. */
  readonly clockFactor?: number
  /** Changes every message. */
  readonly instead?: MessageHandler
}

const asSent: MessageHandler = (_, { bytes }) => [bytes]

/** @throws Error when the session does not end. */
export const runTampered = async (
  ledgers: Ledgers,
  tampering: Tampering | undefined,
  { profile = tinyProfile(), blocks = 2, clockFactor = 1, instead: always = asSent, ...rest }: SessionOptions = {},
): Promise<TamperedSession> => {
  const names = new Map<number, string>()
  const sent: { from: Role; message: ClassicalMessage }[] = []
  const late: Record<Role, Buffer[]> = { alice: [], bob: [] }
  let met: ClassicalMessage | undefined
  let seen = 0
  const tap = messageTap((from, message) => {
    sent.push({ from, message })
    if (message.type === 'block-start') {
      names.set(message.block, (JSON.parse(message.payload.toString()) as { deviceBlock: string }).deviceBlock)
    }
    const after = late[from].splice(0)
    if (from !== tampering?.from || message.type !== tampering.type || seen++ !== tampering.nth) {
      const arriving = always(from, message)
      return arriving === CUT ? CUT : [...arriving, ...after]
    }
    met = message
    const instead = tampering.change(message, (bytes) => late[from].push(bytes))
    return instead === CUT ? CUT : [...instead, ...after]
  })
  const over = new AbortController()
  const outcome = await Promise.race([
    runSimulatedLink({
      profile,
      blocks,
      slotsPerBurst: SLOTS_PER_BURST,
      tap,
      ledgers,
      clock: fastClock(clockFactor),
      ...rest,
    }),
    systemClock.sleep(HANGS_AFTER_MS, over.signal),
  ])
  over.abort()
  if (outcome === undefined) throw new Error(`the session hangs after ${tampering?.from} ${tampering?.type} ${tampering?.nth}`)
  return { outcome, met, names, sent }
}

const digestOf = (block: DistilledBlock): string => createHash('sha256').update(block.key).digest('hex')

/** Names of the blocks that both ends delivered. */
export const deliveredByBoth = ({ delivered }: Pick<LinkOutcome, 'delivered'>): string[] => {
  const bobs = new Set(delivered.bob.map(({ deviceBlock }) => deviceBlock))
  return delivered.alice.map(({ deviceBlock }) => deviceBlock).filter((name) => bobs.has(name))
}

/** What must not be, whatever anybody does: in words, empty when all is well. */
export const brokenPromises = (outcomes: readonly Pick<LinkOutcome, 'delivered'>[], ledgers: Ledgers): string[] => {
  const broken: string[] = []
  const digests: Record<Role, Map<string, string>> = { alice: new Map(), bob: new Map() }
  for (const role of ROLES) {
    for (const block of outcomes.flatMap(({ delivered }) => delivered[role])) {
      if (digests[role].has(block.deviceBlock)) broken.push(`${role} delivered ${block.deviceBlock} twice`)
      digests[role].set(block.deviceBlock, digestOf(block))
    }
    const twice = reservedTwice(ledgers[role].reservations)
    if (twice.length > 0) broken.push(`${role} used ${twice.length} bytes of authentication key twice, first ${twice[0]}`)
  }
  for (const [name, digest] of digests.alice) {
    if ((digests.bob.get(name) ?? digest) !== digest) broken.push(`${name} has different bytes at the two ends`)
  }
  return broken
}

/** The same message with one bit of it changed, its head included. */
export const flipBit = ({ bytes }: ClassicalMessage, bit: number): Buffer => {
  const changed = Buffer.from(bytes)
  changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7))
  return changed
}

export const withPayload = ({ type, block }: ClassicalMessage, payload: Uint8Array): Buffer => encodeMessage(type, block, payload)
