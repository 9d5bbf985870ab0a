/** A BB84 link as it is deployed: Alice, Bob and the channel emulator, each a process of its own on loopback. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { profileNamed } from '../../src/bb84/profile.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import type { KmeId, LinkId } from '../../src/kernel/identifiers.ts'
import { systemRandom } from '../../src/kernel/random.ts'
import { createAuthorities } from '../../src/pki/authorities.ts'
import type { ChannelStatus } from '../../src/quantum-channel/quantum-channel.ts'
import { startChild, type Child } from '../child.ts'
import { cpuTimeMs } from '../cpu-time.ts'
import type { StationFigures, StationFile } from './station-program.ts'

export type LinkRole = 'alice' | 'channel' | 'bob'
export const LINK_ROLES: readonly LinkRole[] = ['alice', 'channel', 'bob']

/** What was counted at a moment, since the processes began. */
export interface LinkFigures {
  readonly atMs: number
  readonly pulses: number
  readonly clicks: number
  readonly lostBursts: number
  readonly alice: StationFigures
  readonly bob: StationFigures
  readonly cpuMs: Readonly<Record<LinkRole, number>>
  readonly rssBytes: Readonly<Record<LinkRole, number>>
}

export interface ProcessLink {
  figures(): Promise<LinkFigures>
}

export interface ProcessLinkOptions {
  readonly profile: string
  readonly distanceKm: number
  /** Slots per second that Alice tries to reach. */
  readonly pulseRateHz: number
  readonly slotsPerBurst: number
  /** Receives what must be stopped, as soon as it runs. */
  readonly cleanUp: AsyncDisposableStack
}

const LINK = 'bench' as LinkId
const KME_IDS = { alice: 'kme-a', bob: 'kme-b' } as const
const PRE_SHARED_BYTES = 4096
const POLL_MS = 50
const FIRST_BLOCK_DEADLINE_MS = 60_000

/** Resolves when both stations have delivered a block. */
export const startProcessLink = async (options: ProcessLinkOptions): Promise<ProcessLink> => {
  const { distanceKm, pulseRateHz, slotsPerBurst, cleanUp } = options
  const directory = mkdtempSync(join(tmpdir(), 'openkme-bench-bb84-'))
  cleanUp.defer(() => rmSync(directory, { recursive: true, force: true }))
  const start = async (...parts: Parameters<typeof startChild>): Promise<Child> => {
    const child = await startChild(...parts)
    cleanUp.defer(() => child.stop())
    return child
  }
  const link = ['--link', LINK, '--profile', options.profile, '--distance-km', String(distanceKm)]
  const emulator = ['channel-emulator', ...link, '--pulse-rate', String(pulseRateHz), '--stop-with-parent']
  const channel = await start('channel', 'src/cli/kme.ts', emulator, /^LISTENING/)
  const [, portA, portB] = /a=(\d+) b=(\d+)/.exec(channel.readyLine) as unknown as [string, string, string]

  const authorities = await createAuthorities(join(directory, 'pki'), { clock: systemClock, random: systemRandom })
  const classical = { host: '127.0.0.1', port: await freePort() }
  const preSharedSecret = systemRandom.fill(Buffer.alloc(PRE_SHARED_BYTES)).toString('base64')
  const startStation = async (role: 'alice' | 'bob'): Promise<Child> => {
    const own = await authorities.issue({ profile: 'kme', id: KME_IDS[role] })
    const file: StationFile = {
      settings: {
        role,
        linkId: LINK,
        peerKmeId: KME_IDS[role === 'alice' ? 'bob' : 'alice'] as KmeId,
        profile: profileNamed(options.profile, { distanceKm, pulseRateHz }),
        slotsPerBurst,
        photons: { host: '127.0.0.1', port: Number(role === 'alice' ? portA : portB) },
        classical,
      },
      tls: { certificatePem: own.certificatePem, privateKeyPem: own.privateKeyPem, caPem: authorities.certificatePem.kme },
      preSharedSecret,
    }
    const path = join(directory, `${role}.json`)
    writeFileSync(path, JSON.stringify(file), { mode: 0o600 })
    return start(role, 'bench/bb84/station-program.ts', [path], /^READY$/)
  }
  const alice = await startStation('alice')
  const bob = await startStation('bob')

  const ask = async <T>(child: Child, line: string): Promise<T> => JSON.parse(await child.ask(line)) as T
  const figures = async (): Promise<LinkFigures> => {
    const [ofAlice, ofBob, status] = await Promise.all([
      ask<StationFigures>(alice, 'figures'),
      ask<StationFigures>(bob, 'figures'),
      ask<ChannelStatus>(channel, 'status'),
    ])
    return {
      atMs: systemClock.monotonicMs(),
      pulses: status.pulses,
      clicks: status.clicks,
      lostBursts: status.lostBursts,
      alice: ofAlice,
      bob: ofBob,
      cpuMs: { alice: ofAlice.cpuMs, channel: cpuTimeMs(channel.pid) ?? NaN, bob: ofBob.cpuMs },
      rssBytes: { alice: ofAlice.rssBytes, channel: rssBytesOf(channel.pid), bob: ofBob.rssBytes },
    }
  }
  const deadlineMs = systemClock.monotonicMs() + FIRST_BLOCK_DEADLINE_MS
  for (;;) {
    const now = await figures()
    if (now.alice.blocks > 0 && now.bob.blocks > 0) break
    if (now.atMs > deadlineMs) throw new Error('the link delivered no block in time')
    await sleep(POLL_MS)
  }
  return { figures }
}

/** Resident memory of a process; NaN where /proc does not exist. */
const rssBytesOf = (pid: number): number => {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
    return Number(kilobytes) * 1024
  } catch {
    return NaN
  }
}

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
