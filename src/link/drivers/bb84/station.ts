/** What Alice's and Bob's stations have in common: what they are given, what they deliver, and how a session between them begins. */
import type { Duplex } from 'node:stream'
import type { Bb84Profile } from '../../../bb84/profile.ts'
import type { Clock } from '../../../kernel/clock.ts'
import type { LinkId } from '../../../kernel/identifiers.ts'
import type { Random } from '../../../kernel/random.ts'
import type { AuthenticationLedger } from '../../authentication-ledger.ts'
import type { SecurityStatement } from '../../../key-store/key-store.ts'
import { PAD_BYTES_PER_BLOCK, type UnkeyedConversation } from './block-conversation.ts'
import { openClassicalSession, SessionEnded, type ClassicalSession } from './classical-session.ts'
import { WIRE_VERSION } from './classical-wire.ts'

/** Randomness by purpose, such as `pulses:17`: so that a test can replay a run whatever the timing. A KME passes the system's source
 *  for every name; nothing in the program can make another. */
export type RandomStreams = (name: string) => Random

/** A block both ends have distilled. */
export interface DistilledBlock {
  /** Drawn by Alice; the same at both ends. */
  readonly deviceBlock: string
  /** Error rate of the sifted key, as reconciliation found it. */
  readonly qber: number
  /** The secret key; whoever gets the block wipes it. */
  readonly key: Uint8Array<ArrayBuffer>
  readonly statement: SecurityStatement
}

export type StationEvent =
  | { readonly kind: 'connected' }
  /** A block gave no key: too many errors, too few single photons, or reconciliation that did not succeed. */
  | { readonly kind: 'no-key'; readonly reason: string; readonly qber: number }
  /** Somebody changed what the stations said, or they do not hold the same authentication key. */
  | { readonly kind: 'not-authenticated'; readonly reason: string }

export interface StationParts {
  readonly linkId: LinkId
  /** Quantised. */
  readonly profile: Bb84Profile
  readonly slotsPerBurst: number
  /** Opens the quantum channel's end of this station. */
  readonly connectPhotons: (signal: AbortSignal) => Promise<Duplex>
  /** Opens the classical channel to the other station. */
  readonly connectClassical: (signal: AbortSignal) => Promise<Duplex>
  readonly ledger: Pick<AuthenticationLedger, 'segments' | 'reserve' | 'hashKey' | 'add' | 'discard'>
  readonly streams: RandomStreams
  /** Resolves when there is room for another block, or when `signal` aborts. */
  readonly wanted: (signal: AbortSignal) => Promise<void>
  readonly deliver: (block: DistilledBlock) => void
  readonly report: (event: StationEvent) => void
  readonly clock: Clock
}

/** The devices are broken, or not what they are said to be: the link must not go on by itself. */
export class HealthTestFailed extends Error {
  override readonly name = 'HealthTestFailed'
}

/** There is no authentication key left: the link is down until an operator brings new. */
export class AuthenticationKeyUsedUp extends Error {
  override readonly name = 'AuthenticationKeyUsedUp'
}

const IDLE_TIMEOUT_MS = 15_000
/** Longer than distilling the largest block takes; besides, Bob's clicks cannot come before the burst has left. */
const ANSWER_TIMEOUT_MS = 60_000
const ANSWER_TIMEOUT_BURSTS = 4
const PHOTONS_TIMEOUT_MS = 15_000

/** What a crash at the wrong moment may leave between the two ends; more would let a false HELLO burn pads. */
const SKEW_BYTES_MAX = 16 * PAD_BYTES_PER_BLOCK
/** Two ends that differ in one of these would not compute the same key, or not the same length. */
const AGREED_SETTINGS = [
  'intensities',
  'intensityProbabilities',
  'keyBasisProbability',
  'blockBits',
  'epsilonSecrecy',
  'epsilonCorrectness',
] as const satisfies readonly (keyof Bb84Profile)[]

interface Hello {
  readonly version: number
  readonly linkId: string
  readonly role: 'alice' | 'bob'
  /** Alice's names the session for the quantum channel too. */
  readonly sessionId: string
  readonly slotsPerBurst: number
  readonly settings: Readonly<Record<string, unknown>>
  readonly segments: readonly { readonly id: string; readonly usedBytes: number; readonly sizeBytes: number }[]
}

/** Authentication key that both ends hold, and how far it is used. */
export interface PadSegment {
  readonly segmentId: string
  readonly sizeBytes: number
  nextByte: number
}

export interface StationSession {
  readonly classical: ClassicalSession
  readonly sessionId: string
  /** Bytes both ends said, first Alice's, for the transcripts. */
  readonly context: readonly Buffer[]
  /** Oldest first. */
  readonly segments: PadSegment[]
  /** Gives up authentication key the other end does not have: a block that ended between two tags may have left some here. To be called
   *  when a tag has shown that the HELLOs are what was said; the first call does it. */
  readonly dropStrays: () => Promise<void>
}

/** Connects and exchanges HELLOs. @throws SessionEnded saying why it is no use. */
export const beginSession = async (role: 'alice' | 'bob', parts: StationParts, signal: AbortSignal): Promise<StationSession> => {
  const { linkId, profile, ledger, clock, slotsPerBurst } = parts
  const own: Hello = {
    version: WIRE_VERSION,
    linkId,
    role,
    sessionId: parts.streams(`session:${role}`).uuid(),
    slotsPerBurst,
    settings: Object.fromEntries(AGREED_SETTINGS.map((name) => [name, profile[name]])),
    segments: (await ledger.segments()).map(({ segmentId, usedBytes, sizeBytes }) => ({ id: segmentId, usedBytes, sizeBytes })),
  }
  const stream = await parts.connectClassical(signal)
  const hello = Buffer.from(JSON.stringify(own))
  const classical = await openClassicalSession({
    stream,
    hello,
    clock,
    idleTimeoutMs: IDLE_TIMEOUT_MS,
    answerTimeoutMs: ANSWER_TIMEOUT_MS + (ANSWER_TIMEOUT_BURSTS * slotsPerBurst * 1000) / profile.pulseRateHz,
    signal,
  })
  try {
    const peer = readHello(classical.peerHello)
    requireFit(own, peer)
    const [alice, bob] = role === 'alice' ? [own, peer] : [peer, own]
    let strays = own.segments.map(({ id }) => id).filter((id) => !peer.segments.some((segment) => segment.id === id))
    const said = role === 'alice' ? [hello, classical.peerHello] : [classical.peerHello, hello]
    return {
      classical,
      sessionId: alice.sessionId,
      context: said.flatMap((bytes) => [lengthOf(bytes), bytes]),
      segments: commonSegments(alice.segments, bob.segments),
      dropStrays: async () => {
        const dropped = strays
        strays = []
        if (dropped.length > 0) await ledger.discard(dropped)
      },
    }
  } catch (error) {
    classical.end((error as Error).message)
    throw error
  }
}

const lengthOf = (bytes: Buffer): Buffer => {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return length
}

const readHello = (bytes: Buffer): Hello => {
  let hello: Partial<Hello> | null
  try {
    hello = JSON.parse(bytes.toString('utf8')) as Partial<Hello> | null
  } catch {
    hello = null
  }
  const isText = (value: unknown): value is string => typeof value === 'string' && value.length <= 64
  const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0
  const { segments } = hello ?? {}
  const wellFormed =
    hello !== null &&
    isCount(hello.version) &&
    isText(hello.linkId) &&
    isName(hello.sessionId) &&
    isCount(hello.slotsPerBurst) &&
    typeof hello.settings === 'object' &&
    hello.settings !== null &&
    Array.isArray(segments) &&
    segments.every((entry: Partial<Hello['segments'][number]> | null) => {
      return isText(entry?.id) && isCount(entry.usedBytes) && isCount(entry.sizeBytes)
    })
  if (!wellFormed) throw new SessionEnded('the HELLO of the other station is malformed')
  return hello as Hello
}

const requireFit = (own: Hello, peer: Hello): void => {
  if (peer.version !== own.version) throw new SessionEnded(`the other station speaks version ${peer.version}, not ${own.version}`)
  if (peer.linkId !== own.linkId) throw new SessionEnded(`the other station is on link "${printable(peer.linkId)}"`)
  if (peer.role === own.role) throw new SessionEnded(`both ends of the link are set to be ${own.role}`)
  if (peer.slotsPerBurst !== own.slotsPerBurst) throw new SessionEnded('the two ends differ in the slots per burst')
  const differing = AGREED_SETTINGS.filter((name) => JSON.stringify(peer.settings[name]) !== JSON.stringify(own.settings[name]))
  if (differing.length > 0) throw new SessionEnded(`the profiles of the two ends differ in ${differing.join(', ')}`)
}

const isName = (value: unknown): value is string => typeof value === 'string' && /^[\x21-\x7e]{1,64}$/.test(value)

const printable = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?')

/** Segments both know, each from where the end that is further stands. */
const commonSegments = (alice: Hello['segments'], bob: Hello['segments']): PadSegment[] =>
  alice.flatMap(({ id, usedBytes, sizeBytes }) => {
    const other = bob.find((segment) => segment.id === id && segment.sizeBytes === sizeBytes)
    if (other === undefined || Math.abs(other.usedBytes - usedBytes) > SKEW_BYTES_MAX) return []
    return [{ segmentId: id, sizeBytes, nextByte: Math.max(usedBytes, other.usedBytes) }]
  })

/** Opens the quantum channel and greets it; without it the session is no use, and without the session it is none.
 *  @throws SessionEnded, also when the session ends meanwhile or nothing answers. */
export const openPhotons = async <Link>(
  { connectPhotons, clock }: Pick<StationParts, 'connectPhotons' | 'clock'>,
  { classical }: StationSession,
  greet: (stream: Duplex) => Promise<Link>,
): Promise<Link> => {
  const over = new AbortController()
  const settled = new AbortController()
  let endReason: string | undefined
  void classical.ended.then((reason) => {
    endReason = reason
    over.abort()
  })
  void clock.sleep(PHOTONS_TIMEOUT_MS, settled.signal).then(() => {
    if (!settled.signal.aborted) classical.end(`the quantum channel said nothing for ${PHOTONS_TIMEOUT_MS} ms`)
  })
  try {
    const stream = await connectPhotons(over.signal)
    over.signal.addEventListener('abort', () => stream.destroy())
    if (over.signal.aborted) stream.destroy()
    return await greet(stream)
  } catch (error) {
    if (endReason !== undefined) throw new SessionEnded(endReason)
    classical.end('the quantum channel cannot be reached')
    throw error
  } finally {
    settled.abort()
  }
}

/** What Alice says when a block begins. The bytes it names are the block's own whatever comes of it: one end may give it up while the
 *  other, misled, goes on. */
export interface BlockStart {
  readonly deviceBlock: string
  readonly segmentId: string
  readonly fromByte: number
  /** Number of the first burst in this session. */
  readonly firstBurst: number
  readonly bursts: number
}

/** Takes the key of a block's tags, only when all its clicks are announced: blocks that never get so far cost none.
 *  @throws what the ledger does. */
export const authenticateBlock = async (
  conversation: UnkeyedConversation,
  ledger: StationParts['ledger'],
  { segmentId, fromByte }: Pick<BlockStart, 'segmentId' | 'fromByte'>,
): Promise<void> => {
  using hashKey = await ledger.hashKey(segmentId)
  using pads = await ledger.reserve(segmentId, fromByte, PAD_BYTES_PER_BLOCK)
  conversation.authenticate(hashKey, pads)
}

/** Never more clicks in a block than memory can take. */
const BURSTS_MAX = 1_000_000

/** @throws SessionEnded. */
export const readBlockStart = (payload: Buffer): BlockStart => {
  try {
    const start = JSON.parse(payload.toString('utf8')) as BlockStart
    const counts = [start.fromByte, start.firstBurst, start.bursts]
    const isRight =
      counts.every((count) => Number.isSafeInteger(count) && count >= 0) &&
      isName(start.deviceBlock) &&
      isName(start.segmentId) &&
      start.bursts >= 1 &&
      start.bursts <= BURSTS_MAX
    if (isRight) return start
  } catch {
    // Said below.
  }
  throw new SessionEnded('BLOCK-START is malformed')
}
