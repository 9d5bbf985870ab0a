/** Two KMEs, each a process of its own, whose link a-b is a BB84 link: kme-a runs Alice's station, kme-b Bob's, and the quantum
 *  channel between them is a third process that a test may speak to, kill and start again. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemRandom } from '../../src/kernel/random.ts'
import { writePreSharedSecret } from '../../src/link/pre-shared-secret.ts'
import { askOnControlPort } from '../../src/quantum-channel/control-port.ts'
import { freePort } from '../setup/free-port.ts'
import {
  eventually,
  keysOf,
  startNetwork,
  storedKeys,
  untilServed,
  type Network,
  type NetworkOptions,
  type SaeClient,
} from '../network/network.ts'

export const KMES = ['kme-a', 'kme-b'] as const
export type KmeName = (typeof KMES)[number]

/** Bits that a block must have at both ends, and so the keys it makes, come in a fraction of a second. */
const PROFILE = {
  name: 'metro',
  distanceKm: 0,
  receiver: { efficiency: 1 },
  intensities: [0.6, 0.25, 0.0002],
  intensityProbabilities: [0.4, 0.35, 0.25],
  keyBasisProbability: 0.625,
  blockBits: 100_000,
}
const PULSE_RATE_HZ = 3_000_000

export interface Bb84NetworkOptions extends Pick<NetworkOptions, 'processArgs' | 'redisUrl' | 'logLevel'> {
  /** Keys a pool holds before the link rests. */
  readonly storedMax?: number
  readonly pulseRateHz?: number
}

/** What a KME shows of its link. */
export interface ShownLink {
  readonly state: string
  readonly reason: string | null
  readonly qber: number | null
  readonly keyRateBps: number
  readonly blocksAgreed: number
  readonly blocksRejected: number
  readonly distillation: {
    readonly expectedKeyRateBps: number
    readonly authentication: Readonly<Record<'consumedBits' | 'replenishedBits' | 'remainingBits' | 'discardedBits', number>>
    readonly security: Readonly<Record<'blocks' | 'keyBits' | 'epsilonSum' | 'tagBits', number>>
  } | null
}

export type Bb84Network = Awaited<ReturnType<typeof startBb84Network>>

export const startBb84Network = async (options: Bb84NetworkOptions = {}) => {
  const { storedMax = 1_000_000, pulseRateHz = PULSE_RATE_HZ } = options
  const directory = mkdtempSync(join(tmpdir(), 'openkme-bb84-'))
  const secret = join(directory, 'a-b.authentication-key')
  await writePreSharedSecret(secret, 4096, systemRandom)
  const photons: Record<KmeName, number> = { 'kme-a': await freePort(), 'kme-b': await freePort() }
  const control = await freePort()
  const classical = await freePort()
  let emulator: ChildProcess | undefined

  const startEmulator = async (): Promise<void> => {
    const flags = { 'port-a': photons['kme-a'], 'port-b': photons['kme-b'], 'control-port': control, 'pulse-rate': pulseRateHz }
    const fibre = { ...flags, link: 'a-b', profile: PROFILE.name, 'distance-km': PROFILE.distanceKm, efficiency: 1 }
    const args = Object.entries(fibre).map(([name, value]) => `--${name}=${value}`)
    const child = spawn(process.execPath, ['src/cli/kme.ts', 'channel-emulator', ...args, '--stop-with-parent'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    emulator = child
    await once(child.stdout, 'data')
  }
  const killEmulator = async (): Promise<void> => {
    if (emulator === undefined || emulator.exitCode !== null || emulator.signalCode !== null) return
    const ended = once(emulator, 'exit')
    emulator.kill('SIGKILL')
    await ended
  }
  await startEmulator()
  let network: Network
  try {
    network = await startNetwork({
      processes: true,
      logLevel: options.logLevel ?? 'warn',
      ...(options.processArgs !== undefined && { processArgs: options.processArgs }),
      ...(options.redisUrl !== undefined && { redisUrl: options.redisUrl }),
      startEmpty: true,
      keys: { localStored: 0, maxStored: storedMax },
      settings: (name) => ({
        links: [
          {
            id: 'a-b',
            peer: name === 'kme-a' ? 'kme-b' : 'kme-a',
            driver: 'bb84',
            role: name === 'kme-a' ? 'alice' : 'bob',
            profile: { ...PROFILE, pulseRateHz },
            slotsPerBurst: 65_536,
            photons: { port: photons[name as KmeName] },
            classical: { port: classical },
            authenticationKeyFile: secret,
          },
        ],
      }),
    })
  } catch (error) {
    await killEmulator()
    throw error
  }

  const admins = new Map<KmeName, SaeClient>()
  const link = async (name: KmeName): Promise<ShownLink> => {
    const admin = admins.get(name) ?? (await network.admin(name))
    admins.set(name, admin)
    return ((await admin.get('/api/v1/links')).json['links'] as [ShownLink])[0]
  }
  const bothLinks = async (): Promise<Record<KmeName, ShownLink>> => ({
    'kme-a': await link('kme-a'),
    'kme-b': await link('kme-b'),
  })

  /** Says a line to the quantum channel. */
  const tell = async (line: string): Promise<void> => {
    const answer = await askOnControlPort(control, line)
    if (answer !== 'ok') throw new Error(answer)
  }

  const blocksDistilled = async (name: KmeName): Promise<number> => {
    const [row] = await network.query<{ blocks: string }>(name, `SELECT blocks FROM link_security WHERE link_id = 'a-b'`)
    return Number(row?.blocks ?? 0)
  }
  /** Waits for as many more blocks at both ends. */
  const moreBlocks = async (count: number): Promise<void> => {
    const before = await Promise.all(KMES.map(blocksDistilled))
    await eventually(`${count} more blocks`, async () => {
      const now = await Promise.all(KMES.map(blocksDistilled))
      return now.every((blocks, i) => blocks >= (before[i] as number) + count)
    })
  }
  /** kill -9 of the process of a KME, and another in its place. What it held is free at once, as nobody else wants it. */
  const killAndRestart = async (name: KmeName): Promise<void> => {
    await network.kill(name)
    await network.query(name, 'UPDATE duty SET until = now()')
    await network.start(name)
  }
  const stop = async (): Promise<void> => {
    await network[Symbol.asyncDispose]()
    await killEmulator()
    rmSync(directory, { recursive: true, force: true })
  }
  return {
    network,
    link,
    bothLinks,
    tell,
    startEmulator,
    killEmulator,
    blocksDistilled,
    moreBlocks,
    killAndRestart,
    [Symbol.asyncDispose]: stop,
  }
}

/** Issues keys at one KME and fetches them at the other. @returns digests, so that no key stands in a report of a failed test. */
export const exchange = async (
  master: SaeClient,
  slave: SaeClient,
  { names: [masterId, slaveId], count }: { readonly names: readonly [string, string]; readonly count: number },
): Promise<{ readonly issued: readonly string[]; readonly fetched: readonly string[] }> => {
  const answer = await untilServed(() => master.post(`/api/v1/keys/${slaveId}/enc_keys`, { number: count }))
  const wanted = keysOf(answer).map(({ key_ID }) => ({ key_ID }))
  const fetched = await untilServed(() => slave.post(`/api/v1/keys/${masterId}/dec_keys`, { key_IDs: wanted }))
  return { issued: keysOf(answer).map(digestOf), fetched: keysOf(fetched).map(digestOf) }
}

export const digestOf = ({ key_ID, key }: { readonly key_ID: string; readonly key: string }): string =>
  `${key_ID} ${createHash('sha256').update(key).digest('hex')}`

/** Waits until either side may draw that many keys. */
export const keysBothWays = async (alice: SaeClient, bob: SaeClient, count = 50): Promise<void> => {
  await eventually(
    `${count} keys in both directions`,
    async () => (await storedKeys(alice, 'bob')) >= count && (await storedKeys(bob, 'alice')) >= count,
  )
}

interface StatementTotals {
  readonly blocks: number
  readonly keyBits: number
  readonly epsilonSum: number
  readonly tagBits: number
}

interface Stated {
  readonly lengthBits: number
  readonly replenishBits: number
  readonly tagBits: number
  readonly epsilonSecrecy: number
  readonly epsilonCorrectness: number
  readonly epsilonAuthentication: number
}

/** G14: what the audit log says of a link's blocks, added up here, and what the KME keeps as the sum. Of one moment. */
export const securityAccounts = async (
  network: Network,
  name: KmeName,
): Promise<{ readonly recomputed: StatementTotals; readonly kept: StatementTotals }> => {
  const [row] = await network.query<{ statements: Stated[]; kept: Record<string, string> }>(
    name,
    `SELECT (SELECT coalesce(jsonb_agg(subject ORDER BY seq), '[]') FROM audit_record
             WHERE event = 'block.distilled' AND subject ->> 'linkId' = 'a-b') AS statements,
            (SELECT to_jsonb(s) FROM link_security s WHERE link_id = 'a-b') AS kept`,
  )
  const { statements, kept } = row!
  const sum = (of: (stated: Stated) => number): number => statements.reduce((total, stated) => total + of(stated), 0)
  return {
    recomputed: {
      blocks: statements.length,
      keyBits: sum(({ lengthBits, replenishBits }) => lengthBits - replenishBits),
      epsilonSum: sum((one) => one.epsilonSecrecy + one.epsilonCorrectness + one.epsilonAuthentication),
      tagBits: sum(({ tagBits }) => tagBits),
    },
    kept: {
      blocks: Number(kept['blocks']),
      keyBits: Number(kept['key_bits']),
      epsilonSum: Number(kept['epsilon_sum']),
      tagBits: Number(kept['tag_bits']),
    },
  }
}
