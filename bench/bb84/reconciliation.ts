/** Reconciliation between two processes: the stations' own code on their own classical wire, tags included, with keys that differ as
 *  often as they are told to. Alice is reconciliation-program.ts, Bob the caller. */
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { binaryEntropy } from '../../src/bb84/binary-entropy.ts'
import { xoshiro128pp } from '../../src/bb84/cascade/xoshiro.ts'
import type { SiftedKey } from '../../src/bb84/sifting.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { SecretBytes } from '../../src/kernel/secret-bytes.ts'
import { converse, PAD_BYTES_PER_BLOCK, type BlockConversation } from '../../src/link/drivers/bb84/block-conversation.ts'
import { openClassicalSession, type BlockChannel, type ClassicalSession } from '../../src/link/drivers/bb84/classical-session.ts'
import { correct } from '../../src/link/drivers/bb84/distil-at-bob.ts'
import { FRAME_BITS_MAX } from '../../src/link/drivers/bb84/distil.ts'
import { startChild } from '../child.ts'

export interface WireReconciliation {
  /** Of a block: they run in lockstep, one message for all of them. */
  readonly frames: number
  /** Blocks that are reconciled at the same time, as the stations do. */
  readonly blocksAtOnce: number
  readonly qber: number
  /** Added to the way there and back. */
  readonly addedMs: number
}

export interface WireFigures extends WireReconciliation {
  readonly blocks: number
  /** Median of a word and its answer with the processes idle. */
  readonly roundTripMs: number
  readonly f: number
  /** Of sifted key: as time passes, and per second of CPU time of both processes. */
  readonly mbitPerSecond: number
  readonly mbitPerCpuSecond: number
}

/** Whoever is given a key zeroes it. */
export const copyOf = ({ bits, bitCount }: SiftedKey): SiftedKey => ({ bits: bits.slice(), bitCount })

const TIMEOUT_MS = 60_000
export const PINGS = 41

export const openSession = (stream: Duplex): Promise<ClassicalSession> =>
  openClassicalSession({
    stream,
    hello: Buffer.from('bench'),
    clock: systemClock,
    idleTimeoutMs: TIMEOUT_MS,
    answerTimeoutMs: TIMEOUT_MS,
    signal: new AbortController().signal,
  })

/** Everything said is hashed as it is over a real link; these keys authenticate nobody. */
export const talkAbout = (channel: BlockChannel, role: 'alice' | 'bob'): BlockConversation => {
  const conversation = converse({ channel, role, context: [] })
  conversation.authenticate(SecretBytes.adopt(Buffer.alloc(16, 1)), SecretBytes.adopt(Buffer.alloc(PAD_BYTES_PER_BLOCK, 2)))
  return conversation
}

/** The key of every block at both ends; only the shuffles differ from block to block. */
export const keysOf = (frames: number, qber: number): Readonly<Record<'alice' | 'bob', SiftedKey>> => {
  const next = xoshiro128pp([1, frames, Math.round(qber * 1e6), 3])
  const bitCount = frames * FRAME_BITS_MAX
  const words = new Uint32Array(bitCount / 32)
  for (let index = 0; index < words.length; index += 1) words[index] = next()
  const alice = new Uint8Array(words.buffer)
  const bob = alice.slice()
  const gap = (): number => Math.floor(Math.log(((next() >>> 0) + 1) / 2 ** 32) / Math.log1p(-qber))
  for (let index = gap(); index < bitCount; index += 1 + gap()) bob[index >>> 3]! ^= 1 << (index & 7)
  return { alice: { bits: alice, bitCount }, bob: { bits: bob, bitCount } }
}

/** Reconciles blocks for so long, after as many that warm the code. */
export const measureWireReconciliation = async (
  { frames, blocksAtOnce, qber, addedMs }: WireReconciliation,
  seconds: number,
): Promise<WireFigures> => {
  await using cleanUp = new AsyncDisposableStack()
  const start = async (name: string, args: readonly (string | number)[]) => {
    const child = await startChild(name, `bench/bb84/${name}.ts`, args.map(String), /^LISTENING \d+$/)
    cleanUp.defer(() => child.stop())
    return { child, port: Number(child.readyLine.split(' ')[1]) }
  }
  const alice = await start('reconciliation-program', [frames, blocksAtOnce, qber])
  const port = addedMs > 0 ? (await start('delay-proxy', [alice.port, addedMs])).port : alice.port
  const socket = await open(port)
  cleanUp.defer(() => void socket.destroy())
  const session = await openSession(socket)
  const roundTripMs = await medianRoundTripMs(session)

  const { alice: right, bob: wrong } = keysOf(frames, qber)
  const errorRate = differences(right.bits, wrong.bits) / right.bitCount
  let [blocks, disclosed] = [0, 0]
  /** A session has one that waits for the next conversation. */
  let accepting: Promise<unknown> = Promise.resolve()
  const accept = (): Promise<BlockChannel> => {
    const next = accepting.then(() => session.opened())
    accepting = next
    return next
  }
  const reconcileOne = async (): Promise<void> => {
    const conversation = talkAbout(await accept(), 'bob')
    await conversation.receive('block-start')
    const { key, disclosedBits } = await correct(conversation, copyOf(wrong), qber)
    await conversation.send('verified', Buffer.alloc(0))
    conversation.close()
    if (Buffer.compare(key.bits, right.bits) !== 0) throw new Error('reconciliation left a difference')
    blocks += 1
    disclosed += disclosedBits
  }
  const reconcileUntil = async (deadlineMs: number): Promise<void> => {
    const one = async (): Promise<void> => {
      do await reconcileOne()
      while (systemClock.monotonicMs() < deadlineMs)
    }
    await Promise.all(Array.from({ length: blocksAtOnce }, one))
  }
  const cpuMs = async (): Promise<number> => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1000 + Number(await alice.child.ask('cpu'))
  }
  await reconcileUntil(0)
  ;[blocks, disclosed] = [0, 0]
  const began = { ms: systemClock.monotonicMs(), cpuMs: await cpuMs() }
  await reconcileUntil(began.ms + seconds * 1000)
  const wallMs = systemClock.monotonicMs() - began.ms
  const usedMs = (await cpuMs()) - began.cpuMs
  const bits = blocks * right.bitCount
  return {
    frames,
    blocksAtOnce,
    qber,
    addedMs,
    blocks,
    roundTripMs,
    f: disclosed / (bits * binaryEntropy(errorRate)),
    mbitPerSecond: bits / wallMs / 1000,
    mbitPerCpuSecond: bits / usedMs / 1000,
  }
}

/** By a conversation of its own, the first of the session. */
const medianRoundTripMs = async (session: ClassicalSession): Promise<number> => {
  const pings = await session.opened()
  await pings.receive('block-start')
  const times: number[] = []
  for (let ping = 0; ping < PINGS; ping += 1) {
    const beganMs = systemClock.monotonicMs()
    await pings.send('block-accept', Buffer.alloc(64))
    await pings.receive('verified')
    times.push(systemClock.monotonicMs() - beganMs)
  }
  pings.close()
  return times.toSorted((a, b) => a - b)[PINGS >> 1]!
}

const differences = (a: Uint8Array, b: Uint8Array): number => {
  let count = 0
  for (let index = 0; index < a.length; index += 1) {
    for (let bits = a[index]! ^ b[index]!; bits !== 0; bits &= bits - 1) count += 1
  }
  return count
}

const open = (port: number): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    socket.once('error', reject)
    socket.once('connect', () => resolve(socket))
  })
