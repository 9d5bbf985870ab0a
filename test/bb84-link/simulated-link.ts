/** A whole BB84 link in one process: Alice's and Bob's stations as a KME runs them, the quantum channel's emulator between them, and a
 *  classical channel that a test may listen to, change or cut. */
import { connect, type Socket } from 'node:net'
import { duplexPair, type Duplex } from 'node:stream'
import type { Bb84Profile } from '../../src/bb84/profile.ts'
import { systemClock, type Clock } from '../../src/kernel/clock.ts'
import type { LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import type { AuthenticationLedger } from '../../src/link/authentication-ledger.ts'
import { runAlice } from '../../src/link/drivers/bb84/alice-station.ts'
import { runBob } from '../../src/link/drivers/bb84/bob-station.ts'
import type { DistilledBlock, RandomStreams, StationEvent } from '../../src/link/drivers/bb84/station.ts'
import { createChannelServer } from '../../src/quantum-channel/channel-server.ts'
import type { Eve } from '../../src/quantum-channel/quantum-channel.ts'
import { createMemoryAuthenticationLedger } from '../link/memory-authentication-ledger.ts'

export type Role = 'alice' | 'bob'
export const ROLES = ['alice', 'bob'] as const

export interface SimulatedLinkOptions {
  readonly profile: Bb84Profile
  /** Blocks each end gathers before it wants no more; those that give no key count too. */
  readonly blocks: number
  readonly slotsPerBurst?: number
  readonly eve?: Eve
  /** Randomness of the stations and of the channel; the system's unless given. */
  readonly streams?: (owner: Role | 'channel') => RandomStreams
  /** Sees every chunk on the classical channel before it arrives; what it returns arrives instead. Undefined cuts the connection. */
  readonly tap?: (from: Role, chunk: Buffer) => Buffer | undefined
  readonly ledgers?: Readonly<Record<Role, AuthenticationLedger>>
  readonly clock?: Clock
  /** Stops one station where it stands, as if its process had ended: it delivers nothing from then on. */
  readonly kill?: Readonly<Partial<Record<Role, AbortSignal>>>
  /** A station's way to the quantum channel; `open` is the usual one. */
  readonly connectPhotons?: (role: Role, open: () => Promise<Duplex>) => Promise<Duplex>
}

export interface LinkOutcome {
  readonly delivered: Readonly<Record<Role, readonly DistilledBlock[]>>
  readonly events: readonly ({ readonly role: Role } & StationEvent)[]
  /** Why each end stopped; undefined when it was told to. */
  readonly failures: Readonly<Record<Role, Error | undefined>>
  readonly ledgers: Readonly<Record<Role, AuthenticationLedger>>
}

const LINK = 'a-b' as LinkId
const PRE_SHARED_BYTES = 4096

/** Two ledgers with the same pre-shared secret. */
export const pairedLedgers = async (sizeBytes = PRE_SHARED_BYTES): Promise<Record<Role, AuthenticationLedger>> => {
  const secret = systemRandom.fill(Buffer.alloc(sizeBytes))
  const ledgers = { alice: createMemoryAuthenticationLedger(), bob: createMemoryAuthenticationLedger() }
  for (const role of ROLES) await ledgers[role].add('pre-shared', SecretBytes.adopt(Buffer.from(secret)))
  return ledgers
}

/** Runs one session until both ends have gathered `blocks` blocks, or until it fails. */
export const runSimulatedLink = async (options: SimulatedLinkOptions): Promise<LinkOutcome> => {
  const { profile, slotsPerBurst = 65_536, streams = () => () => systemRandom, clock = systemClock } = options
  const ledgers = options.ledgers ?? (await pairedLedgers())
  const channel = createChannelServer({
    host: '127.0.0.1',
    portA: 0,
    portB: 0,
    linkId: LINK,
    profile,
    streams: streams('channel'),
    ...(options.eve && { eve: options.eve }),
  })
  await channel.start()
  const stopping = new AbortController()
  const delivered: Record<Role, DistilledBlock[]> = { alice: [], bob: [] }
  const events: ({ role: Role } & StationEvent)[] = []
  const failures: Record<Role, Error | undefined> = { alice: undefined, bob: undefined }
  const finished: Record<Role, number> = { alice: 0, bob: 0 }
  const wanted: Record<Role, number> = { alice: 0, bob: 0 }
  const classical = tappedPair(options.tap)

  const finish = (role: Role): void => {
    finished[role] += 1
    if (finished.alice >= options.blocks && finished.bob >= options.blocks) stopping.abort()
  }
  const run = async (role: Role): Promise<void> => {
    const kill = options.kill?.[role] ?? new AbortController().signal
    const openPhotons = (): Promise<Duplex> => open(role === 'alice' ? channel.ports.alice : channel.ports.bob)
    try {
      await (role === 'alice' ? runAlice : runBob)(
        {
          linkId: LINK,
          profile,
          slotsPerBurst,
          connectPhotons: () => options.connectPhotons?.(role, openPhotons) ?? openPhotons(),
          connectClassical: () => Promise.resolve(classical[role]),
          ledger: ledgers[role],
          streams: streams(role),
          wanted: async (over) => {
            wanted[role] += 1
            if (wanted[role] > options.blocks) await untilAborted(over)
          },
          deliver: (block) => {
            if (kill.aborted) return
            delivered[role].push(block)
            finish(role)
          },
          report: (event) => {
            events.push({ role, ...event })
            if (event.kind === 'no-key') finish(role)
          },
          clock,
        },
        AbortSignal.any([stopping.signal, kill]),
      )
    } catch (error) {
      failures[role] = error as Error
    } finally {
      // One end alone gathers nothing.
      classical[role].destroy()
    }
  }
  try {
    await Promise.all(ROLES.map(run))
  } finally {
    await channel.stop()
  }
  return { delivered, events, failures, ledgers }
}

const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
  })

const open = (port: number): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    socket.once('error', reject)
    socket.once('connect', () => resolve(socket))
  })

/** Two ends of a stream with somebody in the middle. */
const tappedPair = (tap: SimulatedLinkOptions['tap']): Record<Role, Duplex> => {
  if (tap === undefined) {
    const [alice, bob] = duplexPair()
    return { alice, bob }
  }
  const [alice, nearAlice] = duplexPair()
  const [bob, nearBob] = duplexPair()
  const pass = (from: Role, source: Duplex, target: Duplex): void => {
    source.on('data', (chunk: Buffer) => {
      const changed = tap(from, chunk)
      if (changed === undefined) {
        source.destroy()
        target.destroy()
      } else if (!target.destroyed) target.write(changed)
    })
    source.on('end', () => target.end())
    source.on('close', () => target.destroy())
    source.on('error', () => target.destroy())
  }
  pass('alice', nearAlice, nearBob)
  pass('bob', nearBob, nearAlice)
  return { alice, bob }
}
